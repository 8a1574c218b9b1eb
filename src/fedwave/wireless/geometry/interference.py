"""Interference between cells: what clients and cells receive from the others, and the load that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.types import Bools, Floats, Ints

_ROWS = 8192  # clients at a time, which bounds the memory of copies


def downlink_interference(gain: Floats, serving: Ints, load: ArrayLike, power_w: ArrayLike) -> Floats:
    """Mean power that each client receives from the cells that do not serve it, ``[C]`` in W.

    ``I_k = sum over b != s(k) of load_b P_b g_kb``: a cell interferes for the share of its blocks that is in use, on
    average over the carrier (Siomina & Yuan, IEEE Trans. Wireless Communications 11(6), 2012).

    Parameters
    ----------
    gain : ``[C, cells]`` linear coupling gain, finite, >= 0; float32 stays float32 within blocks of clients.
    serving : ``[C]`` serving cell.
    load : ``[cells]`` share of the blocks in use, 0 to 1 (or one number for all).
    power_w : ``[cells]`` power over the whole carrier, >= 0 (or one number for all).

    Raises
    ------
    BadInput : shapes that do not fit, values outside their range.
    """
    cell = _serving(gain, serving)
    weight = _cells("load", load, gain.shape[1], most=1.0) * _cells("power_w", power_w, gain.shape[1])
    scale, weight = _scaled(weight, gain)
    out = np.empty(len(gain))
    for rows, others in _others(gain, cell):
        out[rows] = others @ weight
    return out * scale


def uplink_interference(gain: Floats, serving: Ints, psd_w_hz: ArrayLike, activity: ArrayLike, cells: int) -> Floats:
    """Mean power spectral density that each cell receives from clients of the other cells, ``[cells]`` in W/Hz.

    A cell schedules one client per resource block at a time, so on a block of cell b the others are heard with
    ``I_b = sum over k with s(k) != b of a_k psd_k g_kb``, a_k the share of its cell's blocks that client k fills.

    Parameters
    ----------
    gain : ``[C, cells]`` linear coupling gain, finite, >= 0; float32 stays float32 within blocks of clients.
    serving : ``[C]`` serving cell.
    psd_w_hz : ``[C]`` what a client sends on the blocks that it fills, >= 0.
    activity : ``[C]`` a_k, 0 to 1; the sum over the clients of a cell is the cell's load, at most 1.
    cells : number of cells.

    Raises
    ------
    BadInput : shapes that do not fit, values outside their range, a cell with more than all of its blocks in use.
    """
    cell = _serving(gain, serving)
    if gain.shape[1] != cells:
        raise BadInput(f"gain: must be [C, {cells}], got an array {gain.shape}")
    share = _clients("activity", activity, len(gain), most=1.0)
    load = np.bincount(cell, weights=share, minlength=cells)
    if load.max(initial=0.0) > 1.0 + 1e-6:
        raise BadInput(f"activity: sums to {load.max():g} in cell {load.argmax()}, a cell has one client per block")
    scale, weight = _scaled(share * _clients("psd_w_hz", psd_w_hz, len(gain)), gain)
    total = np.zeros(cells)
    for rows, others in _others(gain, cell):
        total += weight[rows] @ others
    return total * scale


def over_thermal_db(interference: ArrayLike, noise: ArrayLike) -> Floats:
    """Interference over thermal noise, ``10 lg(1 + I / N)`` dB: by how much interference lowers an SNR to the SINR.

    Parameters
    ----------
    interference : >= 0, finite, any shape.
    noise : > 0, finite, in the same unit.

    Raises
    ------
    BadInput : a value outside its range.
    """
    heard, thermal = np.asarray(interference, dtype=float), np.asarray(noise, dtype=float)
    if not ((heard >= 0.0) & (heard < np.inf)).all():
        raise BadInput("interference: must be finite and >= 0")
    if not ((thermal > 0.0) & (thermal < np.inf)).all():
        raise BadInput("noise: must be positive and finite")
    # lg((N + I) / N) in two logarithms: the ratio itself may overflow
    return np.maximum(10.0 * (np.log10(np.maximum(heard + thermal, thermal)) - np.log10(thermal)), 0.0)


@dataclass(frozen=True)
class Load:
    """Loads that agree with the rates that they allow.

    ``load [cells]`` 0 to 1; ``overloaded [cells]`` cells that would need more than all of their blocks: their load is 1
    and what they are asked for does not get through. ``converged``: the last change was within the tolerance.
    """

    load: Floats
    overloaded: Bools
    converged: bool
    iterations: int


def settle_load(
    load_of: Callable[[Floats], Floats],
    cells: int,
    *,
    start: ArrayLike = 0.0,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> Load:
    """The fixed point of ``load = min(1, load_of(load))``: more load, more interference, less rate, more load.

    From 0 the iteration rises to the least fixed point, as long as ``load_of`` falls nowhere. Where ``load_of`` is a
    standard interference function (positive, monotone, ``f(a x) < a f(x)`` for a > 1), which the limit at 1 preserves,
    there is one fixed point only, and every start leads to it (Yates, IEEE JSAC 13(7), 1995). Load coupling is such a
    function (Siomina & Yuan, IEEE Trans. Wireless Communications 11(6), 2012). Where a cell needs more than 1, there is
    no fixed point without the limit.

    Parameters
    ----------
    load_of : ``(load [cells]) -> [cells]`` blocks that each cell needs at the interference of ``load``, as a share of
        those it has; >= 0, above 1 or infinite where they do not suffice.
    cells : number of cells, >= 1.
    start : 0 to 1, one number or ``[cells]``.
    tolerance : > 0; the iteration ends once no load changes by more. Near full load the error is larger than that.
    max_iterations : >= 1.

    Raises
    ------
    BadInput : values outside their range, given or returned by ``load_of``.
    """
    for name, value in (("cells", cells), ("max_iterations", max_iterations), ("tolerance", tolerance)):
        if not 0.0 < value < np.inf:
            raise BadInput(f"{name}: must be positive and finite, got {value!r}")
    load = _cells("start", start, cells, most=1.0)
    needed, iterations, converged = _needed(load_of, load), 0, False
    while not converged and iterations < max_iterations:
        before, load = load, np.minimum(needed, 1.0)
        needed, iterations = _needed(load_of, load), iterations + 1
        converged = bool(np.abs(load - before).max() <= tolerance)
    return Load(load, needed > 1.0 + tolerance, converged, iterations)


def _needed(load_of: Callable[[Floats], Floats], load: Floats) -> Floats:
    needed = np.asarray(load_of(load.copy()), dtype=float)
    if needed.shape != load.shape or not (needed >= 0.0).all():
        raise BadInput(f"load_of: must return {len(load)} numbers >= 0, one per cell")
    return needed


def _others(gain: Floats, serving: Ints) -> Iterator[tuple[slice, Floats]]:
    """Blocks of clients: their slice and a copy of their gains with 0 in place of the serving cell.

    Taking the serving cell off the sum over all cells instead would leave rounding errors of the size of the signal.
    """
    for start in range(0, len(gain), _ROWS):
        rows = slice(start, min(start + _ROWS, len(gain)))
        others = gain[rows].copy()
        if not ((others >= 0.0) & (others < np.inf)).all():
            raise BadInput("gain: must be finite and >= 0 for every client and cell")
        others[np.arange(len(others)), serving[rows]] = 0.0
        yield rows, others


def _scaled(weight: Floats, gain: Floats) -> tuple[float, Floats]:
    """``weight`` as a factor and numbers up to 1 in the precision of ``gain``, so that float32 does not underflow."""
    scale = float(weight.max(initial=0.0))
    return scale, (weight / scale if scale > 0.0 else weight).astype(gain.dtype)


def _serving(gain: Floats, serving: Ints) -> Ints:
    if np.ndim(gain) != 2 or not np.issubdtype(gain.dtype, np.floating):
        raise BadInput(f"gain: must be an array [C, cells] of floats, got shape {np.shape(gain)}")
    cell = np.asarray(serving)
    if cell.shape != gain.shape[:1] or not np.issubdtype(cell.dtype, np.integer):
        raise BadInput(f"serving: must be {len(gain)} integers, one per client, got shape {cell.shape}")
    if not ((cell >= 0) & (cell < gain.shape[1])).all():
        raise BadInput(f"serving: must be a cell from 0 to {gain.shape[1] - 1} for every client")
    return cell


def _cells(name: str, value: ArrayLike, cells: int, most: float = np.inf) -> Floats:
    return _values(name, value, cells, "cell", most)


def _clients(name: str, value: ArrayLike, count: int, most: float = np.inf) -> Floats:
    return _values(name, value, count, "client", most)


def _values(name: str, value: ArrayLike, count: int, per: str, most: float) -> Floats:
    array = np.asarray(value, dtype=float)
    if array.shape not in ((), (count,)):
        raise BadInput(f"{name}: must be one number or {count}, one per {per}, got shape {array.shape}")
    if not (np.isfinite(array) & (array >= 0.0) & (array <= most)).all():
        raise BadInput(f"{name}: must be {'from 0 to 1' if most == 1.0 else 'finite and >= 0'} for every {per}")
    return np.broadcast_to(array, (count,)).copy()
