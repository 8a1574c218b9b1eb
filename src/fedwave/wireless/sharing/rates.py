"""Goodput as a function of the grant: what a scheduler knows of each device's channel.

An uplink is power-limited, so its rate is no multiple of the resource blocks granted: it is tabulated at a few grants
and interpolated between them, which keeps a million devices at O(devices) memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fedwave.core.types import Floats, Ints

USERS = np.array([1, 2, 4, 8, 16, 32, 64])  # numbers of active devices at which multi-user gains are tabulated


@dataclass(frozen=True)
class Rates:
    """Usable rates of ``C`` devices by granted blocks.

    Blocks need not be used (the power headroom caps the grant), so a rate does not fall with the grant; and m blocks on
    average can be m' > m for part of the time, so the rate per block does not grow with it.

    Parameters
    ----------
    grants : ``[G + 1]`` resource blocks, integers from 0 to M, ascending.
    rows : ``[C, G + 1]`` bit/s at those grants; make them with :meth:`usable`.
    gain : ``[C, len(USERS)]`` factor on the rate when a device is picked at its peaks among so many; ``None``: 1.
    available : blocks that may be given out; fractional where other traffic holds some; ``None``: all M.
    """

    grants: Ints
    rows: Floats
    gain: Floats | None = None
    available: float | None = None

    @classmethod
    def usable(cls, rates_bps: Floats, grants: Ints | None = None, gain: Floats | None = None) -> Rates:
        """From the rates ``[C, G]`` of constant grants (by default of 1 to G blocks)."""
        rates = np.asarray(rates_bps, dtype=float)
        grid = np.arange(1, rates.shape[1] + 1) if grants is None else np.asarray(grants, dtype=np.int64)
        per_block = np.maximum.accumulate(rates, axis=1) / grid
        rows = np.zeros((len(rates), len(grid) + 1))
        rows[:, 1:] = np.maximum.accumulate(per_block[:, ::-1], axis=1)[:, ::-1] * grid
        return cls(np.concatenate([[0], grid]), rows, gain)

    @property
    def blocks(self) -> float:
        """Resource blocks that may be given out, at most M."""
        return float(self.grants[-1]) if self.available is None else self.available

    @cached_property
    def grid(self) -> Grid:
        """The intervals between the grants."""
        return _grid(np.asarray(self.grants, dtype=np.int64).tobytes())

    @cached_property
    def full_bps(self) -> Floats:
        """Rate of a device that has all of them, ``[C]``."""
        grid, blocks = self.grid, self.blocks
        low = grid.interval[min(int(blocks), len(grid.interval) - 1)]
        base = self.rows[:, low]
        return base + (blocks - grid.start[low]) * grid.per_block[low] * (self.rows[:, low + 1] - base)

    def take(self, index: Any) -> Rates:
        """Those of some devices, with what is known of them."""
        gain = None if self.gain is None else self.gain[index]
        some = Rates(self.grants, self.rows[index], gain, self.available)
        if "full_bps" in self.__dict__:
            some.__dict__["full_bps"] = self.full_bps[index]
        return some

    def within(self, available: float) -> Rates:
        """These rates where so many blocks may be given out."""
        return self if available == self.blocks else replace(self, available=available)

    def scaled(self, factor: Floats) -> Rates:
        """All rates times ``factor [C]``."""
        return replace(self, rows=self.rows * factor[:, None])

    def at(self, device: Ints, blocks: Floats) -> Floats:
        """Rate of ``device`` with ``blocks`` (fractional, at most M) granted; both of one shape."""
        grid = self.grid
        low = grid.interval[np.minimum(blocks, self.grants[-1]).astype(np.int64)]
        place = device * self.rows.shape[1] + low  # of the flattened rows: much faster than two indices
        base = self.rows.take(place)
        place += 1
        return base + (blocks - grid.start[low]) * grid.per_block[low] * (self.rows.take(place) - base)

    def gain_among(self, device: Ints, users: Floats) -> Floats:
        """Factor on the rate of ``device`` when ``users`` share the carrier and each is served at its peaks."""
        if self.gain is None:
            return np.ones(np.shape(device))
        place = np.clip(np.log2(np.maximum(users, 1.0)), 0.0, len(USERS) - 1.0)
        low = np.minimum(place.astype(np.int64), len(USERS) - 2)
        base = self.gain[device, low]
        return base + (place - low) * (self.gain[device, low + 1] - base)

    def needed(self, rate_bps: Floats) -> tuple[Floats, Floats]:
        """Fewest blocks ``[C]`` for ``rate_bps [C]`` > 0 (at most ``full_bps``), and what one more block would add."""
        grid = self.grid
        high = np.minimum(np.add.reduce(self.rows < rate_bps[:, None], axis=1), len(grid.start) - 1)
        place = self._first + high
        slope = self._slopes.take(place)
        return grid.start.take(high) - (self.rows.take(place) - rate_bps) / slope, slope

    @cached_property
    def _slopes(self) -> Floats:
        """What one more block adds below each grant, ``[C, G + 1]``; below the first, on average over all."""
        slopes = np.empty_like(self.rows)
        slopes[:, 0] = self.rows[:, -1] / self.grid.start[-1]
        np.divide(self.rows[:, 1:] - self.rows[:, :-1], self.grid.width, slopes[:, 1:])
        return slopes

    @cached_property
    def _first(self) -> Ints:
        """Where each device's row begins in the flattened table."""
        return np.arange(len(self.rows)) * self.rows.shape[1]


class Grid:
    """Intervals between the ``grants [G + 1]`` at which rates are known.

    ``start [G + 1]``, ``width [G]``, ``per_block [G]`` their begin, width and one over it; ``interval [M + 1]`` the one
    that 0 ... M whole blocks lie in.
    """

    def __init__(self, grants: Ints) -> None:
        self.start = grants.astype(float)
        self.width = np.diff(self.start)
        self.per_block = 1.0 / self.width
        whole = np.searchsorted(grants, np.arange(grants[-1] + 1), side="right") - 1
        self.interval = np.minimum(whole, len(grants) - 2)


@lru_cache(maxsize=64)
def _grid(grants: bytes) -> Grid:
    return Grid(np.frombuffer(grants, dtype=np.int64))


class SlotRates:
    """:meth:`Rates.at` for slots ``[A]`` that are refilled: the same numbers to the last bit, without new arrays."""

    def __init__(self, rates: Rates, slots: int) -> None:
        self._grid, self._width = rates.grid, rates.rows.shape[1]
        rise = np.zeros_like(rates.rows)
        np.subtract(rates.rows[:, 1:], rates.rows[:, :-1], rise[:, :-1])
        self._base, self._rise = rates.rows.ravel(), rise.ravel()
        self._row = np.zeros(slots, dtype=np.int64)
        self._place, self._part, self._read = np.zeros_like(self._row), np.zeros(slots), np.zeros(slots)

    def put(self, slot: Any, device: int) -> None:
        """``device`` is in ``slot`` from now on."""
        self._row[slot] = device * self._width

    def at(self, blocks: Floats, out: Floats) -> None:
        """Write the rate of each slot with ``blocks [A]`` to ``out [A]``."""
        grid, place, part, read = self._grid, self._place, self._part, self._read
        low = grid.interval.take(blocks.astype(np.int64), None, None, "clip")
        np.add(self._row, low, place)
        grid.start.take(low, None, read, "clip")
        np.subtract(blocks, read, part)
        grid.per_block.take(low, None, read, "clip")
        np.multiply(part, read, part)
        self._rise.take(place, None, read, "clip")
        np.multiply(part, read, part)
        self._base.take(place, None, read, "clip")
        np.add(read, part, out)
