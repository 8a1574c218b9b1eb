"""The nearest changes of a job that would make it suitable, as overrides ready for the command line."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from fedwave.core.errors import FedwaveError
from fedwave.experiment import Experiment, override
from fedwave.planner.constraints import Verdict, Yardsticks
from fedwave.planner.ideas import Idea, ideas_for, kinds
from fedwave.planner.rehearsal import Plan, plan

_ROUNDS = 3  # rehearsed for each idea
_TRIED = 80  # plans at most
_TOGETHER = 3  # ideas at most
_BEST = 3  # changes that are built upon, and shown
_RANK: dict[Verdict, int] = {"unsuitable": 0, "conditional": 1, "suitable": 2}

Progress = Callable[[int, int], None]
Steps = tuple[tuple[Idea, int], ...]  # ideas, each with the place of its step


@dataclass(frozen=True)
class Change:
    """Overrides, and what the job would be with them.

    ``margin`` is the least of all constraints' margins; ``broken`` the constraints that would not hold, and what
    updates would be lost to.
    """

    overrides: tuple[str, ...]
    verdict: Verdict
    binding: str
    margin: float
    delivered_share: float
    round_s: float
    broken: tuple[str, ...] = ()


def nearest(
    experiment: Experiment, found: Plan, yardsticks: Yardsticks, *, progress: Progress = lambda done, most: None
) -> list[Change]:
    """At most three ways to suitability with as few changes as possible, the mildest first.

    Single ideas first, then the best of them together with others. Of an idea with several steps (rank 4, 2, 1) the
    strongest is planned, like the job itself over fewer rounds; where it suffices, the mildest that does is proposed.
    Where nothing makes the job suitable: what comes nearest.

    Parameters
    ----------
    progress : called with (plans made, plans at most).
    """
    search = _Search(experiment, yardsticks, progress)
    start = _change((), found)
    bases: list[tuple[Steps, Change]] = [((), start)]
    seen: list[tuple[Steps, Change]] = []
    for _ in range(_TOGETHER):
        good: list[tuple[Steps, Change]] = []
        for steps, change in search.extended(bases):
            seen.append((steps, change))
            if change.verdict == "suitable":
                good.append(search.fewer(steps, change))
            if len(good) == _BEST:
                break
        if good:
            return search.confirmed(change for _, change in good)
        bases = _best(seen)
    better = [one for one in bases if _score(one[1]) > _score(start)]
    gained = [one for one in better if _RANK[one[1].verdict] > _RANK[start.verdict]]
    return search.confirmed(search.milder(*one)[1] if one in gained else one[1] for one in better)


def _best(seen: list[tuple[Steps, Change]]) -> list[tuple[Steps, Change]]:
    """What comes nearest, the best step of each combination of ideas."""
    by_ideas: dict[tuple[Idea, ...], tuple[Steps, Change]] = {}
    for steps, change in sorted(seen, key=lambda one: _score(one[1]), reverse=True):
        by_ideas.setdefault(tuple(idea for idea, _ in steps), (steps, change))
    return list(by_ideas.values())[:_BEST]


@dataclass
class _Search:
    """Plans of changed jobs, each made once; what a change leaves as it is is not parsed or read again."""

    experiment: Experiment
    yardsticks: Yardsticks
    progress: Progress
    tried: dict[tuple[str, ...], Change | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = self.experiment.to_table()
        self.ideas = list(ideas_for(self.experiment, self.table))

    def extended(self, bases: Sequence[tuple[Steps, Change]]) -> Iterator[tuple[Steps, Change]]:
        """Each base with one idea more: one that eases something that the base leaves broken."""
        for steps, change in bases:
            wanted = kinds(change.broken)
            whole = [idea for idea in self.ideas if wanted <= kinds(idea.eases)]
            for idea in whole or [idea for idea in self.ideas if wanted & kinds(idea.eases)]:
                if not any(idea.clashes(other) for other, _ in steps):
                    yield from self._with(steps, idea)

    def _with(self, steps: Steps, idea: Idea) -> Iterator[tuple[Steps, Change]]:
        """The strongest step of ``idea`` that is a job; every step in turn, up to a suitable one, without an order."""
        places = range(len(idea.steps))
        for place in reversed(places) if idea.ordered else places:
            change = self.plan((*steps, (idea, place)))
            if change is not None:
                yield (*steps, (idea, place)), change
                if idea.ordered or change.verdict == "suitable":
                    return

    def milder(self, steps: Steps, change: Change) -> tuple[Steps, Change]:
        """The first steps of each idea with which the verdict is no worse."""
        for at, (idea, place) in enumerate(steps):
            for less in range(place) if idea.ordered else ():
                other = (*steps[:at], (idea, less), *steps[at + 1 :])
                found = self.plan(other)
                if found is not None and _RANK[found.verdict] >= _RANK[change.verdict]:
                    steps, change = other, found
                    break
        return steps, change

    def fewer(self, steps: Steps, change: Change) -> tuple[Steps, Change]:
        """The same with as few ideas, and as mild ones, as are needed."""
        for at in reversed(range(len(steps))) if len(steps) > 1 else ():
            rest = (*steps[:at], *steps[at + 1 :])
            found = self.plan(rest)
            if found is not None and found.verdict == "suitable":
                return self.fewer(rest, found)
        return self.milder(steps, change)

    def plan(self, steps: Steps) -> Change | None:
        """The job with these steps; ``None`` where that is no valid job, or enough has been tried."""
        overrides = tuple(text for idea, place in steps for text in idea.steps[place])
        if overrides not in self.tried:
            if len(self.tried) >= _TRIED:
                return None
            self.tried[overrides] = self._planned(overrides)
            self.progress(len(self.tried), _TRIED)
        return self.tried[overrides]

    def confirmed(self, changes: Iterable[Change]) -> list[Change]:
        """Each once, planned as the job itself is: over several seeds, not the first rounds of its own."""
        distinct = {change.overrides: change for change in changes}
        found = [self._planned(overrides, rounds=None) or change for overrides, change in distinct.items()]
        return sorted(found, key=lambda change: -_RANK[change.verdict])

    def _planned(self, overrides: tuple[str, ...], rounds: int | None = _ROUNDS) -> Change | None:
        try:
            changed = self._changed(overrides)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _change(overrides, plan(changed, rounds=rounds, yardsticks=self.yardsticks))
        except FedwaveError:
            return None

    def _changed(self, overrides: tuple[str, ...]) -> Experiment:
        """The job with ``overrides``; parts that they do not name are the same objects, with all that they have read.

        Raises :class:`FedwaveError` where that is no job.
        """
        parts: dict[str, Any] = {one.name: getattr(self.experiment, one.name) for one in fields(self.experiment)}
        named = {text.partition("=")[0].partition(".")[0] for text in overrides}
        table = {name: copy.deepcopy(self.table[name]) for name in named if name in self.table}
        for text in overrides:
            override(table, text)
        changed = Experiment.parse({**parts, **table})
        if changed.task is not self.experiment.task:
            changed.task.inherit(self.experiment.task)
        return changed


def _change(overrides: tuple[str, ...], found: Plan) -> Change:
    broken = {one.name for one in found.constraints if one.margin < 1.0}
    if found.verdict != "suitable":
        broken.add(found.binding)
    margin = min((one.margin for one in found.constraints), default=0.0)
    return Change(
        overrides, found.verdict, found.binding, margin, found.delivered_share, found.round_s, tuple(sorted(broken))
    )


def _score(change: Change) -> tuple[int, float, float]:
    return _RANK[change.verdict], change.delivered_share, min(change.margin, 1.0)
