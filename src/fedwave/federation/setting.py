"""What a round is made of before any training: shapes, population, devices, network. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import (
    STATUS,
    Cohort,
    Compute,
    Delivery,
    Floats,
    Ints,
    Population,
    Schema,
    Spec,
    Work,
    World,
    count_values,
)

if TYPE_CHECKING:
    from fedwave.devices.fleet import Fleet
    from fedwave.federation.samplers import Sampler
    from fedwave.federation.sync import Sync
    from fedwave.methods.method import Method
    from fedwave.transforms.chain import Chain


@dataclass(frozen=True)
class Codec:
    """The job's transforms in both directions; a :class:`~fedwave.core.types.Wire`."""

    up: Chain
    down: Chain

    def up_bits(self, schema: Schema) -> int:
        """Exact uplink bits of one client's payload."""
        return sum(self.up.bits(part.leaves) for part in schema.values())

    def down_bits(self, schema: Schema) -> int:
        """Exact downlink bits of one broadcast."""
        return sum(self.down.bits(part.leaves) for part in schema.values())


@dataclass(frozen=True)
class Setting:
    """A job with everything resolved that planning needs; training adds a learner and an engine."""

    seed: int
    rounds: int
    eval_every: int
    batch_size: int
    spec: Spec
    population: Population
    method: Method
    codec: Codec
    sampler: Sampler
    federation: Sync
    network: Any
    fleet: Fleet
    server: Any

    @property
    def key(self) -> Key:
        """Root of all randomness."""
        return Key(self.seed)

    def world(self) -> World:
        """The world before the first round."""
        n = len(self.population)
        return World(
            round=0,
            clock_s=0.0,
            battery_j=self.fleet.batteries(self.population.device),
            position_m=self.network.place(n, self.key.fold("place")),
            last_round=np.full(n, -1, dtype=np.int64),
            base_bits=np.zeros(0),
        )

    def base_delivery(self) -> dict[str, float] | None:
        """What the one-time delivery of the base model takes; ``None`` without one, or where the network is silent."""
        if self.spec.base_bytes <= 0:
            return None
        world, bits = self.world(), 8.0 * self.spec.base_bytes
        found = self.network.deliver_base(world, bits, self.key.fold("scenario"))
        return None if found is None else found.to_dict()


@dataclass(frozen=True)
class Turn:
    """One round, decided but not trained: who, what they do, and what of it arrives when.

    ``cloud_s`` and ``cloud_bits``: from the edge server to the cloud and back, at the round's end.
    """

    cohort: Cohort
    work: Work
    compute: Compute
    delivery: Delivery
    key: Key
    cloud_s: float = 0.0
    cloud_bits: float = 0.0


def prepare(setting: Setting, world: World, *, anyhow: bool = False) -> Turn:
    """Select, demand, compute, deliver. Everything of a round but its two training lines.

    ``anyhow`` asks what the round would be if memory and batteries sufficed everywhere.
    """
    key, cohort = setting.key.fold("round", world.round), called(setting, world)
    work = setting.method.work(
        setting.spec, cohort, setting.codec, batch_size=setting.batch_size, missed_bits=_missed(world, cohort)
    )
    compute = setting.fleet.compute(cohort, work, world)
    if anyhow:
        compute = replace(compute, fits=np.ones_like(compute.fits), powered=np.ones_like(compute.powered))
    server_s, server_j = setting.server.cost(work.server_flops)
    cloud_s, cloud_bits = cloud(setting, cohort, work)
    delivery = setting.network.deliver(
        world,
        cohort,
        work,
        compute,
        key.fold("network"),
        static_key=setting.key.fold("scenario"),
        deadline_s=setting.federation.deadline_s,
        server_s=server_s + cloud_s,
        server_j=server_j,
    )
    delivery = _with_quorum(delivery, setting.federation.quorum)
    return Turn(cohort, work, compute, delivery, key, cloud_s, cloud_bits)


def called(setting: Setting, world: World) -> Cohort:
    """The round's cohort: who of those that answer is asked to take part."""
    key = setting.key.fold("round", world.round)
    available = setting.fleet.available(world, setting.population.device, key.fold("available"))
    return cohort_of(setting, world, setting.sampler.select(available, key.fold("sample")))


def booked(setting: Setting, world: World, like: Turn, times: float = 1.0) -> World:
    """The world after a round that is not looked at: its cohort gets the broadcast, all else is as in ``like``.

    Clients spend ``times`` what those with the same class of device spent there, and as many are heard. Nobody moves,
    and schedulers remember nothing of it.
    """
    cohort, was = called(setting, world), like.delivery
    spent_j = times * _by_class(like.cohort.device, was.radio_j + was.compute_j, len(setting.fleet.names))
    battery_j, last = world.battery_j.copy(), world.last_round.copy()
    battery_j[cohort.ids] = np.maximum(battery_j[cohort.ids] - spent_j[cohort.device], 0.0)
    last[cohort.ids] = world.round
    everybody = np.ones(len(cohort), dtype=bool)
    heard = float(was.heard.mean()) if len(was.heard) else 0.0
    change = heard * setting.method.base_bits(setting.spec, cohort, everybody)
    awake_s, used_s = world.radio_until_s, was.radio_last_s
    if used_s is not None and np.isfinite(used_s).any():
        awake_s = np.full(len(last), -np.inf) if awake_s is None else awake_s.copy()
        awake_s[cohort.ids] = world.clock_s + used_s[np.isfinite(used_s)].mean()
    return replace(
        world,
        round=world.round + 1,
        clock_s=world.clock_s + was.round_s,
        battery_j=battery_j,
        last_round=last,
        base_bits=np.append(world.base_bits, change),
        radio_until_s=awake_s,
    )


def _by_class(device: Ints, values: Floats, classes: int) -> Floats:
    """Means ``[classes]``; of all where a class was not met."""
    count = np.bincount(device, minlength=classes)
    total = np.bincount(device, weights=values, minlength=classes)
    return np.where(count > 0, total / np.maximum(count, 1), values.mean() if len(values) else 0.0)


def demand(setting: Setting) -> Compute:
    """What a round asks of every client's device, ``[N]``, were all of them in the cohort."""
    world = setting.world()
    everyone = cohort_of(setting, world, np.arange(len(setting.population)))
    work = setting.method.work(
        setting.spec, everyone, setting.codec, batch_size=setting.batch_size, missed_bits=np.zeros(len(everyone))
    )
    return setting.fleet.compute(everyone, work, world)


def cloud(setting: Setting, cohort: Cohort, work: Work) -> tuple[float, float]:
    """Seconds and bits of the way to the cloud and back; 0 without one.

    Up goes the sum in float32, or every client's reply as it was sent where the method needs each; down comes what is
    broadcast, with the change of the base. The cohort counts as heard.
    """
    if setting.server.cloud is None:
        return 0.0, 0.0
    method, spec = setting.method, setting.spec
    schema = method.uplink(spec)
    summed = all(part.reduce == "sum" for part in schema.values())
    up = 32.0 * count_values(schema) if summed else float(work.up_bits.sum())
    change = method.base_bits(spec, cohort, np.ones(len(cohort), dtype=bool))
    bits = up + setting.codec.down_bits(method.downlink(spec)) + change
    return setting.server.cloud.seconds(bits), bits


def _with_quorum(delivery: Delivery, quorum: int) -> Delivery:
    """Below the quorum the server gives the round up, and tells the clients: nobody was heard."""
    if delivery.heard.sum() >= quorum:
        return delivery
    status = np.where(delivery.heard, STATUS["quorum"], delivery.status)
    return replace(delivery, status=status, coefficient=np.zeros_like(delivery.coefficient))


def cohort_of(setting: Setting, world: World, ids: Ints) -> Cohort:
    """The clients ``ids`` as a round's cohort."""
    population = setting.population
    samples = population.samples[ids]
    steps, rows = setting.method.amount(samples, setting.batch_size)
    weight = samples.astype(np.float64) if setting.method.weighting == "samples" else np.ones(len(ids))
    return Cohort(
        round=world.round,
        ids=ids,
        weight=weight,
        samples=samples,
        steps=steps,
        rows=rows,
        rank=population.rank[ids],
        device=population.device[ids],
        last_round=world.last_round[ids],
        site=np.zeros(len(ids), dtype=np.int64),
    )


def _missed(world: World, cohort: Cohort) -> Floats:
    """Bits of the base changes that each client has not heard: all since the broadcast it heard last.

    The change that round r causes travels with the broadcast of round r + 1, so a client that heard round r's broadcast
    still lacks the changes from r on.
    """
    total = np.concatenate([[0.0], np.cumsum(world.base_bits)])
    return total[-1] - total[np.clip(cohort.last_round, 0, None)]
