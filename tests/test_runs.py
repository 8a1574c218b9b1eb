"""Runs that break: killed, interrupted, resumed; and a client that has nothing but bytes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from fedwave import simulation
from fedwave.core.errors import BadInput
from fedwave.engines.wire import message_from_bytes, message_to_bytes, tree_to_bytes
from fedwave.experiment import Experiment
from fedwave.federation import sync
from fedwave.federation.setting import prepare
from fedwave.remote import reply_in
from fedwave.results.memory_store import MemoryStore
from fedwave.testing import tiny_bert

JOB = {
    "seed": 5, "rounds": 6, "eval_every": 2,
    "task": {"name": "toy", "clients": 12, "ragged": True, "dimension": 500},
    "method": {"name": "scaffold", "local_optimizer": {"name": "sgd", "lr": 0.02}},
    "transform": [{"name": "top_k", "fraction": 0.3}, {"name": "quantize", "bits": 8}],
    "sampler": {"name": "uniform", "cohort": 6},
    "network": {"name": "cell", "scheduler": "round_robin"},
    "federation": {"name": "sync", "deadline_s": 0.16},
    "fleet": {"mix": {"phone": 0.7, "raspberry-pi-5": 0.3}, "availability": 0.9},
}  # fmt: skip


def lines(folder):
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    simulation.run(Experiment.parse(JOB), folder)
    return lines(folder)


def test_the_job_exercises_loss_and_memory(unbroken):
    assert any(row["delivered"] < row["clients"] for row in unbroken)
    assert all(row["delivered"] > 0 for row in unbroken)


KILLER = """
import importlib, os, signal, sys
from fedwave import simulation
from fedwave.experiment import Experiment
simulation._CHECKPOINT_EVERY_S = float(sys.argv[4])
module, _, path = sys.argv[1].partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
original, calls = getattr(owner, name), [0]
def fatal(*args, **kwargs):
    calls[0] += 1
    if calls[0] == int(sys.argv[2]) and "before" in sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if calls[0] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, fatal)
simulation.run(Experiment.load(sys.argv[5]), sys.argv[6])
"""
POINTS = {
    "while training": ("fedwave.engines.stacked.slots:train", 4, "after", 0),
    "after a client's memory is put": ("fedwave.results.memory_store:MemoryStore.put", 4, "after", 0),
    "after the server step": ("fedwave.methods.scaffold:Scaffold.server_update", 4, "after", 0),
    "before the log line": ("fedwave.results.run_folder:RunFolder.append", 3, "before", 0),
    "after the log line": ("fedwave.results.run_folder:RunFolder.append", 5, "after", 0),
    "between memory and checkpoint": ("fedwave.results.memory_store:MemoryStore.flush", 4, "after", 0),
    "inside the checkpoint": ("fedwave.results.run_folder:sync", 12, "before", 0),
    "after the checkpoint": ("fedwave.results.run_folder:RunFolder.checkpoint", 4, "after", 0),
    "rounds after the last checkpoint": ("fedwave.results.run_folder:RunFolder.append", 5, "after", 1000),
    "before any round": ("fedwave.results.run_folder:RunFolder.checkpoint", 1, "before", 0),
}


@pytest.mark.parametrize("point", sorted(POINTS))
def test_killed_and_resumed_equals_unbroken(point, tmp_path, unbroken):
    target, call, when, every = POINTS[point]
    job, folder = tmp_path / "job.toml", tmp_path / "run"
    job.write_text(Experiment.parse(JOB).to_toml())
    arguments = [target, str(call), when, str(every), str(job), str(folder)]
    done = subprocess.run([sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert lines(folder) != unbroken
    run = simulation.resume(folder)
    assert run.finished
    assert lines(folder) == unbroken


def test_interrupt_ends_cleanly_and_resumes(tmp_path, unbroken):
    """Ctrl-C finishes the round, saves, exits 130 and says how to go on."""
    job, folder = tmp_path / "job.toml", tmp_path / "run"
    slow = textwrap.dedent("""
        import time, sys
        from fedwave import cli, simulation
        append = simulation.RunFolder.append
        def slowly(self, record):
            append(self, record)
            print("round", flush=True)
            time.sleep(0.4)
        simulation.RunFolder.append = slowly
        cli.main()
    """)
    job.write_text(Experiment.parse(JOB).to_toml())
    command = [sys.executable, "-c", slow, "run", str(job), "--out", str(folder), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "round\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    assert 0 < len(lines(folder)) < 6
    simulation.resume(folder)
    assert lines(folder) == unbroken


def test_resuming_a_finished_run_changes_nothing(tmp_path, unbroken):
    simulation.run(Experiment.parse(JOB), tmp_path / "run")
    simulation.resume(tmp_path / "run")
    assert lines(tmp_path / "run") == unbroken


def test_corrupt_checkpoint_falls_back(tmp_path, unbroken, monkeypatch):
    monkeypatch.setattr(simulation, "_CHECKPOINT_EVERY_S", 0.0)
    folder = tmp_path / "run"
    simulation.run(Experiment.parse(JOB), folder)
    newest = sorted((folder / "checkpoint").iterdir())[-1]
    (newest / "state.safetensors").write_bytes(b"garbage")
    with pytest.warns(UserWarning, match="damaged"):
        simulation.resume(folder)
    assert lines(folder) == unbroken


DEVICE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fedwave.remote import reply
folder = Path(sys.argv[1])
payload = reply((folder / "job.toml").read_text(), (folder / "message").read_bytes(),
                (folder / "memory").read_bytes(), client=int(sys.argv[2]), round=int(sys.argv[3]))
(folder / "payload").write_bytes(payload)
"""


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "flora", "fedkseed", "distill", "ffa_lora"])
def test_a_client_needs_nothing_but_bytes(method, tmp_path):
    """A spawned process with job, message, memory, id, round and data file returns the same bytes."""
    data = tmp_path / "rows.csv"
    data.write_text(
        "text,label\n" + "\n".join(f"cell {i} is {'up' if i % 2 else 'down'},c{i % 2}" for i in range(40)) + "\n"
    )
    settings = {
        "fedkseed": {"pool": 32, "local_optimizer": {"name": "sgd", "lr": 0.01}},
        "scaffold": {"local_optimizer": {"name": "sgd", "lr": 0.02}},
        "distill": {"samples": 8},
    }
    table = {
        "seed": 1, "rounds": 3,
        "task": {"name": "text-classification", "model": str(tiny_bert(tmp_path / "bert")), "data": str(data),
                 "partition": {"name": "iid", "clients": 4}, "adapter": {"name": "lora", "rank": 2, "alpha": 4},
                 "max_tokens": 24, "batch_size": 4},
        "method": {"name": method, **settings.get(method, {})},
        "transform": [{"name": "top_k", "fraction": 0.5}, {"name": "quantize", "bits": 8}],
        "sampler": {"name": "uniform", "cohort": 3}, "network": {"name": "ideal"},
        "engine": {"name": "cohort", "max_clients": 1},
    }  # fmt: skip
    experiment = Experiment.parse(table)
    torch.set_num_threads(1)
    setting = experiment.setting()
    session = simulation.build_session(experiment, setting)
    store, world = MemoryStore(None, session.memory_leaves), setting.world()
    state, turn = sync.begin(setting, session), None
    rounds = sync.play(setting, session, store, world, state)
    for _ in range(2):  # two rounds, so that message, base and memory are not the initial ones
        _, world, state = next(rounds)
    turn = prepare(setting, world)
    client = next(
        (int(i) for i in turn.cohort.ids if session.memory_leaves and store.get([i])[1][0]), int(turn.cohort.ids[0])
    )
    message = message_to_bytes(setting.method.broadcast(setting.spec, state, turn.cohort))
    rows, known = store.get([client])
    memory = tree_to_bytes({name: value[0] for name, value in rows.items()}) if known[0] else b""
    expected = reply_in(session, setting, message, memory, client=client, round=world.round)
    position = int(np.flatnonzero(turn.cohort.ids == client)[0])
    assert 8 * len(expected) == turn.work.up_bits[position]
    (tmp_path / "job.toml").write_text(experiment.to_toml())
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "memory").write_bytes(memory)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DEVICE, str(tmp_path), str(client), str(world.round)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "payload").read_bytes() == expected


def test_messages_survive_serialisation():
    from fedwave.core.types import Message

    a, b = torch.randn(2, 3), torch.randn(4, 2)
    message = Message(
        shared={"params": {"x.y": a}, "seed": {"seed": torch.tensor([7])}}, base=[{"m.n": (a, b)}, {"m.n": (b, a)}]
    )
    back = message_from_bytes(message_to_bytes(message))
    assert torch.equal(back.shared["params"]["x.y"], a)
    assert back.shared["seed"]["seed"].item() == 7
    assert [torch.equal(x["m.n"][0], y) for x, y in zip(back.base, (a, b), strict=True)] == [True, True]


def test_two_processes_cannot_play_one_run(tmp_path):
    """The second one says so and leaves the run as it is."""
    folder = tmp_path / "run"
    running = simulation.Simulation.start(Experiment.parse(JOB), folder)
    playing = running.stream()
    next(playing)
    before = (folder / "rounds.jsonl").read_bytes()
    command = [sys.executable, "-m", "fedwave.cli", "run", "--resume", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "another process" in done.stderr
    assert (folder / "rounds.jsonl").read_bytes() == before


def test_changed_data_is_noticed(tmp_path):
    data = tmp_path / "rows.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.random((60, 4), dtype=np.float32), y=np.arange(60) % 2)
    task = {"name": "images", "data": str(data), "partition": {"name": "iid", "clients": 4}}
    running = simulation.Simulation.start(Experiment.parse({"rounds": 2, "task": task}), tmp_path / "run")
    next(running.stream())
    np.savez(data, x=rng.random((60, 4), dtype=np.float32), y=np.arange(60) % 2)
    with pytest.raises(BadInput, match=r"rows\.npz is not what it was when .* began"):
        simulation.resume(tmp_path / "run")
