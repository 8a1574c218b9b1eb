"""The client log: exact against the ledger, cut on resume, honest about what it cannot read."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fedwave import simulation
from fedwave.core.errors import BadInput
from fedwave.core.types import STATUS, Cohort, Delivery, Replies
from fedwave.experiment import Experiment
from fedwave.results import client_log
from fedwave.simulation import Simulation

JOB = {
    "seed": 5, "rounds": 6, "eval_every": 2,
    "task": {"name": "toy", "clients": 12, "ragged": True, "dimension": 500},
    "method": {"name": "fedavg", "local_optimizer": {"name": "sgd", "lr": 0.02}},
    "sampler": {"name": "uniform", "cohort": 6},
    "network": {"name": "cell", "scheduler": "round_robin"},
    "federation": {"name": "sync", "deadline_s": 0.16},
    "fleet": {"mix": {"phone": 0.7, "raspberry-pi-5": 0.3}, "availability": 0.9},
}  # fmt: skip


def turn(count=3):
    whole = np.arange(count)
    cohort = Cohort(
        round=4, ids=whole * 2, weight=np.ones(count), samples=whole + 1, steps=whole + 7, rows=whole,
        rank=whole, device=whole % 2, last_round=whole, site=whole,
    )  # fmt: skip
    measured = ("downlink_s", "compute_s", "uplink_s", "finish_s", "radio_j", "compute_j", "sinr_db")
    values = dict.fromkeys(measured, whole + 0.5)
    delivery = Delivery(
        coefficient=np.ones((count, 1)), status=np.array([0, STATUS["deadline"], 0]), round_s=9.0,
        down_sent_bits=np.full(count, 2.0**40 + 1), up_sent_bits=whole * 8.0, **values,
    )  # fmt: skip
    replies = Replies({}, np.ones(1), np.zeros(1, int), np.ones(1, int), np.array([0.25, np.nan, np.inf]), dropped=[4])
    return cohort, delivery, replies


def test_rows_hold_what_the_round_decided(tmp_path):
    cohort, delivery, replies = turn()
    position = np.stack([np.arange(6.0), -np.arange(6.0)], axis=1)
    log = client_log.ClientLog(tmp_path, ("phone", "laptop"))
    log.append(cohort, delivery, position, replies)
    log.append(cohort, delivery, position, replies)
    table = client_log.read(tmp_path)
    assert table.devices == ("phone", "laptop")
    assert len(table.rows) == 6
    rows = table.rows[:3]
    assert rows["id"].tolist() == [0, 2, 4]
    assert [table.statuses[s] for s in rows["status"]] == ["delivered", "deadline", "not_finite"]
    assert rows["steps"].tolist() == [7, 8, 9]
    assert rows["x_m"].tolist() == [0.0, 2.0, 4.0]
    assert rows["y_m"].tolist() == [0.0, -2.0, -4.0]
    assert rows["down_bits"][0] == 2.0**40 + 1  # bits are exact
    assert np.array_equal(rows["loss"], np.float32([0.25, np.nan, np.inf]), equal_nan=True)
    assert (tmp_path / "clients.bin").stat().st_size == 6 * client_log.CLIENT.itemsize == 6 * 88


def test_the_note_reads_without_fedwave(tmp_path):
    cohort, delivery, replies = turn()
    client_log.ClientLog(tmp_path, ("phone", "laptop")).append(cohort, delivery, np.zeros((6, 2)), replies)
    note = json.loads((tmp_path / "clients.json").read_text())
    rows = np.fromfile(tmp_path / "clients.bin", dtype=[tuple(entry) for entry in note["dtype"]])
    assert rows.dtype == client_log.CLIENT
    assert [note["devices"][d] for d in rows["device"]] == ["phone", "laptop", "phone"]


def test_cut_never_lengthens_and_keeps_whole_records(tmp_path):
    cohort, delivery, replies = turn()
    client_log.ClientLog(tmp_path, ("a", "b")).append(cohort, delivery, np.zeros((6, 2)), replies)
    assert client_log.saved_bytes(tmp_path) == 3 * 88
    client_log.truncate(tmp_path, 10_000)
    assert client_log.saved_bytes(tmp_path) == 3 * 88
    client_log.truncate(tmp_path, 2 * 88 + 5)
    assert client_log.read(tmp_path).rows["id"].tolist() == [0, 2]
    with (tmp_path / "clients.bin").open("ab") as log:
        log.write(b"half")
    assert len(client_log.read(tmp_path).rows) == 2
    client_log.truncate(tmp_path / "nowhere", 5)


def test_a_run_without_a_log_reads_as_empty(tmp_path):
    assert client_log.saved_bytes(tmp_path) == 0
    table = client_log.read(tmp_path)
    assert len(table.rows) == 0
    assert table.rows.dtype == client_log.CLIENT


def test_refusals_are_sentences(tmp_path):
    (tmp_path / "clients.bin").write_bytes(b"")
    (tmp_path / "clients.json").write_text('{"version": 1}')
    with pytest.raises(BadInput, match=r"clients\.json is damaged"):
        client_log.read(tmp_path)
    note = {"version": 9, "devices": [], "statuses": [], "dtype": client_log.CLIENT.descr}
    (tmp_path / "clients.json").write_text(json.dumps(note))
    with pytest.raises(BadInput, match="has version 9, this fedwave reads versions 1 and 2"):
        client_log.read(tmp_path)


OLD = np.dtype(client_log.CLIENT.descr[:17])  # version 1: all but access_s, up_bps, block_s, cell


def old_log(folder, count=3):
    """A log of version 1 with ``count`` records of 72 bytes."""
    found = np.zeros(count, dtype=OLD)
    found["id"], found["sinr_db"] = np.arange(count), 5.0
    found.tofile(folder / "clients.bin")
    statuses = [name for name in client_log.LOG_STATUSES if name != "access"]
    note = {"version": 1, "devices": ["phone"], "statuses": statuses, "dtype": OLD.descr}
    (folder / "clients.json").write_text(json.dumps(note))


def test_version_1_is_read_without_what_it_lacks(tmp_path):
    assert OLD.itemsize == 72
    old_log(tmp_path)
    table = client_log.read(tmp_path)
    assert table.rows.dtype == client_log.CLIENT
    assert table.rows["id"].tolist() == [0, 1, 2]
    assert table.rows["sinr_db"].tolist() == [5.0, 5.0, 5.0]
    assert table.rows["cell"].tolist() == [-1, -1, -1]
    assert all(np.isnan(table.rows[name]).all() for name in ("access_s", "up_bps", "block_s"))
    assert table.statuses.index("not_finite") == 9  # the codes are those of its own note


def test_version_1_is_never_continued_or_cut_amiss(tmp_path):
    """Opening a finished run cuts nothing (3 records are 216 bytes); a record of another length is not appended."""
    old_log(tmp_path)
    client_log.truncate(tmp_path, 216)
    assert len(client_log.read(tmp_path).rows) == 3
    cohort, delivery, replies = turn()
    log = client_log.ClientLog(tmp_path, ("phone",))
    with pytest.raises(BadInput, match="has version 1, this fedwave writes version 2"):
        log.append(cohort, delivery, np.zeros((6, 2)), replies)
    assert (tmp_path / "clients.bin").stat().st_size == 216


def test_what_only_a_radio_has(tmp_path):
    cohort, delivery, replies = turn()
    bare = client_log.rows(cohort, delivery, np.zeros((6, 2)), replies)
    assert bare["cell"].tolist() == [-1, -1, -1]
    assert all(np.isnan(bare[name]).all() for name in ("access_s", "up_bps", "block_s"))
    whole = np.arange(3)
    radio = replace(
        delivery, access_s=whole + 0.25, up_bps=whole * 1e6, block_s=whole + 2.0, cell=whole + 4,
        position_m=np.stack([whole + 7.0, whole + 8.0], axis=1),
    )  # fmt: skip
    rows = client_log.rows(cohort, radio, np.zeros((6, 2)), replies)
    assert rows["access_s"].tolist() == [0.25, 1.25, 2.25]
    assert rows["up_bps"].tolist() == [0.0, 1e6, 2e6]
    assert rows["block_s"].tolist() == [2.0, 3.0, 4.0]
    assert rows["cell"].tolist() == [4, 5, 6]
    assert rows["x_m"].tolist() == [7.0, 8.0, 9.0]  # where the network says, not where the world had them


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return simulation.run(Experiment.parse(JOB), tmp_path_factory.mktemp("whole") / "run")


def test_the_log_sums_to_the_ledger(run):
    """Bits, joules and losses of the rows are those of the round's line."""
    table = client_log.read(run.folder)
    assert table.devices == ("phone", "raspberry-pi-5")
    for record in run.records:
        rows = run.clients[run.clients["round"] == record["round"]]
        assert len(rows) == record["clients"]
        assert rows["up_bits"].sum() == record["uplink_bits"]
        assert rows["down_bits"].sum() == record["downlink_bits"]
        assert rows["radio_j"].sum() == pytest.approx(record["energy_radio_j"], rel=1e-6)
        assert rows["compute_j"].sum() == pytest.approx(record["energy_compute_j"], rel=1e-6)
        for reason, ids in record["lost"].items():
            assert rows["id"][rows["status"] == table.statuses.index(reason)].tolist() == ids
        assert np.sum(rows["status"] == 0) == record["delivered"]


@pytest.mark.parametrize("every", [0.0, 1000.0])
def test_resumed_log_is_identical(tmp_path, run, every, monkeypatch):
    """Rounds after the last checkpoint are in the file when a run dies; the resumed run writes them again, once."""
    monkeypatch.setattr(simulation, "_CHECKPOINT_EVERY_S", every)
    begun = Simulation.start(Experiment.parse(JOB), tmp_path / "run")
    stream = begun.stream()
    for _ in range(4):
        next(stream)
    with (tmp_path / "run" / "clients.bin").open("ab") as log:
        log.write(b"the fifth round was cut o")
    simulation.resume(tmp_path / "run")
    assert (tmp_path / "run" / "clients.bin").read_bytes() == (run.folder / "clients.bin").read_bytes()
    assert (tmp_path / "run" / "clients.json").read_bytes() == (run.folder / "clients.json").read_bytes()


KILLED = """
import os, signal, sys
from fedwave import simulation
from fedwave.experiment import Experiment
from fedwave.results.client_log import ClientLog
append, calls = ClientLog.append, []
def fatal(*arguments):
    append(*arguments)
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
ClientLog.append = fatal
simulation.run(Experiment.load(sys.argv[1]), sys.argv[2])
"""


def test_killed_between_the_two_logs(tmp_path, run):
    """The clients of round 3 are in, its line is not: the resumed run ends with the same two files."""
    (tmp_path / "job.toml").write_text(Experiment.parse(JOB).to_toml())
    command = [sys.executable, "-c", KILLED, str(tmp_path / "job.toml"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert client_log.read(tmp_path / "run").rows["round"].max() == 3
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 3
    simulation.resume(tmp_path / "run")
    assert (tmp_path / "run" / "clients.bin").read_bytes() == (run.folder / "clients.bin").read_bytes()


def test_nothing_is_kept_without_a_folder():
    simulation_ = Simulation.start(Experiment.parse({**JOB, "rounds": 1}))
    list(simulation_.stream())
    assert len(simulation_.result().clients) == 0
