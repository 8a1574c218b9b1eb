"""What every client of every round did: ``clients.bin``, one record of fixed size per (round, client).

``clients.json`` beside it says how to read it (version, dtype, names behind the codes); a reader needs no fedwave::

    note = json.load(open("clients.json"))
    rows = numpy.fromfile("clients.bin", dtype=[tuple(field) for field in note["dtype"]])
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import STATUSES, Cohort, Delivery, Floats, Replies
from fedwave.results.files import disk, sync, write_text

VERSION = 2  # version 1, before networks had more than one cell, lacks the last four fields
BINARY, NOTE = "clients.bin", "clients.json"

# Why an update did not count, as in the record's ``lost``: the network's reasons, then the engine's.
LOG_STATUSES = (*STATUSES, "not_finite")
_NOT_FINITE = len(STATUSES)

# Times count from the round's start. ``device`` and ``status`` are indices into the lists of ``clients.json``. Seconds
# are NaN where the client never got that far; ``finish_s`` is infinite where its update was not in. Bits went on the
# air, lost ones included. ``loss`` (mean local training loss) is NaN where the client did not train. What only a radio
# has is NaN elsewhere: ``sinr_db`` and ``up_bps`` (uplink with the whole carrier), ``access_s`` (connecting, part of
# the seconds above), ``block_s`` (uplink resource blocks x seconds); the serving ``cell`` is then -1.
CLIENT = np.dtype(
    [
        ("round", "<i4"), ("id", "<i4"), ("device", "<u2"), ("status", "<u2"), ("steps", "<i4"),
        ("up_bits", "<f8"), ("down_bits", "<f8"),
        ("downlink_s", "<f4"), ("compute_s", "<f4"), ("uplink_s", "<f4"), ("finish_s", "<f4"),
        ("radio_j", "<f4"), ("compute_j", "<f4"),
        ("sinr_db", "<f4"), ("x_m", "<f4"), ("y_m", "<f4"), ("loss", "<f4"),
        ("access_s", "<f4"), ("up_bps", "<f4"), ("block_s", "<f4"), ("cell", "<i4"),
    ]
)  # fmt: skip


@dataclass
class ClientLog:
    """The client log of the run in ``folder``; ``devices`` are the names of the device classes."""

    folder: Path
    devices: Sequence[str]
    _begun: bool = field(default=False, init=False)

    def append(self, cohort: Cohort, delivery: Delivery, position_m: Floats, replies: Replies) -> None:
        """Add one round's clients; ``position_m [N, 2]`` is where the population was in that round."""
        if not self._begun:
            self._refuse_others()
            note = {"version": VERSION, "dtype": CLIENT.descr, "devices": list(self.devices), "statuses": LOG_STATUSES}
            with disk(self.folder):
                write_text(self.folder / NOTE, json.dumps(note, indent=1) + "\n")
            self._begun = True
        content = rows(cohort, delivery, position_m, replies).tobytes()
        with disk(self.folder / BINARY), (self.folder / BINARY).open("ab") as log:
            log.write(content)

    def _refuse_others(self) -> None:
        """Records of another version cannot stand in one file with these."""
        if saved_bytes(self.folder) and (self.folder / NOTE).exists():
            version = _described(self.folder)[0]
            if version != VERSION:
                raise BadInput(
                    f"{self.folder / BINARY} has version {version}, this fedwave writes version {VERSION}: "
                    "it can read and report this run, and only the fedwave that began it can continue it"
                )


def rows(cohort: Cohort, delivery: Delivery, position_m: Floats, replies: Replies) -> np.ndarray:
    """One round's records ``[C]`` of dtype :data:`CLIENT`."""
    table = np.empty(len(cohort), dtype=CLIENT)
    table["round"] = cohort.round
    table["id"], table["device"], table["steps"] = cohort.ids, cohort.device, cohort.steps
    table["status"] = delivery.status
    if replies.dropped:
        table["status"][np.isin(cohort.ids, replies.dropped)] = _NOT_FINITE
    table["up_bits"], table["down_bits"] = delivery.up_sent_bits, delivery.down_sent_bits
    with np.errstate(over="ignore"):  # beyond single precision is infinite
        for name in ("downlink_s", "compute_s", "uplink_s", "finish_s", "radio_j", "compute_j", "sinr_db"):
            table[name] = getattr(delivery, name)
        for name in ("access_s", "up_bps", "block_s"):
            value = getattr(delivery, name)
            table[name] = np.nan if value is None else value
        table["cell"] = -1 if delivery.cell is None else delivery.cell
        here = position_m[cohort.ids] if delivery.position_m is None else delivery.position_m
        table["x_m"], table["y_m"] = here.T
        table["loss"] = replies.loss
    return table


def saved_bytes(folder: Path) -> int:
    """Length of the log, once it is safely on the disk: what a checkpoint remembers."""
    path = folder / BINARY
    if not path.exists():
        return 0
    with disk(path):
        sync(path)
        return path.stat().st_size


def check(folder: Path, length: int) -> None:
    """Raise ValueError where the log is shorter than the ``length`` that a checkpoint remembers."""
    path = folder / BINARY
    if length > (path.stat().st_size if path.exists() else 0):
        raise ValueError(f"{BINARY} is shorter than it was")


def truncate(folder: Path, length: int) -> None:
    """Cut the log to the ``length`` that a checkpoint remembers (never longer than it is)."""
    path = folder / BINARY
    if path.exists():
        dtype = _described(folder)[1] if (folder / NOTE).exists() else CLIENT
        with disk(path):
            os.truncate(path, min(length, path.stat().st_size) // dtype.itemsize * dtype.itemsize)


@dataclass(frozen=True)
class ClientTable:
    """A client log as it was read: ``rows`` with the fields of :data:`CLIENT`, and the names behind the codes."""

    rows: np.ndarray
    devices: tuple[str, ...]
    statuses: tuple[str, ...]


def read(folder: str | Path) -> ClientTable:
    """The client log of a run folder; empty where the run kept none. A half-written last record is left out.

    In a log of version 1 the fields that it lacks are NaN, and ``cell`` is -1.

    Raises
    ------
    BadInput : the log is of a later version, or its note is damaged.
    """
    folder = Path(folder)
    path = folder / BINARY
    if not (folder / NOTE).exists() or not path.exists():
        return ClientTable(np.empty(0, dtype=CLIENT), (), LOG_STATUSES)
    version, dtype, devices, statuses = _described(folder)
    if version not in (1, VERSION):
        raise BadInput(f"{path} has version {version}, this fedwave reads versions 1 and {VERSION}")
    with disk(path):
        found = np.fromfile(path, dtype=dtype, count=path.stat().st_size // dtype.itemsize)
    return ClientTable(found if dtype == CLIENT else _completed(found), devices, statuses)


def _described(folder: Path) -> tuple[int, np.dtype[Any], tuple[str, ...], tuple[str, ...]]:
    """Version, layout, names of device classes and of statuses, as the note has them."""
    path = folder / NOTE
    with disk(path):
        text = path.read_text(encoding="utf-8")
    try:
        note = json.loads(text)
        dtype = np.dtype([tuple(entry) for entry in note["dtype"]])
        return note["version"], dtype, tuple(note["devices"]), tuple(note["statuses"])
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} is damaged: it does not describe a client log ({error})") from None


def _completed(found: np.ndarray) -> np.ndarray:
    """Records of an older layout in today's: fields that are not in it are NaN, -1 where they are integers."""
    table = np.empty(len(found), dtype=CLIENT)
    for name in CLIENT.names or ():
        missing = -1 if CLIENT[name].kind == "i" else np.nan
        table[name] = found[name] if name in (found.dtype.names or ()) else missing
    return table
