"""Multicast: one transmission per cell at a rate that most can decode; the others get a copy of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
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
from fedwave.wireless.link import rayleigh_capacity


@register("downlink", "multicast")
@dataclass(frozen=True)
class Multicast(Downlink):
    """One transmission per cell at the rate of a coverage quantile, then unicast to those below it.

    With n listeners sorted by the rate r at which they decode the common transmission, and unicast rates u, a
    threshold at the j-th takes ``T_j = S / r_j + sum_(i < j) S / u_i``: the first term falls with j, the second grows.
    ``coverage`` q takes ``j = floor((1 - q) n)`` (from 0), so at least the share q is covered; ``"auto"`` takes the j
    of the smallest time, sending nothing to all included, so a cell is never busy for longer than with unicast. The
    rate holds for the whole message.

    Parameters
    ----------
    coverage : share of a cell's listeners in (0, 1], or "auto".
    """

    coverage: Coverage = "auto"

    cite: ClassVar[str] = "3GPP TS 23.247 (5G multicast and broadcast services)"
    csi: ClassVar[str] = "each listener's long-term rate (no instantaneous channel state): fading is in the rate tables"

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        check_coverage(self.coverage)

    def cast(self, bits: float, listening: Bools, listeners: Listeners) -> Cast:
        """At the rate of the weakest covered listener; all covered ones have it at the end."""
        rate = listeners.cast_rate_bps
        seconds = seconds_of(np.full(len(rate), bits), rate)
        repair = seconds_of(np.where(listening, bits, 0.0), listeners.full_rate_bps)
        covered = covered_by(rate, seconds, repair, listening, listeners, self.coverage)
        cell_s = extreme_per_cell(seconds, covered, listeners, largest=True)
        return Cast(
            covered=covered,
            listen_s=np.where(covered, cell_s[listeners.cell], 0.0),
            seconds=cell_s,
            bits=np.where(cell_s > 0.0, bits, 0.0),
            received_bits=bits,
        )


def worst_user_capacity(snr: ArrayLike, users: ArrayLike) -> Floats:
    """Multicast capacity in bit/s/Hz when the rate follows the worst of K independent Rayleigh channels at all times.

    The smallest of K unit exponentials is exponential with mean 1 / K, so ``E[log2(1 + snr min_k g_k)]`` is the
    capacity of one channel at ``snr / K``: ``e^(K / snr) E1(K / snr) / ln 2``, which falls as ``snr / (K ln 2)``. This
    is what adapting to everybody's instantaneous channel state costs. No downlink here does it: :class:`Multicast`
    uses long-term rates, :class:`~fedwave.wireless.downlinks.rateless.Rateless` a fixed rate over many fading blocks.

    Parameters
    ----------
    snr : mean linear SNR of each user, > 0.
    users : K, >= 1.

    Raises
    ------
    BadInput : an SNR that is not positive, or fewer than one user.
    """
    snr, users = np.asarray(snr, dtype=float), np.asarray(users, dtype=float)
    if not ((snr > 0.0) & np.isfinite(snr)).all() or not ((users >= 1.0) & np.isfinite(users)).all():
        raise BadInput("worst_user_capacity needs a positive snr and at least one user, both finite")
    return rayleigh_capacity(snr / users)
