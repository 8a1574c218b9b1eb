"""The device catalogue: every number with its source and its basis. Data: catalogue.toml, and the user's own files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any

from fedwave.core import catalogues
from fedwave.core.catalogues import Basis, Number, State, UserEntry
from fedwave.core.config import parse
from fedwave.core.errors import BadInput, unknown
from fedwave.devices.device import Device

_UNITS = {"_flops": "FLOP/s", "_bytes_s": "byte/s", "_bytes": "byte", "_w": "W", "_j": "J"}


@dataclass(frozen=True)
class Row:
    """One number of the catalogue: whose it is, what it is, and where it comes from.

    ``basis``: ``vendor`` (the maker's own page), ``measured`` (a published measurement), ``secondary`` (a page that
    repeats the maker), ``computed`` (from clocks and widths, in ``source``), ``assumed`` (efficiency and memory share),
    ``user`` (a plain number of a user's own file).
    """

    device: str
    key: str
    value: float
    unit: str
    source: str
    basis: Basis


@dataclass(frozen=True)
class _Class:
    what: str
    numbers: Mapping[str, Number]
    own: bool = False

    @property
    def values(self) -> dict[str, Any]:
        return {key: number.value for key, number in self.numbers.items()}


def lookup(name: str) -> Device:
    """The device class called ``name``. Raises :class:`BadInput` with the nearest known name."""
    return Device(**_class(name).values)


def names() -> list[str]:
    """All device classes, sorted."""
    return sorted(_table(catalogues.state()))


def describe(name: str) -> str:
    """What the class stands for, in one line. Raises :class:`BadInput` for an unknown name."""
    return _class(name).what


def is_own(name: str) -> bool:
    """Whether a file of the user's says anything about this class. Raises :class:`BadInput` for an unknown name."""
    return _class(name).own


def rows(name: str | None = None) -> list[Row]:
    """Every number of one class, or of all, with its source."""
    return [
        Row(device, key, number.value, number.unit, number.source, number.basis)
        for device, entry in sorted(_table(catalogues.state()).items())
        if name in (None, device)
        for key, number in entry.numbers.items()
    ]


def _class(name: str) -> _Class:
    table = _table(catalogues.state())
    if name not in table:
        raise unknown("device", name, table)
    return table[name]


@lru_cache(maxsize=4)
def _table(files: State) -> dict[str, _Class]:
    text = resources.files("fedwave.devices").joinpath("catalogue.toml").read_text(encoding="utf-8")
    table = {}
    for name, raw in tomllib.loads(text).items():
        numbers = {key: catalogues.number(value) for key, value in raw.items() if key != "what"}
        table[name] = _Class(raw["what"], numbers)
    for user in catalogues.user_entries("device", files):
        table[user.name] = _laid(table.get(user.name), user)
    return table


def _laid(below: _Class | None, user: UserEntry) -> _Class:
    """A user's entry on the one of that name. Raises :class:`BadInput` naming file, entry and key."""
    known = [field.name for field in fields(Device)]
    numbers = dict(below.numbers) if below else {}
    for key, value in user.table.items():
        if key == "what":
            continue
        if key not in known:
            raise user.refuse(unknown("key", key, ["what", *known], of="a device"))
        numbers[key] = user.number(key, value, unit_of(key))
    entry = _Class(user.text("what") or (below.what if below else f"from {user.file.name}"), numbers, own=True)
    try:
        parse(Device, entry.values)
    except BadInput as error:
        raise user.refuse(error) from None
    return entry


def unit_of(key: str) -> str:
    """Unit of a number of a device, by the end of its key."""
    return next((unit for end, unit in _UNITS.items() if key.endswith(end)), "1")
