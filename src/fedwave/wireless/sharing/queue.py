"""What waits for a carrier and what became of it: the words in which cells, schedulers and sharing talk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.sharing.rates import Rates

TOLERANCE = 1e-9  # relative, on time: transfers whose ends are closer end together

# (claims [cells, slots, ...], active [cells, slots]) -> share of the carrier of each slot, at most 1 in all.
Shares = Callable[[Floats, Bools], Floats]


@dataclass(frozen=True)
class Queue:
    """Transfers that wait for their cell's carrier, ``[C]`` each.

    Parameters
    ----------
    ready_s : when a transfer can start, which is its place in the queue; infinite or NaN where it never does.
    bits : what is left to send, >= 0.
    rates : of each device.
    cell : its serving cell, 0 to S - 1.
    weight : its claim, ``[C]`` or ``[C, ...]``, as the scheduler's ``shares`` reads it.
    """

    ready_s: Floats
    bits: Floats
    rates: Rates
    cell: Ints
    weight: Floats

    def take(self, index: Ints) -> Queue:
        """Some of the transfers."""
        rest = {name: getattr(self, name)[index] for name in ("ready_s", "bits", "cell", "weight")}
        return replace(self, rates=self.rates.take(index), **rest)


@dataclass(frozen=True)
class Progress:
    """What became of a queue, ``[C]``: bits left, end (infinite where not done), blocks x seconds used.

    ``on_s`` are the seconds with blocks; a grant of less than one block on average is one block for part of the time.
    """

    left_bits: Floats
    end_s: Floats
    block_s: Floats
    on_s: Floats

    @classmethod
    def of(cls, queue: Queue) -> Progress:
        """Before anything is sent: what has nothing to send has ended when it was ready."""
        bits = np.array(queue.bits, dtype=float)
        end = np.where(np.isfinite(queue.ready_s) & (bits <= 0.0), queue.ready_s, np.inf)
        return cls(bits, end, np.zeros(len(bits)), np.zeros(len(bits)))


def by_cell(cell: Ints, index: Ints) -> Iterator[tuple[int, Ints]]:
    """The members of ``index`` cell by cell, in their order."""
    count = np.bincount(cell[index])
    cells = count.nonzero()[0]
    if len(cells) == 1:
        yield int(cells[0]), index
    elif len(cells):
        order = index[np.argsort(cell[index], kind="stable")]
        for each, members in zip(cells, np.split(order, np.cumsum(count[cells])[:-1]), strict=True):
            yield int(each), members
