"""Who gets how many resource blocks when: fluid sharing of one cell by the clients of a round.

A scheduler sees each client's rate as a function of its grant, ``rates_bps[c, m - 1]`` with ``m`` of ``M`` blocks, and
returns when each transfer ends. Grants are averages over time and may be fractional: a client alternates between two
grants, or between one and none (:func:`usable_rates`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.types import Floats, Ints

_TOLERANCE = 1e-9  # relative, on time and on shares
_STEPS = 60


class Scheduler(ABC):
    """How the resource blocks of one cell are shared."""

    @abstractmethod
    def weights(self, ready_s: Floats, bits: Floats, rows: Floats, until_s: float) -> Floats:
        """Relative claim ``[C]`` of each active transfer; ``rows [C, M + 1]`` are the rates of 0 to M blocks."""

    def finish(self, ready_s: Floats, bits: Floats, rates_bps: Floats, until_s: float = np.inf) -> Floats:
        """When each transfer ends, ``[C]`` seconds.

        Active transfers share all blocks in proportion to their weights; shares change when one starts or ends.

        Parameters
        ----------
        ready_s : when it can start; infinite or NaN where it never does (its end is infinite).
        bits : size, >= 0 (0 ends when it starts).
        rates_bps : ``[C, M]``. A transfer whose rate is 0 with all blocks never ends and takes nothing from the others.
        until_s : the deadline, which a scheduler may take into account; transfers go on past it.
        """
        ready, bits = np.asarray(ready_s, dtype=float), np.asarray(bits, dtype=float)
        finish = np.where(np.isfinite(ready) & (bits <= 0.0), ready, np.inf)
        rates = np.asarray(rates_bps, dtype=float)
        index = np.flatnonzero(np.isfinite(ready) & (bits > 0.0) & (rates.max(axis=1) > 0.0))
        if len(index):
            rows = usable_rates(rates[index])
            weight = self.weights(ready[index], bits[index], rows, until_s)
            finish[index] = share_in_proportion(ready[index], bits[index], rows, weight)
        return finish


def in_time(ready_s: Floats, bits: Floats, rows: Floats, until_s: float) -> Ints:
    """The most transfers that constant grants over ``[ready_k, until_s]`` can finish: positions, by blocks needed."""
    left_s = until_s - ready_s
    possible = np.flatnonzero((left_s > 0.0) & (bits <= rows[:, -1] * np.maximum(left_s, 0.0)))
    blocks = blocks_for(rows[possible], bits[possible] / left_s[possible])[0]
    order = np.argsort(blocks, kind="stable")
    return possible[order[np.cumsum(blocks[order]) <= rows.shape[1] - 1]]


def usable_rates(rates_bps: Floats) -> Floats:
    """Rates ``[C, M + 1]`` of 0 to M blocks on average over time, from the rates ``[C, M]`` of constant grants.

    Blocks need not be used (the power headroom caps the grant), so rates do not fall with the grant; and m blocks on
    average can be m' > m for part of the time, so the rate per block does not grow with it.
    """
    grant = np.arange(1, rates_bps.shape[1] + 1)
    per_block = np.maximum.accumulate(rates_bps, axis=1) / grant
    rows = np.zeros((len(rates_bps), len(grant) + 1))
    rows[:, 1:] = np.maximum.accumulate(per_block[:, ::-1], axis=1)[:, ::-1] * grant
    return rows


def rate_at(rows: Floats, blocks: Floats) -> Floats:
    """Rate ``[C]`` with ``blocks [C]`` (fractional, at most M) granted, interpolated in ``rows [C, M + 1]``."""
    low = np.minimum(blocks.astype(np.int64), rows.shape[1] - 2)
    each = np.arange(len(rows))
    base = rows[each, low]
    return base + (blocks - low) * (rows[each, low + 1] - base)


def blocks_for(rows: Floats, rate: Floats) -> tuple[Floats, Floats]:
    """Fewest blocks ``[C]`` for ``rate [C]`` > 0, and the rate that one more block would add there.

    ``rate`` must not exceed the last column of the non-decreasing ``rows [C, M + 1]``.
    """
    high = np.minimum((rows < rate[:, None]).sum(axis=1), rows.shape[1] - 1)
    each = np.arange(len(rows))
    top = rows[each, high]
    slope = top - rows[each, high - 1]
    return high - (top - rate) / slope, slope


def min_max_blocks(ready_s: Floats, bits: Floats, rows: Floats) -> tuple[Floats, float]:
    """Constant grants ``[C]`` over ``[ready_k, T]`` that deliver all bits by the smallest ``T``; and that ``T``.

    Newton's method on the sum of blocks, safeguarded by bisection: the sum falls with ``T``, jumps included (where a
    rate does not grow with the grant the smallest ``T`` leaves some blocks free). One after the other on the whole band
    is always possible in the same time together, because the rate per block falls with the grant.

    Parameters
    ----------
    rows : ``[C, M + 1]`` from :func:`usable_rates`.
    """
    available = rows.shape[1] - 1
    fastest = bits / rows[:, -1]
    low = float(np.max(ready_s + fastest))
    high = float(np.max(ready_s) + fastest.sum())
    end = low * (1.0 + 1e-12)
    for _ in range(_STEPS):
        rate = np.minimum(bits / (end - ready_s), rows[:, -1])
        blocks, slope = blocks_for(rows, rate)
        excess = blocks.sum() - available
        low, high = (end, high) if excess > 0.0 else (low, end)
        if abs(excess) <= _TOLERANCE * available:
            return blocks, end
        if high - low <= _TOLERANCE * high:
            break
        step = end + excess / float((rate / (end - ready_s) / slope).sum())
        end = step if low < step < high else 0.5 * (low + high)
    blocks = blocks_for(rows, np.minimum(bits / (high - ready_s), rows[:, -1]))[0]
    return blocks, high


def share_in_proportion(ready_s: Floats, bits: Floats, rows: Floats, weight: Floats) -> Floats:
    """Finish times ``[C]`` when active transfers share the blocks in proportion to ``weight``, event by event."""
    available = rows.shape[1] - 1
    finish = np.full(len(bits), np.inf)
    left = bits.copy()
    starts = np.append(np.unique(ready_s), np.inf)
    now, following = float(starts[0]), 1
    while True:
        active = np.flatnonzero((ready_s <= now) & (left > 0.0))
        rate = rate_at(rows[active], available * weight[active] / weight[active].sum()) if len(active) else weight[:0]
        needed = np.divide(left[active], rate, out=np.full(len(active), np.inf), where=rate > 0.0)
        until_start = float(starts[following]) - now
        step = min(until_start, float(needed.min(initial=np.inf)))
        if not np.isfinite(step):
            return finish
        done = needed <= step * (1.0 + _TOLERANCE)
        left[active] = np.where(done, 0.0, left[active] - rate * step)
        if step == until_start:
            now, following = float(starts[following]), following + 1
        else:
            now += step
        finish[active[done]] = now


def equal_finish_shares(bits: ArrayLike, snr_full_band: ArrayLike, bandwidth_hz: float) -> tuple[Floats, float]:
    """Bandwidth shares ``[K]`` with which all Shannon uploads end together, and when (seconds).

    A device's power is fixed, so its spectral density rises as its share falls: ``rate_k = s B log2(1 + snr_k / s)``.
    Bisection on the finish time until the smallest sufficient shares add up to 1. No bits, no share.

    Parameters
    ----------
    bits : ``[K]``, >= 0.
    snr_full_band : ``[K]``, linear, > 0: the SNR when the power is spread over the whole band.
    bandwidth_hz : B.

    Raises
    ------
    BadInput : a negative size, or an SNR that is not positive where there are bits to send.
    """
    bits, snr = np.broadcast_arrays(
        np.atleast_1d(np.asarray(bits, dtype=float)), np.asarray(snr_full_band, dtype=float)
    )
    wrong = (bits < 0.0) | ((bits > 0.0) & ~(snr > 0.0))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise BadInput(f"device {k} needs bits >= 0 and a positive snr, got {bits[k]:g} bits at snr {snr[k]:g}")
    send = bits > 0.0
    shares = np.zeros(len(bits))
    if not send.any():
        return shares, 0.0
    size, gain = bits[send] / bandwidth_hz, snr[send]  # in bit/Hz
    low = float(np.max(size / np.log2(1.0 + gain)))  # the whole band for one
    equal = 1.0 / len(size)
    high = float(np.max(size / (equal * np.log2(1.0 + gain / equal))))
    for _ in range(200):
        middle = 0.5 * (low + high)
        fits = _least_shares(size / middle, gain).sum() <= 1.0
        low, high = (low, middle) if fits else (middle, high)
        if high - low <= 1e-14 * high:
            break
    shares[send] = _least_shares(size / high, gain)
    return shares, high


def _least_shares(efficiency: Floats, snr: Floats) -> Floats:
    """Share ``s`` in (0, 1] with ``s log2(1 + snr / s) = efficiency``; needs ``efficiency <= log2(1 + snr)``.

    With ``y = snr / s`` it is ``ln(1 + y) = a y``, a = efficiency ln 2 / snr: Newton from the right of the root of a
    concave function, where it converges without overshoot. The start follows from ln z <= z - 1 at z = a (1 + y) / 2.
    """
    a = efficiency * np.log(2.0) / snr
    y = 1.0 + 2.0 / a * (np.log(2.0 / a) - 1.0)
    for _ in range(_STEPS):
        step = (np.log1p(y) - a * y) / (1.0 / (1.0 + y) - a)
        y = np.maximum(y - step, snr)
        if np.all(np.abs(step) <= 1e-15 * y):
            break
    return snr / y
