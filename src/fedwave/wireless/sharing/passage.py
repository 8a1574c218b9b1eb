"""One direction of a round: every transfer through its cell's scheduler, along the client's way where it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.energy import EnergyModel
from fedwave.wireless.scheduler import Scheduler
from fedwave.wireless.sharing.rates import Rates

_ENDLESS_S = 7 * 86_400.0  # a moving client without a deadline is given up after a week
_NEVER = 1e6  # a transfer of which this share is left is counted as if it needed so many times as long


@dataclass(frozen=True)
class Moment:
    """The links for a while: rates ``[C]``, serving cells, the share of the time that handovers leave, links lost."""

    rates: Rates
    cell: Ints
    usable: Floats
    failed: Bools


# (time of the round, start [C] of what waits (else infinite), bits left [C]) -> the links from then on
Moments = Callable[[float, Floats, Floats], Moment]


@dataclass(frozen=True)
class Used:
    """What transfers used by the deadline, ``[C]``: blocks x seconds, seconds with blocks, seconds from start to end.

    The rest of the time from start to end they wait for their turn, connected.
    """

    block_s: Floats
    on_s: Floats
    whole_s: Floats

    def mean_w(self, energy: EnergyModel, power_dbm: Callable[[Floats], Floats], uplink_share: float) -> Floats:
        """Mean power from start to end: sending at the mean grant, ``power_dbm(blocks [C])``, while there is one.

        Who waits for blocks listens for a grant, with data in the queue and so without DRX: ``tail_w``.
        """
        blocks = np.divide(self.block_s, self.on_s, out=np.zeros(len(self.on_s)), where=self.on_s > 0.0)
        on = np.divide(self.on_s, self.whole_s, out=np.zeros(len(self.on_s)), where=self.whole_s > 0.0)
        on = np.minimum(on, 1.0)
        return on * energy.send_w(power_dbm(np.maximum(blocks, 1.0)), uplink_share) + (1.0 - on) * energy.tail_w


class Passage:
    """A :data:`~fedwave.wireless.flow.Transfer` of ``count`` clients through the cells of a network.

    Over the calls of a round it adds up ``block_s [C]`` (blocks x seconds used by the deadline) and ``failed [C]`` (the
    radio link was lost for good). Of the latest call it keeps ``used``, and ``stopped``: when transfers that never end
    stopped (``-inf``: not at all), and the bits that they had sent, ``[C]`` each.

    Parameters
    ----------
    scheduler : who gets what.
    moments : the links from a time on, for as long as ``step_s``.
    blocks : ``[S]`` resource blocks of each cell.
    until_s : the deadline, infinite where there is none; what is not through by then is not followed further.
    told_s : the deadline as the scheduler sees it.
    step_s : how long the links of a moment hold; infinite where nobody moves.
    connected : transfers that a cell serves at once.
    """

    def __init__(
        self,
        count: int,
        scheduler: Scheduler,
        moments: Moments,
        blocks: Floats,
        *,
        until_s: float = np.inf,
        told_s: float = np.inf,
        step_s: float = np.inf,
        connected: int = 400,
    ) -> None:
        self.scheduler, self.moments, self.blocks = scheduler, moments, blocks
        self.until_s, self.told_s, self.step_s, self.connected = until_s, told_s, step_s, connected
        self.block_s, self.failed = np.zeros(count), np.zeros(count, dtype=bool)
        self.used = Used(np.zeros(count), np.zeros(count), np.zeros(count))
        self.stopped = np.full(count, -np.inf), np.zeros(count)

    def __call__(self, start_s: Floats, bits: Floats) -> Floats:
        """When each transfer ends: never for those that have no link with all blocks."""
        begun = np.isfinite(start_s)
        end = np.where(begun & (bits <= 0.0), start_s, np.inf)
        left = np.where(begun, bits, 0.0).astype(float)
        waits = left > 0.0
        linked = np.zeros(len(bits), dtype=bool)
        block_s, on_s = np.zeros(len(bits)), np.zeros(len(bits))
        stop_s, stop_bits = np.full(len(bits), -np.inf), np.zeros(len(bits))
        now = float(start_s[waits].min(initial=np.inf))
        last = min(self.until_s, now + (_ENDLESS_S if np.isfinite(self.step_s) else np.inf))
        while waits.any() and now < last:
            horizon = min(now + self.step_s, last)
            links = self.moments(now, np.where(waits, start_s, np.inf), left)
            linked |= links.rates.full_bps > 0.0
            gone = (links.failed & waits & (start_s < horizon)).nonzero()[0]
            if len(gone):
                self.failed[gone] = True
                stop_s[gone], stop_bits[gone] = np.maximum(start_s[gone], now), bits[gone] - left[gone]
                left[gone], waits[gone] = 0.0, False
            progress = self.scheduler.serve(
                start_s,  # who came first stays first in the next step
                left,
                links.rates.scaled(links.usable),
                cell=links.cell,
                blocks=self.blocks,
                until_s=self.told_s,
                begin_s=now,
                horizon_s=horizon,
                connected=self.connected,
            )
            block_s += progress.block_s
            on_s += progress.on_s
            done = waits & np.isfinite(progress.end_s)
            end = np.where(done, progress.end_s, end)
            left = np.where(done, 0.0, progress.left_bits)
            waits = left > 0.0
            now = max(horizon, float(start_s[waits].min(initial=np.inf))) if waits.any() else horizon
        over = (waits & linked).nonzero()[0]
        if len(over):
            end[over] = beyond(self.until_s, start_s[over], bits[over], left[over])
            if np.isinf(self.until_s) and np.isfinite(last):
                stop_s[over], stop_bits[over] = np.maximum(start_s[over], last), bits[over] - left[over]
        self.block_s += block_s
        self.used = Used(block_s, on_s, seconds_until(np.where(np.isfinite(end), end, stop_s), start_s, self.until_s))
        self.stopped = stop_s, stop_bits
        return end


def seconds_until(end_s: Floats, start_s: Floats, until_s: float) -> Floats:
    """From start to end, what is after ``until_s`` left out; 0 where one of them is not finite."""
    whole = np.isfinite(start_s) & np.isfinite(end_s)
    start_s, end_s = np.where(whole, start_s, 0.0), np.where(whole, end_s, 0.0)
    return np.minimum(end_s, until_s) - np.minimum(start_s, until_s)


def beyond(until_s: float, start_s: Floats, bits: Floats, left: Floats) -> Floats:
    """The end of what is not through by ``until_s``: as if it went on at its mean rate; never where that is infinite.

    So a reader of the end who takes progress as linear finds the bits that were sent by then.
    """
    if not np.isfinite(until_s):
        return np.full(len(bits), np.inf)
    sent = np.divide(bits - left, bits, out=np.zeros(len(bits)), where=bits > 0.0)
    window = np.maximum(until_s - start_s, 1e-9)
    return np.where(start_s < until_s, start_s + window / np.maximum(sent, 1.0 / _NEVER), start_s + window)
