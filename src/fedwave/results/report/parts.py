"""The parts that a job names: what each is, the paper behind it, and the network's own numbers with their sources."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from fedwave.core import config, registry
from fedwave.core.errors import BadInput

# Keys of a job under which the name of a registered part stands, and the part's kind.
_KINDS = {
    "task": "task", "adapter": "adapter", "partition": "partition", "method": "method", "local_optimizer": "optimizer",
    "server_optimizer": "optimizer", "transform": "transform", "sampler": "sampler", "federation": "federation",
    "network": "network", "scheduler": "scheduler", "uplink": "uplink", "engine": "engine",
    "sink": "sink",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One named part of a job: ``paper`` is empty where its class states none."""

    kind: str
    name: str
    what: str
    paper: str


def parts(job: dict[str, Any]) -> list[Part]:
    """The named parts of a job's table, in its order. A user's own class is listed by name and not imported."""
    found: dict[tuple[str, str], Part] = {}

    def look(table: Any, kind: str | None) -> None:
        if isinstance(table, list):
            for item in table:
                look(item, kind)
        elif isinstance(table, dict):
            name = table.get("name")
            if kind and isinstance(name, str):
                found.setdefault((kind, name), _part(kind, name))
            for key, value in table.items():
                look(value, _KINDS.get(key))

    look(job, None)
    return list(found.values())


def _part(kind: str, name: str) -> Part:
    if ":" in name:
        return Part(kind, name, "a class of the user's own", "")
    try:
        cls = registry.lookup(kind, name)
    except BadInput:  # the run is of another release, or its plug-in is not installed here
        return Part(kind, name, "not known to this release", "")
    doc = inspect.getdoc(cls) or ""
    return Part(kind, name, doc.split("\n\n")[0].replace("\n", " "), getattr(cls, "cite", ""))


def network_rows(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The network's numbers with unit and source, where it can explain itself; empty where it cannot."""
    network = _network(job)
    rows = network.explain() if hasattr(network, "explain") else []
    return [dict(zip(("name", "value", "unit", "source"), row, strict=True)) for row in rows]


def network_layout(job: dict[str, Any]) -> Any | None:
    """Where the network's sites are and which way they look; ``None`` where it has no such layout."""
    return getattr(getattr(_network(job), "scene", None), "layout", None)


def _network(job: dict[str, Any]) -> Any:
    """The job's network; ``None`` where it is a user's own, or of another release."""
    table = job.get("network", {})
    if not isinstance(table, dict) or ":" in str(table.get("name", "")):
        return None
    try:
        return config.build("network", table)
    except BadInput:
        return None


def network_assumes(job: dict[str, Any]) -> list[str]:
    """What the network's class says that it leaves out: the sentences above its parameters."""
    name = str(job.get("network", {}).get("name", ""))
    if not name or ":" in name:
        return []
    try:
        text = inspect.getdoc(registry.lookup("network", name)) or ""
    except BadInput:
        return []
    body = text.split("Parameters\n")[0].split("\n\n")[1:]
    return [" ".join(paragraph.split()).replace("``", "") for paragraph in body if paragraph.strip()]
