"""Draws of the noise on a sum in the air: Gaussian, or heavy-tailed as impulsive interference is."""

from __future__ import annotations

import numpy as np

from fedwave.core.blocks import along
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import AirNoise, Floats


def symmetric_stable(alpha: float, size: int, key: Key) -> Floats:
    """``[size]`` symmetric alpha-stable draws with characteristic function ``exp(-|t|^alpha)``.

    ``sin(a V) / cos(V)^(1/a) * (cos((1 - a) V) / W)^((1 - a) / a)``, V uniform on (-pi/2, pi/2), W exponential.
    At ``alpha = 2`` this is ``2 sin(V) sqrt(W)``, Gaussian with variance 2; below, the variance is infinite. Chambers,
    Mallows & Stuck, A Method for Simulating Stable Random Variables, JASA 71(354), 1976.

    Raises
    ------
    BadInput : alpha outside (1, 2].
    """
    if not 1.0 < alpha <= 2.0:
        raise BadInput(f"alpha: must be above 1 and at most 2, got {alpha!r}")
    generator = key.numpy()
    angle = np.pi * (generator.random(size) - 0.5)
    wait = generator.exponential(size=size)
    tilt = (wait / np.cos((1.0 - alpha) * angle)) ** ((alpha - 1.0) / alpha)
    return np.sin(alpha * angle) / np.cos(angle) ** (1.0 / alpha) * tilt


def air_noise(noise: AirNoise, size: int, start: int, key: Key) -> Floats:
    """``[size]`` noise of unit normaliser on the values numbered from ``start`` on."""
    heavy = noise.law == "alpha_stable"
    drawn = symmetric_stable(noise.alpha, size, key) if heavy else key.numpy().standard_normal(size)
    drawn = drawn * along(noise.scale, start, size)
    if noise.gaussian is not None:
        drawn += key.fold("gaussian").numpy().standard_normal(size) * along(noise.gaussian, start, size)
    return drawn
