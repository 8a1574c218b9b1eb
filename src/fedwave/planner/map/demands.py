"""What a model under a recipe asks for, on every device: bits, seconds, joules, bytes. No network is part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedwave.core.types import Bools, Cohort, Compute, Floats, Ints, Work
from fedwave.devices.fleet import Fleet
from fedwave.federation.setting import Setting, Turn, cloud, cohort_of
from fedwave.planner.needs import Needs, needs
from fedwave.planner.server import ServerNeeds, server_needs


@dataclass(frozen=True)
class Demand:
    """Of one model under one recipe; rounds ``R``, clients of a round ``C``, devices ``D``, phases ``P``.

    Parameters
    ----------
    setting : of the job, on some device and network.
    cohorts : of the rounds.
    down_bits, up_bits : of each phase, round and client, ``[P, R, C]``, changes of the base model apart; 0 where there
        is no client.
    change_bits : of the base model that each round causes if all are heard, ``[R]``.
    seconds, joules : of computing, ``[P, D, R, C]``.
    idle_w, fits : ``[D]``.
    server_s : at the end of a round, the way to the cloud included.
    needs : of each device, its radio left out.
    server : what the edge server needs.
    """

    setting: Setting
    cohorts: tuple[Cohort, ...]
    down_bits: Floats
    up_bits: Floats
    change_bits: Floats
    seconds: Floats
    joules: Floats
    idle_w: Floats
    fits: Bools
    server_s: float
    needs: tuple[Needs, ...]
    server: ServerNeeds


def demand(setting: Setting, devices: Sequence[str], ids: Ints, asked: Bools) -> Demand:
    """Of the job ``setting`` for cohorts ``ids [R, C]`` (of which those ``asked`` count), on each of ``devices``."""
    world, kinds, count = setting.world(), len(devices), int(asked.sum())
    fleet = replace(setting.fleet, mix=dict.fromkeys(devices, 1.0))
    cohorts = tuple(cohort_of(setting, world, row[who]) for row, who in zip(ids, asked, strict=True))
    everywhere = cohort_of(setting, world, np.tile(ids[asked], kinds))
    everywhere = replace(everywhere, device=np.repeat([fleet.names.index(name) for name in devices], count))
    work = setting.method.work(
        setting.spec, everywhere, setting.codec, batch_size=setting.batch_size, missed_bits=np.zeros(len(everywhere))
    )
    full = replace(world, battery_j=np.full_like(world.battery_j, np.inf))
    compute = fleet.compute(everywhere, work, full)

    def placed(values: Any) -> Floats:
        """``[D * count]`` as ``[D, R, C]``."""
        table = np.zeros((kinds, *ids.shape))
        table[:, asked] = np.broadcast_to(values, len(everywhere)).reshape(kinds, count)
        return table

    found, server = _needs(setting, fleet, everywhere, work, compute), _server(setting, max(cohorts, key=len))
    return Demand(
        setting=setting,
        cohorts=cohorts,
        down_bits=np.stack([placed(phase.down_bits)[0] for phase in work.phases]),
        change_bits=_changes(setting, cohorts),
        up_bits=np.stack([placed(phase.up_bits)[0] for phase in work.phases]),
        seconds=np.stack([placed(values) for values in compute.seconds]),
        joules=np.stack([placed(values) for values in compute.joules]),
        idle_w=placed(compute.idle_w).max((1, 2)),
        fits=placed(compute.fits).max((1, 2)) > 0.0,
        server_s=server.compute_s + server.cloud_s,
        needs=tuple(found[name] for name in devices),
        server=server,
    )


def received(one: Demand, asked: Bools, got: Bools, heard: Bools) -> Floats:
    """``[P, R, C]`` bits down, with all changes of the base model since the broadcast that each client ``got`` last.

    ``heard [R, C]``: whose updates count, and change it.
    """
    if not one.change_bits.any():
        return one.down_bits
    setting, missed, total = one.setting, np.zeros(asked.shape), np.zeros(1)
    last = np.zeros(len(setting.population), dtype=np.int64)
    for index, cohort in enumerate(one.cohorts):
        who = asked[index]
        missed[index, who] = total[-1] - total[last[cohort.ids]]
        counted = heard[index, who]
        change = one.change_bits[index]
        if not counted.all():
            change = setting.method.base_bits(setting.spec, cohort, counted)
        total = np.append(total, total[-1] + change)
        last[cohort.ids[got[index, who]]] = index
    return one.down_bits + (np.arange(len(one.down_bits)) == 0)[:, None, None] * missed


def _changes(setting: Setting, cohorts: Sequence[Cohort]) -> Floats:
    """``[R]`` bits of the change of the base model that each round causes, everybody being heard."""
    bits = np.zeros(len(cohorts))
    for index, cohort in enumerate(cohorts):
        bits[index] = setting.method.base_bits(setting.spec, cohort, np.ones(len(cohort), dtype=bool))
        if not bits[index] and not index:
            break  # this method never changes the base
    return bits


def _server(setting: Setting, cohort: Cohort) -> ServerNeeds:
    """Of a round with ``cohort``."""
    work = setting.method.work(
        setting.spec, cohort, setting.codec, batch_size=setting.batch_size, missed_bits=np.zeros(len(cohort))
    )
    unknown: Any = None  # it needs neither the devices' computing nor what arrives
    return server_needs(setting, [Turn(cohort, work, unknown, unknown, setting.key, *cloud(setting, cohort, work))])


def _needs(setting: Setting, fleet: Fleet, cohort: Cohort, work: Work, compute: Compute) -> dict[str, Needs]:
    """As of a plan's rehearsed round in which every client has every device."""
    none = np.zeros(len(cohort))
    silent: Any = SimpleNamespace(radio_j=none, radio_parts_j={}, compute_j=none)
    of_all = replace(setting, fleet=fleet)
    found = needs(of_all, [Turn(cohort, work, compute, silent, setting.key)])
    return {name: replace(one, clients=len(setting.population), share=1.0) for name, one in found.items()}
