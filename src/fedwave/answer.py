"""What ``fedwave plan`` answers: the plan first, then how it comes about, a pilot, and what would help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fedwave import console, planner
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.planner.changes import nearest
from fedwave.planner.constraints import Yardsticks
from fedwave.planner.rehearsal import Plan
from fedwave.planner.show import change_lines, explain_lines, lines


@dataclass(frozen=True)
class Wishes:
    """What is asked beside the plan: its explanation, changes that would help, rounds of a pilot and their target."""

    explain: bool = False
    changes: bool = True
    pilot: int | None = None
    target: str | None = None


def answer(
    experiment: Experiment, yardsticks: Yardsticks, wishes: Wishes, *, printed: bool, quiet: bool
) -> tuple[Plan, dict[str, Any]]:
    """Print the answer as it comes if it shall be ``printed``; the plan, and all of the answer as a table.

    ``quiet``: without signs of progress.

    Raises :class:`BadInput` for wishes that cannot be met.
    """
    told: Any = print if printed else (lambda *texts, **how: None)
    measured = _piloted(experiment, wishes, quiet)
    if measured and measured.forecast and measured.forecast.rounds is not None:
        experiment = replace(experiment, rounds=max(measured.forecast.rounds, 1))
    found = planner.plan(experiment, yardsticks=yardsticks)
    if measured and (sentence := measured.sentence()):
        found = replace(found, assumptions=(f"rounds: {sentence}", *found.assumptions))
    told(*lines(found), sep="\n", flush=True)
    table = found.to_dict()
    if measured:
        told(*measured.lines(found), sep="\n", flush=True)
        table["pilot"] = measured.to_dict()
    if wishes.explain:
        rows = planner.explain(experiment, found, yardsticks)
        told(*explain_lines(rows), sep="\n", flush=True)
        table["explain"] = [vars(row) for row in rows]
    table["changes"] = []
    if wishes.changes and found.verdict != "suitable":
        with console.counting("looking for changes", quiet=quiet) as progress:
            better = nearest(experiment, found, yardsticks, progress=progress)
        told(*change_lines(better), sep="\n")
        table["changes"] = [vars(change) for change in better]
    return found, table


def _piloted(experiment: Experiment, wishes: Wishes, quiet: bool) -> Any:
    from fedwave.pilot import Target, pilot

    if wishes.pilot is None:
        if wishes.target is not None:
            raise BadInput("--target needs --pilot N, the rounds from which it is judged")
        return None
    target = None if wishes.target is None else Target.parse(wishes.target)
    return pilot(experiment, wishes.pilot, target, quiet=quiet)
