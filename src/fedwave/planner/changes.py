"""The nearest changes of a job that would make it suitable, as overrides ready for the command line."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedwave.core.errors import FedwaveError
from fedwave.devices import catalogue
from fedwave.experiment import Experiment, override
from fedwave.planner.constraints import Verdict, Yardsticks
from fedwave.planner.rehearsal import Plan, plan

_ROUNDS = 3  # rehearsed for each idea
_TRIED = 80  # plans at most
_TOGETHER = 3  # overrides at most
_BEST = 3  # ideas that are built upon, and shown
_RANK: dict[Verdict, int] = {"unsuitable": 0, "conditional": 1, "suitable": 2}
_EVERYWHERE = frozenset(
    {"memory", "storage", "compute", "uplink", "downlink", "energy", "airtime", "access", "deadline"}
)


@dataclass(frozen=True)
class Change:
    """Overrides, and what the job would be with them.

    ``margin`` is the least of all constraints' margins.
    """

    overrides: tuple[str, ...]
    verdict: Verdict
    binding: str
    margin: float
    delivered_share: float
    round_s: float


@dataclass(frozen=True)
class Idea:
    """One or several overrides that belong together, and the constraints that they ease."""

    overrides: tuple[str, ...]
    eases: frozenset[str]


def nearest(experiment: Experiment, found: Plan, yardsticks: Yardsticks) -> list[Change]:
    """At most three ways to suitability with as few changes as possible, the mildest first.

    Where nothing makes the job suitable, what comes nearest. Single ideas first; then the best of them together with
    others. Every idea is planned like the job itself, over fewer rounds.
    """
    table, ideas = experiment.to_table(), list(_ideas(experiment))
    tried: dict[tuple[str, ...], Change] = {}
    base = [()]
    for _ in range(_TOGETHER):
        wanted = {one.name for one in found.constraints if one.margin < 1.0} | {found.binding}
        for start in base:
            for idea in ideas:
                if len(tried) < _TRIED and idea.eases & wanted and not set(idea.overrides) & set(start):
                    together = (*start, *idea.overrides)
                    if not _clash(together) and together not in tried:
                        change = _tried(table, together, yardsticks)
                        if change is not None:
                            tried[together] = change
        good = [change for change in tried.values() if change.verdict == "suitable"]
        if good:
            return good[:_BEST]
        ranked = sorted(tried.values(), key=_score, reverse=True)
        base = [change.overrides for change in ranked[:_BEST]]
        if not base:
            break
    better = [change for change in sorted(tried.values(), key=_score, reverse=True) if _score(change) > _of(found)]
    return better[:_BEST]


def _score(change: Change) -> tuple[int, float, float]:
    return _RANK[change.verdict], change.delivered_share, min(change.margin, 1.0)


def _of(found: Plan) -> tuple[int, float, float]:
    return _RANK[found.verdict], found.delivered_share, min(1.0, *(one.margin for one in found.constraints))


def _clash(overrides: tuple[str, ...]) -> bool:
    """Whether two of them set the same key."""
    keys = [text.partition("=")[0] for text in overrides]
    return any(
        one == other or one.startswith(other + ".")
        for at, one in enumerate(keys)
        for place, other in enumerate(keys)
        if at != place
    )


def _tried(table: dict[str, Any], overrides: tuple[str, ...], yardsticks: Yardsticks) -> Change | None:
    """The job with ``overrides``; ``None`` where that is no valid job."""
    changed = copy.deepcopy(table)
    try:
        for text in overrides:
            override(changed, text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = plan(Experiment.parse(changed), rounds=_ROUNDS, yardsticks=yardsticks)
    except FedwaveError:
        return None
    margin = min(one.margin for one in found.constraints)
    return Change(overrides, found.verdict, found.binding, margin, found.delivered_share, found.round_s)


# ---- ideas, the mildest first --------------------------------------------------------------------------------------


def _ideas(experiment: Experiment) -> Iterator[Idea]:
    table = experiment.to_table()
    yield from _payload(table)
    yield from _task(experiment, table)
    yield from _rounds(table)
    yield from _method(table)
    yield from _network(table["network"])
    yield from _devices(experiment)


def _idea(eases: str, *overrides: str) -> Idea:
    return Idea(overrides, frozenset(eases.split()) if eases else _EVERYWHERE)


def _payload(table: Mapping[str, Any]) -> Iterator[Idea]:
    """Fewer bits of each value."""
    transforms = table.get("transform", [])
    at = next((n for n, one in enumerate(transforms) if one["name"] == "quantize"), None)
    if at is None and not transforms:
        for bits in (8, 4, 2):
            yield _idea("uplink airtime deadline energy", f'transform=[{{name="quantize", bits={bits}}}]')
    elif at is not None:
        for bits in [b for b in (4, 2) if b < transforms[at].get("bits", 8)]:
            yield _idea("uplink airtime deadline energy", f"transform.{at}.bits={bits}")


def _task(experiment: Experiment, table: Mapping[str, Any]) -> Iterator[Idea]:
    """A smaller adapter, fewer layers, shorter and fewer rows, narrower weights."""
    task = table["task"]
    adapter = task.get("adapter", {})
    if adapter.get("name") == "full" and task["name"] != "images":
        yield _idea("", "task.adapter=lora")
    rank = adapter.get("rank")
    while isinstance(rank, int) and rank > 1:
        rank //= 2
        yield _idea("uplink downlink airtime deadline energy", f"task.adapter.rank={rank}")
    if "last_layers" in adapter:
        layers = experiment.task.pretrained.architecture.layers  # type: ignore[attr-defined]
        for last in sorted({layers // 2, layers // 4, 1} - {0, adapter["last_layers"]}, reverse=True):
            yield _idea("memory compute uplink downlink energy deadline", f"task.adapter.last_layers={last}")
    if task.get("dtype") == "float32":
        yield _idea("memory storage", "task.dtype=bfloat16")
    for key, eases in (("batch_size", "memory"), ("max_tokens", "memory compute energy deadline")):
        value = task.get(key, 1)
        while value >= (2 if key == "batch_size" else 32):
            value //= 2
            yield _idea(eases, f"task.{key}={value}")


def _rounds(table: Mapping[str, Any]) -> Iterator[Idea]:
    """Less local work, other cohorts, more patience."""
    steps, cohort = table["method"].get("local_steps") or 0, table["sampler"].get("cohort", 0)
    for part in [p for p in (2, 4) if steps >= p]:
        yield _idea("compute energy deadline", f"method.local_steps={steps // part}")
    for part in [p for p in (2, 4) if cohort >= p]:
        yield _idea("uplink downlink airtime access deadline", f"sampler.cohort={cohort // part}")
    if deadline := table["federation"].get("deadline_s"):
        for factor in (2, 5, 20):
            yield _idea("compute uplink downlink access deadline", f"federation.deadline_s={deadline * factor:g}")


def _method(table: Mapping[str, Any]) -> Iterator[Idea]:
    """Methods that hold or send less."""
    name = table["method"]["name"]
    if name != "ffa_lora":
        yield _idea("uplink downlink airtime deadline energy memory", "method.name=ffa_lora")
    if name != "fedkseed":
        plain = ("method.name=fedkseed", 'method.local_optimizer={name="sgd", lr=1e-3}')
        yield _idea("", *plain, 'method.server_optimizer={name="sgd", lr=1.0}')


def _network(network: Mapping[str, Any]) -> Iterator[Idea]:
    """More bandwidth, one broadcast for all."""
    width = network.get("bandwidth_mhz") if network["name"] == "cell" else None
    for factor in (2, 5) if width else ():
        yield _idea("uplink downlink airtime deadline", f"network.bandwidth_mhz={float(width or 0) * factor:g}")
    if network.get("downlink", {}).get("name") == "unicast":
        yield _idea("downlink deadline", "network.downlink=multicast")


def _devices(experiment: Experiment) -> Iterator[Idea]:
    """The next larger classes of the catalogue, instead of all that the job has."""
    now = max(one.usable_memory_bytes for one in experiment.fleet.classes)
    larger = [(catalogue.lookup(name).usable_memory_bytes, name) for name in catalogue.names()]
    for _, name in sorted(one for one in larger if one[0] > now):
        yield _idea("memory storage compute energy deadline", f'fleet.mix={{"{name}" = 1.0}}')
