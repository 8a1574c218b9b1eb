"""What there is: one row per registered plug-in, named network, catalogue model or device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedwave.core import config, registry
from fedwave.core.errors import BadInput, unknown

_KINDS = {
    "adapters": "adapter", "downlinks": "downlink", "energy": "energy", "engines": "engine", "methods": "method",
    "mobility": "mobility", "networks": "network", "optimizers": "optimizer", "partitions": "partition",
    "samplers": "sampler", "schedulers": "scheduler", "sinks": "sink", "tasks": "task", "transforms": "transform",
    "uplinks": "uplink",
}  # fmt: skip


def plugin_kinds() -> list[str]:
    """Kinds of what can be registered, as :func:`rows` calls them."""
    return list(_KINDS)


def rows(kind: str) -> list[dict[str, Any]]:
    """Rows of ``kind``, each with a name and a source. Raises :class:`BadInput` for an unknown kind."""
    special = {"channels": _channels, "devices": _devices, "models": _models, "networks": _networks}
    if kind in special:
        return special[kind]()
    if kind not in _KINDS:
        raise unknown("kind", kind, {*_KINDS, *special})
    return [_row(_KINDS[kind], name) for name in registry.names(_KINDS[kind])]


def _channels() -> list[dict[str, Any]]:
    """Propagation scenarios with the geometry and power that each implies."""
    from fedwave.wireless.budget import DEPLOYMENTS

    return [
        {"name": name, **{key: value for key, value, _, _ in deployment.rows()}, "source": "TR 38.901 Table 7.4.1-1"}
        for name, deployment in DEPLOYMENTS.items()
    ]


def _devices() -> list[dict[str, Any]]:
    """Device classes; ``sources`` says where each number is from."""
    from fedwave.devices import catalogue

    table = []
    for name in catalogue.names():
        numbers = catalogue.rows(name)
        device = catalogue.lookup(name)
        shown = ("peak_flops", "memory_bytes", "memory_bandwidth_bytes_s", "active_power_w", "battery_j")
        values = {key: getattr(device, key) for key in shown}
        sources = {row.key: _sourced(row) for row in numbers}
        row = {"name": name, "what": catalogue.describe(name), **values, "source": _summary(sources)}
        table.append({**row, "sources": sources})
    return table


def _models() -> list[dict[str, Any]]:
    """Models that a plan knows without their weights; ``sources`` says where each number is from."""
    from fedwave.models import catalogue

    entries = [entry for entry in map(catalogue.lookup, catalogue.names()) if entry is not None]
    return [
        {"name": e.name, "kind": e.kind, "parameters_m": e.parameters_m, "active_m": e.active_m, "hub": e.hub,
         "basis": e.basis, "source": e.source, "sources": {key: _sourced(n) for key, n in e.numbers().items()}}
        for e in entries
    ]  # fmt: skip


def _networks() -> list[dict[str, Any]]:
    """Named networks, each with the registered one that it sets up, then those that are registered alone.

    ``sources``: values of the name itself; ``defaults``: all other numbers that the network rests on.
    """
    from fedwave.wireless import catalogue

    named = catalogue.names()
    table = []
    for name in [*named, *(name for name in registry.names("network") if name not in named)]:
        entry = catalogue.lookup(name) if name in named else None
        row = {"name": name, "network": entry.table["name"] if entry else name}
        row |= {"what": entry.what, "source": entry.source} if entry else _row("network", name)
        sources = {key: _sourced(number) for key, number in entry.numbers.items()} if entry else {}
        table.append({**row, "sources": sources, "defaults": _defaults(name, {key.split(".")[-1] for key in sources})})
    return table


def _defaults(name: str, told: set[str]) -> dict[str, Any]:
    """What ``explain()`` says of a network beyond ``told``; empty where it cannot be built from its name alone."""
    try:
        network = config.build("network", name)
    except BadInput:
        return {}
    rows = network.explain() if hasattr(network, "explain") else []
    return {key: _explained(value, unit, source) for key, value, unit, source in rows if key not in told}


def _explained(value: Any, unit: str, source: str) -> dict[str, Any]:
    """A row of ``explain()``; what it takes for the job's is a default here, since there is no job."""
    if source == "job":
        return {"value": value, "unit": unit, "basis": "assumed", "source": "default of the registered network"}
    return {"value": value, "unit": unit, "basis": "assumed" if "assum" in source else "cited", "source": source}


def _sourced(number: Any) -> dict[str, Any]:
    return {key: getattr(number, key) for key in ("value", "unit", "basis", "source")}


def _summary(sources: Mapping[str, Mapping[str, Any]]) -> str:
    """How many numbers rest on what: "4 computed, 2 assumed"."""
    counts = Counter(source["basis"] for source in sources.values())
    return ", ".join(f"{count} {basis}" for basis, count in counts.most_common())


def _row(kind: str, name: str) -> dict[str, Any]:
    cls = registry.lookup(kind, name)
    return {
        "name": name,
        "what": (cls.__doc__ or "").strip().split("\n")[0],
        "source": getattr(cls, "cite", "") or None,
    }
