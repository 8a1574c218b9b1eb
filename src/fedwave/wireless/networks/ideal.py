"""A network without a radio: fixed rates, or none; the baseline that isolates learning from the air."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedwave.core.config import NonNegative, Positive, Probability
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Work, World
from fedwave.wireless.budget import Row
from fedwave.wireless.energy import FREE, Connection
from fedwave.wireless.flow import Links, Transfer, run_round
from fedwave.wireless.network import Network


@register("network", "ideal")
@dataclass(frozen=True)
class Ideal(Network):
    """Every client has its own link of fixed rate and latency; its radio costs no energy, and nobody contends.

    Parameters
    ----------
    uplink_mbps, downlink_mbps : rate of each client's link; ``None`` is infinite.
    latency_s : before every transfer that carries bits.
    loss : probability that an update is lost after it was sent (status "outage"), drawn per round and client.
    """

    uplink_mbps: Positive | None = None
    downlink_mbps: Positive | None = None
    latency_s: NonNegative = 0.0
    loss: Probability = 0.0

    def explain(self) -> list[Row]:
        """``(name, value, unit, source)`` of each parameter."""
        return [
            ("uplink_mbps", "no limit" if self.uplink_mbps is None else self.uplink_mbps, "Mbit/s", "job"),
            ("downlink_mbps", "no limit" if self.downlink_mbps is None else self.downlink_mbps, "Mbit/s", "job"),
            ("latency_s", self.latency_s, "s", "job"),
            ("loss", self.loss, "", "job"),
            ("energy_model", "none", "", "by definition: the radio costs nothing"),
        ]

    def place(self, n: int, key: Key) -> Floats:
        """Everybody at the site: distance plays no part."""
        return np.zeros((n, 2))

    def deliver(
        self,
        world: World,
        cohort: Cohort,
        work: Work,
        compute: Compute,
        key: Key,
        *,
        static_key: Key,
        deadline_s: float | None,
        server_s: float = 0.0,
        server_j: float = 0.0,
    ) -> Delivery:
        """See :meth:`Network.deliver`; ``sinr_db`` is NaN."""
        links = Links(
            down=_fixed(self.downlink_mbps),
            up=_fixed(self.uplink_mbps),
            connection=Connection(self.latency_s, self.latency_s, inactivity_s=0.0),
            energy=FREE,
            sinr_db=np.full(len(cohort), np.nan),
            lost=key.fold("loss").uniform(cohort.ids)[:, 0] < self.loss,
        )
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)


def _fixed(rate_mbps: float | None) -> Transfer:
    seconds_per_bit = 0.0 if rate_mbps is None else 1e-6 / rate_mbps
    return lambda start_s, bits: start_s + bits * seconds_per_bit
