"""Replay of measured links: rates over time from a file, integrated exactly."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from fedwave.core.config import NonNegative
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Work, World
from fedwave.wireless.energy import Connection, RadioEnergy
from fedwave.wireless.flow import Links, Transfer, run_round
from fedwave.wireless.network import Network

_COLUMNS = ("time_s", "uplink_mbps", "downlink_mbps")


@dataclass(frozen=True)
class RateTrace:
    """A periodic, piecewise constant rate: ``edges_s [S + 1]`` from 0 to the period, ``bits [S + 1]`` sent by then."""

    edges_s: Floats
    bits: Floats

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


@register("network", "trace")
@dataclass(frozen=True)
class Trace(Network):
    """Each client replays the same measured link from its own point in time; links are not shared.

    Parameters
    ----------
    file : csv with a header and the columns time_s (rising), uplink_mbps, downlink_mbps. A rate holds until the next
        line's time, the last one as long as the line before; then the trace starts again.
    setup_s, grant_s, inactivity_s : before a transfer when the radio was asleep, when connected; until it falls asleep.
        Zero by default: a measured throughput often has them in it.
    energy : radio energy of a client.
    """

    file: str
    setup_s: NonNegative = 0.0
    grant_s: NonNegative = 0.0
    inactivity_s: NonNegative = 10.0
    energy: RadioEnergy = field(default_factory=RadioEnergy)

    def place(self, n: int, key: Key) -> Floats:
        """Everybody at the site: the trace holds what distance does."""
        return np.zeros((n, 2))

    def deliver(
        self,
        world: World,
        cohort: Cohort,
        work: Work,
        compute: Compute,
        key: Key,
        *,
        static_key: Key,
        deadline_s: float | None,
        server_s: float = 0.0,
        server_j: float = 0.0,
    ) -> Delivery:
        """See :meth:`Network.deliver`; ``sinr_db`` is NaN."""
        up, down = read_trace(self.file)
        offset_s = world.clock_s + static_key.fold("trace").uniform(cohort.ids)[:, 0] * up.edges_s[-1]
        links = Links(
            down=_replay(down, offset_s),
            up=_replay(up, offset_s),
            connection=Connection(self.setup_s, self.grant_s, self.inactivity_s),
            energy=self.energy,
            sinr_db=np.full(len(cohort), np.nan),
            lost=np.zeros(len(cohort), dtype=bool),
            idle_s=world.radio_idle_s(cohort.ids),
        )
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)


def _replay(trace: RateTrace, offset_s: Floats) -> Transfer:
    def end(start_s: Floats, bits: Floats) -> Floats:
        sends = np.isfinite(start_s) & (bits > 0.0)
        begin = offset_s + np.where(sends, start_s, 0.0)
        done = trace.when(trace.sent(begin) + np.where(sends, bits, 1.0)) - offset_s
        return np.where(sends, np.maximum(done, start_s), start_s)

    return end


def read_trace(file: str) -> tuple[RateTrace, RateTrace]:
    """Uplink and downlink of a trace file. Raises :class:`BadInput` with the line that is wrong."""
    try:
        return _read(file, os.stat(file).st_mtime_ns)
    except OSError as error:
        raise BadInput(f"file: trace {file!r} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=16)
def _read(file: str, modified_ns: int) -> tuple[RateTrace, RateTrace]:
    del modified_ns  # in the key of the cache alone: a changed file is read again
    with open(file, newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise BadInput(f"{file}, line 1: column {missing[0]} is missing (needed: {', '.join(_COLUMNS)})")
        places = [header.index(name) for name in _COLUMNS]
        rows = [_numbers(file, reader.line_num, row, places) for row in reader if row]
    table = np.array(rows).reshape(-1, 3)
    if len(table) < 2:
        raise BadInput(f"{file}: a trace needs at least two lines of data, got {len(table)}")
    time = table[:, 0] - table[0, 0]
    falling = np.flatnonzero(np.diff(time) <= 0.0)
    if len(falling):
        raise BadInput(f"{file}, data line {falling[0] + 2}: time_s must rise, got {table[falling[0] + 1, 0]:g}")
    edges = np.append(time, 2.0 * time[-1] - time[-2])
    bits = np.concatenate([np.zeros((1, 2)), np.cumsum(table[:, 1:] * 1e6 * np.diff(edges)[:, None], axis=0)])
    return RateTrace(edges, bits[:, 0]), RateTrace(edges, bits[:, 1])


def _numbers(file: str, line: int, row: list[str], places: list[int]) -> list[float]:
    try:
        values = [float(row[place]) for place in places]
    except (ValueError, IndexError):
        raise BadInput(f"{file}, line {line}: {', '.join(_COLUMNS)} must be numbers, got {','.join(row)!r}") from None
    if not np.isfinite(values).all() or min(values[1:]) < 0.0:
        raise BadInput(f"{file}, line {line}: rates must be finite and not negative, got {','.join(row)!r}")
    return values
