"""Constant grants for transfers that are to end together: the smallest time, who can be in time, and why not."""

from __future__ import annotations

import numpy as np

from fedwave.core.types import Floats, Ints
from fedwave.wireless.sharing.rates import Rates

_TOLERANCE = 1e-9  # relative, on time and on blocks
_STEPS = 60
_INSTANT_S = 1e-300
_WAITING = 1e-6  # blocks claimed by a transfer that cannot be in time while others can


def min_max_blocks(ready_s: Floats, bits: Floats, rates: Rates) -> tuple[Floats, float]:
    """Constant grants ``[C]`` over ``[ready_k, T]`` that deliver all bits by the smallest ``T``; and that ``T``.

    Newton's method on the sum of blocks, safeguarded by bisection: the sum falls with ``T``, jumps included (where a
    rate does not grow with the grant the smallest ``T`` leaves some blocks free). One after the other on the whole band
    is always possible in the same time together, because the rate per block falls with the grant.
    """
    available, full, first = rates.blocks, rates.full_bps, float(ready_s.min())
    fastest = bits / full
    low = float((ready_s + fastest).max())
    high = float(ready_s.max() + fastest.sum())
    end = low + 1e-12 * (low - first)
    least_s = fastest + _INSTANT_S  # a difference of clocks may round to nothing
    for _ in range(_STEPS):
        left_s = np.maximum(end - ready_s, least_s)
        rate = np.minimum(bits / left_s, full)
        blocks, slope = rates.needed(rate)
        excess = float(np.add.reduce(blocks)) - available
        low, high = (end, high) if excess > 0.0 else (low, end)
        if abs(excess) <= _TOLERANCE * available:
            return blocks, end
        if high - low <= _TOLERANCE * (high - first):
            break
        step = end + excess / float(np.add.reduce(rate / left_s / slope))
        end = step if low < step < high else 0.5 * (low + high)
    left_s = np.maximum(high - ready_s, least_s)
    blocks = rates.needed(np.minimum(bits / left_s, full))[0]
    return blocks, high


def in_time(ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Ints:
    """The most transfers that constant grants over ``[ready_k, until_s]`` can finish: positions, by blocks needed."""
    left_s = until_s - ready_s
    possible = np.flatnonzero((left_s > 0.0) & (bits <= rates.full_bps * np.maximum(left_s, 0.0)))
    blocks = rates.take(possible).needed(bits[possible] / left_s[possible])[0]
    order = np.argsort(blocks, kind="stable")
    return possible[order[np.cumsum(blocks[order]) <= rates.blocks]]


def claims_in_time(ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
    """Blocks ``[C]`` with which as many transfers as can be end by ``until_s``, together; next to none for others."""
    blocks, end_s = min_max_blocks(ready_s, bits, rates)
    if end_s <= until_s:
        return blocks
    weight = np.full(len(bits), _WAITING)
    kept = in_time(ready_s, bits, rates, until_s)
    if len(kept):
        weight[kept] = min_max_blocks(ready_s[kept], bits[kept], rates.take(kept))[0]
    return weight


def shortfall(ids: Ints, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> str:
    """Why no constant grants deliver all bits of clients ``ids`` by ``until_s``, in words; empty where some do.

    Where no share is enough for a transfer, more of the carrier does not help: limited power is only spread thinner.
    """
    left_s = np.maximum(until_s - ready_s, 0.0)
    alone = bits > rates.full_bps * left_s
    if alone.any():
        k = int(np.argmax(np.where(alone, bits - rates.full_bps * left_s, -np.inf)))
        return (
            f"no share of the carrier is enough for {alone.sum()} of {len(bits)} uploads: client {ids[k]} has "
            f"{bits[k]:.4g} bits, {left_s[k]:.4g} s, and {rates.full_bps[k]:.4g} bit/s with all {rates.blocks:g} blocks"
        )
    send = np.flatnonzero(bits > 0.0)
    if not len(send):
        return ""
    need = float(rates.take(send).needed(bits[send] / left_s[send])[0].sum())
    if need <= rates.blocks * (1.0 + _TOLERANCE):
        return ""
    end_s = min_max_blocks(ready_s[send], bits[send], rates.take(send))[1]
    return (
        f"{len(send)} uploads need {need:.4g} blocks to end by {until_s:g} s and there are {rates.blocks:g}: "
        f"the earliest time by which all can end is {end_s:.6g} s"
    )
