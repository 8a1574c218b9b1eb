"""What each client remembers between rounds, for as many clients as there are: on disk, read by row.

Each flush writes one segment with the rows that changed since the last one; the newest segment that holds a client
counts. A segment goes once no kept checkpoint needs a row of it, so the disk holds a small multiple of one row per
client (a segment lives until its last client was chosen again).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.types import Bools, Ints, Leaves
from fedwave.results.files import digest, disk, sync

if TYPE_CHECKING:
    from torch import Tensor

Rows = dict[str, "Tensor"]


def check(folder: Path, segments: Mapping[str, str]) -> None:
    """Raise ValueError where one of ``segments`` (see :meth:`MemoryStore.segments`) is not in ``folder`` as it was."""
    for name, stated in segments.items():
        if not (folder / name).is_file() or digest(folder / name) != stated:
            raise ValueError(f"{folder.name}/{name} is missing or damaged")


class MemoryStore:
    """Sparse per-client memory; RAM holds the rows not yet flushed and an index.

    Parameters
    ----------
    folder : where segments go; ``None`` keeps every row in RAM.
    leaves : shape and dtype of one client's row; a client without one reads zeros.
    """

    def __init__(self, folder: str | Path | None, leaves: Leaves) -> None:
        self.folder = None if folder is None else Path(folder)
        self.leaves = leaves
        self._clear()

    def _clear(self) -> None:
        self._dirty: dict[int, Rows] = {}
        self._index: dict[int, tuple[int, int]] = {}  # client -> (round of its segment, row)
        self._live: dict[int, int] = {}  # segment -> rows that count
        self._digests: dict[int, str] = {}
        self._superseded: list[tuple[int, int]] = []  # (in this round, a row of this segment stopped counting)

    def get(self, ids: Sequence[int] | Ints) -> tuple[Rows, Bools]:
        """Rows ``{name: [C, ...]}`` of the clients, and ``known [C]``: the client has a row."""
        import torch

        rows = {
            name: torch.zeros(len(ids), *leaf.shape, dtype=getattr(torch, leaf.dtype))
            for name, leaf in self.leaves.items()
        }
        known = np.zeros(len(ids), dtype=bool)
        stored: dict[int, list[tuple[int, int]]] = {}
        for place, client in enumerate(int(i) for i in ids):
            known[place] = client in self._dirty or client in self._index
            if client in self._dirty:
                for name, value in self._dirty[client].items():
                    rows[name][place] = value
            elif client in self._index:
                segment, row = self._index[client]
                stored.setdefault(segment, []).append((place, row))
        for segment, places in stored.items():
            self._read(segment, places, rows)
        return rows, known

    def put(self, ids: Sequence[int] | Ints, rows: Mapping[str, Tensor]) -> None:
        """Remember ``rows`` ``{name: [C, ...]}``, every name of ``leaves``, for the clients ``ids [C]``."""
        rows = {name: rows[name].detach().to("cpu", copy=True) for name in self.leaves}
        for place, client in enumerate(int(i) for i in ids):
            self._dirty[client] = {name: value[place].clone() for name, value in rows.items()}

    def flush(self, round: int) -> None:
        """Write what changed as the segment of ``round`` (rounds done so far); call it once, before the checkpoint."""
        if self.folder is None or not self._dirty:
            return
        if round in self._live:
            raise ValueError(f"the memory of round {round} is already written")
        import torch
        from safetensors.torch import save_file

        clients = sorted(self._dirty)
        stacked = {name: torch.stack([self._dirty[client][name] for client in clients]) for name in self.leaves}
        path = self._path(round)
        aside = path.with_name(path.name + ".tmp")
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"row/" + n: x for n, x in stacked.items()} | {"ids": torch.tensor(clients)}, aside)
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
        self._enter(round, clients)
        self._dirty = {}

    def restore(self, round: int) -> None:
        """Go back to the memory as of ``round``: segments after it, which no checkpoint has seen, are removed."""
        from safetensors import safe_open

        self._clear()
        for segment in self._segments():
            path = self._path(segment)
            with disk(path):
                if segment > round:
                    path.unlink()
                else:
                    with safe_open(path, framework="pt") as file:
                        self._enter(segment, file.get_tensor("ids").tolist())

    def retain(self, rounds: Iterable[int]) -> None:
        """Remove the segments that no checkpoint of ``rounds`` needs."""
        oldest = min(rounds, default=-1)
        for _, segment in (entry for entry in self._superseded if entry[0] <= oldest):
            self._live[segment] -= 1
            if self._live[segment] == 0:
                del self._live[segment]
                with disk(self._path(segment)):
                    self._path(segment).unlink(missing_ok=True)
        self._superseded = [entry for entry in self._superseded if entry[0] > oldest]

    def segments(self) -> dict[str, str]:
        """The files that the memory as it is now consists of, with their SHA-256: what a checkpoint remembers."""
        gone = Counter(segment for _, segment in self._superseded)
        found = {}
        for segment in (number for number, rows in self._live.items() if rows > gone[number]):
            path = self._path(segment)
            if segment not in self._digests:
                with disk(path):
                    self._digests[segment] = digest(path)
            found[path.name] = self._digests[segment]
        return found

    def _enter(self, segment: int, clients: list[int]) -> None:
        for row, client in enumerate(clients):
            if client in self._index:
                self._superseded.append((segment, self._index[client][0]))
            self._index[client] = (segment, row)
        self._live[segment] = len(clients)

    def _read(self, segment: int, places: list[tuple[int, int]], rows: Rows) -> None:
        from safetensors import safe_open

        with disk(self._path(segment)), safe_open(self._path(segment), framework="pt") as file:
            for name in self.leaves:
                stored = file.get_slice("row/" + name)
                for place, row in places:
                    rows[name][place] = stored[row : row + 1][0]

    def _segments(self) -> list[int]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(int(path.stem[6:]) for path in self.folder.glob("round_*.safetensors"))

    def _path(self, segment: int) -> Path:
        assert self.folder is not None
        return self.folder / f"round_{segment:06d}.safetensors"
