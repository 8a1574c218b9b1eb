"""``fedwave init``: every template plans, the quick ones run, nothing is overwritten, own data are understood."""

import csv
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from fedwave import cli, init
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.planner import plan
from fedwave.simulation import run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedwave", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def talks():
    """Dialogues of three users, four each."""
    return [
        {"prompt": f"question {user} {n}?", "response": f"answer {n}", "user": f"user {user}", "id": f"{user}-{n}"}
        for user in range(3)
        for n in range(4)
    ]


@pytest.mark.parametrize("task", init.TASKS)
def test_templates_plan(task):
    exp = Experiment.load(init.write_job(Path("new"), task=task))
    assert plan(exp, rounds=2).verdict != "unsuitable"


@pytest.mark.parametrize("task", ["images", "toy"])
def test_templates_run(task):
    """Training lowers the held-out loss from the first round on."""
    result = run(Experiment.load(init.write_job(Path("new"), task=task), ["rounds=1"]), out="run")
    assert result.final["loss"] < result.initial["loss"]


@pytest.mark.parametrize("task", init.TASKS)
def test_keys_behind_comments_exist(task):
    """Lines that are commented out are keys too: with all of them in, the job still parses."""
    text = init.job_text(task)
    inside = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    assert inside.count(" = ") > text.count("\n") / 3
    opened = tomllib.loads(inside)
    assert set(opened["method"]) > set(tomllib.loads(text)["method"])
    Experiment.parse(opened)


@pytest.mark.parametrize("task", init.TASKS)
def test_every_key_has_a_comment_or_a_speaking_name(task):
    """At least three keys in four are followed by a comment; no line is wider than 120 columns."""
    lines = init.job_text(task).splitlines()
    keys = [line for line in lines if re.match(r"(# )?\w+ = ", line)]
    assert sum(" # " in line for line in keys) >= 0.75 * len(keys)
    assert max(map(len, lines)) <= 120


def test_command_says_where(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "init", "new", "--task", "toy") == (0, "new/job.toml\n", "")


def test_nothing_is_overwritten(monkeypatch, capsys):
    Path("new").mkdir()
    Path("new/job.toml").write_text("mine")
    code, out, err = call(monkeypatch, capsys, "init", "new")
    assert (code, out) == (2, "")
    assert err == "fedwave: new/job.toml exists already; name another folder\n"
    assert Path("new/job.toml").read_text() == "mine"


def test_unknown_task(monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "init", "new", "--task", "casual-lm")
    assert code == 2
    assert "did you mean 'causal-lm'" in err
    assert not Path("new").exists()


def test_dialogues_of_one_s_own():
    """The client is the column with the most values that still repeat: user (3), not id (12)."""
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks()))
    exp = Experiment.load(init.write_job(Path("new"), task="causal-lm", data=Path("mine.jsonl")))
    assert exp.task.partition.column == "user"
    assert Path(exp.task.data) == Path("mine.jsonl").resolve()
    assert len(exp.setting().population) == 3


def test_texts_without_owners_are_dealt_at_random():
    Path("mine.jsonl").write_text("".join(json.dumps({"text": f"line {n} of many"}) + "\n" for n in range(20)))
    exp = Experiment.load(init.write_job(Path("new"), task="causal-lm", data=Path("mine.jsonl")))
    assert exp.task.partition.clients == 5  # a client for every four rows


def test_classes_of_one_s_own():
    """Texts are the longest column, classes the one with the fewest values."""
    with open("mine.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["utterance", "number", "intent"])
        writer.writerows([f"please do thing number {n} now", n, ("on", "off")[n % 2]] for n in range(60))
    exp = Experiment.load(init.write_job(Path("new"), task="text-classification", data=Path("mine.csv")))
    assert (exp.task.text_field, exp.task.label_field) == ("utterance", "intent")
    assert plan(exp, rounds=1).clients == 20


def test_images_of_one_s_own():
    np.savez("mine.npz", x=np.zeros((60, 3, 3)), y=np.arange(60) % 2)
    exp = Experiment.load(init.write_job(Path("new"), task="images", data=Path("mine.npz")))
    assert exp.setting().spec.trainable["0.weight"].shape == (128, 9)


@pytest.mark.parametrize(
    ("task", "content", "said"),
    [
        ("toy", "{}", "task toy makes its own data"),
        ("causal-lm", '{"prompt": "a"}\n' * 4, "must have the fields prompt and response"),
        ("text-classification", '{"text": "a"}\n', "one of classes"),
        ("causal-lm", "nothing", "is not JSON"),
    ],
)
def test_bad_data_leave_nothing_behind(task, content, said):
    Path("mine.jsonl").write_text(content)
    with pytest.raises(BadInput, match=re.escape(said)):
        init.write_job(Path("new"), task=task, data=Path("mine.jsonl"))
    assert not Path("new").exists()
