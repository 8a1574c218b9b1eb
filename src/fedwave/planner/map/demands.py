"""What a model under a recipe asks for, on every device: bits, seconds, joules, bytes. No network is part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedwave.core.types import Bools, Cohort, Compute, Floats, Ints, Work
from fedwave.devices.fleet import Fleet
from fedwave.federation.setting import Setting, Turn, cohort_of
from fedwave.planner.needs import Needs, needs


@dataclass(frozen=True)
class Demand:
    """Of one model under one recipe; rounds ``R``, clients of a round ``C``, devices ``D``, phases ``P``.

    Parameters
    ----------
    setting : of the job, on some device and network.
    down_bits, up_bits : of each phase, round and client, ``[P, R, C]``; 0 where there is no client.
    seconds, joules : of computing, ``[P, D, R, C]``.
    idle_w, fits : ``[D]``.
    server_s : at the end of a round.
    needs : of each device, its radio left out.
    """

    setting: Setting
    down_bits: Floats
    up_bits: Floats
    seconds: Floats
    joules: Floats
    idle_w: Floats
    fits: Bools
    server_s: float
    needs: tuple[Needs, ...]


def demand(setting: Setting, fleet: Fleet, ids: Ints, asked: Bools) -> Demand:
    """Of the job ``setting`` for cohorts ``ids [R, C]`` (of which those ``asked`` count), on each class of ``fleet``.

    Every client is taken to hear every broadcast.
    """
    world, devices, count = setting.world(), len(fleet.names), int(asked.sum())
    cohorts = [cohort_of(setting, world, row[who]) for row, who in zip(ids, asked, strict=True)]
    everywhere = cohort_of(setting, world, np.tile(ids[asked], devices))
    everywhere = replace(everywhere, device=np.repeat(np.arange(devices), count))
    work = setting.method.work(
        setting.spec, everywhere, setting.codec, batch_size=setting.batch_size, missed_bits=np.zeros(len(everywhere))
    )
    full = replace(world, battery_j=np.full_like(world.battery_j, np.inf))
    compute = fleet.compute(everywhere, work, full)

    def placed(values: Any) -> Floats:
        """``[D * count]`` as ``[D, R, C]``."""
        table = np.zeros((devices, *ids.shape))
        table[:, asked] = np.broadcast_to(values, len(everywhere)).reshape(devices, count)
        return table

    down = np.stack([placed(phase.down_bits)[0] for phase in work.phases])
    down[0] += _missed(setting, cohorts, asked)
    return Demand(
        setting=setting,
        down_bits=down,
        up_bits=np.stack([placed(phase.up_bits)[0] for phase in work.phases]),
        seconds=np.stack([placed(values) for values in compute.seconds]),
        joules=np.stack([placed(values) for values in compute.joules]),
        idle_w=placed(compute.idle_w).max((1, 2)),
        fits=placed(compute.fits).max((1, 2)) > 0.0,
        server_s=setting.server.cost(setting.method.server_flops(setting.spec, cohorts[0]))[0],
        needs=_needs(setting, fleet, everywhere, work, compute),
    )


def _missed(setting: Setting, cohorts: Sequence[Cohort], asked: Bools) -> Floats:
    """``[R, C]`` bits of the changes of the base model since the broadcast that each client heard last."""
    missed, total = np.zeros(asked.shape), np.zeros(1)
    last = np.zeros(len(setting.population), dtype=np.int64)
    for index, cohort in enumerate(cohorts):
        missed[index, asked[index]] = total[-1] - total[last[cohort.ids]]
        heard = np.ones(len(cohort), dtype=bool)
        change = setting.method.base_bits(setting.spec, cohort, heard)
        if not change and not index:
            break  # this method never changes the base
        total = np.append(total, total[-1] + change)
        last[cohort.ids] = index
    return missed


def _needs(setting: Setting, fleet: Fleet, cohort: Cohort, work: Work, compute: Compute) -> tuple[Needs, ...]:
    """As of a plan's rehearsed round in which every client has every device."""
    silent: Any = SimpleNamespace(radio_j=np.zeros(len(cohort)))
    of_all = replace(setting, fleet=fleet)
    found = needs(of_all, [Turn(cohort, work, compute, silent, setting.key)])
    return tuple(replace(found[name], clients=len(setting.population)) for name in fleet.names)
