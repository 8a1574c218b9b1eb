"""Large-scale propagation of 3GPP TR 38.901 (V17): path loss, line of sight, shadow fading, outdoor-to-indoor loss.

Everything is deterministic and vectorised; the draws (line of sight, shadowing, indoor) are made in ``largescale``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import unknown
from fedwave.core.types import Floats

SCENARIOS = ("UMa", "UMi", "RMa", "InH")

_LIGHT_M_S = 3.0e8  # TR 38.901 uses this rounded value in its breakpoint distances
_BUILDING_HEIGHT_M = 5.0  # RMa average building height h (TR 38.901 Table 7.4.1-1 default)
_STREET_WIDTH_M = 20.0  # RMa average street width W (same)
_ENVIRONMENT_HEIGHT_M = 1.0  # effective environment height h_E

# Standard deviation of shadow fading in dB: (LoS, NLoS), TR 38.901 Table 7.4.1-1. RMa LoS is 6 dB past the breakpoint.
_SIGMA_DB = {"UMa": (4.0, 6.0), "UMi": (4.0, 7.82), "RMa": (4.0, 8.0), "InH": (3.0, 8.03)}
_SIGMA_RMA_FAR_DB = 6.0
_O2I_SIGMA_DB = {"low": 4.4, "high": 6.5}  # TR 38.901 Table 7.4.3-2


def _check(scenario: str) -> None:
    if scenario not in SCENARIOS:
        raise unknown("scenario", scenario, SCENARIOS)


def breakpoint_m(scenario: str, carrier_ghz: ArrayLike, h_bs_m: ArrayLike, h_ut_m: ArrayLike) -> Floats:
    """Breakpoint distance in metres (TR 38.901 Table 7.4.1-1, notes 1 and 5); infinite for InH.

    UMa, UMi: ``4 (h_BS - h_E)(h_UT - h_E) f / c`` with h_E = 1 m. RMa: ``2 pi h_BS h_UT f / c``.
    """
    _check(scenario)
    carrier_hz, h_bs, h_ut = (np.asarray(x, dtype=float) for x in (carrier_ghz, h_bs_m, h_ut_m))
    carrier_hz = carrier_hz * 1e9
    if scenario == "InH":
        return np.full(np.broadcast(carrier_hz, h_bs, h_ut).shape, np.inf)
    if scenario == "RMa":
        return 2.0 * np.pi * h_bs * h_ut * carrier_hz / _LIGHT_M_S
    return 4.0 * (h_bs - _ENVIRONMENT_HEIGHT_M) * (h_ut - _ENVIRONMENT_HEIGHT_M) * carrier_hz / _LIGHT_M_S


def path_loss_db(
    scenario: str,
    los: ArrayLike,
    distance_2d_m: ArrayLike,
    carrier_ghz: ArrayLike,
    h_bs_m: ArrayLike,
    h_ut_m: ArrayLike,
) -> Floats:
    """Mean path loss in dB, TR 38.901 Table 7.4.1-1 (NLoS as ``max(LoS, NLoS')``, not the optional formulas).

    UMa takes the effective environment height h_E = 1 m, which is exact below 13 m of user height; above, TR 38.901
    draws h_E at random and this is its most probable value. RMa takes h = 5 m and W = 20 m.

    Parameters
    ----------
    scenario : "UMa", "UMi" (street canyon), "RMa" or "InH" (office).
    los : line of sight or not, boolean, any shape; all arguments broadcast.
    distance_2d_m : ground distance, >= 0; the formulas are meant for 10 m and more (1 m of 3D distance for InH).
    carrier_ghz : 0.5 to 100 GHz.
    h_bs_m, h_ut_m : antenna heights.

    Raises
    ------
    BadInput : unknown scenario.
    """
    _check(scenario)
    d2, fc, h_bs, h_ut = (np.asarray(x, dtype=float) for x in (distance_2d_m, carrier_ghz, h_bs_m, h_ut_m))
    d3 = np.hypot(d2, h_bs - h_ut)
    bp = breakpoint_m(scenario, fc, h_bs, h_ut)
    sight = _LOS[scenario](d2, d3, fc, h_bs, h_ut, bp)
    blocked = np.maximum(sight, _NLOS[scenario](d3, fc, h_bs, h_ut))
    return np.where(np.asarray(los, dtype=bool), sight, blocked)


def _dual_slope(offset: float, slope: float, far_slope: float) -> Callable[..., Floats]:
    """UMa and UMi line of sight: two slopes joined at the breakpoint."""

    def loss(d2: Floats, d3: Floats, fc: Floats, h_bs: Floats, h_ut: Floats, bp: Floats) -> Floats:
        near = offset + slope * np.log10(d3) + 20.0 * np.log10(fc)
        far = offset + 40.0 * np.log10(d3) + 20.0 * np.log10(fc) - far_slope * np.log10(bp**2 + (h_bs - h_ut) ** 2)
        return np.where(d2 <= bp, near, far)

    return loss


def _rma_los(d2: Floats, d3: Floats, fc: Floats, h_bs: Floats, h_ut: Floats, bp: Floats) -> Floats:
    h = _BUILDING_HEIGHT_M

    def near(d: Floats) -> Floats:
        return (
            20.0 * np.log10(40.0 * np.pi * d * fc / 3.0)
            + min(0.03 * h**1.72, 10.0) * np.log10(d)
            - min(0.044 * h**1.72, 14.77)
            + 0.002 * np.log10(h) * d
        )

    return np.where(d2 <= bp, near(d3), near(bp) + 40.0 * np.log10(d3 / bp))


def _inh_los(d2: Floats, d3: Floats, fc: Floats, h_bs: Floats, h_ut: Floats, bp: Floats) -> Floats:
    return 32.4 + 17.3 * np.log10(d3) + 20.0 * np.log10(fc)


def _uma_nlos(d3: Floats, fc: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    return 13.54 + 39.08 * np.log10(d3) + 20.0 * np.log10(fc) - 0.6 * (h_ut - 1.5)


def _umi_nlos(d3: Floats, fc: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    return 35.3 * np.log10(d3) + 22.4 + 21.3 * np.log10(fc) - 0.3 * (h_ut - 1.5)


def _rma_nlos(d3: Floats, fc: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    h, w = _BUILDING_HEIGHT_M, _STREET_WIDTH_M
    return (
        161.04
        - 7.1 * np.log10(w)
        + 7.5 * np.log10(h)
        - (24.37 - 3.7 * (h / h_bs) ** 2) * np.log10(h_bs)
        + (43.42 - 3.1 * np.log10(h_bs)) * (np.log10(d3) - 3.0)
        + 20.0 * np.log10(fc)
        - (3.2 * np.log10(11.75 * h_ut) ** 2 - 4.97)
    )


def _inh_nlos(d3: Floats, fc: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    return 38.3 * np.log10(d3) + 17.30 + 24.9 * np.log10(fc)


_LOS = {"UMa": _dual_slope(28.0, 22.0, 9.0), "UMi": _dual_slope(32.4, 21.0, 9.5), "RMa": _rma_los, "InH": _inh_los}
_NLOS = {"UMa": _uma_nlos, "UMi": _umi_nlos, "RMa": _rma_nlos, "InH": _inh_nlos}


def los_probability(scenario: str, distance_2d_m: ArrayLike, h_ut_m: ArrayLike = 1.5) -> Floats:
    """Probability of line of sight, TR 38.901 Table 7.4.2-1 (InH: mixed office).

    UMa below 13 m of user height: ``18/d + exp(-d/63)(1 - 18/d)``, 1 for d <= 18 m; above, times the C'(h_UT) factor
    (heights over 23 m, where the table ends, count as 23 m).
    """
    _check(scenario)
    d = np.asarray(distance_2d_m, dtype=float)
    if scenario == "RMa":
        return np.where(d <= 10.0, 1.0, np.exp(-(d - 10.0) / 1000.0))
    if scenario == "InH":
        near = np.exp(-(d - 1.2) / 4.7)
        far = 0.32 * np.exp(-(d - 6.5) / 32.6)
        return np.where(d <= 1.2, 1.0, np.where(d < 6.5, near, far))
    ratio = 18.0 / np.maximum(d, 18.0)
    probability = ratio + np.exp(-d / (63.0 if scenario == "UMa" else 36.0)) * (1.0 - ratio)
    if scenario == "UMa":
        height = (np.clip(np.asarray(h_ut_m, dtype=float), 13.0, 23.0) - 13.0) / 10.0
        probability = probability * (1.0 + height**1.5 * 1.25 * (d / 100.0) ** 3 * np.exp(-d / 150.0))
    return np.where(d <= 18.0, 1.0, probability)


def o2i_penetration_db(model: str, carrier_ghz: ArrayLike) -> Floats:
    """Mean building penetration loss through the external wall in dB, without the part that grows with indoor depth.

    TR 38.901 Tables 7.4.3-1 (materials) and 7.4.3-2: "low" is 30 % standard glass and 70 % concrete, "high" is 70 %
    infrared-reflective glass and 30 % concrete; 5 dB are added for non-perpendicular incidence.

    Raises
    ------
    BadInput : unknown model.
    """
    fc = np.asarray(carrier_ghz, dtype=float)
    concrete = 10.0 ** (-(5.0 + 4.0 * fc) / 10.0)
    if model == "low":
        return 5.0 - 10.0 * np.log10(0.3 * 10.0 ** (-(2.0 + 0.2 * fc) / 10.0) + 0.7 * concrete)
    if model == "high":
        return 5.0 - 10.0 * np.log10(0.7 * 10.0 ** (-(23.0 + 0.3 * fc) / 10.0) + 0.3 * concrete)
    raise unknown("penetration model", model, _O2I_SIGMA_DB)


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
    _check(scenario)
    sight, blocked = _SIGMA_DB[scenario]
    far = (scenario == "RMa") & (np.asarray(distance_2d_m) > np.asarray(breakpoint_m))
    return np.where(np.asarray(los, dtype=bool), np.where(far, _SIGMA_RMA_FAR_DB, sight), blocked)
