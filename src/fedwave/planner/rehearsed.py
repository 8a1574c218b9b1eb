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
from fedwave.federation.setting import Setting, Turn, demand
from fedwave.federation.sync import rehearse

_ROUNDS = 2  # of a seed
_LONG = 30  # where a round depends on those before, and the job is small
_BUDGET_MS, _LONG_BUDGET_MS = 210.0, 150.0  # of a 2026 machine, for a plan in a second; a plan is the same on any other
_ROUND_MS, _PLACING_MS = (0.6, 1.5), (0.0, 9.0)  # of a small job without and with cells, whose seeds need shadow maps
_SMALL = 1_000  # clients x cells
_BACKGROUND = 1  # clients' worth of a cell
_FEWEST, _MOST = 6, 60  # seeds
_HORIZON = 1_500  # rounds that are booked in all, where what happens adds up over the job
_FEWEST_LONG = 2  # seeds then

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
    horizon : rounds that were gone through as the whole job, where what happens in them adds up; else 0.
    """

    rounds: list[Round]
    costs: list[Round]
    seeds: int
    horizon: int = 0

    @property
    def takes_place(self) -> bool:
        """Somebody can take part."""
        return self.costs is self.rounds


def rehearsed(experiment: Experiment, setting: Setting, rounds: int | None) -> Rehearsed:
    """Rounds of ``setting`` and, without ``rounds``, of the same job with other seeds.

    A first round, in which every radio sleeps, has the share of the rehearsed rounds that it has of the job's.
    """
    count = min(rounds or _ROUNDS, setting.rounds)
    own = list(rehearse(setting, count))
    anyhow = not any(turn.delivery.trained.any() for _, turn in own) and not _somebody_can(setting)
    if rounds:
        costs = list(rehearse(setting, count, anyhow=True)) if anyhow else own
        return Rehearsed(own if anyhow else costs, costs, 1)
    if _adds_up(setting, own, anyhow):
        return _over_the_job(experiment, setting, anyhow)
    long = _long(setting) if _remembers(setting, own) else count
    costs = own if not anyhow and long == count else list(rehearse(setting, long, anyhow=anyhow))
    others = list(_others(experiment, setting, _seeds(setting, long) - 1))
    firsts = (1 + len(others)) * long / setting.rounds  # so many seeds from their first round on, the others later
    for number, other in enumerate(others, 1):
        later = int(number >= firsts)
        costs = costs + list(rehearse(other, long + later, anyhow=anyhow))[later:]
    return Rehearsed(own if anyhow else costs, costs, 1 + len(others))


def _somebody_can(setting: Setting) -> bool:
    """Whether any client's memory and battery suffice for a round."""
    asked = demand(setting)
    return bool((asked.fits & asked.powered).any())


def _over_the_job(experiment: Experiment, setting: Setting, anyhow: bool) -> Rehearsed:
    """Of each seed rounds spread over the whole job, those between them booked: what adds up does so all along."""
    horizon = min(setting.rounds, _HORIZON)
    count, times = min(_long(setting), horizon), setting.rounds / horizon
    at = ((np.arange(count) + 0.5) * horizon / count).astype(np.int64).tolist()
    seeds = max(min(_HORIZON // horizon, _seeds(setting, count)), _FEWEST_LONG)
    costs: list[Round] = []
    settings = [setting, *_others(experiment, setting, seeds - 1)]
    for one in settings:
        costs += rehearse(one, at, anyhow=anyhow, times=times)
    rounds = list(rehearse(setting, at, times=times)) if anyhow else costs
    return Rehearsed(rounds, costs, len(settings), horizon)


def _costs_ms(setting: Setting) -> tuple[float, float]:
    """Of a round, and of a seed's places, about."""
    cells = getattr(setting.network, "sites", 0) * getattr(setting.network, "sectors", 0)
    size = max((len(setting.population) + _BACKGROUND * cells) * max(cells, 1) / _SMALL, 1.0)
    return size * _ROUND_MS[cells > 0], size * _PLACING_MS[cells > 0]


def _seeds(setting: Setting, rounds: int) -> int:
    """As many as the budget has room for."""
    round_ms, placing_ms = _costs_ms(setting)
    return int(np.clip(_BUDGET_MS // (round_ms * rounds + placing_ms), _FEWEST, _MOST))


def _long(setting: Setting) -> int:
    """Rounds of a seed where they depend on those before: as many as there is room for with the fewest seeds."""
    round_ms, _ = _costs_ms(setting)
    return min(setting.rounds, int(np.clip(_LONG_BUDGET_MS // (_FEWEST * round_ms), _ROUNDS, _LONG)))


def _others(experiment: Experiment, setting: Setting, count: int) -> Iterator[Setting]:
    """The job with other seeds. One that leaves a client without data is no job, and is passed over."""
    for number in range(count):
        seed = setting.key.fold("plan", number).value % 2**31
        try:
            yield replace(setting, seed=seed, population=experiment.population(seed))
        except BadInput:
            continue


def _adds_up(setting: Setting, rounds: list[Round], anyhow: bool) -> bool:
    """Rounds differ all along the job: base changes pile up, or batteries (that count) run low before its end."""
    turn = rounds[-1][1]
    if setting.method.base_bits(setting.spec, turn.cohort, np.ones(len(turn.cohort), dtype=bool)):
        return True
    if anyhow:
        return False
    fleet = setting.fleet
    each = setting.rounds * len(turn.cohort) / max(len(setting.population), 1)
    spent_j = each * (turn.delivery.radio_j + turn.delivery.compute_j)
    there_j = (1.0 - fleet.min_charge / fleet.initial_charge) * fleet.batteries(turn.cohort.device)
    return bool((spent_j > there_j).any())


def _remembers(setting: Setting, rounds: list[Round]) -> bool:
    """A round is not as the first ones: schedulers remember, or it finds radios of the last one awake."""
    turn = rounds[-1][1]
    if any(name.startswith("scheduler.") for name in turn.delivery.remembered):
        return True
    connection = getattr(setting.network, "connection", setting.network)
    return max(record.round_s for record, _ in rounds) < getattr(connection, "inactivity_s", 0.0)
