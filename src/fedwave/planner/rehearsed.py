"""Which rounds a plan looks at: the first ones of the job as it stands, and of the same job with other seeds.

Places, shadows, devices, data and cohorts all follow from a job's seed. One seed says what happens to those who were
drawn, several say what happens: seeds differ more from each other than rounds of one seed do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import RoundRecord
from fedwave.experiment import Experiment
from fedwave.federation.setting import Setting, Turn
from fedwave.federation.sync import rehearse
from fedwave.wireless.network import Network

_SEEDS, _FEWEST = 16, 6
_EFFORT = 1_000_000  # clients (and the background's) x cells, over all seeds: from there on fewer seeds
_BACKGROUND = 50  # of a cell
_ROUNDS = 4  # of a seed
_LONG = 30  # where a round depends on those before

Round = tuple[RoundRecord, Turn]


@dataclass(frozen=True)
class Rehearsed:
    """Rounds of several seeds.

    Parameters
    ----------
    rounds : as they would be.
    costs : the same; where nobody can take part, as if memory and batteries sufficed, and ``rounds`` are those of the
        own seed alone.
    seeds : how many.
    """

    rounds: list[Round]
    costs: list[Round]
    seeds: int

    @property
    def takes_place(self) -> bool:
        """Somebody can take part."""
        return self.costs is self.rounds


def rehearsed(experiment: Experiment, setting: Setting, rounds: int | None) -> Rehearsed:
    """Rounds of ``setting`` and, without ``rounds``, of the same job with other seeds.

    A first round, in which every radio sleeps, is one of many in a job: here it is one of the own seed alone.
    """
    count = rounds or min(setting.rounds, _ROUNDS)
    own = list(rehearse(setting, count))
    anyhow = not any(turn.delivery.trained.any() for _, turn in own)
    long, seeds = count, 1
    if rounds is None:
        seeds = _seeds(setting)
        if _builds_up(setting, own[0][1]):
            seeds, long = _FEWEST, min(setting.rounds, _LONG)
    costs = own if not anyhow and long == count else list(rehearse(setting, long, anyhow=anyhow))
    skipped = int(long < setting.rounds)
    others = list(_others(experiment, setting, seeds - 1))
    for other in others:
        costs = costs + list(rehearse(other, long + skipped, anyhow=anyhow))[skipped:]
    return Rehearsed(own if anyhow else costs, costs, 1 + len(others))


def _seeds(setting: Setting) -> int:
    cells = cells_of(setting.network)
    return int(np.clip(_EFFORT // ((len(setting.population) + _BACKGROUND * cells) * cells), _FEWEST, _SEEDS))


def cells_of(network: Network) -> int:
    """Cells whose load is worked out in every round; 1 where there is nothing of the kind."""
    return getattr(network, "sites", 1) * getattr(network, "sectors", 1)


def _others(experiment: Experiment, setting: Setting, count: int) -> Iterator[Setting]:
    """The job with other seeds. One that leaves a client without data is no job, and is passed over."""
    for number in range(count):
        seed = setting.key.fold("plan", number).value % 2**31
        try:
            yield replace(setting, seed=seed, population=experiment.population(seed))
        except BadInput:
            continue


def _builds_up(setting: Setting, turn: Turn) -> bool:
    """Later rounds are not as the first ones: base changes pile up, schedulers remember, batteries run low."""
    if setting.method.base_bits(setting.spec, turn.cohort, np.ones(len(turn.cohort), dtype=bool)):
        return True
    if any(name.startswith("scheduler.") for name in turn.delivery.remembered):
        return True
    fleet, device = setting.fleet, turn.cohort.device
    spent_j = turn.delivery.radio_j + turn.delivery.compute_j
    each = setting.rounds * len(turn.cohort) / max(len(setting.population), 1)
    left = 1.0 - fleet.min_charge / fleet.initial_charge
    return bool((each * spent_j > left * fleet.batteries(device)).any())
