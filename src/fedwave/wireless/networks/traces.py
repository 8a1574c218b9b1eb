"""Readers of measured links: a csv of rates, LTE bandwidth logs (json), 5G logs with SINR and delay (text).

What a file is follows from its content. Each becomes a :class:`Link`; each error names file, line and column.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import Floats
from fedwave.wireless.budget import LinkBudget
from fedwave.wireless.geometry.spreads import delay_spread_s
from fedwave.wireless.link import resource_blocks, slots_per_second
from fedwave.wireless.phy import goodput

_COLUMNS = ("time_s", "uplink_mbps", "downlink_mbps")
_LATENCY = "latency_ms"
_ENTRY = ("duration_ms", "bandwidth_kbps", _LATENCY)
_LOG = ("pub_time(ms)", "delay(ms)", "cellid(db)", "sinr(db)")
_SUFFIXES = (".csv", ".json", ".txt")
_BUDGET = LinkBudget()
_MOST = 1e300  # so that a change of unit cannot overflow


@dataclass(frozen=True)
class RateTrace:
    """A periodic, piecewise constant rate: ``edges_s [S + 1]`` from 0 to the period, ``bits [S + 1]`` sent by then."""

    edges_s: Floats
    bits: Floats

    @classmethod
    def of(cls, seconds: Floats, rate_bps: Floats) -> RateTrace:
        """From the length and the rate of each piece, ``[S]``."""
        edges = np.concatenate([[0.0], np.cumsum(seconds)])
        return cls(edges, np.concatenate([[0.0], np.cumsum(rate_bps * seconds)]))

    def sent(self, time_s: Floats) -> Floats:
        """Bits from time 0 to ``time_s``."""
        period = self.edges_s[-1]
        turns = np.floor(time_s / period)
        return turns * self.bits[-1] + np.interp(time_s - turns * period, self.edges_s, self.bits)

    def when(self, sent_bits: Floats) -> Floats:
        """First time at which ``sent_bits`` > 0 have been sent; infinite where the trace carries nothing."""
        period, per_turn = self.edges_s[-1], self.bits[-1]
        if per_turn <= 0.0:
            return np.full(np.shape(sent_bits), np.inf)
        turns = np.ceil(sent_bits / per_turn) - 1.0
        rest = np.clip(sent_bits - turns * per_turn, 0.0, per_turn)
        high = np.clip(np.searchsorted(self.bits, rest, side="left"), 1, len(self.bits) - 1)
        rate = (self.bits[high] - self.bits[high - 1]) / (self.edges_s[high] - self.edges_s[high - 1])
        within = np.divide(rest - self.bits[high - 1], rate, out=np.zeros(np.shape(rest)), where=rate > 0.0)
        return turns * period + self.edges_s[high - 1] + within


@dataclass(frozen=True)
class Link:
    """A measured link: rates over time both ways, and ``latency_s [S]``, what a transfer takes beyond its bits.

    The latency is that of the piece of ``down`` in which the transfer starts.
    """

    up: RateTrace
    down: RateTrace
    latency_s: Floats

    def latency_at(self, time_s: Floats) -> Floats:
        """Latency of transfers that start at ``time_s``, any shape."""
        edges = self.down.edges_s
        piece = np.searchsorted(edges, np.mod(time_s, edges[-1]), side="right") - 1
        return self.latency_s[np.clip(piece, 0, len(self.latency_s) - 1)]


@dataclass(frozen=True)
class Reading:
    """What a file does not say: the uplink's rate over the downlink's, and the carrier that an SINR was measured on."""

    uplink_share: float = 0.13
    bandwidth_mhz: float = 20.0
    subcarrier_khz: int = 30


def rate_of_sinr(sinr_db: Floats, reading: Reading) -> Floats:
    """Downlink goodput at a measured SINR, ``[S]`` bit/s: the whole carrier, one layer.

    Assumptions: slots, overhead, MCS table and implementation loss of the default link budget; no line of sight, the
    median delay spread of TR 38.901's urban macro cell at 3.5 GHz.
    """
    slot_bits = goodput.slot_bits(
        sinr_db[:, None] - _BUDGET.implementation_loss_db,
        np.array([float(resource_blocks(reading.bandwidth_mhz, reading.subcarrier_khz))]),
        direction="down",
        mcs_table=_BUDGET.downlink_mcs_table,
        profile="nlos",
        delay_spread_s=float(delay_spread_s("UMa", False, 3.5)),
        subcarrier_khz=reading.subcarrier_khz,
    )
    slots = slots_per_second(reading.subcarrier_khz) * _BUDGET.tdd_downlink_share
    return slot_bits[:, 0] * slots * (1.0 - _BUDGET.protocol_overhead)


def files_of(path: str) -> list[str]:
    """The file itself, or the csv, json and txt files of a folder by name. Raises :class:`BadInput` where none is."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(str(each) for each in Path(path).iterdir() if each.suffix.lower() in _SUFFIXES and each.is_file())
    if not found:
        raise BadInput(f"network.file: folder {path!r} holds no trace (csv, json or txt)")
    return found


def read_link(file: str, reading: Reading | None = None) -> Link:
    """The link that a trace file holds. Raises :class:`BadInput` with the line and the column that are wrong."""
    try:
        modified_ns = os.stat(file).st_mtime_ns
    except OSError as error:
        raise BadInput(f"network.file: trace {file!r} cannot be read: {error.strerror}") from None
    return _read(file, modified_ns, reading or Reading())


def read_trace(file: str) -> tuple[RateTrace, RateTrace]:
    """Uplink and downlink of a trace file. Raises :class:`BadInput` as :func:`read_link` does."""
    link = read_link(file)
    return link.up, link.down


@lru_cache(maxsize=256)
def _read(file: str, modified_ns: int, reading: Reading) -> Link:
    del modified_ns  # in the key of the cache alone: a changed file is read again
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{file}: a trace must be text in UTF-8") from None
    except OSError as error:
        raise BadInput(f"network.file: trace {file!r} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise BadInput(f"{file}: the file is empty")
    if text.lstrip()[0] in "[{":
        return _bandwidth_log(file, text, reading)
    if text.split("\n", 1)[0].split()[:1] == [_LOG[0]]:
        return _sinr_log(file, text, reading)
    return _rates(file, text)


def _rates(file: str, text: str) -> Link:
    """A csv with a header; lines that begin with # are comments; the last rate holds as long as the one before."""
    body = [(n, row) for n, row in enumerate(text.splitlines(), 1) if row.strip() and not row.lstrip().startswith("#")]
    if not body:
        raise BadInput(f"{file}: the file has comments only")
    top, *lines = [(n, _words(file, n, row)) for n, row in body]
    header = _Header(file, top[0], top[1], _COLUMNS)
    names = (*_COLUMNS, _LATENCY) if _LATENCY in top[1] else _COLUMNS
    table = np.array([[header.number(n, row, name, least=_least(name)) for name in names] for n, row in lines])
    table = table.reshape(-1, len(names))
    seconds = _lengths(file, [n for n, _ in lines], table[:, 0], "time_s")
    latency_s = 1e-3 * table[:, 3] if len(names) > 3 else np.zeros(len(table))
    return Link(_trace(file, seconds, 1e6 * table[:, 1]), _trace(file, seconds, 1e6 * table[:, 2]), latency_s)


def _words(file: str, line: int, row: str) -> list[str]:
    try:
        return [word.strip() for word in next(csv.reader([row]))]
    except csv.Error as error:
        raise BadInput(f"{file}, line {line}: not a line of csv: {error}") from None


def _least(name: str) -> float:
    return -np.inf if name == "time_s" else 0.0


def _bandwidth_log(file: str, text: str, reading: Reading) -> Link:
    """A json list of ``{duration_ms, bandwidth_kbps, latency_ms}``; the rate is the downlink's."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{file}, line {error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # an endless number, or tables in tables in tables
        raise BadInput(f"{file}: must be a list of tables of numbers: {error}") from None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{file}, line 1: must be a list of tables with {', '.join(_ENTRY)}")
    rows = [[_of_entry(file, number, entry, name) for name in _ENTRY] for number, entry in enumerate(entries, 1)]
    seconds, rate, latency_s = np.array(rows).T * [[1e-3], [1e3], [1e-3]]
    return _downlink_only(file, seconds, rate, latency_s, reading)


def _of_entry(file: str, number: int, entry: dict[str, Any], name: str) -> float:
    place, value = f"{file}, entry {number}, {name}", entry.get(name)
    if name not in entry:
        raise BadInput(f"{file}, entry {number}: {name} is missing (needed: {', '.join(_ENTRY)})")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"{place}: must be a number, got {_short(value)}")
    if not abs(value) < _MOST:  # NaN neither
        raise BadInput(f"{place}: must be finite, got {_short(value)}")
    if value < 0 or (value == 0 and name == "duration_ms"):
        raise BadInput(f"{place}: must {'be positive' if name == 'duration_ms' else 'not be negative'}, got {value:g}")
    return float(value)


def _sinr_log(file: str, text: str, reading: Reading) -> Link:
    """Lines of publish time, round-trip delay, cell, SINR and more, a blank between two; no cell: no link.

    A transfer takes half of the delay at its start beyond its bits; where there is no cell the delay is the gap
    itself, so the median of the other lines stands in. Just before a gap the delay holds a part of it, which makes
    transfers that start there slow twice.
    """
    first, *body = text.splitlines()
    header = _Header(file, 1, first.split(), _LOG)
    # A missing cell is an empty word: one blank parts two columns.
    lines = [(n, line.rstrip().split(" ")) for n, line in enumerate(body, 2) if line.strip()]
    names = (_LOG[0], _LOG[1], _LOG[3])
    least = (-np.inf, 0.0, -np.inf)
    rows = [
        [header.number(n, row, name, least=low) for name, low in zip(names, least, strict=True)] for n, row in lines
    ]
    served = np.array([header.word(n, row, _LOG[2]) != "" for n, row in lines], dtype=bool)
    table = np.array(rows).reshape(-1, 3)
    seconds = 1e-3 * _lengths(file, [n for n, _ in lines], table[:, 0], _LOG[0])
    rate = np.where(served, rate_of_sinr(table[:, 2], reading), 0.0)
    typical_ms = np.median(table[served, 1]) if served.any() else 0.0
    return _downlink_only(file, seconds, rate, 0.5e-3 * np.where(served, table[:, 1], typical_ms), reading)


def _downlink_only(file: str, seconds: Floats, rate_bps: Floats, latency_s: Floats, reading: Reading) -> Link:
    down = _trace(file, seconds, rate_bps)
    return Link(RateTrace(down.edges_s, reading.uplink_share * down.bits), down, latency_s)


def _trace(file: str, seconds: Floats, rate_bps: Floats) -> RateTrace:
    with np.errstate(over="ignore", invalid="ignore"):
        trace = RateTrace.of(seconds, rate_bps)
    if not (np.isfinite(trace.edges_s[-1]) and np.isfinite(trace.bits[-1])):
        raise BadInput(f"{file}: times and rates are too large to add up")
    return trace


@dataclass(frozen=True)
class _Header:
    """The columns of a table of text, and what stands in them; refuses a table without those that are needed."""

    file: str
    line: int
    names: list[str]
    needed: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.needed:
            if name not in self.names:
                needed = ", ".join(self.needed)
                raise BadInput(f"{self.file}, line {self.line}: column {name} is missing (needed: {needed})")

    def word(self, line: int, words: list[str], name: str) -> str:
        place = self.names.index(name)
        if place >= len(words):
            raise BadInput(f"{self.file}, line {line}: column {name} is missing, there are {len(words)} values")
        return words[place]

    def number(self, line: int, words: list[str], name: str, *, least: float) -> float:
        word, where = self.word(line, words, name), f"{self.file}, line {line}, column {name}"
        try:
            value = float(word)
        except ValueError:
            raise BadInput(f"{where}: must be a number, got {_short(word)}") from None
        if not abs(value) < _MOST:  # NaN neither
            raise BadInput(f"{where}: must be finite, got {_short(word)}")
        if value < least:
            raise BadInput(f"{where}: must not be negative, got {value:g}")
        return value


def _short(value: Any) -> str:
    return repr(value)[:60]


def _lengths(file: str, lines: list[int], time: Floats, name: str) -> Floats:
    """How long each line holds: until the next one, the last as long as the one before."""
    if len(time) < 2:
        raise BadInput(f"{file}: a trace needs at least two lines of data, got {len(time)}")
    steps = np.diff(time)
    falling = np.flatnonzero(steps <= 0.0)
    if len(falling):
        place = falling[0] + 1
        where = f"{file}, line {lines[place]}, column {name}"
        raise BadInput(f"{where}: must rise, got {time[place]:.15g} after {time[place - 1]:.15g}")
    return np.append(steps, steps[-1])
