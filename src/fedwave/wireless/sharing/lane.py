"""Fluid sharing of one carrier at a time, with few and small operations for each event.

A round with few cells has some hundreds of events on a few dozen transfers, so what a step costs is the number of its
operations: clocks are plain numbers, arrays are written in place.
"""

from __future__ import annotations

import math

import numpy as np

from fedwave.core.types import Floats, Ints
from fedwave.wireless.sharing.queue import TOLERANCE, Progress, Queue, Shares, by_cell
from fedwave.wireless.sharing.rates import SlotRates

_ONE = np.ones(())  # arrays without axes: NumPy combines them with others faster than plain numbers


def serve_each(
    queue: Queue,
    index: Ints,
    shares: Shares,
    progress: Progress,
    *,
    blocks: Floats,
    begin_s: float,
    until_s: float,
    connected: int,
    diversity: bool,
) -> None:
    """Serve the transfers ``index`` of the queue and write down what becomes of them; see :func:`share`."""
    for cell, members in by_cell(queue.cell, index):
        order = members[queue.ready_s[members].argsort(kind="stable")]
        lane = _Lane(queue.take(order), float(blocks[cell]), begin_s, connected)
        with np.errstate(divide="ignore"):  # a slot without blocks has no rate
            lane.run(shares, until_s, diversity)
        lane.leave(order, progress)


class _Lane:
    """One cell: ``own``, all its transfers in order of arrival, and slots ``[A]`` for those that are active.

    ``state`` has a row each of what is left of the transfer in a slot, less the blocks x seconds and less the seconds
    with blocks that it has used, so that ``state -= flow x step`` moves it on; ``known`` has the same of all transfers
    that are not in a slot. An empty slot claims nothing and has infinitely much left.
    """

    def __init__(self, own: Queue, blocks: float, begin_s: float, connected: int) -> None:
        count = len(own.bits)
        self.own, self.blocks, self.slots = own, np.array(blocks), min(connected, count)
        self.ready_s: list[float] = [*own.ready_s.tolist(), math.inf]
        self.next = self.count = 0
        self.now_s = max(self.ready_s[0], begin_s)
        self.rates = SlotRates(own.rates, self.slots)
        self.device = np.zeros(self.slots, dtype=np.int64)
        self.active = np.zeros((1, self.slots), dtype=bool)
        self.weight = np.zeros((1, self.slots, *own.weight.shape[1:]))
        self.state, self.known, self.end_s = np.zeros((3, self.slots)), np.zeros((3, count)), np.full(count, np.inf)
        self.state[0], self.known[0] = np.inf, own.bits
        self._admit()

    def run(self, shares: Shares, until_s: float, diversity: bool) -> None:
        """Go from event to event until nothing is left to do before ``until_s``."""
        flow, step = np.zeros((3, self.slots)), np.zeros(())
        moved, needed = np.zeros_like(flow), np.zeros(self.slots)
        (rate, blocks, on), left = flow, self.state[0]
        while self.now_s < until_s and (self.count or self.next < len(self.ready_s) - 1):
            part = shares(self.weight, self.active)[0]
            np.multiply(part, self.blocks, blocks)
            np.minimum(blocks, _ONE, out=on)
            self.rates.at(blocks, rate)
            if diversity:
                rate *= self.own.rates.gain_among(self.device, 1.0 / part)
            np.divide(left, rate, needed)
            first_s = needed.item(needed.argmin())
            arrival_s = self.ready_s[self.next] - self.now_s if self.count < self.slots else math.inf
            step_s = min(first_s, arrival_s, until_s - self.now_s)
            if not math.isfinite(step_s):
                return
            step_s = max(step_s, 0.0)
            self.now_s += step_s
            step[()] = step_s
            np.multiply(flow, step, moved)
            np.subtract(self.state, moved, self.state)
            step[()] = within_s = step_s * (1.0 + TOLERANCE)
            if first_s <= within_s:
                self._finish((needed <= step).nonzero()[0].tolist())
            if self.ready_s[self.next] <= self.now_s:
                self._admit()

    def leave(self, members: Ints, progress: Progress) -> None:
        """Write down what the transfers have left and have used; they are ``members`` of the whole queue."""
        slots = np.flatnonzero(self.active[0])
        self.known[:, self.device[slots]] = self.state[:, slots]
        progress.left_bits[members], progress.end_s[members] = self.known[0], self.end_s
        progress.block_s[members], progress.on_s[members] = 0.0 - self.known[1], 0.0 - self.known[2]

    def _finish(self, slots: list[int]) -> None:
        """Those that are done give their slots back."""
        state, active, weight = self.state, self.active[0], self.weight[0]
        for slot in slots:
            device = self.device[slot]
            state[0, slot] = 0.0
            self.known[:, device] = state[:, slot]
            self.end_s[device] = self.now_s
            active[slot], weight[slot], state[0, slot] = False, 0.0, np.inf
        self.count -= len(slots)

    def _admit(self) -> None:
        """Fill free slots with transfers that are ready, the earliest first."""
        active, weight = self.active[0], self.weight[0]
        while self.ready_s[self.next] <= self.now_s and self.count < self.slots:
            slot = active.argmin()
            self.device[slot], active[slot], weight[slot] = self.next, True, self.own.weight[self.next]
            self.rates.put(slot, self.next)
            self.state[:, slot] = self.known[:, self.next]
            self.count += 1
            self.next += 1
