"""A network as the map sees it: what transfers of any size take, from rehearsals of a few sizes.

The job's cohorts receive, wait and send payloads of one size, for sizes evenly spaced on a logarithmic scale: seconds,
joules, connecting, resource blocks and fate of every client of every round. Between two sizes, and beyond the ends,
everything is linear in the bits, which is exact where a transfer takes a fixed time and a time per bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fedwave.core.types import STATUS, Bools, Cohort, Delivery, Floats, Ints, Phase, Work
from fedwave.devices.device import Device
from fedwave.devices.fleet import Fleet
from fedwave.federation.setting import Setting, Turn, called
from fedwave.federation.sync import Sync, rehearse

Way = Literal["down", "up"]
_PER_DECADE = 1.0  # sizes that are rehearsed


@dataclass(frozen=True)
class Transfers:
    """Transfers of all clients of all rounds, ``[..., R, C]``: NaN seconds where they do not come about.

    ``status`` is an index into :data:`~fedwave.core.types.STATUSES`; ``carrier_blocks [..., R]`` the uplink resource
    blocks there are in the cells in use.
    """

    seconds: Floats
    joules: Floats
    access_s: Floats
    block_s: Floats
    carrier_blocks: Floats
    status: Ints


@dataclass(frozen=True)
class Links:
    """One network under one job.

    Parameters
    ----------
    ids : clients of each round's cohort, ``[R, C]``.
    asked : ``[R, C]`` False where a round's cohort is smaller than the largest.
    sizes_bits : sizes that were rehearsed; ``tables`` what came of them in each direction.
    inactivity_s : computing for longer lets the radio fall asleep.
    awake_s, awake_j : ``[R, C]`` what a client saves whose radio is still awake when it sends.
    """

    ids: Ints
    asked: Bools
    sizes_bits: Floats
    tables: dict[Way, Transfers]
    inactivity_s: float
    awake_s: Floats
    awake_j: Floats

    def mean(self, way: Way, bits: Floats) -> Floats:
        """Of ``bits [..., R, C]`` over the clients of each round that have a link; over all where nobody has one."""
        linked = self.asked & (self.tables[way].status[0] == 0)
        who = np.where(linked.any(-1, keepdims=True), linked, self.asked)
        return (bits * who).sum(-1) / np.maximum(who.sum(-1), 1)

    def fate(self, down_bits: Floats, up_bits: Floats) -> tuple[Bools, Bools]:
        """``[R, C]`` who gets a broadcast, and whose update is heard, were nobody late, of payloads ``[P, R, C]``."""
        got = heard = self.asked
        for phase in range(len(up_bits)):
            down = self.transfers("down", self.mean("down", down_bits[phase])[None]).status[0] == 0
            heard = heard & down & (self.transfers("up", self.mean("up", up_bits[phase])[None]).status[0] == 0)
            got = got & down if not phase else got
        return got, heard

    def transfers(self, way: Way, bits: Floats) -> Transfers:
        """Of ``bits [M, R]``, the mean over a round's cohort; nothing happens where they are 0."""
        sizes, table = self.sizes_bits, self.tables[way]
        upper = np.searchsorted(sizes, bits).clip(min(1, len(sizes) - 1), len(sizes) - 1)
        lower = np.maximum(upper - 1, 0)
        width = sizes[upper] - sizes[lower]
        share = np.divide(bits - sizes[lower], width, out=np.zeros_like(bits), where=width > 0.0)
        rounds = np.arange(bits.shape[1])[None, :]
        near = np.where(bits**2 > sizes[lower] * sizes[upper], upper, lower)
        some = bits > 0.0

        def between(values: Floats) -> Floats:
            """On the line through the two sizes, also beyond the ends; never below 0."""
            part = share[..., None] if values.ndim == 3 else share
            low, high = values[lower, rounds], values[upper, rounds]
            low, high = np.where(np.isnan(low), high, low), np.where(np.isnan(high), low, high)
            found = np.maximum(low + part * (high - low), 0.0)
            return np.where(some[..., None] if values.ndim == 3 else some, found, 0.0)

        status = np.where(some[..., None], table.status[near, rounds], 0)
        return Transfers(
            seconds=np.where(status == 0, between(table.seconds), np.nan),
            joules=between(table.joules),
            access_s=between(table.access_s),
            block_s=between(table.block_s),
            carrier_blocks=between(table.carrier_blocks),
            status=status,
        )


@dataclass(frozen=True)
class _Payload:
    """Stands where a job's method stands, and asks for transfers alone; ``wait_s`` of computing lie between them."""

    down_bits: float
    up_bits: float
    wait_s: float
    weighting: str = "uniform"

    def amount(self, samples: Ints, batch_size: int) -> tuple[Ints, Ints]:
        """No steps, no rows."""
        return np.zeros_like(samples), np.zeros_like(samples)

    def work(self, spec: Any, cohort: Cohort, wire: Any, *, batch_size: int, missed_bits: Floats) -> Work:
        """One phase, with as many FLOPs as seconds."""
        none = np.zeros(len(cohort))
        phase = Phase(none + self.down_bits, none + self.wait_s, none + self.up_bits)
        return Work(phases=(phase,), memory_bytes=none, touched_bytes=none)

    def base_bits(self, spec: Any, cohort: Cohort, heard: Bools) -> float:
        """The base model stays as it is."""
        return 0.0


def sizes_bits(payloads: Floats) -> Floats:
    """Sizes to rehearse so that all positive ``payloads`` are between two of them."""
    some = payloads[payloads > 0.0]
    if not some.size:
        return np.array([1.0])
    low, high = np.log10(some.min()), np.log10(some.max())
    count = 1 + int(np.ceil((high - low) * _PER_DECADE - 1e-9))
    return np.logspace(low, high, count) if count > 1 else np.array([some.min()])


def cohorts(setting: Setting, rounds: int) -> tuple[Ints, Bools]:
    """Ids ``[R, C]`` of the clients of each round, filled up where a cohort is smaller; who of them is asked.

    Nobody declines for want of charge: the cohorts serve for devices with and without batteries.
    """
    world = setting.world()
    world = replace(world, battery_j=np.full_like(world.battery_j, np.inf))
    called_ids = [called(setting, replace(world, round=index)).ids for index in range(rounds)]
    most = max(map(len, called_ids), default=0)
    ids, asked = np.zeros((rounds, most), dtype=np.int64), np.zeros((rounds, most), dtype=bool)
    for index, some in enumerate(called_ids):
        ids[index, : len(some)], asked[index, : len(some)] = some, True
    return ids, asked


def links(setting: Setting, ids: Ints, asked: Bools, payloads: Floats) -> Links:
    """Rehearse the network of ``setting`` with its cohorts (:func:`cohorts`), for ``payloads`` like those given.

    Deadlines are not part of it. Devices play no part either: they have no battery, and all of them wait equally long
    between receiving and sending, until their radios sleep.
    """
    fleet = Fleet(mix={"any": 1.0}, availability=setting.fleet.availability, device={"any": _ANY})
    alone = replace(
        setting,
        network=setting.network.for_planning(),
        fleet=fleet,
        federation=Sync(),
        population=replace(setting.population, device=np.zeros_like(setting.population.device)),
    )
    sizes, inactivity_s = sizes_bits(payloads), _inactivity_s(setting.network)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        down = _table([_turns(alone, len(ids), _Payload(size, 0.0, 0.0)) for size in sizes], "down", asked)
        asleep_s = inactivity_s + 1.0
        both = _table([_turns(alone, len(ids), _Payload(size, size, asleep_s)) for size in sizes], "up", asked)
        up = replace(both, joules=both.joules - down.joules, access_s=both.access_s - down.access_s)
        awake = _table([_turns(alone, len(ids), _Payload(sizes[0], sizes[0], 0.0))], "up", asked)
    awake_s, awake_j = both.seconds[0] - awake.seconds[0], both.joules[0] - awake.joules[0]
    return Links(ids, asked, sizes, {"down": down, "up": up}, inactivity_s, np.nan_to_num(awake_s), awake_j)


_ANY = Device(
    peak_flops=1.0, training_efficiency=1.0, memory_bytes=1.0, memory_bandwidth_bytes_s=1.0, active_power_w=1.0
)


def _turns(setting: Setting, rounds: int, payload: Any) -> list[Turn]:
    return [turn for _, turn in rehearse(replace(setting, method=payload), rounds)]


def _table(sizes: list[list[Turn]], way: Way, asked: Bools) -> Transfers:
    def stacked(what: Callable[[Delivery], Any], empty: float) -> Floats:
        table = np.full((len(sizes), *asked.shape), empty)
        for at, turns in enumerate(sizes):
            for index, turn in enumerate(turns):
                values = what(turn.delivery)
                if values is not None:
                    table[at, index, : len(turn.cohort)] = values
        return table

    there = [[_per_s(turn.delivery) for turn in turns] for turns in sizes]
    return Transfers(
        seconds=stacked(lambda d: d.downlink_s if way == "down" else d.uplink_s, np.nan),
        joules=stacked(lambda d: d.radio_j, 0.0),
        access_s=stacked(lambda d: d.access_s, 0.0),
        block_s=stacked(lambda d: d.block_s, 0.0),
        carrier_blocks=np.array(there),
        status=stacked(lambda d: np.where(d.status == STATUS["quorum"], 0, d.status), 0).astype(np.int64),
    )


def _per_s(delivery: Delivery) -> float:
    """Uplink resource blocks that there are in the cells in use."""
    return delivery.carrier_block_s / delivery.round_s if delivery.round_s > 0.0 else 0.0


def _inactivity_s(network: Any) -> float:
    """How long the network's radios stay connected without a transfer; 0 where they have no such timer."""
    connection = getattr(network, "connection", network)
    return float(getattr(connection, "inactivity_s", 0.0))
