"""Where clients are: uniform over a cell."""

from __future__ import annotations

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Floats


def annulus(n: int, key: Key, *, radius_m: float, min_distance_m: float) -> Floats:
    """``[N, 2]`` metres, uniform by area between two distances from the site at the origin.

    ``r = sqrt(r0^2 + u (R^2 - r0^2))``; client i's draw depends on the key and i alone.
    """
    u = key.fold("placement").uniform(np.arange(n), 2)
    r = np.sqrt(min_distance_m**2 + u[:, 0] * (radius_m**2 - min_distance_m**2))
    angle = 2.0 * np.pi * u[:, 1]
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)
