"""What a job asks of the edge server, and of its way to the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedwave.devices import catalogue
from fedwave.federation.setting import Setting, Turn
from fedwave.planner.needs import mean


@dataclass(frozen=True)
class ServerNeeds:
    """Of the server, per round.

    Parameters
    ----------
    device : of the catalogue.
    memory_bytes : at the peak, part by part; changes of the base model as after the last round.
    usable_memory_bytes : of the device.
    flops, compute_s, compute_j : of aggregation and of what the server trains itself. Evaluating is not charged.
    cloud_s, cloud_bits : of the way to the cloud and back; 0 where there is none.
    """

    device: str
    memory_bytes: dict[str, float]
    usable_memory_bytes: float
    flops: float
    compute_s: float
    compute_j: float
    cloud_s: float
    cloud_bits: float

    @property
    def peak_memory_bytes(self) -> float:
        """All parts together."""
        return sum(self.memory_bytes.values())

    @property
    def fits(self) -> bool:
        """Whether the peak is within what the device has for it."""
        return self.peak_memory_bytes <= self.usable_memory_bytes


def server_needs(setting: Setting, turns: Sequence[Turn]) -> ServerNeeds:
    """Means over ``turns``; memory for the largest cohort."""
    device = catalogue.lookup(setting.server.device)
    cohort = max((turn.cohort for turn in turns), key=len)
    memory = setting.method.server_memory_bytes(setting.spec, len(cohort), setting.batch_size)
    change = setting.method.base_bits(setting.spec, cohort, np.ones(len(cohort), dtype=bool)) / 8.0
    if change:
        memory = {**memory, "base changes": setting.rounds * change}
    flops = mean([turn.work.server_flops for turn in turns])
    compute_s, compute_j = setting.server.cost(flops)
    return ServerNeeds(
        device=setting.server.device,
        memory_bytes=memory,
        usable_memory_bytes=device.usable_memory_bytes,
        flops=flops,
        compute_s=compute_s,
        compute_j=compute_j,
        cloud_s=mean([turn.cloud_s for turn in turns]),
        cloud_bits=mean([turn.cloud_bits for turn in turns]),
    )
