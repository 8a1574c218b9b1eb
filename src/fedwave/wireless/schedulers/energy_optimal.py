"""Energy optimal: send as slowly, and as softly, as the deadline allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedwave.core.config import Fraction, NonNegative
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
from fedwave.wireless.scheduler import Asked, Scheduler, needs_deadline
from fedwave.wireless.sharing.min_max import claims_in_time, in_time, min_max_blocks
from fedwave.wireless.sharing.rates import Rates

_HALVINGS = 8
_GOLDEN_STEPS = 20
_BISECTIONS = 60
_LONGEST = 12.0  # natural logarithm: without a deadline, ends up to so much later than the earliest are looked at
_LATE = 1e-6  # of the time, by which an end may be missed
_LEAST_NATS = 1e-6  # below so few nats per second and hertz energy no longer depends on the share
_MOST = 600.0  # natural logarithm of the largest number that is dealt with


@register("scheduler", "energy_optimal")
@dataclass(frozen=True)
class EnergyOptimal(Scheduler):
    """Least radio energy with which the uploads end together by the deadline: time, band and power of each.

    Upload k of L_k bits that sends for tau_k seconds on a share s_k of the band radiates
    ``P_k = a_k s_k (e^x_k - 1)`` with ``x_k = L_k ln 2 / (s_k tau_k B_k)`` and a_k the power at which its SNR over the
    whole band would be 1, and costs ``tau_k (P_k / pa_efficiency + circuit_w)``: Zeng et al. 2020, with the circuit
    power of their later work. Powers are means over the time of an upload, in part of which TDD lets it send.
    :func:`least_energy_shares` gives the shares for one common end, a search over it the rest; B_k is such that the
    tables' rate at full power fits. Where the tables ask for more power than that formula, all backoffs shrink by one
    factor until the end is met; the claims are those of equal finish at the power left.

    Waiting until the deadline saves radiated energy and costs circuit energy, so set both as in the energy table of
    the network. Where circuits dominate, letting the fast finish first ("max_rate") costs less than ending together,
    and a phone whose power does not depend on what it radiates saves nothing here.

    Parameters
    ----------
    margin : part of the time to the deadline that is kept free, because rates vary; 0 or more, below 1.
    circuit_w : mean power of an upload beside the amplifier's; without it the least energy takes for ever, so a
        deadline is needed then. The default is a quarter of the time ``baseband_w``, and ``tail_w`` between the slots.
    pa_efficiency : the amplifier's efficiency.
    """

    margin: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)] = 0.1
    circuit_w: NonNegative = 0.1725
    pa_efficiency: Fraction = 0.35

    cite: ClassVar[str] = (
        "Zeng et al., Energy-efficient Radio Resource Allocation for Federated Edge Learning, IEEE ICC Workshops 2020"
    )

    def admit(self, asked: Asked, key: Key) -> Bools:
        """Everybody. Raises :class:`Refused` where there is neither a deadline nor circuit power."""
        if self.circuit_w == 0.0:
            needs_deadline("energy_optimal", asked.deadline_s)
        return np.ones(len(asked), dtype=bool)

    def backoff_db(
        self,
        ready_s: Floats,
        bits: Floats,
        snr: Floats,
        rates_at: Callable[[Floats], Rates],
        until_s: float,
        power_w: Floats,
    ) -> Floats:
        """See :meth:`Scheduler.backoff_db`; those that cannot be in time send at full power."""
        less = np.zeros(len(bits))
        rates = rates_at(less)
        first = float(np.min(ready_s, initial=np.inf))
        last_s = until_s - self.margin * (until_s - first) if np.isfinite(until_s) else np.inf
        linked = (rates.full_bps > 0.0) & (snr > 0.0) & (power_w > 0.0)
        kept = np.flatnonzero(linked)
        if np.isfinite(last_s):
            kept = kept[in_time(ready_s[kept], bits[kept], rates.take(kept), last_s)]
        if not len(kept):
            return less
        sender = _Senders(ready_s[kept], bits[kept], snr[kept], rates.take(kept), power_w[kept])
        end_s = self._best_end_s(sender, last_s)
        wanted = sender.backoff_db(end_s)
        low, high = 0.0, 2.0  # of the factor on what is wanted: 1 is tried first
        for _ in range(_HALVINGS):
            factor = 0.5 * (low + high)
            less[kept] = factor * wanted
            if _meets(sender, rates_at(less).take(kept), end_s):
                low = factor
                if factor >= 1.0:
                    break
            else:
                high = factor
        less[kept] = low * wanted
        return less

    def _best_end_s(self, sender: _Senders, last_s: float) -> float:
        """The common end, at most ``last_s``, that costs least: golden section over the logarithm of the time."""
        first = float(sender.ready_s.min())
        low = np.log((min_max_blocks(sender.ready_s, sender.bits, sender.rates)[1] - first) * (1.0 + 1e-6))
        high = max(np.log(last_s - first) if np.isfinite(last_s) else low + _LONGEST, low)
        inner, cost = _golden(low, high), [0.0, 0.0]
        for side in (0, 1):
            cost[side] = self._joules(sender, first + np.exp(inner[side]))
        for _ in range(_GOLDEN_STEPS):
            if cost[0] <= cost[1]:
                high = inner[1]
                inner = _golden(low, high)
                cost = [self._joules(sender, first + np.exp(inner[0])), cost[0]]
            else:
                low = inner[0]
                inner = _golden(low, high)
                cost = [cost[1], self._joules(sender, first + np.exp(inner[1]))]
        ends = [first + np.exp(each) for each in (low, high)]
        return ends[1] if self._joules(sender, ends[1]) <= self._joules(sender, ends[0]) else ends[0]

    def _joules(self, sender: _Senders, end_s: float) -> float:
        watts = sender.radiated_w(sender.shares(end_s), end_s) / self.pa_efficiency + self.circuit_w
        return float((watts * (end_s - sender.ready_s)).sum())

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """Blocks per transfer with which those that can be in time end together, at the power that they use."""
        return claims_in_time(ready_s, bits, rates, until_s)


@dataclass(frozen=True)
class _Senders:
    """Uploads ``[K]`` that end together, by ``rate = s B log2(1 + SINR)``; ``rates`` at full power."""

    ready_s: Floats
    bits: Floats
    snr: Floats
    rates: Rates
    power_w: Floats

    @property
    def band_hz(self) -> Floats:
        """B, what the whole carrier is worth."""
        return self.rates.full_bps / np.log2(1.0 + self.snr)

    def _nats(self, end_s: float) -> Floats:
        return np.log(2.0) * self.bits / ((end_s - self.ready_s) * self.band_hz)

    def shares(self, end_s: float) -> Floats:
        """Shares of the carrier with the least radiated energy."""
        left_s = end_s - self.ready_s
        rate = np.minimum(self.bits / left_s, self.rates.full_bps)
        least = self.rates.needed(rate)[0] / self.rates.blocks
        return np.minimum(least_energy_shares(self._nats(end_s), self.power_w / self.snr * left_s, least), 1.0)

    def radiated_w(self, share: Floats, end_s: float) -> Floats:
        """Power that delivers the bits by then."""
        return self.power_w / self.snr * share * np.expm1(self._nats(end_s) / share)

    def backoff_db(self, end_s: float) -> Floats:
        """By how much what the shares offer at full power exceeds what is needed."""
        share = self.shares(end_s)
        offered = self.rates.at(np.arange(len(share)), share * self.rates.blocks)
        offered_snr = np.expm1(np.log(2.0) * offered / (share * self.band_hz))
        return np.maximum(10.0 * np.log10(offered_snr / np.expm1(self._nats(end_s) / share)), 0.0)


def _meets(sender: _Senders, rates: Rates, end_s: float) -> bool:
    """Whether all can end by then at these rates."""
    left_s = end_s - sender.ready_s
    if not (rates.full_bps * left_s >= sender.bits).all():
        return False
    least_s = min_max_blocks(sender.ready_s, sender.bits, rates)[1]
    return least_s <= end_s + _LATE * float(left_s.max())


def _golden(low: float, high: float) -> tuple[float, float]:
    """The two inner points of a golden section."""
    part = 0.5 * (3.0 - 5.0**0.5) * (high - low)
    return low + part, high - part


def least_energy_shares(nats: Floats, scale: Floats, least: Floats) -> Floats:
    """Shares ``[K]``, in all 1, that minimise ``sum_k scale_k s_k (e^(nats_k / s_k) - 1)`` with ``s_k >= least_k``.

    With ``x = nats / s`` the derivative is ``-scale ((x - 1) e^x + 1)``. Where it is -m for all that are not at their
    least share, ``x = 1 + W((m / scale - 1) / e)``, W the principal branch of Lambert's function; bisection on log m.

    Parameters
    ----------
    nats : ``ln 2`` bits / (seconds x bandwidth), > 0; ``scale`` > 0.
    least : >= 0, in all at most 1.
    """
    from scipy.special import lambertw  # takes longer to load than a plan with another scheduler to make

    def shares(log_m: float) -> Floats:
        x = 1.0 + lambertw((np.exp(np.minimum(log_m - log_scale, _MOST)) - 1.0) / np.e).real
        return np.maximum(nats / np.maximum(x, _LEAST_NATS), least)

    log_scale = np.log(scale)
    low, high = float(log_scale.min()) + 2.0 * np.log(_LEAST_NATS), float(log_scale.max()) + _MOST
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if shares(middle).sum() > 1.0 else (low, middle)
    return shares(high)
