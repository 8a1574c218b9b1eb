"""Sinks take records out and never change a run. W&B and MLflow are fakes of the calls made to them here."""

from __future__ import annotations

import json
import shutil
import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import pytest

from fedwave import simulation
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.results.frame import frame
from fedwave.results.sinks.sink import Sink, numbers

JOB = {"rounds": 4, "eval_every": 2, "task": {"name": "toy", "clients": 5}, "sampler": {"cohort": 3}}


def job(*sinks):
    return Experiment.parse(JOB | {"sink": list(sinks)})


def lines(folder):
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in rows]


def broken_off(experiment, folder, *, after):
    """A run that dies without closing anything, ``after`` rounds from its start."""
    rounds = simulation.Simulation.start(experiment, folder).stream()
    for _ in range(after):
        next(rounds)
    return rounds


@pytest.fixture
def unbroken(tmp_path):
    simulation.run(job(), tmp_path / "plain")
    return lines(tmp_path / "plain")


# ---- what every sink gets ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording(Sink):
    """Keeps what it is told; raises at ``fails``."""

    fails: str = ""
    log: ClassVar[list[tuple]] = []

    def open(self, target):
        self._do("open", target.folder.name, target.round, target.job["rounds"])
        return self

    def write(self, round, values):
        self._do("write", round, values)

    def close(self, finished):
        self._do("close", finished)

    def _do(self, what, *values):
        if what == self.fails:
            raise RuntimeError(f"no {what} today")
        self.log.append((what, *values))


@pytest.fixture(autouse=True)
def _forget():
    Recording.log.clear()


def test_records_by_rounds_done(tmp_path, unbroken):
    simulation.run(job(Recording()), tmp_path / "run")
    (opened, start, *rounds, closed) = Recording.log
    assert opened == ("open", "run", 0, 4)
    assert start[1] == 0 and set(start[2]) == {"eval.loss", "eval.distance"}
    assert [step for _, step, _ in rounds] == [1, 2, 3, 4]
    for (_, _, values), line in zip(rounds, unbroken, strict=True):
        assert values["delivered"] == values["status.delivered"] == 3
        assert values["energy_j"] == line["energy_j"]
        assert ("eval.loss" in values) == ("eval" in line)
        assert not any(name.startswith("lost") or name == "round" for name in values)
    assert closed == ("close", True)
    assert lines(tmp_path / "run") == unbroken


def test_resume_goes_on_and_a_finished_run_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "_CHECKPOINT_EVERY_S", 0.0)
    broken_off(job(Recording()), tmp_path / "run", after=3).close()
    assert Recording.log[-1] == ("close", False)
    Recording.log.clear()
    simulation.resume(tmp_path / "run")  # the job names the class by where it is imported from
    assert [entry[:2] for entry in Recording.log] == [("open", "run"), ("write", 4), ("close", True)]
    assert Recording.log[0][2] == 3
    Recording.log.clear()
    simulation.resume(tmp_path / "run")
    assert Recording.log == []


@pytest.mark.parametrize("fails", ["open", "write", "close"])
def test_a_sink_that_fails_is_dropped_with_one_note(tmp_path, unbroken, fails):
    with pytest.warns(UserWarning, match="sink") as notes:
        simulation.run(job(Recording(fails=fails), Recording()), tmp_path / "run")
    sentence = f"sink 0 ({__name__}:Recording) failed and is dropped; the run goes on (RuntimeError: no {fails} today)"
    assert [str(note.message) for note in notes] == [sentence]
    assert lines(tmp_path / "run") == unbroken
    written = [entry[1] for entry in Recording.log if entry[0] == "write"]
    assert written == ([0, 1, 2, 3, 4] if fails != "close" else [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])


def test_without_a_folder_nothing_is_opened():
    list(simulation.stream(job(Recording())))
    assert Recording.log == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_before_anything_happens(tmp_path, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(BadInput, match=f"^sink '{name}' needs the package '{name}': pip install {name}$"):
        simulation.run(job(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    """W&B makes a folder ``wandb`` beside the user's script, which Python takes for a namespace package."""
    if "wandb" in sys.modules:
        pytest.skip("wandb is imported already")
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BadInput, match="pip install wandb"):
        simulation.run(job("wandb"), tmp_path / "run")


def test_numbers():
    table = {"a": 1, "b": {"c": 2.5, "d": {"e": True}}, "lost": {"deadline": [1, 2]}, "s": "text", "n": None}
    assert numbers(table) == {"a": 1.0, "b.c": 2.5, "b.d.e": 1.0}


# ---- TensorBoard, the real one -------------------------------------------------------------------------------------


def test_tensorboard(tmp_path, monkeypatch, unbroken):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(simulation, "_CHECKPOINT_EVERY_S", 1000.0)  # the resume replays all three rounds
    unfinished = broken_off(job("tensorboard"), tmp_path / "run", after=3)
    shutil.copytree(tmp_path / "run", tmp_path / "killed")  # as a kill leaves it: nothing is closed
    unfinished.close()
    simulation.resume(tmp_path / "killed")
    found = events.EventAccumulator(str(tmp_path / "killed" / "tensorboard"))
    found.Reload()
    assert {"eval/loss", "status/delivered", "energy_j"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("eval/loss")] == [0, 2, 4]
    assert [event.step for event in found.Scalars("energy_j")] == [1, 2, 3, 4]
    assert [event.value for event in found.Scalars("energy_j")] == pytest.approx([r["energy_j"] for r in unbroken])
    assert lines(tmp_path / "killed") == unbroken


# ---- W&B and MLflow, faked: the calls, and what they must be given ---------------------------------------------------


def module(monkeypatch, name, **content):
    """A module ``name`` that imports as if it were installed."""
    fake = types.ModuleType(name)
    fake.__spec__ = types.SimpleNamespace(origin="fake", name=name)  # type: ignore[assignment]
    vars(fake).update(content)
    monkeypatch.setitem(sys.modules, name, fake)


def test_wandb(tmp_path, monkeypatch, unbroken):
    runs: dict[str, dict] = {}

    class Run:
        def __init__(self, kept):
            self.kept = kept

        def log(self, values, *, step):
            self.kept["rows"].setdefault(step, values)  # W&B ignores a step that it has

        def finish(self):
            self.kept["finished"] += 1

    def init(*, project, entity, id, resume, name, dir, config, settings):
        assert (project, entity, resume, name) == ("mine", None, "allow", "run")
        assert dir == str(tmp_path / "run") and config["rounds"] == 4 and settings["console"] == "off"
        return Run(runs.setdefault(id, {"rows": {}, "finished": 0}))

    module(monkeypatch, "wandb", init=init)
    experiment = job({"name": "wandb", "project": "mine"})
    broken_off(experiment, tmp_path / "run", after=2).close()
    simulation.resume(tmp_path / "run")
    ((ident, kept),) = runs.items()  # one run at W&B, whatever broke off
    assert (tmp_path / "run" / "wandb.id").read_text().strip() == ident
    assert sorted(kept["rows"]) == [0, 1, 2, 3, 4] and kept["finished"] == 2
    assert [kept["rows"][step + 1]["energy_j"] for step in range(4)] == [row["energy_j"] for row in unbroken]
    assert lines(tmp_path / "run") == unbroken


def test_mlflow(tmp_path, monkeypatch, unbroken):
    experiments, runs = {}, {}

    class Client:
        def __init__(self, tracking_uri):
            assert tracking_uri == "sqlite:///somewhere"

        def get_experiment_by_name(self, name):
            return experiments.get(name)

        def create_experiment(self, name):
            experiments[name] = types.SimpleNamespace(experiment_id="7")
            return "7"

        def create_run(self, experiment_id, *, run_name):
            assert (experiment_id, run_name) == ("7", "run")
            runs[f"r{len(runs)}"] = {"params": {}, "metrics": [], "status": ["RUNNING"]}
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"r{len(runs) - 1}"))

        def update_run(self, run_id, *, status):
            runs[run_id]["status"].append(status)

        def log_batch(self, run_id, *, metrics=(), params=()):
            runs[run_id]["params"] |= dict(params)
            runs[run_id]["metrics"] += [(name, step, value) for name, value, _, step in metrics]

        def set_terminated(self, run_id, status):
            runs[run_id]["status"].append(status)

    module(monkeypatch, "mlflow", MlflowClient=Client)
    module(monkeypatch, "mlflow.entities", Metric=lambda *values: values, Param=lambda *pair: pair)
    experiment = job({"name": "mlflow", "experiment": "radio", "uri": "sqlite:///somewhere"})
    broken_off(experiment, tmp_path / "run", after=2).close()
    simulation.resume(tmp_path / "run")
    ((_, kept),) = runs.items()
    assert list(experiments) == ["radio"]
    assert kept["params"]["rounds"] == "4" and kept["params"]["method.name"] == "fedavg"
    assert kept["status"] == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    energy = {step: value for name, step, value in kept["metrics"] if name == "energy_j"}
    assert energy == {row["round"] + 1: row["energy_j"] for row in unbroken}


# ---- the DataFrame -------------------------------------------------------------------------------------------------


def test_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    run = simulation.run(Experiment.parse(JOB | {"network": {"name": "ideal", "loss": 0.5}}), tmp_path / "run")
    table = run.frame()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["round"]) == [0, 1, 2, 3]
    assert list(table["eval.loss"].isna()) == [True, False, True, False]
    assert (table["status.delivered"] + table["status.outage"] == table["clients"]).all()
    assert table["status.outage"].sum() > 0
    assert list(table["status.delivered"]) == list(table["delivered"])
    for record, ids in zip(run.records, table["lost.outage"], strict=True):
        assert record["lost"].get("outage", []) == (ids if isinstance(ids, list) else [])
    assert frame([]).empty


def test_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BadInput, match=r"^a DataFrame needs the package 'pandas': pip install pandas$"):
        frame([])
