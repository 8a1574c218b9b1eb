"""Draws of frequency-selective fading as curves: what EESM makes of a band, at every SINR and parameter at once.

The taps are complex Gaussian with the power-delay profile of Sionna's TDL (whose 20 sinusoids a tap are nearly so).
They are drawn in the band's own modes (Karhunen-Loeve) from a scrambled Sobol sequence, strongest mode first, so that
few thousand draws give averages that plain Monte Carlo needs a hundred times as many for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import j0, ndtri
from scipy.stats import qmc

from fedwave.core.types import Floats
from fedwave.wireless.phy.goodput import FIRST_ZERO, LOS_DOPPLER

PROFILES = {"nlos": "C", "los": "D"}  # TDL models of TR 38.901 7.7.2; D has K = 13.3 dB, E 22 dB; UMa's mean is 9 dB
PRB_HZ = 360e3  # of the reference numerology, 30 kHz
ATTEMPTS = 4

# Arguments of the curves: SINR / beta, in steps of a factor sqrt(2).
X_LOW_DB, X_COUNT = -45.0, 64
X_STEP_DB = 10.0 * np.log10(2.0) / 2.0
_RESTART = 4  # squarings after which exp() is called again, since each doubles the rounding error
_CHUNK = 1 << 17  # values worked on at once: they stay in the cache


@dataclass(frozen=True)
class Profile:
    """Taps of unit delay spread: ``delay [L]``, diffuse ``power [L]``, power of the line of sight at delay 0."""

    delay: Floats
    power: Floats
    los_power: float


@lru_cache(maxsize=2)
def profile(name: str) -> Profile:
    """Sionna's TDL profile ("nlos": TDL-C, "los": TDL-D) with delays in units of the delay spread."""
    from sionna.phy.channel.tr38901 import TDL

    tdl: Any = TDL(PROFILES[name], 1.0, 1e9, device="cpu", precision="double")
    power = tdl.mean_powers.numpy().astype(float)
    los = float(tdl.mean_power_los) if tdl.los else 0.0
    return Profile(tdl.delays.numpy().astype(float), power - los * (np.arange(len(power)) == 0), los)


def _samples(spread: float, blocks: int) -> int:
    """Frequencies at which the band is looked at: each subcarrier, or enough of them (|h|^2 has delays up to 12.5)."""
    return int(min(12 * blocks, max(12, np.ceil(24 * spread))))


def _modes(taps: Profile, spread: float, blocks: int) -> tuple[Floats, Floats]:
    """Response of the band per unit Gaussian mode ``[F, K]``, strongest first, and of the line of sight ``[F]``."""
    count = _samples(spread, blocks)
    at = ((np.arange(count) + 0.5) / count - 0.5) * spread
    response = np.exp(-2j * np.pi * at[:, None] * taps.delay) * np.sqrt(taps.power)
    u, s, _ = np.linalg.svd(response, full_matrices=False)
    keep = s**2 > 1e-7 * (s**2).sum()
    return u[:, keep] * s[keep], np.full(count, np.sqrt(taps.los_power), dtype=complex)


def _gaussian(count: int, modes: int, states: int, seed: int) -> Floats:
    """Complex Gaussian ``[states, R, modes]``: two states from one Sobol sequence, the others shuffled copies.

    Dimensions go to modes in their order, so that what matters most gets the best of the sequence.
    """
    rng = np.random.default_rng(seed)
    uniform = qmc.Sobol(4 * modes, rng=rng).random(count)
    normal = ndtri(np.clip(uniform, 1e-9, 1.0 - 1e-9)).reshape(count, modes, 2, 2)
    pair = (normal[..., 0] + 1j * normal[..., 1]) / np.sqrt(2.0)  # [R, modes, state]
    out = [pair[..., 0], pair[..., 1]]
    out += [pair[rng.permutation(count), :, 1] for _ in range(states - 2)]
    return np.stack(out)


def rotation(correlation: float) -> complex:
    """Turn of the line of sight while the diffuse taps decorrelate to ``J0(z) = correlation``: ``exp(0.7 i z)``."""
    z = np.linspace(0.0, FIRST_ZERO, 20_001)
    return complex(np.exp(1j * LOS_DOPPLER * np.interp(-correlation, -j0(z), z)))


def attempts(name: str, spread: float, blocks: int, correlation: float, count: int, seed: int) -> Floats:
    """Curves ``[1 + ATTEMPTS, R, X]``: of the channel that link adaptation saw, by whose power they are sorted, then of
    each attempt.

    ``h_k = rho h_(k-1) + sqrt(1 - rho^2) w_k`` for the diffuse taps (first order, so an attempt is ``rho`` away from
    the one before: a retransmission takes about as long as the channel report). For rho = 1 all are the same:
    ``[1, R, X]``.

    Parameters
    ----------
    spread : bandwidth times delay spread.
    blocks : resource blocks, which limit the number of frequencies to look at.
    correlation : rho, 0 to 1.
    """
    taps = profile(name)
    modes, sight = _modes(taps, spread, blocks)
    states = 2 if correlation == 1.0 else 1 + ATTEMPTS
    noise = _gaussian(count, modes.shape[1], states, seed)
    out, state, turn, power = [], noise[0], 1.0 + 0j, np.zeros(count)
    for k in range(1 if correlation == 1.0 else states):
        if k:
            state = correlation * state + np.sqrt(1.0 - correlation**2) * noise[k]
            turn = turn * rotation(correlation)
        response = state @ modes.T + turn * sight
        out.append(curves(response))
        power = power if k else (response.real**2 + response.imag**2).mean(axis=1)
    return np.stack(out)[:, np.argsort(power)]


def x_db() -> Floats:
    """Arguments of the curves in dB."""
    return X_LOW_DB + X_STEP_DB * np.arange(X_COUNT)


def curves(response: Any) -> Floats:
    """``10 lg E(x)`` with ``E(x) = -ln mean_f exp(-x |h_f|^2)``, ``[R, X]``: EESM is ``beta E(gamma / beta)``.

    Parameters
    ----------
    response : ``[R, F]`` frequency response h.
    """
    rows = max(1, _CHUNK // response.shape[1])
    return np.concatenate([_curves(response[start : start + rows]) for start in range(0, len(response), rows)])


def _curves(response: Any) -> Floats:
    gain = (response.real**2 + response.imag**2).astype(np.float32)
    least = gain.min(axis=1, keepdims=True)
    excess = gain - least
    least, mean, spread = least[:, 0].astype(float), excess.mean(axis=1, dtype=float), excess.var(axis=1, dtype=float)
    x, widest = 10.0 ** (x_db() / 10.0), float(excess.max())
    out = x * least[:, None]
    for chain in (0, 1):  # exp(-2 x g) is the square of exp(-x g)
        done, factor = _RESTART, excess
        for j in range(chain, X_COUNT, 2):
            if x[j] * widest < 1e-2:  # the series, where 1 - exp() would lose digits
                out[:, j] += x[j] * mean - 0.5 * x[j] ** 2 * spread
                continue
            if done == _RESTART:
                done, factor = 0, np.exp(np.float32(-x[j]) * excess)
            else:
                np.multiply(factor, factor, out=factor)
                done += 1
            out[:, j] -= np.log(factor.mean(axis=1, dtype=np.float32))
    return 10.0 * np.log10(np.maximum(out, 1e-12))
