"""Large-scale propagation of 3GPP TR 38.901 (V17): path loss, line of sight, penetration.

Everything is deterministic, vectorised and keeps float32; what varies around it is in
:mod:`fedwave.wireless.geometry.spreads`, and the draws are made in ``geometry``. V19 differs in the reflective glass of
the "high" penetration model and in the delay spreads of UMa and UMi, not in path loss, line of sight or shadow fading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput, unknown
from fedwave.core.types import Floats

SCENARIOS = ("UMa", "UMi", "RMa", "InH")
O2I_MODELS = ("low", "high")

_LIGHT_M_S = 3.0e8  # TR 38.901 uses this rounded value in its breakpoint distances
BUILDING_HEIGHT_M = 5.0  # RMa average building height h (TR 38.901 Table 7.4.1-1 default)
STREET_WIDTH_M = 20.0  # RMa average street width W (same)
_LOWEST_ROOF_M = 12.0  # smallest effective environment height other than 1 m (TR 38.901 Table 7.4.1-1, note 1)

# What the formulas are meant for: TR 38.901 Table 7.4.1-1 (carriers: note 2). The distance is on the ground; in InH
# it is the direct one, and beyond 5 km RMa has line of sight only.
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "UMa": {"distance_m": (10, 5_000), "carrier_ghz": (0.5, 100), "h_bs_m": (25, 25), "h_ut_m": (1.5, 22.5)},
    "UMi": {"distance_m": (10, 5_000), "carrier_ghz": (0.5, 100), "h_bs_m": (10, 10), "h_ut_m": (1.5, 22.5)},
    "RMa": {"distance_m": (10, 10_000), "carrier_ghz": (0.5, 30), "h_bs_m": (10, 150), "h_ut_m": (1, 10)},
    "InH": {"distance_m": (1, 150), "carrier_ghz": (0.5, 100)},
}


def check_scenario(scenario: str) -> None:
    """Raise :class:`BadInput` unless ``scenario`` is one of ``SCENARIOS``."""
    if scenario not in SCENARIOS:
        raise unknown("scenario", scenario, SCENARIOS)


def _floats(x: ArrayLike) -> Floats:
    """As an array: float32 stays, anything else becomes float64."""
    array = np.asarray(x)
    return array if array.dtype == np.float32 else array.astype(np.float64)


def valid_range(scenario: str, quantity: str) -> tuple[float, float]:
    """Limits of ``distance_m``, ``carrier_ghz``, ``h_bs_m`` or ``h_ut_m``, Table 7.4.1-1; infinite if open."""
    check_scenario(scenario)
    return _RANGES[scenario].get(quantity, (-np.inf, np.inf))


def check_range(scenario: str, **quantities: ArrayLike) -> None:
    """Refuse what lies outside the range that a scenario's formulas are meant for (TR 38.901 Table 7.4.1-1).

    Parameters
    ----------
    quantities : any of ``distance_m`` (or ``radius_m``, of a cell), ``carrier_ghz``, ``h_bs_m``, ``h_ut_m``; scalars or
        arrays.

    Raises
    ------
    BadInput : unknown scenario, or the first value outside its range.
    """
    for name, values in quantities.items():
        low, high = valid_range(scenario, "distance_m" if name == "radius_m" else name)
        array = np.atleast_1d(np.asarray(values, dtype=float))
        outside = array[~((array >= low) & (array <= high))]
        if outside.size:
            allowed = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            raise BadInput(
                f"{name}: {outside.flat[0]:g} is outside {allowed}, for which TR 38.901 gives the {scenario} formulas"
            )


@dataclass(frozen=True)
class PathLoss:
    """Path loss as TR 38.901 Table 7.4.1-1 has it: straight lines in lg d, d the direct distance in metres.

    Line of sight: ``near[0] + near[1] lg d + near[2] d`` up to ``breakpoint_m`` on the ground,
    ``far[0] + far[1] lg d`` beyond. Without: the larger of that and ``blocked[0] + blocked[1] lg d``.
    """

    near: tuple[Any, Any, float]
    far: tuple[Any, Any]
    blocked: tuple[Any, Any]
    breakpoint_m: Any


def breakpoint_m(
    scenario: str, carrier_ghz: ArrayLike, h_bs_m: ArrayLike, h_ut_m: ArrayLike, h_e_m: ArrayLike = 1.0
) -> Floats:
    """Breakpoint distance in metres (TR 38.901 Table 7.4.1-1, notes 1 and 5); infinite for InH.

    UMa, UMi: ``4 (h_BS - h_E)(h_UT - h_E) f / c``. RMa: ``2 pi h_BS h_UT f / c``.
    """
    check_scenario(scenario)
    carrier_hz, h_bs, h_ut, h_e = (np.asarray(x, dtype=float) for x in (carrier_ghz, h_bs_m, h_ut_m, h_e_m))
    carrier_hz = carrier_hz * 1e9
    if scenario == "InH":
        return np.full(np.broadcast(carrier_hz, h_bs, h_ut).shape, np.inf)
    if scenario == "RMa":
        return 2.0 * np.pi * h_bs * h_ut * carrier_hz / _LIGHT_M_S
    return 4.0 * (h_bs - h_e) * (h_ut - h_e) * carrier_hz / _LIGHT_M_S


def path_loss_terms(
    scenario: str, carrier_ghz: ArrayLike, h_bs_m: ArrayLike, h_ut_m: ArrayLike, h_e_m: ArrayLike = 1.0
) -> PathLoss:
    """The coefficients of :func:`path_loss_db`, which depend on heights and carrier only; arguments as there.

    A breakpoint below 1 m (users as high as h_E) counts as 1 m.
    """
    fc, h_bs, h_ut = (np.asarray(x, dtype=float) for x in (carrier_ghz, h_bs_m, h_ut_m))
    bp = np.maximum(breakpoint_m(scenario, fc, h_bs, h_ut, h_e_m), 1.0)
    if scenario == "RMa":
        return _rma(fc, h_bs, h_ut, bp)
    carrier = 20.0 * np.log10(fc)
    if scenario == "InH":
        near = 32.4 + carrier
        return PathLoss((near, 17.3, 0.0), (near, 17.3), (17.3 + 24.9 * np.log10(fc), 38.3), bp)
    square = np.log10(bp**2 + (h_bs - h_ut) ** 2)
    if scenario == "UMa":
        blocked = 13.54 + carrier - 0.6 * (h_ut - 1.5)
        return PathLoss((28.0 + carrier, 22.0, 0.0), (28.0 + carrier - 9.0 * square, 40.0), (blocked, 39.08), bp)
    blocked = 22.4 + 21.3 * np.log10(fc) - 0.3 * (h_ut - 1.5)
    return PathLoss((32.4 + carrier, 21.0, 0.0), (32.4 + carrier - 9.5 * square, 40.0), (blocked, 35.3), bp)


def _rma(fc: Floats, h_bs: Floats, h_ut: Floats, bp: Floats) -> PathLoss:
    h, w = BUILDING_HEIGHT_M, STREET_WIDTH_M
    a = 20.0 * np.log10(40.0 * np.pi * fc / 3.0) - min(0.044 * h**1.72, 14.77)
    b, c = 20.0 + min(0.03 * h**1.72, 10.0), 0.002 * np.log10(h)
    slope = 43.42 - 3.1 * np.log10(h_bs)
    blocked = (
        161.04
        - 7.1 * np.log10(w)
        + 7.5 * np.log10(h)
        - (24.37 - 3.7 * (h / h_bs) ** 2) * np.log10(h_bs)
        - 3.0 * slope
        + 20.0 * np.log10(fc)
        - (3.2 * np.log10(11.75 * h_ut) ** 2 - 4.97)
    )
    return PathLoss((a, b, c), (a + (b - 40.0) * np.log10(bp) + c * bp, 40.0), (blocked, slope), bp)


def path_loss_db(
    scenario: str,
    los: ArrayLike,
    distance_2d_m: ArrayLike,
    carrier_ghz: ArrayLike,
    h_bs_m: ArrayLike,
    h_ut_m: ArrayLike,
    h_e_m: ArrayLike = 1.0,
) -> Floats:
    """Mean path loss in dB, TR 38.901 Table 7.4.1-1 (NLoS as ``max(LoS, NLoS')``, not the optional formulas).

    RMa takes h = 5 m and W = 20 m.

    Parameters
    ----------
    scenario : "UMa", "UMi" (street canyon), "RMa" or "InH" (office).
    los : line of sight or not, boolean, any shape; all arguments broadcast.
    distance_2d_m : ground distance, >= 0 (direct distances below 1 m count as 1 m); see :func:`check_range` for what
        the formulas are meant for.
    carrier_ghz : 0.5 to 100 GHz (RMa: 30 GHz).
    h_bs_m, h_ut_m : antenna heights.
    h_e_m : effective environment height of UMa links, 1 m for UMi and for users below 13 m; above, a draw per link
        and site (:func:`environment_height_m`).

    Raises
    ------
    BadInput : unknown scenario.
    """
    terms = path_loss_terms(scenario, carrier_ghz, h_bs_m, h_ut_m, h_e_m)
    d2 = np.asarray(distance_2d_m, dtype=float)
    d3 = np.maximum(np.hypot(d2, np.asarray(h_bs_m, dtype=float) - np.asarray(h_ut_m, dtype=float)), 1.0)
    lg = np.log10(d3)
    near = terms.near[0] + terms.near[1] * lg + terms.near[2] * d3
    sight = np.where(d2 <= terms.breakpoint_m, near, terms.far[0] + terms.far[1] * lg)
    blocked = np.maximum(sight, terms.blocked[0] + terms.blocked[1] * lg)
    return np.where(np.asarray(los, dtype=bool), sight, blocked)


def _tall_user(d: Floats, h_ut: Floats) -> Floats:
    """UMa ``C'(h_UT) g(d)``: what heights above 13 m add to the view (TR 38.901 Tables 7.4.1-1 and 7.4.2-1).

    Heights over 23 m, where the table ends, count as 23 m.
    """
    height = ((np.clip(h_ut, 13.0, 23.0) - 13.0) / 10.0) ** 1.5
    return np.where(d <= 18.0, 0.0, 1.25 * height * (d / 100.0) ** 3 * np.exp(-d / 150.0)).astype(d.dtype)


def environment_height_m(distance_2d_m: ArrayLike, h_ut_m: ArrayLike, uniform: ArrayLike) -> Floats:
    """Effective environment height h_E of UMa links, TR 38.901 Table 7.4.1-1, note 1.

    1 m with probability ``1 / (1 + C(d, h_UT))``, else uniform among 12, 15, ... up to h_UT - 1.5 m. Always 1 m for
    users below 13 m. Each link between a site and a user has a draw of its own.

    Parameters
    ----------
    distance_2d_m : ground distance; all arguments broadcast.
    uniform : the caller's draw in (0, 1): below the probability it chooses 1 m, what is left chooses the height.
    """
    d, h_ut, u = _floats(distance_2d_m), _floats(h_ut_m), _floats(uniform)
    ground = 1.0 / (1.0 + _tall_user(d, h_ut))
    heights = np.maximum(np.floor((h_ut - 1.5 - _LOWEST_ROOF_M) / 3.0) + 1.0, 1.0)
    rest = (u - ground) / np.maximum(1.0 - ground, 1e-12)
    step = np.minimum(np.floor(np.clip(rest, 0.0, 1.0) * heights), heights - 1.0)
    return np.where((u < ground) | (h_ut < 13.0), 1.0, _LOWEST_ROOF_M + 3.0 * step)


def los_probability(
    scenario: str, distance_2d_m: ArrayLike, h_ut_m: ArrayLike = 1.5, office: Literal["mixed", "open"] = "mixed"
) -> Floats:
    """Probability of line of sight, TR 38.901 Table 7.4.2-1. For users behind walls, of the way outside.

    UMa below 13 m of user height: ``18/d + exp(-d/63)(1 - 18/d)``, 1 for d <= 18 m; above, times the C'(h_UT) factor
    (heights over 23 m, where the table ends, count as 23 m).

    Parameters
    ----------
    distance_2d_m : ground distance, >= 0, any shape.
    h_ut_m : user height (UMa only).
    office : "mixed" or "open" (InH only).

    Raises
    ------
    BadInput : unknown scenario or office.
    """
    check_scenario(scenario)
    d = _floats(distance_2d_m)
    if scenario == "RMa":
        return np.exp(np.maximum(d - 10.0, 0.0) / -1000.0)
    if scenario == "InH":
        return _inh_los(d, office)
    d = np.maximum(d, 18.0)
    ratio = 18.0 / d
    probability = ratio + np.exp(d / (-63.0 if scenario == "UMa" else -36.0)) * (1.0 - ratio)
    if scenario == "UMa" and np.any(np.asarray(h_ut_m) > 13.0):
        return probability * (1.0 + _tall_user(d, _floats(h_ut_m)))
    return probability


def _inh_los(d: Floats, office: str) -> Floats:
    if office == "mixed":
        far = 0.32 * np.exp((d - 6.5) / -32.6)
        return np.where(d < 6.5, np.exp(np.maximum(d - 1.2, 0.0) / -4.7), far)
    if office == "open":
        return np.where(d <= 49.0, np.exp(np.maximum(d - 5.0, 0.0) / -70.8), 0.54 * np.exp((d - 49.0) / -211.7))
    raise unknown("office", office, ("mixed", "open"))


def o2i_penetration_db(model: str, carrier_ghz: ArrayLike) -> Floats:
    """Mean building penetration loss through the external wall in dB, without the part that grows with indoor depth.

    TR 38.901 Tables 7.4.3-1 (materials) and 7.4.3-2: "low" is 30 % standard glass and 70 % concrete, "high" is 70 %
    infrared-reflective glass and 30 % concrete; 5 dB are added for non-perpendicular incidence. The simplification for
    single-frequency studies below 6 GHz (Table 7.4.3-3: 20 dB, no spread) is not used.

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
    raise unknown("penetration model", model, O2I_MODELS)
