"""How many rounds a metric takes to a target, from the first ones: a power law through what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedwave.core.types import Floats

LEAST = 4  # measured rounds that a fit of three parameters needs, and one more
MOST = 1_000_000  # rounds; what takes longer counts as never
_EXPONENTS = np.geomspace(0.05, 4.0, 120)
_STEP = float(_EXPONENTS[1] / _EXPONENTS[0])
_RESAMPLED = 200
_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class PowerLaw:
    """``y(t) = limit + slope (1 + t)^-exponent``, t rounds after the start; ``rms`` of what is left."""

    limit: float
    slope: float
    exponent: float
    rms: float

    def at(self, rounds: Floats) -> Floats:
        """The curve at ``rounds``, any shape."""
        return self.limit + self.slope * (1.0 + np.asarray(rounds, dtype=float)) ** -self.exponent

    def rounds_to(self, target: float) -> float:
        """Rounds until the curve is at ``target``; infinite where it does not get there within :data:`MOST`."""
        left = (target - self.limit) / self.slope if self.slope else -1.0
        if left <= 0.0:
            return math.inf
        power = -math.log(left) / self.exponent
        return math.expm1(power) if power <= math.log1p(MOST) else math.inf


@dataclass(frozen=True)
class Forecast:
    """Rounds to a target.

    Parameters
    ----------
    rounds : until the target, 0 where it is met before the first; ``None`` where it is not reached.
    low, high : 5 % and 95 % of refits to resampled residuals; ``None`` where that many are never there.
    measured : the target was reached in the rounds that were played.
    never : share of the refits that do not get there.
    curve : what was fitted; ``None`` where nothing was.
    reason : why there is no number, a sentence; else empty.
    """

    rounds: int | None
    low: int | None = None
    high: int | None = None
    measured: bool = False
    never: float = 0.0
    curve: PowerLaw | None = None
    reason: str = ""


def forecast(values: Sequence[float], target: float, *, falls: bool | None = None, seed: int = 0) -> Forecast:
    """Rounds until ``target``; ``values[t]`` is the metric after ``t`` rounds, the first before any.

    Whether less of the metric is better (``falls``) or more, the target says where it is ``None``. The exponent is
    searched on a grid, limit and slope are least squares for each, the limit not beyond 0 (falling) or 1 (rising) where
    values are never below 0 or above 1. The interval is that of fits to the curve plus residuals drawn with replacement
    (Efron & Tibshirani 1993, ch. 9).
    """
    measured = np.asarray(values, dtype=float)
    if not np.isfinite(measured).all():
        bad = int(np.argmin(np.isfinite(measured)))
        return Forecast(None, reason=f"the metric is not finite after {bad} rounds: the training diverges")
    falling = bool(target <= measured[0]) if falls is None else falls
    there = np.flatnonzero(measured <= target if falling else measured >= target)
    if len(there):
        first = int(there[0])
        return Forecast(first, first, first, measured=True)
    if len(measured) <= LEAST:
        return Forecast(None, reason=f"a fit needs at least {LEAST} rounds, and the target was not reached in fewer")
    curve = fit(measured, falling=falling)
    rounds = curve.rounds_to(target)
    low, high, never = _interval(measured, curve, target, falling=falling, seed=seed)
    if not math.isfinite(rounds):
        return Forecast(None, low, high, never=never, curve=curve, reason=_never(curve, target, measured, falls))
    return Forecast(_whole(rounds, measured), low, high, never=never, curve=curve)


def fit(values: Floats, *, falling: bool) -> PowerLaw:
    """Least squares of :class:`PowerLaw` through ``values [T + 1]``, one after each round from 0 on."""
    sign = 1.0 if falling else -1.0
    shares = not falling and values.max() <= 1.0
    least = min(sign * float(shares), values.min()) if values.min() >= 0.0 and (falling or shares) else -math.inf
    near = _best(sign * values, least, _EXPONENTS)[2]
    limit, slope, exponent, rms = _best(sign * values, least, np.geomspace(near / _STEP, near * _STEP, 101))
    return PowerLaw(sign * limit, sign * slope, exponent, rms)


def _best(y: Floats, least: float, exponents: Floats) -> tuple[float, float, float, float]:
    """Limit (``least`` or more), slope (0 or more), exponent and rms of the best of ``exponents``."""
    basis = (1.0 + np.arange(len(y))) ** -exponents[:, None]
    mean = basis.mean(1)
    centred = basis - mean[:, None]
    slope = np.maximum(centred @ (y - y.mean()) / (centred**2).sum(1), 0.0)
    limit = np.maximum(y.mean() - slope * mean, least)
    through = np.maximum(((y - limit[:, None]) * basis).sum(1) / (basis**2).sum(1), 0.0)
    slope = np.where((limit == least) & (slope > 0.0), through, slope)
    error = ((limit[:, None] + slope[:, None] * basis - y) ** 2).mean(1)
    k = int(np.argmin(error))
    return float(limit[k]), float(slope[k]), float(exponents[k]), float(np.sqrt(error[k]))


def _interval(
    measured: Floats, curve: PowerLaw, target: float, *, falling: bool, seed: int
) -> tuple[int | None, int | None, float]:
    """Quantiles of the rounds over refits, and the share that is never there."""
    times, draws = np.arange(len(measured), dtype=float), np.random.default_rng(seed)
    smooth = curve.at(times)
    # Three parameters were fitted, so residuals are smaller than what they are drawn from.
    residuals = (measured - smooth) * math.sqrt(len(measured) / max(len(measured) - 3, 1))
    found = np.sort(
        [
            fit(smooth + draws.choice(residuals, len(times)), falling=falling).rounds_to(target)
            for _ in range(_RESAMPLED)
        ]
    )
    picked = [float(found[min(int(q * len(found)), len(found) - 1)]) for q in _QUANTILES]
    low, high = (_whole(value, measured) if math.isfinite(value) else None for value in picked)
    return low, high, float(np.mean(~np.isfinite(found)))


def _whole(rounds: float, measured: Floats) -> int:
    """Whole rounds, more than were played without getting there."""
    return max(math.ceil(rounds), len(measured))


def _never(curve: PowerLaw, target: float, measured: Floats, falls: bool | None) -> str:
    if curve.slope == 0.0:
        still = "the metric did not move towards the target in the rounds that were played"
        other = "more" if target <= measured[0] else "less"
        return still if falls is not None else f"{still}; if {other} is better, it is met already"
    side = curve.limit >= target if curve.slope > 0.0 else curve.limit <= target
    if side:
        return f"the fit levels off at {curve.limit:.4g}, short of {target:g}"
    return f"by the fit it takes more than {MOST:,} rounds"
