"""Catalogues: numbers that stand with their sources, in files of the package and in a user's own.

The environment variable ``FEDWAVE_CATALOGUE`` names TOML files (several are separated as in ``PATH``) with tables
``[device.NAME]``, ``[network.NAME]`` and ``[model.NAME]``. A later file comes before an earlier one, and all come
before the package's; keys that an entry leaves out are those of the entry of that name below it.
"""

from __future__ import annotations

import os
import stat
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fedwave.core.errors import BadInput, unknown

VARIABLE = "FEDWAVE_CATALOGUE"
KINDS = ("device", "model", "network")
Basis = Literal["vendor", "measured", "standard", "secondary", "computed", "assumed", "user"]
State = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Number:
    """One value of a catalogue and where it comes from.

    ``basis``: ``vendor`` (the maker's own page), ``measured`` (a published measurement), ``standard`` (3GPP, ITU-R,
    IEEE), ``secondary`` (a page that repeats the maker), ``computed`` (the sum is in ``source``), ``assumed``, ``user``
    (a plain number of a user's own file).
    """

    value: Any
    unit: str
    source: str
    basis: Basis


@dataclass(frozen=True)
class UserEntry:
    """A table of a user's file, as it stands there."""

    file: Path
    kind: str
    name: str
    table: Mapping[str, Any]

    def refuse(self, error: BadInput) -> BadInput:
        """``error`` with the file and the entry that it is about."""
        return BadInput(f"{self.file}: {self.kind}.{self.name}: {error}")

    def text(self, key: str) -> str | None:
        """The text at ``key``; ``None`` where there is none. Raises :class:`BadInput`."""
        value = self.table.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refuse(BadInput(f"{key}: must be text, got {value!r:.60}"))
        return value

    def number(self, key: str, value: Any, unit: str = "") -> Number:
        """A plain value, or ``{ value, unit, source, basis }``. Raises :class:`BadInput` naming file, entry and key."""
        try:
            return number(value, unit=unit, source=str(self.file))
        except BadInput as error:
            raise self.refuse(BadInput(f"{key}: {error}")) from None


def number(value: Any, *, unit: str = "", source: str = "", basis: Basis = "user") -> Number:
    """A :class:`Number` from a plain value or a table with ``value``; what that leaves out is as given here.

    Raises :class:`BadInput` for keys that such a table does not have, and for a basis that there is not.
    """
    if not is_number(value):
        return Number(value, unit, source, basis)
    for key in value:
        if key not in ("value", "unit", "source", "basis"):
            raise unknown("key", key, ("value", "unit", "source", "basis"), of="a number")
    for key in ("unit", "source", "basis"):
        if not isinstance(value.get(key, ""), str):
            raise BadInput(f"{key}: must be text, got {value[key]!r:.60}")
    if value.get("basis", basis) not in typing.get_args(Basis):
        raise unknown("basis", value["basis"], typing.get_args(Basis))
    return Number(value["value"], value.get("unit", unit), value.get("source", source), value.get("basis", basis))


def is_number(value: Any) -> bool:
    """Whether ``value`` is a table with a value and its source, not a table of keys."""
    return isinstance(value, Mapping) and "value" in value


def state() -> State:
    """The user's files, each with the time of its last change: what a cache of their content depends on.

    Raises :class:`BadInput` for a file that is not there, and for a folder.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(os.pathsep)]
    return tuple(_stamp(os.path.abspath(os.path.expanduser(name))) for name in names if name)


def _stamp(name: str) -> tuple[str, int]:
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        raise BadInput(f"{VARIABLE}: {name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(found.st_mode):
        tables = [f"[{kind}.NAME]" for kind in KINDS]
        wanted = f"{', '.join(tables[:-1])} or {tables[-1]}"
        raise BadInput(f"{VARIABLE}: {name} is a folder; name a TOML file with tables {wanted}")
    return name, found.st_mtime_ns


def user_entries(kind: str, files: State) -> list[UserEntry]:
    """Entries of ``kind`` in the user's files, in the order in which they are laid over each other.

    Raises :class:`BadInput` for a file that is no TOML, and for tables that are no entries.
    """
    found = []
    for name, stamp in files:
        for entry, table in _read(name, stamp).get(kind, {}).items():
            found.append(UserEntry(Path(name), kind, entry, table))
    return found


@lru_cache(maxsize=16)
def _read(name: str, _: int) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{VARIABLE}: {name}: not a TOML file: {' '.join(str(error).split())}") from None
    for kind, entries in tables.items():
        if kind not in KINDS:
            raise BadInput(f"{name}: {unknown('table', kind, KINDS)}")
        if not isinstance(entries, dict):
            raise BadInput(f"{name}: {kind}: must hold tables [{kind}.NAME], got {entries!r:.60}")
        for entry, table in entries.items():
            if not isinstance(table, dict):
                raise BadInput(f"{name}: {kind}.{entry}: must be a table, as in [{kind}.NAME], got {table!r:.60}")
    return tables
