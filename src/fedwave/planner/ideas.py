"""What may be changed in a job so that it asks less of its devices or its network, the mildest ideas first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedwave.devices import catalogue
from fedwave.experiment import Experiment

_TIME = frozenset({"downlink", "compute", "uplink", "access", "deadline"})
_ALL = "memory storage energy airtime deadline"


@dataclass(frozen=True)
class Idea:
    """One thing to change.

    Parameters
    ----------
    steps : how far, the mildest first; each step is one or several overrides that belong together.
    eases : the constraints that may hold then.
    ordered : whether a later step eases all that an earlier one does.
    """

    steps: tuple[tuple[str, ...], ...]
    eases: frozenset[str]
    ordered: bool = True

    def clashes(self, other: Idea) -> bool:
        """Whether both set the same key, or one a key within the other's."""
        return any(
            f"{one}.".startswith(f"{two}.") or f"{two}.".startswith(f"{one}.")
            for one in self._keys
            for two in other._keys
        )

    @property
    def _keys(self) -> list[str]:
        return [text.partition("=")[0] for step in self.steps for text in step]


def kinds(names: Iterable[str]) -> frozenset[str]:
    """Constraints that one idea may stand for: parts of a round share its time, so what shortens one eases them all."""
    return frozenset("time" if name in _TIME else name for name in names)


def ideas_for(experiment: Experiment, table: Mapping[str, Any]) -> Iterator[Idea]:
    """Ideas for the job ``experiment``, whose table is ``table``, the mildest first."""
    yield from _payload(table)
    yield from _task(experiment, table["task"])
    yield from _rounds(table)
    yield from _method(table["method"]["name"])
    yield from _network(table["network"])
    yield from _devices(experiment)
    yield from _server(experiment)


def _values(eases: str, key: str, values: Iterable[Any]) -> Iterator[Idea]:
    """One key with one value after another; nothing where there are none."""
    steps = tuple((f"{key}={value}",) for value in values)
    if steps:
        yield Idea(steps, frozenset(eases.split()))


def _halves(value: Any, least: int) -> list[int]:
    """``value`` halved again and again, down to ``least``."""
    found: list[int] = []
    while isinstance(value, int) and value // 2 >= least:
        value //= 2
        found.append(value)
    return found


def _payload(table: Mapping[str, Any]) -> Iterator[Idea]:
    """Fewer bits of each value."""
    transforms = table.get("transform", [])
    at = next((n for n, one in enumerate(transforms) if one["name"] == "quantize"), None)
    eases = "airtime deadline energy"
    if at is not None:
        yield from _values(eases, f"transform.{at}.bits", [b for b in (4, 2) if b < transforms[at].get("bits", 8)])
    elif not transforms:
        yield from _values(eases, "transform", [f'[{{name="quantize", bits={bits}}}]' for bits in (8, 4, 2)])


def _task(experiment: Experiment, task: Mapping[str, Any]) -> Iterator[Idea]:
    """A smaller adapter, fewer layers, shorter and fewer rows, narrower weights."""
    adapter = task.get("adapter", {})
    if adapter.get("name") == "full" and task["name"] != "images":
        yield from _values(_ALL, "task.adapter", ["lora"])
    yield from _values("airtime deadline energy memory", "task.adapter.rank", _halves(adapter.get("rank"), 1))
    if "last_layers" in adapter:
        layers = experiment.task.pretrained.architecture.layers  # type: ignore[attr-defined]
        now = adapter["last_layers"] or layers
        fewer = sorted({layers // 2, layers // 4, 1} & set(range(1, now)), reverse=True)
        yield from _values("memory deadline energy airtime", "task.adapter.last_layers", fewer)
    if task.get("dtype") == "float32":
        yield from _values("memory storage", "task.dtype", ["bfloat16"])
    yield from _values("memory", "task.batch_size", _halves(task.get("batch_size"), 1))
    yield from _values("memory deadline energy", "task.max_tokens", _halves(task.get("max_tokens"), 16))


def _rounds(table: Mapping[str, Any]) -> Iterator[Idea]:
    """Less local work, smaller cohorts, more patience."""
    steps, cohort = table["method"].get("local_steps") or 0, table["sampler"].get("cohort", 0)
    yield from _values("energy deadline", "method.local_steps", [steps // p for p in (2, 4) if steps >= p])
    yield from _values("airtime deadline energy", "sampler.cohort", [cohort // p for p in (2, 4) if cohort >= p])
    if deadline := table["federation"].get("deadline_s"):
        yield from _values("deadline", "federation.deadline_s", [f"{deadline * factor:g}" for factor in (2, 5, 20)])


def _method(name: str) -> Iterator[Idea]:
    """Methods that hold or send less."""
    if name != "ffa_lora":
        yield from _values("airtime deadline energy memory", "method.name", ["ffa_lora"])
    if name != "fedkseed":
        local, server = (f'{{name="sgd", lr={lr}}}' for lr in ("1e-3", "1.0"))
        plain = ("method.name=fedkseed", f"method.local_optimizer={local}", f"method.server_optimizer={server}")
        yield Idea((plain,), frozenset(_ALL.split()))


def _network(network: Mapping[str, Any]) -> Iterator[Idea]:
    """More bandwidth, one broadcast for all."""
    if network["name"] == "cell" and (width := network.get("bandwidth_mhz")):
        yield from _values("airtime deadline", "network.bandwidth_mhz", [f"{width * factor:g}" for factor in (2, 5)])
    if network.get("downlink", {}).get("name") == "unicast":
        yield from _values("deadline", "network.downlink", ["multicast"])


def _devices(experiment: Experiment) -> Iterator[Idea]:
    """Classes of the catalogue with more memory than all that the job has, the least first."""
    larger = _larger(max(one.usable_memory_bytes for one in experiment.fleet.classes))
    steps = tuple((f'fleet.mix={{"{name}" = 1.0}}',) for name in larger)
    if steps:
        yield Idea(steps, frozenset({"memory", "storage", "energy", "deadline"}), ordered=False)


def _server(experiment: Experiment) -> Iterator[Idea]:
    """Devices with more memory that are no slower, for the server."""
    now = catalogue.lookup(experiment.server.device)
    names = [n for n in _larger(now.usable_memory_bytes) if catalogue.lookup(n).peak_flops >= now.peak_flops]
    if names:
        yield Idea(tuple((f'server.device="{name}"',) for name in names), frozenset({"server memory"}))


def _larger(memory_bytes: float) -> list[str]:
    """Classes of the catalogue with more memory, the least first."""
    larger = sorted((catalogue.lookup(name).usable_memory_bytes, name) for name in catalogue.names())
    return [name for memory, name in larger if memory > memory_bytes]
