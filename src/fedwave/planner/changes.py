"""The nearest changes of a job that would make it suitable, as overrides ready for the command line."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
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
    strongest is planned, over the first rounds alone; where it suffices, the mildest that does is proposed. What is
    proposed was planned like the job itself, over several seeds. Where nothing makes the job suitable: what is better
    than the job ``found``.

    Parameters
    ----------
    progress : called with (plans made, plans at most).
    """
    search, start = _Search(experiment, yardsticks, progress), _change((), found)
    bases: list[tuple[Steps, Change]] = [((), search.plan(()) or start)]
    seen: list[tuple[Steps, Change]] = []
    fallen: list[Change] = []  # suitable over the first rounds, and not over several seeds
    for _ in range(_TOGETHER):
        good: dict[tuple[str, ...], Change] = {}
        for steps, change in search.extended(bases):
            seen.append((steps, change))
            if change.verdict == "suitable":
                confirmed = search.confirmed(steps, change)
                (good.setdefault(confirmed.overrides, confirmed) if _suits(confirmed) else fallen.append(confirmed))
            if len(good) == _BEST:
                break
        if good:
            return list(good.values())
        bases = _best(seen)
    rest = [search.full(search.milder(*one)[0]) or one[1] for one in bases] + fallen
    better = {one.overrides: one for one in sorted(rest, key=_score, reverse=True) if _score(one) > _score(start)}
    return list(better.values())[:_BEST]


def _suits(change: Change) -> bool:
    return change.verdict == "suitable"


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
    confirmations: dict[tuple[str, ...], Change | None] = field(default_factory=dict)

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
        overrides = _overrides(steps)
        if overrides not in self.tried:
            if len(self.tried) >= _TRIED:
                return None
            self.tried[overrides] = self._planned(overrides)
            self.progress(len(self.tried), _TRIED)
        return self.tried[overrides]

    def confirmed(self, strongest: Steps, change: Change) -> Change:
        """The mildest way from what the first rounds ask for to ``strongest`` that suits over several seeds as well.

        Else the strongest, as it is over several seeds.
        """
        steps, _ = self.fewer(strongest, change)
        ways = [*_between(steps, strongest), strongest]
        found = change
        for way in dict.fromkeys(ways):
            found = self.full(way) or found
            if _suits(found):
                break
        return found

    def full(self, steps: Steps) -> Change | None:
        """The job with these steps, planned like the job itself."""
        overrides = _overrides(steps)
        if overrides not in self.confirmations:
            self.confirmations[overrides] = self._planned(overrides, rounds=None)
        return self.confirmations[overrides]

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


def _overrides(steps: Steps) -> tuple[str, ...]:
    return tuple(text for idea, place in steps for text in idea.steps[place])


def _between(steps: Steps, strongest: Steps) -> Iterator[Steps]:
    """From ``steps`` on, one step of one idea further at a time, as far as the ``strongest`` of them goes."""
    most = dict(strongest)
    yield steps
    for at, (idea, place) in enumerate(steps):
        for further in range(place + 1, most[idea] + 1) if idea.ordered else ():
            steps = (*steps[:at], (idea, further), *steps[at + 1 :])
            yield steps


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
