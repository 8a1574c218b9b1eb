"""Spatially correlated random maps: shadow fading and the line-of-sight state as functions of position.

A map is one realisation of a standard normal field with autocorrelation ``exp(-d / d_cor)`` on a periodic grid of step
``d_cor / 4``, drawn once for a whole job and read at the nearest grid point.

All sites read the same map, each shifted by an offset of its own, so memory does not grow with the sites. What two
sites see at one place are values of the map several d_cor apart, hence almost uncorrelated: the offsets follow an
additive recurrence (Roberts' R2 sequence) with a keyed start, which keeps any two of 37 apart, where independent draws
would sometimes collide. The price: what a site sees here, another sees at some other place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints

_STEPS = 4  # grid points per correlation distance
_SMALLEST, _LARGEST = 256, 1024  # grid points a side: 64 to 256 correlation distances
_PLASTIC = 1.324717957244746  # the root of x^3 = x + 1, from which the R2 sequence is made


@dataclass(frozen=True)
class Map:
    """A periodic map of float32 values, row by row in ``values [n * n]``, ``step_m`` apart."""

    values: NDArray[np.float32]
    step_m: float

    @property
    def side(self) -> int:
        """Grid points a side, n, a power of two."""
        return round(len(self.values) ** 0.5)

    @property
    def period_m(self) -> float:
        """Distance after which the map repeats."""
        return self.side * self.step_m

    def index(self, position_m: Floats) -> Ints:
        """Where positions ``[C, 2]`` fall in ``values``, ``[C]``."""
        x, y = (np.floor(position_m[:, axis] / self.step_m).astype(np.int64) & (self.side - 1) for axis in (0, 1))
        return x * self.side + y

    def offsets(self, key: Key, count: int) -> Ints:
        """Shift of each site, ``[count]``, to be added to an index modulo n^2.

        A shift that passes the end of a row goes on in the next one, a neighbour: the seam costs one grid step.
        """
        start = key.fold("offset").uniform(0, 2)[0]
        steps = np.arange(count)[:, None] * np.array([1.0 / _PLASTIC, 1.0 / _PLASTIC**2])
        x, y = (np.floor((start + steps) % 1.0 * self.side).astype(np.int64)).T
        return x * self.side + y


def side_for(correlation_m: float, extent_m: float) -> int:
    """Grid points a side that cover ``extent_m``, a power of two from 256 to 1,024.

    A layout wider than 256 correlation distances sees the map repeat (UMa users behind walls: after 1.8 km).
    """
    needed = _STEPS * extent_m / correlation_m
    return int(np.clip(2 ** np.ceil(np.log2(max(needed, 1.0))), _SMALLEST, _LARGEST))


@lru_cache(maxsize=8)
def normal_map(key: Key, correlation_m: float, extent_m: float) -> Map:
    """Standard normal map with autocorrelation ``exp(-d / correlation_m)``.

    Spectral method: white noise times the root of the covariance's spectrum. On a torus of at least 64 correlation
    distances the covariance, taken to the nearest copy, has reached exp(-32) where it must close, so its spectrum is
    negative by rounding only; that is cut off. The map is scaled to mean 0 and variance 1: otherwise one realisation
    would shift all sites by the same amount. Reading at the nearest point costs at most 0.02 of correlation.

    Parameters
    ----------
    key : of the job, not of a round.
    correlation_m, extent_m : > 0; the extent that should not repeat, see :func:`side_for`.
    """
    side = side_for(correlation_m, extent_m)
    noise = key.fold("map").numpy().standard_normal((side, side), dtype=np.float32)
    values = np.fft.irfft2(np.fft.rfft2(noise) * _amplitude(side), s=(side, side)).ravel()
    values /= values.std()
    values.setflags(write=False)
    return Map(values=values, step_m=correlation_m / _STEPS)


@lru_cache(maxsize=4)
def uniform_map(key: Key, correlation_m: float, extent_m: float) -> Map:
    """``Phi`` of a :func:`normal_map`, uniform in (0, 1): line of sight where it is below the probability.

    This is the Gaussian threshold of TR 38.901 7.6.3.3 read from the other side.
    """
    normal = normal_map(key, correlation_m, extent_m)
    values = np.interp(normal.values, *_phi()).astype(np.float32)
    values.setflags(write=False)
    return Map(values=values, step_m=normal.step_m)


@lru_cache(maxsize=3)
def _amplitude(side: int) -> Floats:
    """Root of the spectrum of ``exp(-d / d_cor)`` on a torus of ``side`` points, the same for every map and key."""
    away = np.minimum(np.arange(side), side - np.arange(side)).astype(np.float32) / np.float32(_STEPS)
    spectrum = np.maximum(np.fft.rfft2(np.exp(-np.hypot(away[:, None], away[None, :]))).real, 0.0)
    spectrum[0, 0] = 0.0
    return np.sqrt(spectrum)


@lru_cache(maxsize=1)
def _phi() -> tuple[Floats, Floats]:
    """The normal distribution at points between which it is linear to 1e-6."""
    grid = np.linspace(-6.0, 6.0, 2401)
    return grid, np.array([0.5 * math.erfc(-x / 2.0**0.5) for x in grid])
