"""What the disk does to a run: full, read-only, damaged. A sentence, and after a resume the unbroken run's numbers."""

import errno
import io
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import tomli_w
from safetensors import SafetensorError

from fedwave import simulation
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.results import client_log, files
from fedwave.results.run_folder import RunFolder

JOB = {
    "seed": 5, "rounds": 3, "eval_every": 2,
    "task": {"name": "toy", "clients": 8, "dimension": 20},
    "method": {"name": "scaffold", "local_optimizer": {"name": "sgd", "lr": 0.02}},  # clients have memory
    "transform": [{"name": "top_k", "fraction": 0.3}, {"name": "quantize", "bits": 8}],
    "sampler": {"name": "uniform", "cohort": 4}, "network": {"name": "ideal", "loss": 0.2},
}  # fmt: skip


def lines(folder):
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in rows]


def content(folder):
    """Everything that a run comes to: its log, its client log, its model."""
    model = safetensors.torch.load_file(folder / "model" / "model.safetensors")
    return lines(folder), client_log.read(folder).rows.tobytes(), {name: x.tolist() for name, x in model.items()}


@pytest.fixture(autouse=True)
def _checkpoint_every_round(monkeypatch):
    monkeypatch.setattr(simulation, "_CHECKPOINT_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    simulation.run(Experiment.parse(JOB), folder)
    return content(folder)


class Disk:
    """A disk that from the ``full_at``-th write on has no room: what was begun is half there, and everything fails."""

    def __init__(self, monkeypatch, code):
        self.writes, self.full_at, self.code = 0, None, code
        self.patch = monkeypatch
        for owner, name in ((os, "replace"), (os, "fsync"), (os, "truncate"), (Path, "mkdir"), (Path, "touch")):
            self._refusing(owner, name)
        for module in (safetensors.torch, safetensors.numpy):
            self._tearing(module, "save_file")
        self._opening()

    def full(self):
        self.writes += 1
        return self.full_at is not None and self.writes >= self.full_at

    def error(self):
        return OSError(self.code, os.strerror(self.code))

    def _refusing(self, owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            if self.full():
                raise self.error()
            return original(*args, **kwargs)

        self.patch.setattr(owner, name, call)

    def _tearing(self, module, name):
        """safetensors reports the operating system's errors as its own."""
        original = getattr(module, name)

        def call(tensors, path, **kwargs):
            original(tensors, path, **kwargs)
            if self.full():
                Path(path).write_bytes(b"half a fi")
                raise SafetensorError(f"I/O error: {os.strerror(self.code)} (os error {self.code})")

        self.patch.setattr(module, name, call)

    def _opening(self):
        """``Path.open`` and, through it, ``write_text``: half of what is written stays."""
        disk, original = self, io.open

        class Torn:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *exc):
                self.file.close()

            def write(self, text):
                self.file.write(text[: len(text) // 2])
                raise disk.error()

        def opened(file, mode="r", *args, **kwargs):
            handle = original(file, mode, *args, **kwargs)
            return Torn(handle) if set(mode) & set("wa") and disk.full() else handle

        self.patch.setattr(io, "open", opened)  # what pathlib calls


@pytest.fixture(params=[errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def disk(monkeypatch, request):
    return Disk(monkeypatch, request.param)


def refusal(start):
    """The sentence of a run that is stopped by the disk."""
    with pytest.raises(BadInput) as caught:
        start()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_every_write_may_fail(tmp_path, disk, unbroken):
    """A run of three rounds writes some eighty times; from each of them on the disk is full, then has room again."""
    experiment, points = Experiment.parse(JOB), 0
    simulation.run(experiment, tmp_path / "whole")
    total = disk.writes
    assert content(tmp_path / "whole") == unbroken
    assert total > 50
    for point in range(1, total + 1, 1 if disk.code == errno.ENOSPC else 7):
        folder = tmp_path / f"run{point}"
        disk.writes, disk.full_at = 0, point
        sentence = refusal(lambda: simulation.run(experiment, folder))  # noqa: B023
        assert str(folder) in sentence, (point, sentence)
        assert os.strerror(disk.code) in sentence, (point, sentence)
        if (folder / "experiment.toml").exists():  # still full: nothing more is lost by trying
            assert str(folder) in refusal(lambda: simulation.resume(folder))  # noqa: B023
        disk.full_at = None
        begun = (folder / "experiment.toml").exists()
        simulation.resume(folder) if begun else simulation.run(experiment, folder)
        assert content(folder) == unbroken, point
        shutil.rmtree(folder)
        points += 1
    assert points > 10


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_really_read_only(tmp_path, unbroken):
    rounds = simulation.Simulation.start(Experiment.parse(JOB), tmp_path / "run").stream()
    next(rounds)
    (tmp_path / "run" / "checkpoint").chmod(0o500)
    try:
        assert "checkpoint" in refusal(lambda: list(rounds))
    finally:
        (tmp_path / "run" / "checkpoint").chmod(0o700)
    simulation.resume(tmp_path / "run")
    assert content(tmp_path / "run") == unbroken


def test_the_command_says_how_to_go_on(fedwave_, monkeypatch, unbroken):
    Path("job.toml").write_text(tomli_w.dumps(JOB))
    append = RunFolder.append

    def fails(self, record):
        with files.disk(self.rounds):
            if record["round"] == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails)
        code, _, err = fedwave_("run", "job.toml", "--out", "r")
    assert code == 2
    assert err == ("fedwave: r/rounds.jsonl cannot be written or read: No space left on device; "
                   "nothing is lost: fedwave run --resume r goes on from there\n")  # fmt: skip
    assert fedwave_("run", "--resume", "r")[0] == 0
    assert content(Path("r")) == unbroken


def test_a_full_disk_anywhere_else(fedwave_, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")

    monkeypatch.setattr("fedwave.planner.plan", full)
    assert fedwave_("plan", "job.toml") == (2, "", "fedwave: /somewhere: No space left on device\n")


def test_a_place_that_cannot_be_written_at_all(fedwave_):
    Path("file").write_text("")
    code, out, err = fedwave_("run", "job.toml", "--out", "file/run")
    assert (code, out) == (2, "")
    assert err == "fedwave: file/run cannot be written or read: Not a directory\n"


# ---- damage --------------------------------------------------------------------------------------------------------


def flip(path):
    """One bit, in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {"flip": flip, "cut": cut, "remove": Path.unlink}


def broken_off(folder, *, after):
    """A run that ended ``after`` rounds, each with its checkpoint."""
    rounds = simulation.Simulation.start(Experiment.parse(JOB), folder).stream()
    for _ in range(after):
        next(rounds)
    rounds.close()
    return sorted((folder / "checkpoint").iterdir())


def resumed(folder):
    """Resume to the end; the notes on the way."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        simulation.resume(folder)
    return [str(note.message) for note in notes]


@pytest.mark.parametrize("name", ["state.safetensors", "world.safetensors", "meta.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_checkpoint_falls_back_to_the_one_before(tmp_path, unbroken, name, damage):
    *_, before, newest = broken_off(tmp_path / "run", after=2)
    DAMAGE[damage](newest / name)
    (note,) = resumed(tmp_path / "run")
    assert note.startswith(f"checkpoint {newest} is damaged (") and note.endswith("; going back to the one before")
    assert before.name == "round_000001"
    assert content(tmp_path / "run") == unbroken


def test_no_whole_checkpoint_starts_again(tmp_path, unbroken):
    for folder in broken_off(tmp_path / "run", after=2):
        flip(folder / "state.safetensors")
    first, second = resumed(tmp_path / "run")
    assert first.endswith("going back to the one before") and second.endswith("starting again from round 0")
    assert content(tmp_path / "run") == unbroken


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_client_memory_disqualifies_the_checkpoint(tmp_path, unbroken, damage):
    """Clients that forget silently would change the numbers."""
    broken_off(tmp_path / "run", after=2)
    DAMAGE[damage](tmp_path / "run" / "memory" / "round_000002.safetensors")
    (note,) = resumed(tmp_path / "run")
    assert "memory/round_000002.safetensors is missing or damaged" in note
    assert content(tmp_path / "run") == unbroken


@pytest.mark.parametrize("damage", ["cut", "remove"])
@pytest.mark.parametrize(("name", "notes"), [("rounds.jsonl", 2), ("clients.bin", 2)])
def test_a_log_that_lost_rounds_disqualifies_the_checkpoints_that_saw_them(tmp_path, unbroken, name, notes, damage):
    """Half of two rounds' log is less than one round's: neither checkpoint 2 nor 1 can be gone on from."""
    broken_off(tmp_path / "run", after=2)
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3]) if damage == "cut" else path.unlink()
    found = resumed(tmp_path / "run")
    assert len(found) == notes
    assert all(name in note for note in found)
    assert content(tmp_path / "run") == unbroken


@pytest.mark.parametrize("name", ["rounds.jsonl", "clients.bin"])
def test_a_torn_last_line_is_cut_off(tmp_path, unbroken, name):
    broken_off(tmp_path / "run", after=2)
    with (tmp_path / "run" / name).open("ab") as log:
        log.write(b'{"round": 2, "lo')
    assert resumed(tmp_path / "run") == []
    assert content(tmp_path / "run") == unbroken


def test_another_version_is_refused_and_left_alone(tmp_path):
    broken_off(tmp_path / "run", after=2)
    note = tmp_path / "run" / "environment.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"run_format": 9}))
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    assert refusal(lambda: simulation.resume(tmp_path / "run")).endswith(
        "has run format 9, this fedwave reads format 1"
    )
    assert {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()} == before


def test_the_memory_of_the_checkpoint_is_what_is_named(tmp_path):
    """Segments that no row counts of are not named: they may go while the checkpoint stays."""
    folder = tmp_path / "run"
    rounds = simulation.Simulation.start(Experiment.parse(JOB | {"rounds": 12}), folder).stream()
    for _ in rounds:
        for checkpoint in (folder / "checkpoint").iterdir():
            named = json.loads((checkpoint / "meta.json").read_text())["meta"]["memory"]
            assert all((folder / "memory" / name).is_file() for name in named)
    assert len(named) > 1
    assert np.all([len(digest) == 64 for digest in named.values()])
