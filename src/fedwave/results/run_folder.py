"""The run folder: ``experiment.toml``, ``environment.json``, ``rounds.jsonl`` and ``checkpoint/``.

A checkpoint is a folder that appears in one step (written aside, flushed, renamed) and knows the checksums of its files
and the length of the log at that point, so that after a crash the log is cut to what the checkpoint has seen.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.results.files import digest, disk, sync, write_text

if TYPE_CHECKING:
    from filelock import FileLock
    from torch import Tensor

FORMAT = 1
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A point to go on from.

    ``tensors`` are groups of leaves (the server's state), ``arrays`` NumPy arrays (the world), ``meta`` what the writer
    added (JSON), ``rounds_bytes`` the length of ``rounds.jsonl`` when it was made.
    """

    round: int
    tensors: dict[str, dict[str, Tensor]]
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    rounds_bytes: int


class RunFolder:
    """The files of one run below ``path``; :meth:`create` starts it, :meth:`open` goes on with it.

    Every method raises :class:`BadInput` naming the path where the disk is full or the folder cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.experiment = self.path / "experiment.toml"
        self.environment = self.path / "environment.json"
        self.rounds = self.path / "rounds.jsonl"
        self.checkpoints = self.path / "checkpoint"
        self._lock: FileLock | None = None

    def claim(self) -> RunFolder:
        """Let no other process play this run until :meth:`release`. Raises :class:`BadInput` where one does."""
        from filelock import FileLock, Timeout

        # One lock per process and path: whoever broke off a run in a notebook may resume it there.
        self._lock = FileLock(self.path / ".lock", is_singleton=True)
        with disk(self.path):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                taken = f"{self.path} is being played by another process; wait for it, or stop it first"
                raise BadInput(taken) from None
        return self

    def release(self) -> None:
        """Give the run free again, where it was claimed."""
        if self._lock is not None:
            self._lock.release()

    def free(self) -> RunFolder:
        """Raise :class:`BadInput` where ``path`` holds a run already."""
        if self.experiment.exists() or (self.rounds.exists() and self.rounds.stat().st_size):
            raise BadInput(
                f"{self.path} already holds a run: continue it with --resume, or name another folder with --out"
            )
        return self

    def create(self, experiment_toml: str, environment: Mapping[str, Any]) -> RunFolder:
        """Start a run: the fully resolved experiment and where it ran. Never writes over another run."""
        self.free()
        with disk(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_text(self.environment, json.dumps(plain({"run_format": FORMAT, **environment}), indent=2) + "\n")
            self.rounds.touch()
            write_text(self.experiment, experiment_toml)  # last: a folder with an experiment is a whole run folder
        return self

    def note(self, name: str, table: Mapping[str, Any]) -> None:
        """Write ``NAME.json``: something about the run that belongs to no round."""
        with disk(self.path):
            write_text(self.path / f"{name}.json", json.dumps(plain(table), indent=2) + "\n")

    def open(self) -> RunFolder:
        """Check that ``path`` is a run folder of this format."""
        if not self.experiment.is_file() or not self.environment.is_file():
            raise BadInput(f"{self.path} is not a run folder: experiment.toml or environment.json is missing")
        with disk(self.environment):
            text = self.environment.read_text(encoding="utf-8")
        try:
            found = json.loads(text).get("run_format")
        except (ValueError, AttributeError):
            raise BadInput(f"{self.environment} is damaged: it is not a JSON table") from None
        if found != FORMAT:
            raise BadInput(f"{self.path} has run format {found}, this fedwave reads format {FORMAT}")
        return self

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line to ``rounds.jsonl``; NaN and infinities become null, for JSON has none."""
        line = json.dumps(plain(record), allow_nan=False)
        with disk(self.rounds), self.rounds.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All whole lines of ``rounds.jsonl``; a half-written last line is left out."""
        with disk(self.rounds):
            lines = self.rounds.read_bytes().split(b"\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise BadInput(f"{self.rounds} is damaged: a line is not JSON ({error})") from None

    def checkpoint(
        self,
        round: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        arrays: Mapping[str, np.ndarray],
        meta: Mapping[str, Any],
    ) -> None:
        """Write ``checkpoint/round_000017`` in one step; it and the one before it are kept, older ones go.

        Parameters
        ----------
        round : rounds done so far.
        tensors : groups of leaves; a group's name holds no ``/``.
        arrays : NumPy arrays of numbers or booleans.
        meta : anything that JSON holds.
        """
        final = self._folder(round)
        aside = final.with_name(final.name + ".tmp")
        with disk(final):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            self._write(aside, tensors, arrays, meta)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(aside, final)
            sync(self.checkpoints)
            for number in self.kept()[:-_KEPT]:
                shutil.rmtree(self._folder(number))

    def kept(self) -> list[int]:
        """Rounds of the checkpoints that are there, ascending."""
        found = self.checkpoints.glob("round_" + "[0-9]" * 6 + "*")
        return sorted(int(folder.name[6:]) for folder in found if folder.name[6:].isdigit())

    def latest(self, check: Callable[[Checkpoint], None] = lambda found: None) -> Checkpoint | None:
        """The newest checkpoint that is whole; warns of each damaged one. ``None``: the run starts at round 0.

        ``check`` raises ValueError where something that the checkpoint builds on, outside its folder, is damaged.
        """
        numbers = self.kept()
        for place, number in reversed(list(enumerate(numbers))):
            try:
                found = self._read(self._folder(number), number)
                check(found)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                then = "going back to the one before" if place else "starting again from round 0"
                warnings.warn(f"checkpoint {self._folder(number)} is damaged ({error}); {then}", stacklevel=2)
            else:
                return found
        return None

    def truncate_log(self, checkpoint: Checkpoint | None) -> None:
        """Go back to ``checkpoint`` (``None``: to the start): cut ``rounds.jsonl``, drop the checkpoints after it."""
        with disk(self.path):
            self.rounds.touch()
            os.truncate(self.rounds, checkpoint.rounds_bytes if checkpoint else 0)
            for number in self.kept():
                if checkpoint is None or number > checkpoint.round:
                    shutil.rmtree(self._folder(number))

    def _folder(self, round: int) -> Path:
        return self.checkpoints / f"round_{round:06d}"

    def _write(self, folder: Path, tensors: Any, arrays: Any, meta: Any) -> None:
        from safetensors.numpy import save_file as save_arrays
        from safetensors.torch import save_file as save_tensors

        state, world = folder / "state.safetensors", folder / "world.safetensors"
        # Cloned: safetensors refuses tensors that share memory.
        leaves = {f"{group}/{name}": x.detach().cpu().contiguous().clone() for group, name, x in _flat(tensors)}
        save_tensors(leaves, state)
        save_arrays({name: np.array(value, order="C") for name, value in arrays.items()}, world)
        note = {
            "round": int(folder.name[6:].removesuffix(".tmp")),
            "rounds_bytes": self.rounds.stat().st_size,
            "groups": list(tensors),
            "sha256": {path.name: digest(path) for path in (state, world)},
            "meta": plain(meta),
        }
        note["sha256"]["meta.json"] = _own_digest(note)
        (folder / "meta.json").write_text(json.dumps(note, allow_nan=False), encoding="utf-8")
        for path in (state, world, folder / "meta.json", self.rounds, folder):
            sync(path)

    def _read(self, folder: Path, round: int) -> Checkpoint:
        from safetensors.numpy import load_file as load_arrays
        from safetensors.torch import load_file as load_tensors

        note = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        stated = note["sha256"]
        found = {name: digest(folder / name) for name in stated if name != "meta.json"}
        found["meta.json"] = _own_digest(note)
        if wrong := sorted(name for name in found if found[name] != stated.get(name)):
            raise ValueError(f"the checksum of {wrong[0]} is wrong")
        if self.rounds.stat().st_size < note["rounds_bytes"]:
            raise ValueError("rounds.jsonl is shorter than it was")
        tensors: dict[str, dict[str, Tensor]] = {group: {} for group in note["groups"]}
        for key, value in load_tensors(folder / "state.safetensors").items():
            group, _, name = key.partition("/")
            tensors[group][name] = value
        arrays = load_arrays(folder / "world.safetensors")
        return Checkpoint(round, tensors, arrays, note["meta"], note["rounds_bytes"])


def _flat(groups: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Any]]:
    return [(group, name, value) for group, leaves in groups.items() for name, value in leaves.items()]


def _own_digest(note: Mapping[str, Any]) -> str:
    """Checksum of everything that ``meta.json`` says, but itself."""
    files = {name: digest for name, digest in note["sha256"].items() if name != "meta.json"}
    text = json.dumps({**note, "sha256": files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """``value`` as JSON has it: NumPy numbers and arrays as Python's, paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
