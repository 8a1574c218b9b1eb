"""Ray workers: equal to the cohort engine, through losses of workers, stops and resumes; refusals are sentences."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from fedwave import simulation
from fedwave.core.errors import BadInput, Infeasible, Refused
from fedwave.engines import ray_engine
from fedwave.engines.ray_engine import RayEngine, _Pool
from fedwave.experiment import Experiment
from fedwave.testing import tiny_llama

# ---- the pool, with as much of Ray as it calls ---------------------------------------------------------------------


class Errors:
    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        def __init__(self, cause):
            self.cause = cause


class Answer(NamedTuple):
    number: int
    shard: int


class Fake:
    """``fates[n]`` is what becomes of shard n: exceptions in turn, then success. What was sent last is done first."""

    exceptions, cloudpickle = Errors, pickle

    def __init__(self, fates=None):
        self.fates, self.calls, self.born, self.killed = fates or {}, [], 0, []

    def put(self, value):
        return value

    def remote(self, **options):
        return lambda cls: SimpleNamespace(remote=self.new)

    def new(self, recipe, paths, folder):
        self.born += 1
        begun = SimpleNamespace(remote=lambda: object())
        return SimpleNamespace(number=self.born, begun=begun, train=SimpleNamespace(remote=self.train))

    def train(self, shared, base, shard):
        self.calls.append((shared, base, shard))
        return Answer(len(self.calls), shard)

    def wait(self, refs, num_returns=1, timeout=None):
        return refs[-num_returns:], refs[:-num_returns]

    def get(self, ref):
        if fate := self.fates.get(ref.shard):
            raise fate.pop(0)
        return ref.shard, [f"shard {ref.shard % 2} notes"]

    def kill(self, worker):
        self.killed.append(worker.number)


def played(ray, jobs=3, base=()):
    pool = _Pool(ray, None, jobs, cpus=0)
    return pool, list(pool.train("told", base, [lambda n=n: n for n in range(jobs)], 4))


def test_results_are_in_order_and_notes_are_heard_once():
    with pytest.warns(UserWarning, match="notes") as heard:
        pool, results = played(Fake())
    assert results == [0, 1, 2]
    assert sorted(str(w.message) for w in heard) == ["shard 0 notes", "shard 1 notes"]
    assert not pool.ray.killed


@pytest.mark.filterwarnings("ignore:shard")
def test_a_lost_worker_is_replaced_and_its_shard_trained_again():
    ray = Fake({1: [Errors.RayError("gone"), Errors.RayError("the node is running low on memory")]})
    with pytest.warns(UserWarning, match="ended in round 4") as heard:
        _, results = played(ray)
    assert results == [0, 1, 2]
    assert ray.born == 5
    assert [call[2] for call in ray.calls] == [0, 1, 2, 1, 1]
    assert sum("low on memory" in str(w.message) for w in heard) == 1


@pytest.mark.filterwarnings("ignore:shard", "ignore:a Ray worker ended")
def test_workers_that_keep_ending_are_an_error():
    ray = Fake({2: [Errors.RayError("gone")] * 3})
    with pytest.raises(BadInput, match="ended 3 times while it trained the same clients of round 4"):
        played(ray)
    assert len(ray.killed) == 3


@pytest.mark.filterwarnings("ignore:shard")
@pytest.mark.parametrize("cause", [Refused("no"), BadInput("no"), Infeasible("no"), MemoryError("no")])
def test_errors_of_ones_own_pass_through(cause):
    ray = Fake({0: [Errors.RayTaskError(cause)]})
    with pytest.raises(type(cause), match="no") as error:
        played(ray)
    assert error.value is cause
    assert sorted(ray.killed) == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:shard")
def test_other_errors_keep_the_traceback_of_the_worker():
    with pytest.raises(Errors.RayTaskError):
        played(Fake({0: [Errors.RayTaskError(ZeroDivisionError())]}))


@pytest.mark.filterwarnings("ignore:shard")
def test_changes_of_the_base_are_put_once_and_all_are_told_of():
    ray = Fake()
    pool, _ = played(ray, base=[{}])
    (first,) = pool._base
    list(pool.train("told", [{}, {}], [lambda: 0], 5))
    _, base, _ = ray.calls[-1]
    assert len(base) == 2
    assert base[0] is first
    assert ray.born == 3


# ---- settings ------------------------------------------------------------------------------------------------------

TOY = {
    "seed": 5, "rounds": 4, "eval_every": 1,
    "task": {"name": "toy", "clients": 12, "ragged": True, "dimension": 30},
    "method": {"name": "scaffold", "local_optimizer": {"name": "sgd", "lr": 0.02}},
    "transform": [{"name": "top_k", "fraction": 0.3}],
    "sampler": {"name": "uniform", "cohort": 6},
    "network": {"name": "ideal", "loss": 0.2},
    "engine": {"name": "ray", "workers": 2, "max_clients": 1},
}  # fmt: skip


def test_ray_is_asked_for_in_a_sentence_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"^engine.name = \"ray\" needs Ray: pip install 'fedwave\[ray\]'$"):
        simulation.Simulation.start(Experiment.parse(TOY))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_at_the_address(monkeypatch, scheme):
    """Known at once: Ray itself would try for minutes."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray is asked although nobody answers"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and not listening
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(BadInput, match=rf"no Ray cluster answers at engine.address = '{address}': .*refused"):
            simulation.Simulation.start(Experiment.parse(TOY | {"engine": {"name": "ray", "address": address}}))


def test_no_cluster_to_join(monkeypatch):
    ray = pytest.importorskip("ray")
    nothing = ConnectionError("Could not find any running Ray instance.\nPlease specify the one to connect to.")

    def init(**_):
        raise nothing

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BadInput) as error:
        simulation.Simulation.start(Experiment.parse(TOY | {"engine": {"name": "ray", "address": "auto"}}))
    assert str(error.value) == (
        "no Ray cluster can be joined at engine.address = 'auto': "
        "Could not find any running Ray instance. Please specify the one to connect to."
    )


@pytest.mark.parametrize(
    ("settings", "cpus", "wanted"),
    [({}, 8, 8), ({"threads": 3}, 8, 2), ({"threads": 9}, 8, 1), ({"workers": 20}, 8, 20),
     ({"workers": 4, "threads": 2, "address": "auto"}, 8, 4)],
)  # fmt: skip
def test_number_of_workers(settings, cpus, wanted):
    assert ray_engine._workers(RayEngine(**settings), cpus) == wanted


def test_more_workers_than_the_cluster_has_cpus():
    with pytest.raises(Refused, match=r"workers = 3 with engine.threads = 4 are 12 CPUs, and the Ray cluster has 8"):
        ray_engine._workers(RayEngine(workers=3, threads=4, address="auto"), 8)


def test_start_needs_to_know_how_to_build():
    with pytest.raises(BadInput, match="`again`"):
        RayEngine().start(None, None, up=None, batch_size=1)


# ---- Ray itself ----------------------------------------------------------------------------------------------------

real = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def local():
    """One Ray for this module's tests."""
    pytest.importorskip("ray")
    ray = ray_engine._connected("")
    yield ray
    ray.shutdown()


def in_process(table):
    return Experiment.parse(table | {"engine": {"name": "cohort", "max_clients": 1}})


def assert_same(records, wanted, rel=1e-6):
    assert len(records) == len(wanted)
    for one, other in zip(wanted, records, strict=True):
        for key in one.keys() - {"wall_s"}:
            if key in ("train_loss", "eval"):
                assert other[key] == pytest.approx(one[key], rel=rel)
            else:
                assert other[key] == one[key]


class TestRay:
    pytestmark = real

    def test_llama_with_lora_stopped_and_resumed(self, local, tmp_path):
        data = tmp_path / "rows.csv"
        data.write_text("text\n" + "\n".join(f"cell {i} sends {'reports ' * (i % 5)}" for i in range(60)) + "\n")
        table = {
            "seed": 3, "rounds": 4, "eval_every": 1,
            "task": {"name": "causal-lm", "model": str(tiny_llama(tmp_path / "llama")), "data": str(data),
                     "max_tokens": 32, "batch_size": 4, "partition": {"name": "iid", "clients": 6},
                     "adapter": {"name": "lora", "rank": 4, "alpha": 8}},
            "sampler": {"name": "uniform", "cohort": 4}, "network": {"name": "ideal"},
        }  # fmt: skip
        wanted = [record.to_dict() for record in simulation.stream(in_process(table))]
        sharded = Experiment.parse(table | {"engine": {"name": "ray", "workers": 2, "max_clients": 1}})
        first = simulation.Simulation.start(sharded, tmp_path / "run")
        rounds = first.stream()
        next(rounds), next(rounds)
        first.checkpoint()
        rounds.close()
        run = simulation.resume(tmp_path / "run")
        assert run.finished
        assert_same(run.records, wanted)
        assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()

    def test_a_killed_worker_changes_nothing(self, local):
        """Both workers are in the middle of 1,200 steps each when one of them is killed."""
        table = TOY | {"method": {**TOY["method"], "local_steps": 400}, "rounds": 3}
        wanted = [record.to_dict() for record in simulation.stream(in_process(table))]
        whole = simulation.Simulation.start(Experiment.parse(table))
        rounds = whole.stream()
        records = [next(rounds).to_dict()]
        victim = local.get(whole.session.pool._begun[0])
        threading.Timer(0.1, os.kill, (victim, signal.SIGKILL)).start()
        with pytest.warns(UserWarning, match="ended in round 1; its clients are trained again by a new one"):
            records.append(next(rounds).to_dict())
        records += [record.to_dict() for record in rounds]
        assert_same(records, wanted)

    def test_a_refusal_in_a_worker_is_that_refusal(self, local):
        """The learner is built in the worker, where its file is gone."""

        def gone():
            raise Refused("the file is gone")

        experiment, whole = Experiment.parse(TOY), simulation.Simulation.start(in_process(TOY))
        setting, learner = whole.setting, experiment.task.build(experiment.seed)
        session = experiment.engine.start(setting.method, learner, up=setting.codec.up, batch_size=8, again=gone)
        with pytest.raises(Refused, match=r"^the file is gone$"):
            list(replace(whole, session=session).stream())

    def test_ctrl_c_of_the_whole_group_saves_and_ends_ray(self, tmp_path):
        """As from a terminal: the signal reaches every process of the group."""
        pytest.importorskip("ray")
        job, folder = tmp_path / "job.toml", tmp_path / "run"
        table = TOY | {"rounds": 400, "method": {**TOY["method"], "local_steps": 300}}
        job.write_text(Experiment.parse(table).to_toml())
        command = [sys.executable, "-m", "fedwave.cli", "run", str(job), "--out", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              start_new_session=True) as process:  # fmt: skip
            while (line := process.stdout.readline()).split()[:1] != ["1"]:
                assert line, process.stderr.read()
            assert len(alive(process.pid)) > 4
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "--resume" in err
        assert "Traceback" not in err
        assert "ray" not in out.lower()
        lines = (folder / "rounds.jsonl").read_text().splitlines()
        assert 2 <= len(lines) < 400
        assert json.loads(lines[-1])["round"] == len(lines) - 1
        deadline = time.monotonic() + 20
        while alive(process.pid):
            assert time.monotonic() < deadline, "processes of Ray are left"
            time.sleep(0.2)


def alive(session):
    """Processes of a session that still run, as /proc has them: state, parent, group, session after the name."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, its, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(its) == session and state != "Z":
                found.append(stat.parent.name)
    return found
