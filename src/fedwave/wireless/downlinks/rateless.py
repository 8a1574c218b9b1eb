"""Rateless multicast: coded blocks at a fixed rate until every listener has collected enough of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.config import NonNegative, Positive
from fedwave.core.errors import BadInput
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
from fedwave.wireless.budget import sourced
from fedwave.wireless.downlinks.downlink import (
    Cast,
    Coverage,
    Downlink,
    Listeners,
    check_coverage,
    covered_by,
    extreme_per_cell,
    seconds_of,
)

_SEARCH = np.geomspace(1.0, 0.1, 121)  # factors on W(g) / ln 2
_LEAST_SINR = 1e-9  # -90 dB: nothing is received below


@register("downlink", "rateless")
@dataclass(frozen=True)
class Rateless(Downlink):
    """A fountain code over blocks of one fixed rate: any ``1 + overhead`` times the message decodes.

    A block is one fading state. At rate R (bit/s/Hz) a listener of mean SINR g under Rayleigh fading receives it with
    probability ``p = P(log2(1 + g x) >= R) = exp(-(2^R - 1) / g)``, whoever else listens: the rate holds for any number
    of users, and only the tail (the last of them) grows with it. A message of S bits needs ``N = (1 + overhead) S /
    (R symbol_hz block_s)`` received blocks. A listener is done after n blocks, the smallest n with ``n p - z sqrt(n p
    (1 - p)) >= N`` (normal approximation of the binomial, z the quantile of ``confidence``); n tends to N / p. R is the
    fixed rate at which the weakest covered listener is done first: ``R p`` is largest at ``R = W(g) / ln 2`` (W:
    Lambert), and a search below it takes the tail into account. Stronger listeners are done earlier; the transmission
    ends with the weakest. Those below the coverage threshold, which is chosen at ``W(g) / ln 2``, get the message by
    unicast.

    Frequency diversity is left out (flat fading), and for a device that does not move the blocks would not be
    independent.

    Parameters
    ----------
    coverage : share of a cell's listeners in (0, 1], or "auto" (smallest time; see ``Multicast``).
    overhead : received beyond the message, headers included, >= 0.
    block_s : how long one fading state lasts.
    confidence : probability in (0, 1) with which a listener has enough when it counts as done.
    max_efficiency : largest R, bit/s/Hz.
    """

    coverage: Coverage = 1.0
    overhead: NonNegative = sourced(0.02, "", "assumption: RaptorQ (RFC 6330) rarely needs extra symbols; headers")
    block_s: Positive = sourced(0.018, "s", "coherence time 9 / (16 pi f_d) at 3 km/h and 3.5 GHz")
    confidence: Positive = sourced(0.999, "", "assumption")
    max_efficiency: Positive = sourced(8 * 948 / 1024, "bit/s/Hz", "256QAM, TS 38.214 Table 5.1.3.1-2, index 27")

    cite: ClassVar[str] = "RFC 6330 (RaptorQ)"
    csi: ClassVar[str] = "each listener's mean SINR; none of the instantaneous channels, no feedback per block"

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        check_coverage(self.coverage)
        if not 0.0 < self.confidence < 1.0:
            raise BadInput(f"confidence: must be above 0 and below 1, got {self.confidence!r}")

    def cast(self, bits: float, listening: Bools, listeners: Listeners) -> Cast:
        """At the best fixed rate of the weakest covered listener."""
        sinr, hz = listeners.sinr, np.broadcast_to(listeners.symbol_hz, len(listeners)).astype(float)
        own_rate = np.minimum(best_fixed_rate(sinr), self.max_efficiency)
        repair = seconds_of(np.where(listening, bits, 0.0), listeners.full_rate_bps)
        alone_s = self.seconds(bits, own_rate, sinr, hz)
        covered = covered_by(sinr, alone_s, repair, listening, listeners, self.coverage)
        weakest = extreme_per_cell(sinr, covered, listeners, largest=False)
        cell_hz = extreme_per_cell(hz, covered, listeners, largest=True)
        rate = self.efficiency(bits, np.where(np.isfinite(weakest), weakest, 0.0), cell_hz)
        listen = np.zeros(len(sinr))
        listen[covered] = self.seconds(bits, rate[listeners.cell[covered]], sinr[covered], hz[covered])
        cell_s = extreme_per_cell(listen, covered, listeners, largest=True)
        return Cast(covered, listen, cell_s, cell_s * rate * cell_hz, bits * (1.0 + self.overhead))

    def efficiency(self, bits: float, sinr: Floats, symbol_hz: Floats | float) -> Floats:
        """R in bit/s/Hz at which a listener of mean ``sinr [S]`` is done first, at most ``W(sinr) / ln 2``."""
        candidates = np.minimum(_SEARCH[:, None] * best_fixed_rate(sinr), self.max_efficiency)
        each, hz = (np.broadcast_to(values, candidates.shape).ravel() for values in (sinr, symbol_hz))
        seconds = self.seconds(bits, candidates.ravel(), each, hz).reshape(candidates.shape)
        return np.take_along_axis(candidates, seconds.argmin(axis=0)[None], axis=0)[0]

    def seconds(self, bits: float, efficiency: Floats, sinr: Floats, symbol_hz: Floats | float) -> Floats:
        """Until a listener of mean ``sinr [C]`` has enough at ``efficiency [C]`` bit/s/Hz; infinite without either."""
        symbols_s = efficiency * symbol_hz
        some = (sinr >= _LEAST_SINR) & (symbols_s > 0.0)
        needed = (1.0 + self.overhead) * bits / (symbols_s[some] * self.block_s)
        out = np.full(len(sinr), np.inf)
        p = reception_probability(efficiency[some], sinr[some])
        out[some] = self.block_s * blocks_until(needed, p, self.confidence)
        return out


def reception_probability(efficiency: ArrayLike, sinr: ArrayLike) -> Floats:
    """``P(log2(1 + sinr x) >= R) = exp(-(2^R - 1) / sinr)`` for x exponential with mean 1; ``sinr`` > 0."""
    return np.exp(-np.expm1(np.asarray(efficiency, dtype=float) * np.log(2.0)) / np.asarray(sinr, dtype=float))


def best_fixed_rate(sinr: ArrayLike) -> Floats:
    """R in bit/s/Hz that maximises ``R exp(-(2^R - 1) / sinr)``: ``W(sinr) / ln 2``.

    The derivative of its logarithm vanishes where ``R ln 2 e^(R ln 2) = sinr``. ``sinr`` >= 0, finite.
    """
    from scipy.special import lambertw

    return np.asarray(lambertw(np.asarray(sinr, dtype=float)).real / np.log(2.0))


def blocks_until(needed: Floats, probability: Floats, confidence: float) -> Floats:
    """Blocks sent until ``needed`` > 0 of them are received with ``confidence``, each with ``probability`` > 0.

    ``sqrt n = (z s + sqrt(z^2 s^2 + 4 p N)) / (2 p)`` with ``s = sqrt(p (1 - p))``, but at least as many as the first
    reception takes, ``ln(1 - confidence) / ln(1 - p)``, and never fewer than are needed. Fractions are parts of one.
    Against the exact quantile it is up to a third too long for one block, within 3 % from 30 and 0.2 % from 1,000.
    """
    from scipy.special import ndtri

    spread = float(ndtri(confidence)) * np.sqrt(probability * (1.0 - probability))
    root = (spread + np.sqrt(spread**2 + 4.0 * probability * needed)) / (2.0 * probability)
    with np.errstate(divide="ignore"):  # a block that never fails: the first one is received
        tries = np.ceil(np.log1p(-confidence) / np.log1p(-probability))
    first = tries - 1.0 + np.minimum(needed, 1.0)
    return np.maximum(np.maximum(root**2, first), needed)
