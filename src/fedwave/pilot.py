"""A few real rounds of a job with a small cohort: what a round does for the model, and how many a target takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedwave import console
from fedwave.console import Progress
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.models import sources
from fedwave.planner import Plan
from fedwave.planner.forecast import Forecast, forecast
from fedwave.results.format import MISSING, data, duration
from fedwave.simulation import Simulation
from fedwave.tasks.pretrained import pretrained_of

COHORT = 8  # clients of a pilot's round at most
FAR = 5.0  # times the rounds of the pilot, from which on a forecast is far from what was seen
_FALLS = {"loss": True, "distance": True, "accuracy": False}  # metrics of which it is known which way is better


@dataclass(frozen=True)
class Target:
    """A held-out metric and what it shall come to."""

    metric: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """From ``METRIC=VALUE``. Raises :class:`BadInput`."""
        name, equals, raw = text.partition("=")
        try:
            value = float(raw)
        except ValueError:
            value = math.nan
        if not (equals and name.strip() and math.isfinite(value)):
            raise BadInput(f"--target: must be METRIC=VALUE, as in loss=2.5 or accuracy=0.8, got {text!r:.60}")
        return cls(name.strip(), value)


@dataclass(frozen=True)
class Pilot:
    """What was measured.

    Parameters
    ----------
    cohort, rounds : clients asked in a round, rounds played.
    curves : held-out metrics by name, after 0, 1, ... ``rounds`` rounds; ``None`` where a value is not finite.
    wall_s : of all rounds on this machine, evaluation included.
    delivered : share of the updates that counted.
    target, forecast : what was asked, and the rounds that it takes.
    """

    cohort: int
    rounds: int
    curves: dict[str, list[float | None]]
    wall_s: float
    delivered: float
    target: Target | None = None
    forecast: Forecast | None = None

    def sentence(self) -> str:
        """The rounds to the target, how they were found, and what is taken for granted."""
        target, found = self.target, self.forecast
        if target is None or found is None:
            return ""
        goal = f"{target.metric} {target.value:g}"
        if found.rounds == 0:
            start = self.curves[target.metric][0]
            return f"{goal} is met already, {start:.4g} before the first round; the plan is for one round, the least"
        if found.measured:
            return f"{goal} was reached after {found.rounds} of the pilot's rounds"
        if found.rounds is None:
            agree = f" ({found.never:.0%} of refits agree)" if found.curve else ""
            return f"{goal} is not reached as far as the pilot can say, so rounds are the job's: {found.reason}{agree}"
        span = "hardly one gets there" if found.low is None else f"{found.low} or more"
        span = span if found.high is None else f"{found.low} to {found.high}"
        times = found.rounds / self.rounds
        far = (
            f"; {times:.0f} times the rounds played, so play more of them before you believe it" if times > FAR else ""
        )
        return (
            f"{goal} takes {found.rounds} rounds (90 % of refits: {span}) by a power law through {self.rounds + 1} "
            "points; that it goes on like this and does not level off, and for the job's own cohort, is an assumption"
            + far
        )

    def lines(self, plan: Plan) -> Iterator[str]:
        """What the pilot measured, and what follows for the rounds of the plan."""
        yield f"pilot: {self.rounds} rounds of {self.cohort} clients took {duration(self.wall_s)} on this machine"
        for name, values in self.curves.items():
            yield f"  {name:<10} " + " ".join(MISSING if value is None else f"{value:.4g}" for value in values)
        if self.target is None or self.forecast is None:
            yield f"  the plan is for the job's {plan.rounds} rounds; --target METRIC=VALUE asks how many it takes"
            return
        yield f"  {self.sentence()}"
        found = self.forecast
        for word, rounds in (("at best", found.low), ("at worst", found.high)) if not found.measured else ():
            if rounds is not None:
                share = rounds / plan.rounds
                yield (
                    f"  {word:<10} {rounds} rounds: {duration(share * plan.total_s)}, "
                    f"{share * plan.total_energy_j / 3.6e6:.3g} kWh, {data(share * plan.total_bits)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain table."""
        found, table = self.forecast, {name: value for name, value in vars(self).items() if name != "forecast"}
        table["target"] = None if self.target is None else vars(self.target)
        if found is not None:
            table["forecast"] = vars(found) | {"curve": None if found.curve is None else vars(found.curve)}
            table["sentence"] = self.sentence()
        return table


def pilot(experiment: Experiment, rounds: int, target: Target | None = None, *, quiet: bool = True) -> Pilot:
    """Play ``rounds`` rounds of ``experiment`` with at most :data:`COHORT` clients, evaluated after each.

    Everything else is the job's: method, data, transforms, network, devices.

    Raises :class:`BadInput` where real training is impossible here or the task does not report the target's metric,
    :class:`Infeasible` where no device can hold the training.
    """
    if rounds < 1:
        raise BadInput(f"--pilot: must be 1 or more rounds, got {rounds}")
    job = small(experiment, rounds)
    _check_weights(job)
    simulation, records = console.watch(lambda progress: _start(job, target, progress), quiet=quiet)
    metrics = [simulation.initial, *(record.eval or {} for record in records)]
    asked = sum(record.clients for record in records)
    found = None
    if target is not None:
        values = [float(one.get(target.metric, math.nan)) for one in metrics]
        found = forecast(values, target.value, falls=_FALLS.get(target.metric), seed=experiment.seed)
    return Pilot(
        cohort=job.sampler.cohort,
        rounds=rounds,
        curves={name: [_finite(one.get(name)) for one in metrics] for name in simulation.initial},
        wall_s=sum(record.wall_s for record in records),
        delivered=sum(record.delivered for record in records) / asked if asked else 0.0,
        target=target,
        forecast=found,
    )


def _start(job: Experiment, target: Target | None, progress: Progress) -> Simulation:
    """The pilot before its first round, evaluated once: a metric that there is not is refused before any is played."""
    simulation = Simulation.start(job, None, progress)
    if target is not None and target.metric not in simulation.initial:
        known = ", ".join(sorted(simulation.initial))
        raise BadInput(f"--target: the task reports {known}, not {target.metric!r:.60}")
    return simulation


def small(experiment: Experiment, rounds: int) -> Experiment:
    """The pilot's job: as few rounds and clients, evaluated after each round, with no sinks."""
    cohort = max(min(experiment.sampler.cohort, COHORT), experiment.federation.quorum)
    sampler = replace(experiment.sampler, cohort=cohort)
    return replace(experiment, rounds=rounds, eval_every=1, sampler=sampler, sink=())


def _check_weights(experiment: Experiment) -> None:
    """Raise :class:`BadInput` where the model's weights cannot be had: a catalogue's entry is a shape alone."""
    pretrained = pretrained_of(experiment.task)
    if pretrained is None:
        return
    try:
        sources.resolve(pretrained.name)
    except BadInput as error:
        raise BadInput(f"--pilot trains for real: {error}") from None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
