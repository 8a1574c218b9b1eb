"""A shared medium: transfers of a few kinds, all of one kind progressing at the same speed at any moment."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from fedwave.core.types import Floats, Ints

# (active transfers of each kind, foreign traffic or not) -> work per second of one transfer of each kind.
Speeds = Callable[[tuple[int, ...], bool], Sequence[float]]


def share(
    start_s: Floats, work: Floats, speeds: Speeds, *, kind: Ints | None = None, foreign: Floats | None = None
) -> Floats:
    """When each transfer is done, ``[C]``: its start where it has nothing to send, infinite where there is no speed.

    Each kind has a clock that runs with the speed of its transfers, so a transfer is done when that clock has advanced
    by its work: O(C log C) for C transfers, one step an event.

    Parameters
    ----------
    start_s : ``[C]``; infinite where a client does not send.
    work : ``[C]`` in the unit of the speeds, >= 0.
    speeds : asked whenever the number of active transfers changes, and is not zero.
    kind : ``[C]`` 0 to K - 1 (``None``: one kind).
    foreign : ``[F, 2]`` begin and end of foreign traffic (``None``: none).
    """
    kinds = np.zeros(len(start_s), dtype=np.int64) if kind is None else kind
    sends = np.isfinite(start_s) & (work > 0.0)
    end_s = np.where(sends, np.inf, start_s)
    order = np.flatnonzero(sends)
    order = order[np.argsort(start_s[order], kind="stable")]
    if len(order):
        _Events(start_s, work, kinds, order, _switches(foreign)).run(lru_cache(maxsize=None)(speeds), end_s)
    return end_s


def sending_share(sending_s: Floats, start_s: Floats, end_s: Floats) -> Floats:
    """Share of each transfer's time that its ``sending_s`` take, ``[C]`` in [0, 1]; 0 where it never ends."""
    lasts = np.isfinite(start_s) & np.isfinite(end_s)
    seconds = np.where(lasts, end_s, 1.0) - np.where(lasts, start_s, 0.0)
    return np.where(lasts & (seconds > 0.0), np.minimum(sending_s / np.where(seconds > 0.0, seconds, 1.0), 1.0), 0.0)


def _switches(intervals: Floats | None) -> list[float]:
    """Times at which the union of intervals begins and ends, in turn."""
    times: list[float] = []
    for begin, end in [] if intervals is None else intervals[np.argsort(intervals[:, 0])].tolist():
        if times and begin <= times[-1]:
            times[-1] = max(times[-1], end)
        elif end > begin:
            times += [begin, end]
    return times


class _Events:
    """Arrivals, departures and switches of the foreign traffic, in order of time."""

    def __init__(self, start_s: Floats, work: Floats, kinds: Ints, order: Ints, switches: list[float]) -> None:
        count = int(kinds.max()) + 1
        self.arrivals = list(
            zip(start_s[order].tolist(), kinds[order].tolist(), work[order].tolist(), order.tolist(), strict=True)
        )
        self.switches, self.foreign = switches, False
        self.active: list[list[tuple[float, int]]] = [[] for _ in range(count)]
        self.clock = [0.0] * count
        self.next = 0
        self.now = self.arrivals[0][0]

    def run(self, speeds: Speeds, end_s: Floats) -> None:
        self._admit()
        while self.next < len(self.arrivals) or any(self.active):
            counts = tuple(len(heap) for heap in self.active)
            speed = speeds(counts, self.foreign) if any(counts) else counts
            due = [
                self.now + (heap[0][0] - clock) / each if heap and each > 0.0 else np.inf
                for heap, clock, each in zip(self.active, self.clock, speed, strict=True)
            ]
            until = min([self._next_arrival(), self.switches[0] if self.switches else np.inf, *due])
            if until == np.inf:
                return
            for kind, heap in enumerate(self.active):
                if due[kind] <= until:  # exactly, so that rounding cannot leave a remainder
                    self.clock[kind] = heap[0][0]
                elif heap:
                    self.clock[kind] += speed[kind] * (until - self.now)
                while heap and heap[0][0] <= self.clock[kind]:
                    end_s[heapq.heappop(heap)[1]] = until
            self.now = until
            self._admit()

    def _admit(self) -> None:
        while self._next_arrival() <= self.now:
            _, kind, work, place = self.arrivals[self.next]
            heapq.heappush(self.active[kind], (self.clock[kind] + work, place))
            self.next += 1
        while self.switches and self.switches[0] <= self.now:
            self.switches.pop(0)
            self.foreign = not self.foreign

    def _next_arrival(self) -> float:
        return self.arrivals[self.next][0] if self.next < len(self.arrivals) else np.inf
