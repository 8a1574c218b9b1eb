"""The device catalogue: every number with its source and its basis. Data: catalogue.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from fedwave.core.errors import unknown
from fedwave.devices.device import Device

Basis = Literal["vendor", "measured", "secondary", "computed", "assumed"]


@dataclass(frozen=True)
class Row:
    """One number of the catalogue: whose it is, what it is, and where it comes from.

    ``basis``: ``vendor`` (the maker's own page), ``measured`` (a published measurement), ``secondary`` (a page that
    repeats the maker), ``computed`` (from clocks and widths, in ``source``), ``assumed`` (efficiency and memory share).
    """

    device: str
    key: str
    value: float
    unit: str
    source: str
    basis: Basis


def lookup(name: str) -> Device:
    """The device class called ``name``. Raises :class:`BadInput` with the nearest known name."""
    if name not in _table():
        raise unknown("device", name, _table())
    return Device(**{row.key: row.value for row in rows(name)})


def names() -> list[str]:
    """All device classes, sorted."""
    return sorted(_table())


def describe(name: str) -> str:
    """What the class stands for, in one line. Raises :class:`BadInput` for an unknown name."""
    if name not in _table():
        raise unknown("device", name, _table())
    return _table()[name]["what"]


def rows(name: str | None = None) -> list[Row]:
    """Every number of one class, or of all, with its source."""
    return [
        Row(device=device, key=key, **number)
        for device, table in sorted(_table().items())
        if name in (None, device)
        for key, number in table.items()
        if key != "what"
    ]


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("fedwave.devices").joinpath("catalogue.toml").read_text(encoding="utf-8"))
