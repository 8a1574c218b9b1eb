"""Over-the-air computation: how the superposed signal of many devices estimates their sum, and how well.

Device k sends its unit-variance symbol with power ``p_k <= P``; the server scales what it receives by
``1 / sqrt(eta)``. Its estimate of the sum is ``sum_k c_k s_k + n / sqrt(eta)`` with ``c_k = sqrt(p_k g_k / eta)``, so
the mean squared error of the **sum** is ``sum_k (c_k - 1)^2 + sigma^2 / eta``; that of the mean is ``1 / K^2`` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.types import Bools, Floats


@dataclass(frozen=True)
class AirSum:
    """Weight of each device in the estimate of the sum (1 is perfect), denoising factor, squared error of the sum."""

    coefficients: Floats
    eta: float
    sum_mse: float


def zero_forcing(gains: ArrayLike, power: float, noise_var: float) -> AirSum:
    """Full channel inversion: every coefficient is 1, ``eta = P min_k g_k``, error ``sigma^2 / eta``.

    Parameters
    ----------
    gains : power gains ``|h_k|^2``, ``[K]``, > 0.
    power : peak power P of a device, > 0.
    noise_var : sigma^2, >= 0.

    Raises
    ------
    BadInput : no device, a gain or power that is not positive, negative noise.
    """
    g = _checked(gains, power, noise_var)
    return _air_sum(g, power, noise_var, power * float(g.min()))


def truncated_inversion(gains: ArrayLike, power: float, noise_var: float, threshold: float) -> AirSum:
    """Inversion by the devices with ``g_k >= threshold``; the others are silent and count as lost (coefficient 0).

    ``eta = P min g`` over the active devices, the most that peak power allows, so threshold 0 is zero forcing. With
    nobody active the estimate is 0: infinite ``eta``, error K.
    """
    g = _checked(gains, power, noise_var)
    active = g >= threshold
    eta = power * float(g[active].min()) if active.any() else np.inf
    coefficients = active.astype(float)
    return AirSum(coefficients, eta, float(np.sum(~active)) + noise_var / eta)


def optimal_threshold(gains: ArrayLike, power: float, noise_var: float) -> AirSum:
    """Least mean squared error at peak power: weak devices send at full power, strong ones invert.

    ``c_k = min(sqrt(P g_k / eta), 1)``. With ``a_k = sqrt(P g_k)`` sorted upwards and ``x = 1 / sqrt(eta)``, the i
    weakest at full power give ``x_i = sum a_k / (sum a_k^2 + sigma^2)``; the error is convex in x and quadratic between
    the ``1 / a_k``, so the best of the K candidates is the optimum. Cao, Zhu, Xu & Huang, "Optimized power control for
    over-the-air computation in fading channels", IEEE TWC 2020, Theorem 1.
    """
    g = _checked(gains, power, noise_var)
    a = np.sort(np.sqrt(power * g))
    sums, squares = np.cumsum(a), np.cumsum(a**2)
    x = sums / (squares + noise_var)
    weak = np.searchsorted(a, 1.0 / x, side="left")  # devices that cannot reach coefficient 1 at each candidate
    first, second = np.concatenate([[0.0], sums])[weak], np.concatenate([[0.0], squares])[weak]
    error = second * x**2 - 2.0 * first * x + weak + noise_var * x**2
    return _air_sum(g, power, noise_var, float(x[np.argmin(error)]) ** -2)


@dataclass(frozen=True)
class RayleighTruncation:
    """Truncated inversion over Rayleigh fading: share of active devices, received power, peak over average power."""

    active_fraction: float
    received_power: float
    peak_to_average_db: float


@dataclass(frozen=True)
class Alignment:
    """Devices brought into line on many blocks: coefficients ``[K, B]`` (0: silent), denoising factors ``[B]``.

    ``eta`` is infinite where nobody is on a block: its noise does not count. ``power [K, B]`` is sent on each block,
    relative to the device's average power per block.
    """

    coefficients: Floats
    eta: Floats
    power: Floats


def peak_inversion(gains: Floats, active: Bools) -> Alignment:
    """Channel inversion by the ``active [K, B]``; on no block more than full power: ``eta_b = min_k g_kb``.

    :func:`truncated_inversion` on each block at once; all active is :func:`zero_forcing`. ``gains [K, B]`` > 0 where
    active, relative to noise and full power.
    """
    eta = np.where(active, gains, np.inf).min(axis=0, initial=np.inf)
    return _alignment(active.astype(float), eta, gains)


def average_inversion(mean_gain: Floats, fading: Floats, active: Bools, peak: float) -> Alignment:
    """Channel inversion where a device may move power between its blocks: its average over the blocks is what counts.

    Everybody is received with the same power, the most that the device with the least means affords:
    ``eta = min_k G_k / mean_b(1[active] / f_kb)``. Over many Rayleigh blocks this is ``min_k G_k / E1(threshold)``, see
    :func:`truncated_inversion_rayleigh`. Blocks that would need more than ``peak`` are silent instead; what they free
    is not given to others.

    Parameters
    ----------
    mean_gain : ``[K]`` mean power gains, > 0 where active, relative to noise.
    fading : ``[K, B]`` power gain of each block relative to the mean.
    active : ``[K, B]``.
    peak : most power on a block over the average, linear, >= 1.
    """
    inverse = np.divide(1.0, fading, out=np.zeros(fading.shape), where=active)
    load = inverse.mean(axis=1)
    reach = np.divide(mean_gain, load, out=np.full(len(load), np.inf), where=load > 0.0)
    eta = float(reach.min(initial=np.inf))
    if not np.isfinite(eta):
        return Alignment(np.zeros(fading.shape), np.full(fading.shape[1], np.inf), np.zeros(fading.shape))
    gains = mean_gain[:, None] * fading
    power = np.divide(eta, gains, out=np.full(fading.shape, np.inf), where=active)
    kept = power <= peak * (1.0 + 1e-12)
    return _alignment(kept.astype(float), np.where(kept.any(axis=0), eta, np.inf), gains)


def optimal_alignment(gains: Floats, active: Bools, noise_var: float) -> Alignment:
    """:func:`optimal_threshold` on each block, at full power per block; gains and ``noise_var`` as there."""
    coefficients, eta = np.zeros(gains.shape), np.full(gains.shape[1], np.inf)
    for block in range(gains.shape[1]):
        on = np.flatnonzero(active[:, block])
        if on.size:
            best = optimal_threshold(gains[on, block], 1.0, noise_var)
            coefficients[on, block], eta[block] = best.coefficients, best.eta
    return _alignment(coefficients, eta, gains)


def joined(parts: Sequence[Alignment]) -> Alignment:
    """The blocks of ``parts`` one after another; the same devices in each."""
    return Alignment(
        np.concatenate([part.coefficients for part in parts], axis=1),
        np.concatenate([part.eta for part in parts]),
        np.concatenate([part.power for part in parts], axis=1),
    )


def _alignment(coefficients: Floats, eta: Floats, gains: Floats) -> Alignment:
    on = coefficients > 0.0
    wanted = coefficients**2 * np.where(np.isfinite(eta), eta, 0.0)
    return Alignment(coefficients, eta, np.divide(wanted, gains, out=np.zeros(gains.shape), where=on))


def truncated_inversion_rayleigh(threshold: float, power: float, symbols: int = 1) -> RayleighTruncation:
    """Closed forms for ``g ~ Exp(1)``, under an **average** power rule over fading.

    Active fraction ``exp(-g_th)``; received power of each active device ``rho = P / (M E1(g_th))`` for ``M`` symbols
    sent at once; the weakest active device needs ``rho / g_th``, reported over ``P / M``. Zhu, Wang & Huang, "Broadband
    analog aggregation for low-latency federated edge learning", IEEE TWC 2020, section III.

    Raises
    ------
    BadInput : a threshold or power that is not positive (untruncated inversion needs infinite average power).
    """
    from scipy.special import exp1

    if not (threshold > 0.0 and power > 0.0 and symbols >= 1):
        raise BadInput(f"threshold, power and symbols must be positive, got {threshold!r}, {power!r}, {symbols!r}")
    share = 1.0 / float(exp1(threshold))
    return RayleighTruncation(
        active_fraction=float(np.exp(-threshold)),
        received_power=power / symbols * share,
        peak_to_average_db=10.0 * float(np.log10(share / threshold)),
    )


def phase_error_factors(sigma_rad: ArrayLike) -> tuple[Floats, Floats]:
    """What a residual phase error ``N(0, s^2)`` does to a device's symbol.

    The mean of ``cos`` scales its coefficient by ``exp(-s^2 / 2)``; the variance of ``sin``, ``(1 - exp(-2 s^2)) / 2``,
    leaks from the other quadrature and counts as noise. Returns (factor, leakage). With the variance of ``cos`` the
    whole error around the mean has variance ``1 - exp(-s^2)``.
    """
    s2 = np.asarray(sigma_rad, dtype=float) ** 2
    return np.exp(-s2 / 2.0), (1.0 - np.exp(-2.0 * s2)) / 2.0


def _air_sum(g: Floats, power: float, noise_var: float, eta: float) -> AirSum:
    coefficients = np.minimum(np.sqrt(power * g / eta), 1.0)
    return AirSum(coefficients, eta, float(np.sum((coefficients - 1.0) ** 2)) + noise_var / eta)


def _checked(gains: ArrayLike, power: float, noise_var: float) -> Floats:
    g = np.atleast_1d(np.asarray(gains, dtype=float))
    if g.ndim != 1 or not g.size or not (g > 0.0).all():
        raise BadInput(f"gains must be a list of positive power gains, got {gains!r}")
    if not power > 0.0 or not noise_var >= 0.0:
        raise BadInput(f"power must be positive and noise_var not negative, got {power!r} and {noise_var!r}")
    return g
