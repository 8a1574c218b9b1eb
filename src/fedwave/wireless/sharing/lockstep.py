"""Fluid sharing of many carriers: all cells take their next event in the same step.

Cells do not compete with each other, so a round costs as many steps as the fullest cell has events, on arrays over all
cells: a million devices in 57 cells take some 17,500.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.sharing.queue import TOLERANCE, Progress, Queue, Shares


def serve_together(
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
    lanes = _Lanes(queue, index, blocks, begin_s, connected)
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty slot has infinitely much left and no rate
        while lanes.advance(shares, until_s, diversity, progress):
            pass
    lanes.leave(lanes.active, progress)


class _Lanes:
    """All cells side by side: slots ``[S, A]`` of active transfers, each cell with its own clock.

    Only cells with something to send have a lane. What a step needs of a transfer lies in its slot, because gathering
    it anew at every event would be most of the work; an empty slot claims nothing and has infinitely much left.
    """

    def __init__(self, queue: Queue, index: Ints, blocks: Floats, begin_s: float, connected: int) -> None:
        cells, lane, count = np.unique(queue.cell[index], return_inverse=True, return_counts=True)
        self.queue = queue
        self.waiting = index[np.lexsort((index, queue.ready_s[index], lane))]  # lane by lane, in order of arrival
        self.ends = np.cumsum(count)
        self.next = self.ends - count
        self.blocks = blocks[cells][:, None]
        shape = (len(cells), int(min(connected, count.max())))
        self.device, self.active = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        self.weight = np.zeros(shape + queue.weight.shape[1:])
        self.block_s, self.on_s = np.zeros(shape), np.zeros(shape)
        self.left = np.full(shape, np.inf)
        self.count = np.zeros(len(cells), dtype=np.int64)
        self.now = np.maximum(self._arrival(), begin_s)
        self._admit()

    def advance(self, shares: Shares, until_s: float, diversity: bool, progress: Progress) -> bool:
        """Take every cell to its next event; False when nothing is left to do before ``until_s``."""
        part = shares(self.weight, self.active)
        blocks = part * self.blocks
        rate = self.queue.rates.at(self.device, blocks)
        if diversity:
            rate *= self.queue.rates.gain_among(self.device, 1.0 / part)
        needed = self.left / rate
        to_arrival = np.where(self.count < self.device.shape[1], self._arrival() - self.now, np.inf)
        step = np.minimum(np.minimum(np.fmin.reduce(needed, axis=1), to_arrival), until_s - self.now)
        moving = np.isfinite(step)
        step = np.where(moving, np.maximum(step, 0.0), 0.0)
        self.now = self.now + step
        self.left -= rate * step[:, None]
        self.block_s += blocks * step[:, None]
        self.on_s += np.minimum(blocks, 1.0) * step[:, None]
        done = needed <= step[:, None] * (1.0 + TOLERANCE)
        done &= moving[:, None]
        self._finish(done, progress)
        self._admit()
        busy = (self.count > 0) | (self.next < self.ends)
        return bool((busy & moving & (self.now < until_s)).any())

    def leave(self, who: Any, progress: Progress) -> None:
        """Write down what the transfers in the slots ``who`` have left and have used."""
        device = self.device[who]
        progress.left_bits[device] = self.left[who]
        progress.block_s[device] = self.block_s[who]
        progress.on_s[device] = self.on_s[who]

    def _finish(self, done: Bools, progress: Progress) -> None:
        """Those that are done give their slots back."""
        lane, slot = np.nonzero(done)
        if not len(lane):
            return
        self.left[lane, slot] = 0.0
        self.leave((lane, slot), progress)
        progress.end_s[self.device[lane, slot]] = self.now[lane]
        self.active[lane, slot] = False
        self.weight[lane, slot], self.left[lane, slot] = 0.0, np.inf
        self.count -= np.bincount(lane, minlength=len(self.count))

    def _arrival(self) -> Floats:
        """When each lane's next transfer is ready; infinite where none waits."""
        there = self.next < self.ends
        device = self.waiting[np.where(there, self.next, 0)]
        return np.where(there, self.queue.ready_s[device], np.inf)

    def _admit(self) -> None:
        """Fill free slots with transfers that are ready, the earliest first."""
        while True:
            lane = np.flatnonzero((self._arrival() <= self.now) & (self.count < self.device.shape[1]))
            if not len(lane):
                return
            slot = np.argmin(self.active[lane], axis=1)
            device = self.waiting[self.next[lane]]
            self.device[lane, slot], self.active[lane, slot] = device, True
            self.weight[lane, slot] = self.queue.weight[device]
            self.left[lane, slot], self.block_s[lane, slot], self.on_s[lane, slot] = self.queue.bits[device], 0.0, 0.0
            self.count[lane] += 1
            self.next[lane] += 1
