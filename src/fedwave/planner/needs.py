"""What a round asks of each class of device: memory part by part, storage, arithmetic, energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedwave.core.types import Bools
from fedwave.federation.setting import Setting, Turn
from fedwave.planner.unsure import left_open


@dataclass(frozen=True)
class Needs:
    """Of one device class: means over its clients in the rehearsed rounds, per round.

    Parameters
    ----------
    clients : of the population that have such a device.
    share : of the fleet that has one, whatever the seed.
    memory_bytes : at the peak, part by part.
    usable_memory_bytes : of the device, for an application.
    storage_bytes : of the base model, the trained part and what the method keeps between rounds.
    flops, compute_s, compute_j : of the training; ``training_efficiency`` the share of the peak that it reaches.
    rows, steps : that a client trains on, and makes; ``traffic_bytes`` of memory that this reads and writes.
    radio_j : set-up, transfers and tail; ``radio_parts_j`` part by part (:class:`~fedwave.core.types.Delivery`).
    charged_j : of training and waiting, as a round charges them; without what clients would have spent that were lost.
    battery_share : of a full battery, radio, training and waiting together; ``None`` on mains.
    device_storage_bytes, battery_j : of the device; ``None`` where it has no limit.
    tokens_per_j : trained per joule of training: tokens/s/W.
    seconds_factor, joules_factor : how far the training's seconds and joules may be off, either way: what the catalogue
        leaves open of the device (:mod:`.unsure`).
    """

    clients: int
    share: float
    memory_bytes: dict[str, float]
    usable_memory_bytes: float
    storage_bytes: float
    device_storage_bytes: float | None
    flops: float
    training_efficiency: float
    compute_s: float
    compute_j: float
    radio_j: float
    battery_j: float | None
    battery_share: float | None
    tokens_per_j: float
    charged_j: float = 0.0
    seconds_factor: float = 1.0
    joules_factor: float = 1.0
    rows: float = 0.0
    steps: float = 0.0
    traffic_bytes: float = 0.0
    radio_parts_j: dict[str, float] = field(default_factory=dict)

    @property
    def peak_memory_bytes(self) -> float:
        """All parts together."""
        return sum(self.memory_bytes.values())

    @property
    def fits(self) -> bool:
        """Whether the peak is within what an application may take."""
        return self.peak_memory_bytes <= self.usable_memory_bytes


def needs(setting: Setting, turns: Sequence[Turn]) -> dict[str, Needs]:
    """Of every device class that was met in ``turns``, by name."""
    found = {}
    for index, name in enumerate(setting.fleet.names):
        mine = [(turn, turn.cohort.device == index) for turn in turns]
        if any(who.any() for _, who in mine):
            found[name] = _of_class(setting, index, mine)
    return found


def _of_class(setting: Setting, index: int, mine: list[tuple[Turn, Bools]]) -> Needs:
    device, spec, method = setting.fleet.classes[index], setting.spec, setting.method
    kept = sum(leaf.size for leaf in method.memory(spec).values())
    compute_j = mean([turn.compute.joules.sum(0)[who] for turn, who in mine])
    charged_j = mean([turn.delivery.compute_j[who] for turn, who in mine])
    radio_j = mean([turn.delivery.radio_j[who] for turn, who in mine])
    flops = mean([_flops(turn)[who] for turn, who in mine])
    unsure = left_open(setting.fleet.names[index], device)
    rows = mean([turn.cohort.rows[who] for turn, who in mine])
    parts = {name: mean([t.delivery.radio_parts_j[name][who] for t, who in mine]) for name in _parts(mine)}
    return Needs(
        clients=int((setting.population.device == index).sum()),
        share=setting.fleet.mix[setting.fleet.names[index]] / sum(setting.fleet.mix.values()),
        memory_bytes=method.memory_bytes(spec, setting.batch_size),
        usable_memory_bytes=device.usable_memory_bytes,
        storage_bytes=spec.base_bytes + 4.0 * (spec.trainable_parameters + kept),
        device_storage_bytes=device.storage_bytes,
        flops=flops,
        training_efficiency=device.training_efficiency,
        compute_s=mean([turn.compute.seconds.sum(0)[who] for turn, who in mine]),
        compute_j=compute_j,
        radio_j=radio_j,
        battery_j=device.battery_j,
        battery_share=None if device.battery_j is None else (charged_j + radio_j) / device.battery_j,
        tokens_per_j=spec.tokens * rows / compute_j if compute_j > 0.0 else 0.0,
        charged_j=charged_j,
        rows=rows,
        steps=mean([turn.cohort.steps[who] for turn, who in mine]),
        traffic_bytes=mean([np.broadcast_to(turn.work.touched_bytes, len(turn.cohort))[who] for turn, who in mine]),
        radio_parts_j=parts,
        seconds_factor=unsure.seconds,
        joules_factor=unsure.joules,
    )


def _parts(mine: list[tuple[Turn, Bools]]) -> list[str]:
    """Names of the parts of the radio's energy; none where a network has no radio to speak of."""
    return list(mine[0][0].delivery.radio_parts_j)


def _flops(turn: Turn) -> np.ndarray:
    return np.sum([np.broadcast_to(phase.flops, len(turn.cohort)) for phase in turn.work.phases], axis=0)


def mean(values: Sequence[Any]) -> float:
    """Of all values in arrays or numbers; 0 where there are none."""
    joined = np.concatenate([np.atleast_1d(value) for value in values])
    return float(joined.mean()) if joined.size else 0.0
