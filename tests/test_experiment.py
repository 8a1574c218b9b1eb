"""Jobs: overrides, paths, defaults, refusals."""

import sys

import numpy as np
import pytest

from fedwave.core.errors import BadInput, Refused
from fedwave.experiment import Experiment
from fedwave.methods.fedavg import FedAvg
from fedwave.methods.fedprox import FedProx
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.networks.ideal import Ideal
from fedwave.wireless.schedulers.round_robin import RoundRobin

JOB = """
rounds = 4
[task]
name = "toy"
[method]
name = "fedprox"
mu = 0.5
local_steps = 3
[[transform]]
name = "clip"
norm = 2.0
[[transform]]
name = "quantize"
bits = 8
"""


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


def test_only_the_task_is_needed():
    experiment = Experiment.parse({"task": "toy"})
    assert (experiment.seed, experiment.rounds, experiment.eval_every) == (0, 30, 5)
    assert experiment.method == FedAvg()
    assert isinstance(experiment.network, Cell)
    assert len(experiment.setting().population) == 20


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_any_seed_works(seed):
    setting = Experiment.parse({"task": {"name": "toy", "clients": 3, "ragged": True}, "seed": seed}).setting()
    assert np.isfinite(setting.world().position_m).all()


def test_overrides(job):
    experiment = Experiment.load(
        job,
        ["method.mu=0.1", "rounds=10", "transform.1.bits=4", "network.scheduler=round_robin", "transform.0.norm = 3"],
    )
    assert (experiment.method.mu, experiment.method.local_steps, experiment.rounds) == (0.1, 3, 10)
    assert (experiment.transform[0].norm, experiment.transform[1].bits) == (3.0, 4)
    assert experiment.network == Cell(scheduler=RoundRobin())


def test_override_by_bare_name_replaces_the_table(job):
    assert Experiment.load(job, ["method=fedavg"]).method == FedAvg()
    assert Experiment.load(job, ["network=ideal"]).network == Ideal()
    assert Experiment.load(job, ["network=ideal", "network.loss=0.5"]).network == Ideal(loss=0.5)
    assert Experiment.load(job, ["transform=[]"]).transform == ()
    assert Experiment.load(job, ['method={name = "fedprox", mu = 2}']).method == FedProx(mu=2.0)


def test_override_of_the_name_keeps_the_other_keys(job):
    experiment = Experiment.load(job, ["method.name=fedavg", "method.mu=1", "method=fedprox", "method.name=fedprox"])
    assert experiment.method == FedProx()
    job.write_text(JOB.replace("mu = 0.5\n", ""))
    assert Experiment.load(job, ["method.name=fedavg"]).method == FedAvg(local_steps=3)


def test_override_of_the_name_with_keys_that_do_not_fit(job):
    with pytest.raises(BadInput) as caught:
        Experiment.load(job, ["method.name=fedavg"])
    assert str(caught.value).startswith(f"{job}: method.mu: unknown key 'mu' of fedavg")
    assert str(caught.value).endswith("; method=fedavg replaces the whole table")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds", "'rounds' is not an override; write key.path=value, as in method.mu=0.1"),
        ("other.toml", "'other.toml' is not an override"),
        ("=3", "'=3' is not an override"),
        ("method..mu=3", "is not an override"),
        ("transform.7.bits=4", "the list has 2 entries, counted from 0; '7' is none of them"),
        ("transform.x=4", "'x' is none of them"),
        ("transform.².bits=4", "'²' is none of them"),
        ("rounds.x=1", "rounds is not a table in this job"),
        ("a.b.c=1", "a: unknown key 'a'"),
        ("5=1", "5: unknown key '5'"),
        ("fleet.mix.5=1", "fleet: unknown device '5'"),
        ("method.mu=", "method.mu: input should be a valid number, got ''"),
        ("method.mu=abc", "method.mu: input should be a valid number, got 'abc'"),
        ("rounds=1\nseed=2", "rounds: input should be a valid integer"),
        ("task.data=" + "x" * 5000, "task.data: unknown key 'data' of toy"),
    ],
)
def test_bad_overrides(job, override, message):
    with pytest.raises(BadInput) as caught:
        Experiment.load(job, [override])
    assert message in str(caught.value)


TEXT = '[task]\nname = "text-classification"\ndata = "{data}"\nadapter = "head"\n'


def test_paths_are_relative_to_the_job(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = tmp_path / "jobs" / "job.toml"
    path.write_text(TEXT.format(data="rows.csv"))
    rows = tmp_path / "jobs" / "rows.csv"
    assert Experiment.load(path).task.data == str(rows)  # whether or not it is there: the error shall name this path
    rows.write_text("text,label\na,b\n")
    assert Experiment.load("../jobs/job.toml").task.data == str(rows)
    # A value given on the command line is meant from where the command is given, if it is there.
    (tmp_path / "elsewhere" / "mine.csv").write_text("text,label\na,b\n")
    assert Experiment.load(path, ["task.data=mine.csv"]).task.data == str(tmp_path / "elsewhere" / "mine.csv")
    assert Experiment.load(path, ["task.data=rows.csv"]).task.data == str(rows)
    # Names that are no files stay names.
    assert Experiment.load(path, ["task.data=org/set"]).task.data == "org/set"
    assert Experiment.load(path).task.model == "minilm"


def test_paths_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "job.toml"
    path.write_text(TEXT.format(data="~/rows.csv"))
    assert Experiment.load(path).task.data == str(tmp_path / "rows.csv")
    with pytest.raises(BadInput, match=r"task\.data: '~nobody-of-that-name/x' names the home of a user"):
        Experiment.load(path, ["task.data=~nobody-of-that-name/x"])


def test_own_class_beside_the_job(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir("/")
    (tmp_path / "own_beside_job.py").write_text(
        "from dataclasses import dataclass\nfrom fedwave.methods.fedavg import FedAvg\n"
        "@dataclass(frozen=True)\nclass Mine(FedAvg):\n    strength: float = 2.0\n"
    )
    path = tmp_path / "job.toml"
    path.write_text('[task]\nname = "toy"\n[method]\nname = "own_beside_job:Mine"\nstrength = 3.5\n')
    experiment = Experiment.load(path)
    assert experiment.method.strength == 3.5
    assert 'name = "own_beside_job:Mine"' in experiment.to_toml()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds = \n", "not valid TOML: invalid value (at line 1, column 10)"),
        (b"[task]\nname = 'toy'\n[task]\n", "not valid TOML: cannot declare ('task',) twice (at line 3, column 6)"),
        (b"\xff\xfe\n", "not a text file in UTF-8 (byte 0)"),
        (b"", "[task] is missing"),
        (b"a = " + b"[" * 20_000, "not valid TOML: nested too deeply"),
        (b"task = 3\n", "task: must be the name of a task or a table with one, got 3"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        Experiment.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match="no such job file"):
        Experiment.load(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="is a folder, not a job file"):
        Experiment.load(tmp_path)
    with pytest.raises(BadInput, match="cannot be read"):
        Experiment.load("x" * 5000)
    with pytest.raises(BadInput, match="cannot be read"):
        Experiment.load("a\0b")


LLAMA = {"name": "causal-lm", "model": "llama-3.2-3b", "partition": {"name": "column", "column": "topic"}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"federation": {"quorum": 9}, "sampler": {"cohort": 3}}, "federation.quorum is 9 and sampler.cohort 3"),
        ({"transform": [{"name": "top_k", "direction": "down"}]}, "error feedback works on updates"),
        ({"method": "ffa_lora"}, "ffa_lora trains LoRA factors"),
        ({"method": "flora"}, "flora stacks LoRA factors"),
        ({"method": {"local_steps": 2, "local_epochs": 2}}, "local_steps and local_epochs exclude each other"),
        ({"transform": ["quantize", "clip"]}, "'clip' stands after 'quantize'"),
        (
            {"task": LLAMA | {"adapter": {"name": "lora", "rank": {"phone": 4, "laptop": 8}}},
             "fleet": {"mix": {"phone": 1, "laptop": 1}}},
            "method 'fedavg' averages factors and needs one LoRA rank for all clients",
        ),
    ],
)  # fmt: skip
def test_refusals(parts, message):
    experiment = Experiment.parse({"task": "toy", **parts})
    with pytest.raises(Refused) as caught:
        experiment.setting()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mixed_ranks_are_taken_by_flora():
    ranks = {"name": "lora", "rank": {"phone": 4, "laptop": 8}}
    experiment = Experiment.parse(
        {"task": LLAMA | {"adapter": ranks}, "method": "flora", "fleet": {"mix": {"phone": 1, "laptop": 1}}}
    )
    assert set(experiment.setting().population.rank.tolist()) == {4, 8}
