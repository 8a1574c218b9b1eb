"""The site's antenna: the element pattern of TR 38.901, tilted.

The pattern of the array (beams, electrical steering, side lobes) is not modelled: what an array adds to its element is
a number of the link budget, the same in every direction. UE antennas are isotropic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput, unknown
from fedwave.core.types import Floats

BEAMWIDTH_DEG = 65.0  # half-power beamwidth, vertical and horizontal: TR 38.901 Table 7.3-1
MAX_ATTENUATION_DB = 30.0  # SLA_V and A_max (same)


@dataclass(frozen=True)
class Antenna:
    """One radiating element of a sector, or a site that radiates alike in all directions.

    Parameters
    ----------
    pattern : "element" (TR 38.901 Table 7.3-1) or "omni".
    gain_dbi : in the strongest direction; of "omni" in all.
    tilt_deg : the vertical cut is shifted down by so many degrees at every azimuth. A mechanical tilt turns the
        pattern as a whole, which differs off the boresight.

    Raises
    ------
    BadInput : unknown pattern, a gain that is not finite, or a tilt outside -90 to 90 degrees.
    """

    pattern: Literal["element", "omni"] = "element"
    gain_dbi: float = 8.0
    tilt_deg: float = 0.0

    def __post_init__(self) -> None:
        """Refuse antennas that do not exist."""
        if self.pattern not in ("element", "omni"):
            raise unknown("antenna pattern", self.pattern, ("element", "omni"))
        if not np.isfinite(self.gain_dbi):
            raise BadInput(f"gain_dbi: must be a finite number, got {self.gain_dbi!r}")
        if not -90.0 <= self.tilt_deg <= 90.0:
            raise BadInput(f"tilt_deg: must be between -90 and 90 degrees, got {self.tilt_deg!r}")

    def gain_db(self, azimuth_deg: ArrayLike, depression_deg: ArrayLike) -> Floats:
        """Power gain in dBi, TR 38.901 Table 7.3-1.

        ``G - min(A_V + A_H, 30)`` with ``A_V = min(12 ((depression - tilt) / 65)^2, 30)`` and
        ``A_H = min(12 (azimuth / 65)^2, 30)``; the element's zenith angle is 90 degrees plus the depression.

        Parameters
        ----------
        azimuth_deg : from the boresight, any number of turns.
        depression_deg : below the horizon, -90 to 90; both broadcast.
        """
        azimuth, depression = np.asarray(azimuth_deg, dtype=float), np.asarray(depression_deg, dtype=float)
        if self.pattern == "omni":
            return np.full(np.broadcast(azimuth, depression).shape, self.gain_dbi)
        azimuth = (azimuth + 180.0) % 360.0 - 180.0
        horizontal = np.minimum(12.0 * (azimuth / BEAMWIDTH_DEG) ** 2, MAX_ATTENUATION_DB)
        vertical = np.minimum(12.0 * ((depression - self.tilt_deg) / BEAMWIDTH_DEG) ** 2, MAX_ATTENUATION_DB)
        return self.gain_dbi - np.minimum(vertical + horizontal, MAX_ATTENUATION_DB)
