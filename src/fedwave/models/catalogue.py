"""The catalogue of foundation-model shapes: enough of each ``config.json`` to plan with. Data: catalogue.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue.

    Parameters
    ----------
    name : hub name without the organisation, lower case.
    hub : the model's id on the Hugging Face hub; ``None`` where its weights are not public.
    config : the keys of its ``config.json`` that set its shape.
    source : where the shape was read.
    parameters_m, active_m : parameters, and those that one token uses, in millions as that source gives them.
    aliases : other names that find it.
    """

    name: str
    hub: str | None
    config: Mapping[str, Any]
    source: str
    parameters_m: float
    active_m: float
    aliases: tuple[str, ...] = ()


def lookup(name: str) -> Entry | None:
    """The entry called ``name``: catalogue name, alias or hub id, in any case; ``None`` if there is none."""
    return _index().get(name.lower())


def names() -> list[str]:
    """All catalogue names, sorted."""
    return sorted(_entries())


def canonical(name: str) -> str:
    """The catalogue's name for ``name``; unchanged where the catalogue has none."""
    entry = lookup(name)
    return entry.name if entry else name


@lru_cache(maxsize=1)
def _entries() -> dict[str, Entry]:
    table = tomllib.loads(resources.files("fedwave.models").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    sources = table.pop("sources")
    entries = {}
    for name, row in table["models"].items():
        source, total = sources[row.pop("source")], row.pop("parameters_m")
        entries[name] = Entry(
            name=name,
            hub=row.pop("hub", None),
            source=source,
            parameters_m=total,
            active_m=row.pop("active_m", total),
            aliases=tuple(row.pop("aliases", ())),
            config=row,
        )
    return entries


@lru_cache(maxsize=1)
def _index() -> dict[str, Entry]:
    index = {entry.hub.lower(): entry for entry in _entries().values() if entry.hub}
    for entry in _entries().values():
        index |= dict.fromkeys((entry.name, *entry.aliases), entry)
    return index
