"""The command line: happy paths on tiny jobs; every wrong input is one sentence on stderr and exit code 2."""

import copy
import json
import math
import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import tomli_w

import fedwave
from fedwave import console

from .helpers import JOB, PLAN_KEYS

TINY_DEVICE = (
    "fleet={mix = {tiny = 1}, device = {tiny = {peak_flops = 1e9, memory_bytes = 8, memory_bandwidth_bytes_s = 1e9, "
    "active_power_w = 1.0}}}"
)
KINDS = ("methods", "tasks", "models", "devices", "networks", "channels", "schedulers", "transforms", "adapters",
         "engines", "optimizers", "partitions", "samplers", "sinks", "uplinks")  # fmt: skip


# ---- what works ----------------------------------------------------------------------------------------------------


def test_run_in_text(fedwave_, here):
    code, out, err = fedwave_("run", "job.toml")
    assert (code, err) == (0, "")
    engine, *lines = out.splitlines()
    assert engine.startswith("engine: 2 clients stacked, as engine.max_clients = 2 says")
    head, start, rows = lines[:2], lines[2], lines[3:7]
    assert head[0].split() == ["simulated", "held-out"]
    assert head[1].split() == ["round", "time", "loss,", "accuracy", "up", "down", "energy", "updates", "lost", "to"]
    assert start.split()[:3] == ["start", "0", "s"]
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "3"]
    # Right-aligned columns end where their heads do; nothing is wider than 80 columns or ends in spaces.
    for name, cell in (("round", "3"), ("updates", "3/3")):
        assert head[1].index(name) + len(name) == rows[3].index(cell) + len(cell)
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines[:7])
    assert "\x1b" not in out
    assert "run folder: runs/toy-fedprox-seed1" in lines[-1]
    assert (here / "runs/toy-fedprox-seed1/rounds.jsonl").is_file()


def test_losses_stand_in_their_column(fedwave_):
    """With a deadline before any upload can end every update is lost, and the table says so."""
    code, out, _ = fedwave_("run", "job.toml", "federation.deadline_s=0.05")
    assert code == 3
    head, row = out.splitlines()[2], out.splitlines()[4]
    assert row.endswith("missed broadcast 3")
    assert row.index("missed broadcast 3") == head.index("lost to")


def test_run_in_json(fedwave_):
    code, out, err = fedwave_("run", "job.toml", "rounds=2", "--json", "--out", "here")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["run"] == "here"
    assert (result["rounds"], result["finished"], result["clients"]) == (2, True, 6)
    assert math.isfinite(result["final"]["loss"])
    assert tomllib.loads(Path("here/experiment.toml").read_text())["rounds"] == 2


def test_quiet_prints_the_result_only(fedwave_):
    code, out, err = fedwave_("run", "job.toml", "--quiet")
    assert (code, err) == (0, "")
    assert "round " not in out
    assert out.strip().splitlines()[-1].startswith("run folder: ")


def test_resume_of_a_finished_run(fedwave_):
    fedwave_("run", "job.toml", "--out", "r")
    code, out, _ = fedwave_("run", "--resume", "r")
    assert code == 0
    assert "4 of 4 rounds are done already" in out


def test_diverged_run_is_valid_json(fedwave_):
    """A loss that overflows is null, for JSON has no infinity."""
    table = copy.deepcopy(JOB)
    table["method"] = {"name": "fedavg", "local_steps": 50, "local_optimizer": {"name": "sgd", "lr": 1e6}}
    table["transform"] = []
    Path("job.toml").write_text(tomli_w.dumps(table))
    code, out, err = fedwave_("run", "job.toml", "--json")
    assert code == 3
    assert err.splitlines()[-1].endswith("12 of 12 were lost to not finite")
    json.loads(out, parse_constant=lambda text: pytest.fail(text))


def test_plan(fedwave_):
    code, out, err = fedwave_("plan", "job.toml")
    assert (code, err) == (0, "")
    assert out.startswith("verdict: suitable; binding: ")
    assert "  model      3 parameters, 3 trainable\n" in out
    assert "  in all     4 rounds in " in out


def test_counts_have_a_space_before_their_noun(fedwave_):
    Path("big.toml").write_text('[task]\nname = "causal-lm"\nmodel = "llama-3.2-3b"\n')
    _, out, _ = fedwave_("plan", "big.toml")
    assert "  model      3.2 G parameters, 2.3 M trainable\n" in out


@pytest.mark.parametrize("more", [[], ["network=ideal"], ["network=ideal", "network.loss=1.0"],
                                  ["fleet.availability=0.0"],
                                  ["method=scaffold"], ["method=local"]])  # fmt: skip
def test_plan_in_json(fedwave_, more):
    code, out, err = fedwave_("plan", "job.toml", "--json", *more)
    plan = json.loads(out)
    assert code == (3 if plan["verdict"] == "unsuitable" else 0)
    assert err == ""
    assert plan["verdict"] in ("suitable", "conditional", "unsuitable")
    assert isinstance(plan["binding"], str) and plan["binding"]
    for key in PLAN_KEYS:
        assert math.isfinite(plan[key]), key
    assert plan["model_parameters"] == plan["trainable_parameters"] == 3
    if not more:  # 3 codes of 8 bits and a scale of 32; 3 floats down
        assert plan["uplink_bits_per_client"] == 56
        assert plan["downlink_bits_per_client"] == 96


def test_infeasible_is_exit_code_3(fedwave_):
    code, out, err = fedwave_("plan", "job.toml", TINY_DEVICE, "--json")
    assert (code, err) == (3, "")
    plan = json.loads(out)
    assert (plan["verdict"], plan["binding"], plan["devices"]["tiny"]["fits"]) == ("unsuitable", "memory", False)
    code, out, _ = fedwave_("plan", "job.toml", TINY_DEVICE)
    assert code == 3
    assert "does NOT fit" in out


@pytest.mark.parametrize("kind", KINDS)
def test_list(fedwave_, kind):
    code, out, err = fedwave_("list", kind, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert rows and all(row["name"] for row in rows)
    code, out, err = fedwave_("list", kind)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 1 + len(rows)  # a line each, whatever its length
    assert [line.split()[0] for line in lines[1:]] == [row["name"] for row in rows]
    assert lines[0].split()[0] == "name"


def test_list_devices_has_a_source_per_number(fedwave_):
    devices = {row["name"]: row for row in json.loads(fedwave_("list", "devices", "--json")[1])}
    assert devices["phone"]["battery_j"] > 0
    assert {"peak_flops", "memory_bytes"} <= set(devices["phone"]["sources"])


def test_list_networks_has_a_source_per_number(fedwave_):
    networks = {row["name"]: row for row in json.loads(fedwave_("list", "networks", "--json")[1])}
    lte = networks["lte"]
    assert (lte["network"], lte["sources"]["carrier_ghz"]["value"]) == ("cell", 1.8)
    assert (lte["defaults"]["p0_dbm"]["basis"], lte["defaults"]["ue_noise_figure_db"]["basis"]) == ("assumed", "cited")
    assert {"wifi-6", "nb-iot", "cell", "trace"} <= set(networks) and len(networks) == len(set(networks))
    for row in networks.values():
        assert not set(row["defaults"]) & {key.split(".")[-1] for key in row["sources"]}
        assert all(n["source"] and n["basis"] for n in [*row["sources"].values(), *row["defaults"].values()])


def test_list_on_a_terminal(capsys, monkeypatch):
    """A terminal wraps long cells instead; brackets in them are text, not markup."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    console.show_rows(
        [
            {"name": "a", "what": "[K] " + "word " * 30, "n": 1.5, "more": {}},
            {"name": "b", "what": "", "n": None, "more": {}},
        ]
    )
    out = capsys.readouterr().out
    assert "[K]" in out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(map(len, plain)) <= 60
    assert len(plain) > 3


def test_version_and_help(fedwave_):
    assert fedwave_("--version") == (0, f"{fedwave.__version__}\n", "")
    code, out, err = fedwave_("--help")
    assert (code, err) == (0, "")
    assert fedwave_()[:2] == (0, out)
    for command in ("demo", "run", "plan", "list", "models"):
        assert command in out
        code, text, err = fedwave_(command, "--help")
        assert (code, err) == (0, "")
        assert "Usage: fedwave " + command in text


def test_warnings_are_notes(fedwave_, monkeypatch):
    def plan(*_, **__):
        warnings.warn("the\n  link is weak", UserWarning, stacklevel=1)
        raise fedwave.BadInput("no")

    monkeypatch.setattr("fedwave.planner.plan", plan)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, err = fedwave_("plan", "job.toml")
    assert (code, out) == (2, "")
    assert err == "fedwave: note: the link is weak\nfedwave: no\n"


def test_too_little_memory_is_a_sentence(fedwave_, monkeypatch):
    def plan(*_, **__):
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr("fedwave.planner.plan", plan)
    code, _, err = fedwave_("plan", "job.toml")
    assert code == 2
    assert err == "fedwave: this machine has too little memory for this job: Unable to allocate 8 TiB\n"


def test_a_reader_that_has_gone(here):
    """``fedwave list methods | true`` ends without a word."""
    program = "import sys\nfrom fedwave import cli\nsys.argv = ['fedwave', 'list', 'methods']\ncli.main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(fedwave.__file__).parents[1])}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(write)
    assert done.stderr == b""


# ---- what does not -------------------------------------------------------------------------------------------------

WRONG = [
    (["nope"], "no such command 'nope' (see fedwave --help)"),
    (["plan", "--foo", "job.toml"], "no such option: --foo"),
    (["run"], "give either a job file, or --resume and a run folder"),
    (["plan"], "plan needs a job file"),
    (["run", "none.toml"], "none.toml: no such job file"),
    (["run", "."], ". is a folder, not a job file"),
    (["run", "job.toml", "job.toml"], "'job.toml' is not an override; write key.path=value, as in method.mu=0.1"),
    (["run", "job.toml", "--resume", "x"], "give either a job file, or --resume and a run folder"),
    (["run", "--resume", "none"], "none is not a run folder"),
    (["run", "--resume", "."], ". is not a run folder"),
    (["run", "--resume", "x", "--out", "y"], "--resume continues a run as it is; it takes no overrides and no --out"),
    (["run", "job.toml", "--out", "job.toml"], "job.toml"),
    (["demo", "--rounds", "0"], "'--rounds'"),
    (["list", "nope"], "unknown kind 'nope'"),
    (["list", "device"], "did you mean 'devices'?"),
    (["models"], "missing command"),
    (["models", "get"], "missing argument 'NAME'"),
    (["models", "get", "no-such-model"], "model 'no-such-model' is not to be had here"),
    (["plan", "job.toml", "rounds=0"], "job.toml: rounds: input should be greater than or equal to 1, got 0"),
    (["plan", "job.toml", "task=3"], "job.toml: task: must be the name of a task or a table with one, got 3"),
    (["plan", "job.toml", "seed=-1"], "job.toml: seed: input should be greater than or equal to 0, got -1"),
    (["plan", "job.toml", "method.mu=-1"], "job.toml: method.mu: input should be greater than or equal to 0, got -1"),
    (["plan", "job.toml", "method.name=scaffold"], "method=scaffold replaces the whole table"),
    (["plan", "job.toml", "federation.quorum=9"], "the quorum can never be met"),
    (["plan", "broken.toml"], "broken.toml: not valid TOML: expected '=' after a key in a key/value pair (at line 2"),
    (["plan", "binary.toml"], "binary.toml: not a text file in UTF-8 (byte 4)"),
    (["plan", "empty.toml"], "empty.toml: [task] is missing: a job needs at least a task with its name"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_input(fedwave_, arguments, message):
    Path("broken.toml").write_text("rounds = 3\nrounds four\n")
    Path("binary.toml").write_bytes(b"a = \x80")
    Path("empty.toml").write_text("")
    code, out, err = fedwave_(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("fedwave: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert message in err


def test_existing_run_is_not_overwritten(fedwave_):
    fedwave_("run", "job.toml", "--out", "r")
    before = Path("r/rounds.jsonl").read_bytes()
    code, out, err = fedwave_("run", "job.toml", "--out", "r")
    assert (code, out) == (2, "")
    assert "r already holds a run: continue it with --resume, or name another folder with --out" in err
    assert Path("r/rounds.jsonl").read_bytes() == before
