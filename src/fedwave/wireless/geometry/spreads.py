"""What varies around the path loss of TR 38.901 (V17): shadow fading, penetration, line of sight, delay spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import unknown
from fedwave.core.types import Floats
from fedwave.wireless.channel import check_scenario

LINK_STATES = ("LoS", "NLoS", "O2I")

# Standard deviation of shadow fading in dB: (LoS, NLoS), TR 38.901 Table 7.4.1-1. RMa LoS is 6 dB past the breakpoint.
_SIGMA_DB = {"UMa": (4.0, 6.0), "UMi": (4.0, 7.82), "RMa": (4.0, 8.0), "InH": (3.0, 8.03)}
_SIGMA_RMA_FAR_DB = 6.0
_SIGMA_INDOOR_DB = {"UMa": 7.0, "UMi": 7.0, "RMa": 8.0}  # O2I, TR 38.901 Table 7.5-6; InH has no users behind walls
_O2I_SIGMA_DB = {"low": 4.4, "high": 6.5}  # TR 38.901 Table 7.4.3-2
CAR_PENETRATION_DB = (9.0, 5.0)  # mean and standard deviation, TR 38.901 7.4.3.2; metallised windows: 20 dB

# Correlation distance of shadow fading in metres, by link state: TR 38.901 Table 7.5-6.
_SHADOW_CORRELATION_M = {
    "UMa": {"LoS": 37.0, "NLoS": 50.0, "O2I": 7.0},
    "UMi": {"LoS": 10.0, "NLoS": 13.0, "O2I": 7.0},
    "RMa": {"LoS": 37.0, "NLoS": 120.0, "O2I": 120.0},
    "InH": {"LoS": 10.0, "NLoS": 6.0, "O2I": 6.0},
}
_LOS_CORRELATION_M = {"UMa": 50.0, "UMi": 50.0, "RMa": 60.0, "InH": 10.0}  # TR 38.901 Table 7.6.3.1-2

# Mean of lg(delay spread / s) as a + b lg(c + f / GHz), by link state: TR 38.901 Table 7.5-6 (V17).
_DELAY_SPREAD = {
    "UMa": {"LoS": (-6.955, -0.0963, 0.0), "NLoS": (-6.28, -0.204, 0.0), "O2I": (-6.62, 0.0, 0.0)},
    "UMi": {"LoS": (-7.14, -0.24, 1.0), "NLoS": (-6.83, -0.24, 1.0), "O2I": (-6.62, 0.0, 0.0)},
    "RMa": {"LoS": (-7.49, 0.0, 0.0), "NLoS": (-7.43, 0.0, 0.0), "O2I": (-7.47, 0.0, 0.0)},
    "InH": {"LoS": (-7.692, -0.01, 1.0), "NLoS": (-7.173, -0.28, 1.0), "O2I": (-7.173, -0.28, 1.0)},
}
_DELAY_CARRIER_GHZ = {"UMa": 6.0, "UMi": 2.0, "RMa": 0.5, "InH": 6.0}  # below, this frequency counts (same, notes 6, 7)


def o2i_sigma_db(model: str) -> float:
    """Standard deviation of the penetration loss in dB, TR 38.901 Table 7.4.3-2."""
    if model not in _O2I_SIGMA_DB:
        raise unknown("penetration model", model, _O2I_SIGMA_DB)
    return _O2I_SIGMA_DB[model]


def shadow_sigma_db(
    scenario: str, los: ArrayLike, *, distance_2d_m: ArrayLike = 0.0, breakpoint_m: ArrayLike = np.inf
) -> Floats:
    """Standard deviation of shadow fading in dB, TR 38.901 Table 7.4.1-1.

    RMa line of sight is 4 dB up to the breakpoint and 6 dB beyond; the other scenarios do not use the distances.
    """
    check_scenario(scenario)
    sight, blocked = _SIGMA_DB[scenario]
    far = (scenario == "RMa") & (np.asarray(distance_2d_m) > np.asarray(breakpoint_m))
    return np.where(np.asarray(los, dtype=bool), np.where(far, _SIGMA_RMA_FAR_DB, sight), blocked)


def indoor_shadow_sigma_db(scenario: str) -> float:
    """Standard deviation of shadow fading of users behind walls (O2I) in dB, TR 38.901 Table 7.5-6; 0 for InH."""
    check_scenario(scenario)
    return _SIGMA_INDOOR_DB.get(scenario, 0.0)


def shadow_correlation_m(scenario: str, state: str) -> float:
    """Distance at which shadow fading has correlation 1/e, by link state ("LoS", "NLoS", "O2I"): Table 7.5-6."""
    check_scenario(scenario)
    if state not in LINK_STATES:
        raise unknown("link state", state, LINK_STATES)
    return _SHADOW_CORRELATION_M[scenario][state]


def los_correlation_m(scenario: str) -> float:
    """Correlation distance of the line-of-sight state in metres, TR 38.901 Table 7.6.3.1-2."""
    check_scenario(scenario)
    return _LOS_CORRELATION_M[scenario]


def delay_spread_s(scenario: str, los: ArrayLike, carrier_ghz: float, *, indoor: ArrayLike = False) -> Floats:
    """Median RMS delay spread in seconds, ``10 ** mu_lgDS`` of TR 38.901 Table 7.5-6 (V17).

    Parameters
    ----------
    los, indoor : boolean, any shape; a user behind walls has the O2I value whatever the way outside.
    carrier_ghz : below 6 GHz (UMa, InH) or 2 GHz (UMi) that frequency counts, as the table's notes have it.

    Raises
    ------
    BadInput : unknown scenario.
    """
    check_scenario(scenario)
    fc = np.maximum(carrier_ghz, _DELAY_CARRIER_GHZ[scenario])
    sight, blocked, inside = (10.0 ** (a + b * np.log10(c + fc)) for a, b, c in _DELAY_SPREAD[scenario].values())
    outside = np.where(np.asarray(los, dtype=bool), sight, blocked)
    return np.where(np.asarray(indoor, dtype=bool), inside, outside)
