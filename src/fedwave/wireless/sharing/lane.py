"""Fluid sharing of one carrier at a time, with few and small operations for each event.

A round with few cells has some hundreds of events on a few dozen transfers, so what a step costs is the number of its
operations: clocks are plain numbers, arrays are written in place.
"""

from __future__ import annotations

import math

import numpy as np

from fedwave.core.types import Floats, Ints
from fedwave.wireless.sharing.queue import TOLERANCE, Progress, Queue, Shares
from fedwave.wireless.sharing.rates import SlotRates


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
    order = index[np.lexsort((queue.ready_s[index], queue.cell[index]))]  # cell by cell, in order of arrival
    first = np.flatnonzero(np.diff(queue.cell[order], prepend=-1))
    for members in np.split(order, first[1:]) if len(first) > 1 else [order]:
        lane = _Lane(queue.take(members), float(blocks[queue.cell[members[0]]]), begin_s, connected)
        with np.errstate(divide="ignore"):  # a slot without blocks has no rate
            while lane.advance(shares, until_s, diversity):
                pass
        lane.leave(members, progress)


class _Lane:
    """One cell: ``own``, all its transfers in order of arrival, and slots ``[A]`` for those that are active.

    ``state`` has a row each of what is left of the transfer in a slot, less the blocks x seconds and less the seconds
    with blocks that it has used, so that ``state -= flow x step`` moves it on; ``known`` has the same of all transfers
    that are not in a slot. An empty slot claims nothing and has infinitely much left.
    """

    def __init__(self, own: Queue, blocks: float, begin_s: float, connected: int) -> None:
        count = len(own.bits)
        self.own, self.blocks, self.slots = own, np.array(blocks), min(connected, count)
        self.ready_s: list[float] = own.ready_s.tolist()
        self.next = self.count = 0
        self.now_s = max(self.ready_s[0], begin_s)
        self.rates = SlotRates(own.rates, self.slots)
        self.device = np.zeros(self.slots, dtype=np.int64)
        self.active = np.zeros((1, self.slots), dtype=bool)
        self.weight = np.zeros((1, self.slots, *own.weight.shape[1:]))
        self.state, self.flow, self.moved = (
            np.zeros((3, self.slots)),
            np.zeros((3, self.slots)),
            np.zeros((3, self.slots)),
        )
        self.state[0] = np.inf
        self.known, self.end_s = np.zeros((3, count)), np.full(count, np.inf)
        self.known[0] = own.bits
        self.needed, self.step, self.one = np.zeros(self.slots), np.zeros(()), np.ones(())
        self._admit()

    def advance(self, shares: Shares, until_s: float, diversity: bool) -> bool:
        """Go to the next event; False when nothing is left to do before ``until_s``."""
        part = shares(self.weight, self.active)[0]
        rate, blocks, on = self.flow
        np.multiply(part, self.blocks, out=blocks)
        np.minimum(blocks, self.one, out=on)
        self.rates.at(blocks, rate)
        if diversity:
            rate *= self.own.rates.gain_among(self.device, 1.0 / part)
        needed = np.divide(self.state[0], rate, out=self.needed)
        first_s = float(needed[needed.argmin()])
        waits = self.next < len(self.ready_s)
        arrival_s = self.ready_s[self.next] - self.now_s if waits and self.count < self.slots else math.inf
        step_s = min(first_s, arrival_s, until_s - self.now_s)
        if not math.isfinite(step_s):
            return False
        step_s = max(step_s, 0.0)
        self.now_s += step_s
        self.step[()] = step_s
        np.multiply(self.flow, self.step, out=self.moved)
        np.subtract(self.state, self.moved, out=self.state)
        within_s = step_s * (1.0 + TOLERANCE)
        if first_s <= within_s:
            self._finish(within_s)
        self._admit()
        return (self.count > 0 or self.next < len(self.ready_s)) and self.now_s < until_s

    def leave(self, members: Ints, progress: Progress) -> None:
        """Write down what the transfers have left and have used; they are ``members`` of the whole queue."""
        slots = np.flatnonzero(self.active[0])
        self.known[:, self.device[slots]] = self.state[:, slots]
        progress.left_bits[members], progress.end_s[members] = self.known[0], self.end_s
        progress.block_s[members], progress.on_s[members] = 0.0 - self.known[1], 0.0 - self.known[2]

    def _finish(self, within_s: float) -> None:
        """Those that needed no more than ``within_s`` give their slots back."""
        for slot in (self.needed <= within_s).nonzero()[0].tolist():
            device = self.device[slot]
            self.state[0, slot] = 0.0
            self.known[:, device] = self.state[:, slot]
            self.end_s[device] = self.now_s
            self.active[0, slot] = False
            self.weight[0, slot], self.state[0, slot] = 0.0, np.inf
            self.count -= 1

    def _admit(self) -> None:
        """Fill free slots with transfers that are ready, the earliest first."""
        while self.next < len(self.ready_s) and self.count < self.slots and self.ready_s[self.next] <= self.now_s:
            slot = self.active.argmin()
            self.device[slot], self.active[0, slot] = self.next, True
            self.rates.put(slot, self.next)
            self.weight[0, slot] = self.own.weight[self.next]
            self.state[:, slot] = self.known[:, self.next]
            self.count += 1
            self.next += 1
