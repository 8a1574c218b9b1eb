"""Transfers of a round through Sionna's slot loop: the fidelity "system"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.reference.direction import Direction
from fedwave.wireless.reference.fading import Channel
from fedwave.wireless.reference.slot_loop import run_slots
from fedwave.wireless.sharing.passage import Used, beyond, seconds_until

MAX_SLOTS = 100_000  # of the direction after the last client is ready, where there is no deadline: 250 s of DDDSU
_PROBE_SLOTS = 100  # looks at the channel that show which grant is of use


class SlotPassage:
    """A :data:`~fedwave.wireless.flow.Transfer` through the slot loop, each cell by itself.

    Offers what :class:`~fedwave.wireless.sharing.passage.Passage` does. A client that no grant serves has no link. What
    is not through by the deadline, or without one after ``MAX_SLOTS``, is taken to go on at its mean rate so far. All
    clients of a cell are connected at once, and blocks kept for other traffic are whole.

    Parameters
    ----------
    scheduler : of the slot loop.
    serving : ``[C]`` each client's cell.
    way : the direction with a number of resource blocks.
    channel : fast fading of some clients.
    blocks : ``[S]`` that each cell may give out.
    until_s : the deadline, infinite where there is none.
    key : of the round and direction.
    """

    def __init__(
        self,
        scheduler: str,
        serving: Ints,
        way: Callable[[int], Direction],
        channel: Callable[[Ints], Channel],
        *,
        blocks: Floats,
        until_s: float,
        key: Key,
    ) -> None:
        self.scheduler, self.serving, self.way, self.channel = scheduler, serving, way, channel
        self.blocks, self.until_s, self.key = np.floor(np.asarray(blocks) + 1e-9).astype(np.int64), until_s, key
        count = len(serving)
        self.block_s, self.failed = np.zeros(count), np.zeros(count, dtype=bool)
        self.used = Used(np.zeros(count), np.zeros(count), np.zeros(count))
        self.stopped = np.full(count, -np.inf), np.zeros(count)  # every client goes on for as long as it is followed
        self._calls = 0

    def __call__(self, start_s: Floats, bits: Floats) -> Floats:
        """When each transfer ends: never for those that have no link."""
        end = np.where(np.isfinite(start_s) & (bits <= 0.0), start_s, np.inf)
        sends = np.isfinite(start_s) & (bits > 0.0)
        block_s, on_s = np.zeros(len(bits)), np.zeros(len(bits))
        for number in np.unique(self.serving[sends]):
            if self.blocks[number] > 0:
                own = np.flatnonzero(sends & (self.serving == number))
                self._serve(int(number), own, start_s, bits, end, block_s, on_s)
        self._calls += 1
        self.block_s += block_s
        self.used = Used(block_s, on_s, seconds_until(end, start_s, self.until_s))
        return end

    def _serve(self, number: int, own: Ints, start_s: Floats, bits: Floats, *into: Floats) -> None:
        """The transfers ``own`` of one cell, ``into`` end, blocks x seconds and seconds with blocks, ``[C]`` each."""
        end, block_s, on_s = into
        key = self.key.fold("cell", number, self._calls)
        way = self.way(int(self.blocks[number]))
        linked, useful = self._useful(way, own, key)
        own, useful = own[linked], useful[linked]
        if not len(own):
            return
        period_s = way.carrier.slot_s * len(way.carrier.pattern)
        begin = np.floor(start_s[own].min() / period_s) * period_s
        horizon = min(self.until_s, start_s[own].max() + MAX_SLOTS * way.carrier.slot_s / way.carrier.share)
        slots = int(max(horizon - begin, 0.0) / period_s * len(way.carrier.places))
        factor = way.layers[own] * way.payload
        done = run_slots(
            way.sinr_db[own],
            bits[own] / factor,
            start_s[own] - begin,
            carrier=way.carrier,
            fading=self.channel(own),
            keys=[key],
            scheduler=self.scheduler,
            mcs_table=way.mcs_table,
            max_blocks=useful,
            max_slots=slots,
        )
        left, whole = done.left_bits[0] * factor, done.left_bits[0] <= 0.0
        later = beyond(horizon, start_s[own], bits[own], left)
        later = np.where((left < bits[own]) | np.isfinite(self.until_s), later, np.inf)
        end[own] = np.where(whole, begin + done.finish_s[0], later)
        block_s[own] = done.block_slots[0] * way.carrier.slot_s / way.carrier.share
        on_s[own] = done.on_slots[0] * way.carrier.slot_s / way.carrier.share

    def _useful(self, way: Direction, own: Ints, key: Key) -> tuple[Bools, Ints]:
        """Who has a link at all, and the grant beyond which a client's rate does not grow."""
        most = way.carrier.prbs
        grants = np.unique(np.minimum(2 ** np.arange(np.ceil(np.log2(most)) + 1), most).astype(np.int64))
        found = way.rates_bps(own, grants, self.channel(own), key.fold("probe"), _PROBE_SLOTS)
        return found.max(axis=1) > 0.0, grants[found.argmax(axis=1)]
