"""The clients' devices: who has which, who answers, and what a round's work costs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedwave.core.config import Fraction, Positive, Probability
from fedwave.core.errors import BadInput, unknown
from fedwave.core.keys import Key
from fedwave.core.types import Bools, Cohort, Compute, Floats, Ints, Work, World
from fedwave.devices import catalogue
from fedwave.devices.device import Device


@dataclass(frozen=True)
class Fleet:
    """The ``[fleet]`` table: device classes and how common each is.

    Parameters
    ----------
    mix : device class -> its share of the clients (any positive numbers; they are normalised).
    availability : chance that a client answers a round's call.
    initial_charge : share of a full battery at the start.
    min_charge : below this share of a full battery a client declines.
    device : classes of the user's own, name -> :class:`Device`; they come before the catalogue's. Classes that files of
        ``FEDWAVE_CATALOGUE`` describe are added to it.
    """

    mix: dict[str, Positive] = field(default_factory=lambda: {"phone": 1.0})
    availability: Probability = 1.0
    initial_charge: Fraction = 1.0
    min_charge: Probability = 0.0
    device: dict[str, Device] = field(default_factory=dict)
    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not self.mix:
            raise BadInput("mix: name at least one device class")
        known = {*self.device, *catalogue.names()}
        for name in self.mix:
            if name not in known:
                raise unknown("device", name, known)
        # What a file of the user's says about a class becomes part of the job, so that a run does not depend on it.
        own = {name: catalogue.lookup(name) for name in self.mix if name not in self.device and catalogue.is_own(name)}
        if own:
            object.__setattr__(self, "device", {**self.device, **own})

    @property
    def names(self) -> tuple[str, ...]:
        """The device classes of the mix, sorted; a client's class is an index into them."""
        return tuple(sorted(self.mix))

    @cached_property
    def classes(self) -> tuple[Device, ...]:
        """The devices behind :attr:`names`, in that order."""
        return tuple(self.device.get(name) or catalogue.lookup(name) for name in self.names)

    def assign(self, n: int, key: Key) -> Ints:
        """``[N]`` device class of each client, drawn by its id: client i keeps its device whatever N is."""
        share = np.cumsum([self.mix[name] for name in self.names])
        u = key.uniform(np.arange(n))[:, 0] * share[-1]
        return np.minimum(np.searchsorted(share, u, side="right"), len(share) - 1).astype(np.int64)

    def batteries(self, device: Ints) -> Floats:
        """``[N]`` joules in each client's battery at the start; inf on mains."""
        return self.initial_charge * self._array.battery_j[device]

    def available(self, world: World, device: Ints, key: Key) -> Bools:
        """``[N]`` whether each client answers this round's call: by chance, and with enough charge."""
        ids = np.arange(len(device))
        answers = key.uniform(ids)[:, 0] < self.availability if self.availability < 1.0 else np.ones(len(ids), bool)
        full = self._array.battery_j
        least_j = self.min_charge * np.where(np.isinf(full), 0.0, full)
        return answers & (world.battery_j >= least_j[device])

    def compute(self, cohort: Cohort, work: Work, world: World) -> Compute:
        """Time, energy and memory of a round's work on each client's device.

        Per phase t = max(FLOPs / (efficiency x peak), bytes / bandwidth) and E = active power x t. The memory traffic
        of the round is spread over its phases in proportion to their FLOPs (equally, where there are none).

        ``fits``: the peak is within the share of the memory that an application may take. ``powered``: what is left in
        the battery covers the computation (radio energy is the network's part).
        """
        own = self._array
        flops = np.stack([np.broadcast_to(phase.flops, len(cohort)) for phase in work.phases]).astype(np.float64)
        total = flops.sum(0)
        share = np.divide(flops, total, out=np.full(flops.shape, 1.0 / len(flops)), where=total > 0)
        traffic_bytes = share * work.touched_bytes
        compute_s = flops / own.reached_flops[cohort.device]
        seconds = np.maximum(compute_s, traffic_bytes / own.bandwidth[cohort.device])
        joules = seconds * own.active_w[cohort.device]
        return Compute(
            seconds=seconds,
            joules=joules,
            peak_bytes=np.asarray(work.memory_bytes, dtype=np.float64),
            fits=work.memory_bytes <= own.usable_bytes[cohort.device],
            powered=joules.sum(0) <= world.battery_j[cohort.ids],
            idle_w=own.idle_w[cohort.device],
        )

    @cached_property
    def _array(self) -> _Arrays:
        devices = self.classes
        return _Arrays(
            reached_flops=np.array([d.training_efficiency * d.peak_flops for d in devices]),
            bandwidth=np.array([d.memory_bandwidth_bytes_s for d in devices]),
            usable_bytes=np.array([d.usable_memory_bytes for d in devices]),
            active_w=np.array([d.active_power_w for d in devices]),
            idle_w=np.array([d.idle_power_w for d in devices]),
            battery_j=np.array([np.inf if d.battery_j is None else d.battery_j for d in devices]),
        )


@dataclass(frozen=True)
class _Arrays:
    """The classes' numbers side by side, ``[classes]`` each."""

    reached_flops: Floats
    bandwidth: Floats
    usable_bytes: Floats
    active_w: Floats
    idle_w: Floats
    battery_j: Floats
