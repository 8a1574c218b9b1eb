"""What a downlink is: it sends what a cell's clients share once or several times, and what is a client's own to it.

Shared parts go first, on the whole carrier of a cell; then what is left (own parts, and the shared part again for those
whom the transmission did not cover) goes through the cell's scheduler, all of it at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import Bools, Floats, Ints

if TYPE_CHECKING:
    from fedwave.wireless.flow import Transfer

Coverage = float | str  # a share, or "auto"


@dataclass(frozen=True)
class Listeners:
    """The clients that a cell's message is for, ``[C]`` each.

    Parameters
    ----------
    cell : serving cell, integers from 0.
    full_rate_bps : goodput of the client alone on the whole carrier, in a beam and with layers of its own; 0: no link.
    cast_rate_bps : goodput at which it can decode what is sent to all of its cell on the whole carrier, >= 0. There is
        no beam for each and one layer, so it should leave out the array gain that ``full_rate_bps`` contains.
    sinr : mean linear SINR of that common transmission, >= 0, implementation gap taken off.
    symbol_hz : data symbols per second that the carrier has for it (bandwidth less TDD, guard, control, reference
        signal and protocol shares): bit/s for each bit/s/Hz. One number, or ``[C]``, the same for those of a cell.

    Raises
    ------
    BadInput : lengths differ, or a value is negative or not finite.
    """

    cell: Ints
    full_rate_bps: Floats
    cast_rate_bps: Floats
    sinr: Floats
    symbol_hz: Floats | float

    def __post_init__(self) -> None:
        """Refuse what no rate or cell can be."""
        for field in fields(self):
            value = np.asarray(getattr(self, field.name))
            if value.shape not in ((), np.shape(self.cell)):
                raise BadInput(f"{field.name} must have one entry per listener, got shape {value.shape}")
            if not (np.isfinite(value) & (value >= 0)).all():
                raise BadInput(f"{field.name} must be finite and >= 0 for every listener")

    def __len__(self) -> int:
        return len(self.cell)

    def on_share(self, share: Floats) -> Listeners:
        """The same where a message may have ``share [S]`` of each cell's carrier, 0 to 1: rates shrink by it."""
        own = share[self.cell]
        return replace(
            self,
            full_rate_bps=self.full_rate_bps * own,
            cast_rate_bps=self.cast_rate_bps * own,
            symbol_hz=self.symbol_hz * own,
        )

    @property
    def cells(self) -> int:
        """Number of cells, S: one more than the largest index."""
        return int(np.max(self.cell, initial=-1)) + 1


@dataclass(frozen=True)
class Cast:
    """One transmission per cell to all whom it covers.

    ``covered [C]`` will have decoded it after ``listen_s [C]`` seconds of listening (0 for the others), by which time
    each has received ``received_bits``. Cell s sends for ``seconds [S]`` and puts ``bits [S]`` on the air.
    """

    covered: Bools
    listen_s: Floats
    seconds: Floats
    bits: Floats
    received_bits: float

    @classmethod
    def nobody(cls, listeners: Listeners) -> Cast:
        """No transmission at all."""
        count, cells = len(listeners), listeners.cells
        return cls(np.zeros(count, dtype=bool), np.zeros(count), np.zeros(cells), np.zeros(cells), 0.0)


@dataclass(frozen=True)
class Reception:
    """What became of a message.

    ``end_s [C]`` when each client has all of it (infinite: never); ``airtime_s [S]`` seconds of each cell's whole
    carrier, ``sent_bits [S]`` bits on the air; ``listen_s``, ``received_bits [C]`` what each received of the common
    transmission, ``unicast_bits [C]`` what it got by itself.
    """

    end_s: Floats
    airtime_s: Floats
    sent_bits: Floats
    listen_s: Floats
    received_bits: Floats
    unicast_bits: Floats


class Downlink(ABC):
    """Base of downlinks. ``csi`` says what the site is assumed to know of the channels."""

    csi: ClassVar[str] = ""

    @abstractmethod
    def cast(self, bits: float, listening: Bools, listeners: Listeners) -> Cast:
        """One transmission of ``bits`` > 0 in each cell with ``listening [C]`` clients (each has a unicast link)."""

    def finish(
        self, start_s: Floats, shared_bits: Floats, own_bits: Floats, listeners: Listeners, unicast: Transfer
    ) -> Reception:
        """When each client has the shared and its own bits.

        A cell's transmission starts when the last client that it covers is ready. Own parts and repairs start when it
        has ended (where there is none: when the client is ready). A client without a unicast link is not connected and
        does not listen.

        Parameters
        ----------
        start_s : ``[C]`` when a client can receive; infinite where it does not take part.
        shared_bits : ``[C]``, the same for all that get it, 0 for the others.
        own_bits : ``[C]``, >= 0.
        unicast : the scheduler's transfer; airtime is counted as ``bits / full_rate_bps``, exact where a rate is in
            proportion to its grant (the downlink's power is spread over the band).

        Raises
        ------
        BadInput : negative sizes, or shared sizes that differ.
        """
        start, shared, own = (np.asarray(x, dtype=float) for x in (start_s, shared_bits, own_bits))
        here = np.isfinite(start)
        size = _common_size(shared[here], own[here])
        listening = here & (shared > 0.0) & (listeners.full_rate_bps > 0.0)
        sent = self.cast(size, listening, listeners) if listening.any() else Cast.nobody(listeners)
        begin = np.full(listeners.cells, -np.inf)
        np.maximum.at(begin, listeners.cell[sent.covered], start[sent.covered])
        rest = np.where(here, own + np.where(sent.covered, 0.0, shared), 0.0)
        rest_start = np.maximum(start, (begin + sent.seconds)[listeners.cell])
        rest_end = np.asarray(unicast(np.where(rest > 0.0, rest_start, np.inf), rest), dtype=float)
        heard = np.where(sent.covered, begin[listeners.cell] + sent.listen_s, start)
        end = np.where(here, np.where(rest > 0.0, rest_end, heard), np.inf)
        arrived = np.where(np.isfinite(end), rest, 0.0)
        return Reception(
            end_s=end,
            airtime_s=sent.seconds + per_cell(seconds_of(arrived, listeners.full_rate_bps), listeners),
            sent_bits=sent.bits + per_cell(arrived, listeners),
            listen_s=sent.listen_s,
            received_bits=np.where(sent.covered, sent.received_bits, 0.0),
            unicast_bits=arrived,
        )

    def transfer(self, listeners: Listeners, unicast: Transfer) -> Transfer:
        """Transfer of a round's messages where all that is known of them is their size.

        What all have in common is taken as the smallest message of the cohort (:func:`split_common`).
        """

        def finish(start_s: Floats, bits: Floats) -> Floats:
            shared, own = split_common(start_s, bits)
            return self.finish(start_s, shared, own, listeners, unicast).end_s

        return finish


def split_common(start_s: Floats, bits: Floats) -> tuple[Floats, Floats]:
    """Shared and own part ``[C]`` of messages of ``bits [C]``: the smallest message is taken to be in all others.

    Messages of no bits, and those of clients with an infinite start, do not count. Not for messages that are personal
    in full.
    """
    wanted = np.isfinite(start_s) & (bits > 0.0)
    smallest = float(np.min(bits[wanted], initial=np.inf))
    shared = np.where(wanted, smallest, 0.0) if wanted.any() else np.zeros(len(bits))
    return shared, np.where(wanted, bits - shared, 0.0)


def covered_by(
    level: Floats, cast_s: Floats, repair_s: Floats, listening: Bools, listeners: Listeners, coverage: Coverage
) -> Bools:
    """Whom one transmission per cell should cover: all whose ``level`` is at least a threshold, one of their levels.

    With n listeners sorted by level, a threshold at the j-th costs ``T_j = cast_s[j] + sum_(i < j) repair_s[i]``, and
    no transmission at all ``sum_i repair_s[i]``. ``"auto"`` takes the smallest of these n + 1; a share q takes
    ``j = floor((1 - q) n)``, counted from 0, or the first one after it with a finite time. Sorting makes it
    O(n log n).

    Parameters
    ----------
    level, cast_s, repair_s : ``[C]`` sort key; seconds for all if this client is the weakest covered; seconds by
        unicast.
    """
    index = np.flatnonzero(listening)
    if not len(index):
        return listening.copy()
    order = index[np.lexsort((level[index], listeners.cell[index]))]
    cell = listeners.cell[order]
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    count = np.diff(starts, append=len(order))
    rank = np.arange(len(order)) - np.repeat(starts, count)
    repair = repair_s[order]
    whole = np.add.reduceat(repair, starts)
    before = np.cumsum(repair) - repair
    before = np.maximum(before - np.repeat(before[starts], count), 0.0)
    if coverage == "auto":
        total = cast_s[order] + before
        best = np.minimum.reduceat(total, starts)
        possible = (total <= np.repeat(np.where(best <= whole, best, -1.0), count)) & np.isfinite(total)
    else:
        first = np.repeat(np.floor((1.0 - float(coverage)) * count + 1e-9), count)
        possible = (rank >= first) & np.isfinite(cast_s[order])
    threshold = np.full(listeners.cells, np.inf)
    np.minimum.at(threshold, cell[possible], level[order][possible])
    return listening & (level >= threshold[listeners.cell])


def check_coverage(coverage: Coverage) -> None:
    """Raise :class:`BadInput` for anything but a share in (0, 1] or "auto"."""
    number = isinstance(coverage, (int, float)) and not isinstance(coverage, bool)
    if coverage != "auto" and not (number and 0.0 < float(coverage) <= 1.0):
        raise BadInput(f'coverage: must be "auto" or a share above 0 and at most 1, got {coverage!r}')


def seconds_of(bits: Floats, rate_bps: Floats) -> Floats:
    """``bits / rate`` elementwise; infinite where bits meet no rate, 0 where there are none."""
    bits, rate = np.asarray(bits, dtype=float), np.asarray(rate_bps, dtype=float)
    if bits.shape != rate.shape:
        bits, rate = np.broadcast_arrays(bits, rate)
    nothing = np.where(bits > 0.0, np.inf, 0.0)
    return np.divide(bits, rate, out=nothing, where=rate > 0.0)


def per_cell(values: Floats, listeners: Listeners) -> Floats:
    """Sums ``[S]`` of ``values [C]``."""
    return np.bincount(listeners.cell, weights=values, minlength=listeners.cells).astype(float)


def extreme_per_cell(values: Floats, who: Bools, listeners: Listeners, *, largest: bool) -> Floats:
    """Largest or smallest ``[S]`` of ``values [C]`` among ``who``; 0 or infinite where a cell has nobody."""
    out = np.full(listeners.cells, 0.0 if largest else np.inf)
    (np.maximum if largest else np.minimum).at(out, listeners.cell[who], values[who])
    return out


def _common_size(shared: Floats, own: Floats) -> float:
    wrong = ~(np.isfinite(shared) & np.isfinite(own) & (shared >= 0.0) & (own >= 0.0))
    if wrong.any():
        raise BadInput(f"client {int(np.argmax(wrong))}: shared and own bits must be finite and >= 0")
    size = float(np.max(shared, initial=0.0))
    if (shared[shared > 0.0] != size).any():
        raise BadInput("shared bits must be the same for all clients that get them")
    return size
