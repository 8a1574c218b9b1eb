"""The one-time delivery of the base model to every device of the population, before the first round.

For a foundation model it dwarfs any round, so it is reported apart and is in no round's seconds, joules or bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.types import Floats
from fedwave.wireless.downlinks.downlink import Downlink, Listeners, Reception, seconds_of

if TYPE_CHECKING:
    from fedwave.wireless.energy import Connection, EnergyModel
    from fedwave.wireless.flow import Transfer


@dataclass(frozen=True)
class BaseDelivery:
    """What it takes until every device that can be reached holds the base model.

    Parameters
    ----------
    bits : size of the base, which each device must also store.
    seconds : until the last cell is done; cells work at the same time.
    gnb_airtime_s : ``[S]`` seconds of each cell's whole carrier.
    unreached_share : devices without a link, 0 to 1.
    joules : ``[N]`` radio energy of each device; 0 where it is not reached.
    bits_on_air : all cells together, repeats included.
    """

    bits: float
    seconds: float
    gnb_airtime_s: Floats
    unreached_share: float
    joules: Floats
    bits_on_air: float

    def to_dict(self) -> dict[str, float]:
        """Plain table: sums and means."""
        return {
            "bits": self.bits,
            "seconds": self.seconds,
            "bits_on_air": self.bits_on_air,
            "unreached_share": self.unreached_share,
            "joules_mean": self.joules_mean,
            "cells": len(self.gnb_airtime_s),
        }

    @property
    def joules_mean(self) -> float:
        """Mean over the devices that are reached; 0 where there are none."""
        reached = self.joules > 0.0
        return float(self.joules[reached].mean()) if reached.any() else 0.0


def base_delivery(
    bits: float,
    listeners: Listeners,
    downlink: Downlink,
    *,
    energy: EnergyModel,
    connection: Connection,
    carrier_share: ArrayLike = 1.0,
) -> BaseDelivery:
    """Send ``bits`` to all N devices once, by any downlink; O(N) for unicast, O(N log N) where devices are sorted.

    All are ready after connection set-up. Unicast goes to one device after the other on the whole carrier, so a cell is
    busy for ``sum_k bits / rate_k`` and a device is awake only for its turn: its energy is ``P_rx bits / rate +
    slope bits`` plus set-up and inactivity tail, once for the common transmission and once for a copy of its own.

    Parameters
    ----------
    bits : size of the base, > 0 (0: nothing to deliver).
    listeners : all devices.
    energy, connection : of the radio, as in a round.
    carrier_share : share of each cell's carrier that may be used, 0 to 1, one number or ``[S]``: rates shrink by it.

    Raises
    ------
    BadInput : a size that is negative or not finite, a share outside 0 to 1, no devices.
    """
    if not (np.isfinite(bits) and bits >= 0.0):
        raise BadInput(f"base bits must be finite and >= 0, got {bits!r}")
    share = np.asarray(carrier_share, dtype=float)
    if not ((share >= 0.0) & (share <= 1.0)).all():
        raise BadInput(f"carrier_share must be from 0 to 1, got {carrier_share!r}")
    if len(listeners) == 0:
        raise BadInput("the base model needs at least one device to go to")
    share = np.broadcast_to(share, listeners.cells) if share.ndim == 0 else share[: listeners.cells]
    on_share = listeners.on_share(share)
    size = np.full(len(listeners), float(bits))
    start = np.full(len(listeners), connection.setup_s if bits > 0.0 else 0.0)
    got = downlink.finish(start, size, np.zeros(len(size)), on_share, one_after_another(on_share))
    reached = np.isfinite(got.end_s)
    return BaseDelivery(
        bits=float(bits),
        seconds=float(np.max(got.end_s[reached], initial=0.0)),
        gnb_airtime_s=got.airtime_s * share,
        unreached_share=float(np.mean(~reached)),
        joules=_joules(got, on_share, energy, connection),
        bits_on_air=float(got.sent_bits.sum()),
    )


def one_after_another(listeners: Listeners) -> Transfer:
    """Unicast in turn, in the clients' order, each on the whole carrier; a cell starts when its last client is ready.

    Any work-conserving order keeps the cell busy for the same ``sum_k bits / rate_k``.
    """

    def finish(start_s: Floats, bits: Floats) -> Floats:
        served = np.isfinite(start_s) & (bits > 0.0) & (listeners.full_rate_bps > 0.0)
        begin = np.zeros(listeners.cells)
        np.maximum.at(begin, listeners.cell[served], start_s[served])
        order = np.argsort(listeners.cell, kind="stable")
        service = seconds_of(np.where(served, bits, 0.0), listeners.full_rate_bps)[order]
        done = np.cumsum(service)
        cell = listeners.cell[order]
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        offset = np.repeat((done - service)[first], np.diff(first, append=len(order)))
        end = np.full(len(bits), np.inf)
        end[order] = begin[cell] + np.maximum(done - offset, service)
        return np.where(served, end, np.where(bits > 0.0, np.inf, start_s))

    return finish


def _joules(got: Reception, listeners: Listeners, energy: EnergyModel, connection: Connection) -> Floats:
    on_s = got.listen_s + seconds_of(got.unicast_bits, listeners.full_rate_bps)
    wakes = (got.listen_s > 0.0).astype(float) + (got.unicast_bits > 0.0)
    wake_j = energy.setup_w * connection.setup_s + float(energy.tail_j(np.inf, connection.inactivity_s))
    received = got.received_bits + got.unicast_bits
    return energy.receive_w * on_s + energy.downlink_j_per_bit * received + wake_j * wakes
