"""Several runs side by side: which differ only in their seed, what sets the others apart, and their curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwave.results.report.runs import RunLog

TRAIN_LOSS = "training loss"
_MOST_POINTS = 1000
_FREE = ("seed", "rounds", "eval_every", "sink")  # no part of what is compared; length shows in the curve


@dataclass(frozen=True)
class Group:
    """Runs of one job that differ at most in their seed, with the name that sets them apart from the other groups."""

    label: str
    runs: tuple[RunLog, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the runs."""
        return tuple(run.seed for run in self.runs)


def group(runs: Sequence[RunLog]) -> list[Group]:
    """Put the runs that differ only in their seed together; groups stand in the order of their first run."""
    together: dict[str, list[RunLog]] = {}
    for run in runs:
        together.setdefault(json.dumps(_compared(run), sort_keys=True, default=str), []).append(run)
    labels = _labels([_compared(members[0]) for members in together.values()])
    return [Group(label, tuple(members)) for label, members in zip(labels, together.values(), strict=True)]


def _compared(run: RunLog) -> dict[str, Any]:
    """The keys of a run's job that say what it is, other than by chance or length."""
    return flat({key: value for key, value in run.job.items() if key not in _FREE})


def flat(table: Any, prefix: str = "") -> dict[str, Any]:
    """A job's table as ``{"method.name": "fedavg", "transform.0.bits": 8}``."""
    items = table.items() if isinstance(table, dict) else enumerate(table)
    found: dict[str, Any] = {}
    for key, value in items:
        name = f"{prefix}{key}"
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))
        found.update(flat(value, f"{name}.") if nested else {name: value})
    return found


def differing(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that not all jobs share, names of parts first; keys that only some jobs have come last."""
    keys = {key: None for job in jobs for key in job}
    apart = [key for key in keys if any(job.get(key) != jobs[0].get(key) for job in jobs)]
    return sorted(apart, key=lambda key: (not key.endswith("name"), not all(key in job for job in jobs)))


def _labels(jobs: list[dict[str, Any]]) -> list[str]:
    """The shortest names that tell the jobs apart: as few of the differing keys as it takes."""
    if len(jobs) == 1:
        names = [str(jobs[0][key]) for key in ("task.name", "method.name") if key in jobs[0]]
        return [", ".join(names) or "run"]
    chosen: list[str] = []
    labels = [""] * len(jobs)
    for key in differing(jobs):
        longer = [*chosen, key]
        named = [", ".join(_shown(name, job[name]) for name in longer if name in job) for job in jobs]
        if len(set(named)) > len(set(labels)):
            chosen, labels = longer, named
    return [label or "without it" for label in labels]


def _shown(key: str, value: Any) -> str:
    steps = key.split(".")
    if steps[-1] == "name":
        return str(value)
    return f"{'.'.join(steps[-2:])} = {value}"


def curves(members: Group) -> dict[str, dict[str, list[Any]]]:
    """For each metric the curve of a group, thinned to 1,000 points.

    ``round`` counts rounds done (0 is the start); ``time``, ``bytes`` (uplink) and ``joules`` are what had been
    spent then, medians over the seeds; ``y`` is the median, ``low`` and ``high`` the extremes. A point needs a value of
    every seed.
    """
    names = list(dict.fromkeys(name for run in members.runs for name in run.metrics))
    if any(run.column("train_loss", np.nan).size and "train_loss" in run.records[0] for run in members.runs):
        names.append(TRAIN_LOSS)
    found = {name: _curve([_points(run, name) for run in members.runs]) for name in names}
    return {name: curve for name, curve in found.items() if curve["round"]}


def _points(run: RunLog, metric: str) -> dict[int, tuple[float, float, float, float]]:
    """Rounds done -> (seconds, uplink bytes, joules, value)."""
    sent = np.cumsum(run.column("uplink_bits")) / 8.0
    spent = np.cumsum(run.column("energy_j"))
    found = {0: (0.0, 0.0, 0.0, run.initial[metric])} if metric in run.initial else {}
    for record, up, joules in zip(run.records, sent, spent, strict=True):
        value = record.get("train_loss") if metric == TRAIN_LOSS else (record.get("eval") or {}).get(metric)
        if value is not None:
            found[record["round"] + 1] = (record.get("sim_time_s", 0.0), up, joules, value)
    return found


def _curve(seeds: list[dict[int, tuple[float, float, float, float]]]) -> dict[str, list[Any]]:
    rounds = sorted(set.intersection(*(set(points) for points in seeds)))
    rounds = [rounds[i] for i in evenly(len(rounds), _MOST_POINTS)]
    table = np.array([[points[number] for number in rounds] for points in seeds], dtype=float).reshape(
        len(seeds), -1, 4
    )
    time, sent, joules, middle = np.median(table, axis=0).T
    values = table[:, :, 3]
    return {
        "round": rounds, "time": time.tolist(), "bytes": sent.tolist(), "joules": joules.tolist(), "y": middle.tolist(),
        "low": values.min(0).tolist(), "high": values.max(0).tolist(),
    }  # fmt: skip


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
