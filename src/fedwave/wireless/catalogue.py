"""Named networks: each stands for a ``[network]`` table whose every value has a source. Data: catalogue.toml.

An entry is a network's table as in a job, with a line ``what``, a line ``source``, and ``name``: a registered network,
or another entry whose values hold where this one has none of its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from fedwave.core import catalogues, registry
from fedwave.core.catalogues import Number, State, UserEntry
from fedwave.core.config import build, merged
from fedwave.core.errors import BadInput, unknown

_RESERVED = ("what", "source")


@dataclass(frozen=True)
class Entry:
    """One named network.

    Parameters
    ----------
    name : as in ``network = "5g-umi"``.
    what : what it stands for, in one line.
    source : what its values follow, in one line.
    table : the ``[network]`` table; its ``name`` is a registered network.
    numbers : each value of the table with its source, by its path ("budget.p0_dbm").
    """

    name: str
    what: str
    source: str
    table: Mapping[str, Any]
    numbers: Mapping[str, Number] = field(default_factory=dict)


def names() -> list[str]:
    """All named networks, sorted. Raises :class:`BadInput` for a user's file that is wrong."""
    return sorted(_entries(catalogues.state()))


def lookup(name: str) -> Entry:
    """The network called ``name``, values and all.

    Raises :class:`BadInput` with the nearest name, or about an entry of a user's file that is no network.
    """
    entries = _entries(catalogues.state())
    if name not in entries:
        raise unknown("network", name, registry.known("network"))
    return _resolved(name, entries, ())


def table(name: str) -> dict[str, Any]:
    """The ``[network]`` table that ``name`` stands for. Raises :class:`BadInput` as :func:`lookup` does."""
    return dict(lookup(name).table)


@dataclass(frozen=True)
class _Layers:
    """An entry as the files have it, not yet joined with the one that its ``name`` names; ``user``: the last file."""

    entry: Entry
    user: UserEntry | None = None


def _resolved(name: str, entries: Mapping[str, _Layers], seen: tuple[str, ...]) -> Entry:
    entry, user = entries[name].entry, entries[name].user
    below = str(entry.table["name"])
    if below not in registry.names("network") and ":" not in below:
        if below not in entries or below in (*seen, name):
            error = unknown("network", below, [n for n in registry.known("network") if n not in (*seen, name)])
            raise _refused(user, BadInput(f"name: {error}"))
        entry = _laid(_resolved(below, entries, (*seen, name)), replace(entry, table=_without_name(entry.table)))
    if user is not None:
        try:
            build("network", dict(entry.table))
        except BadInput as error:
            raise _refused(user, error) from None
    return entry


def _refused(user: UserEntry | None, error: BadInput) -> BadInput:
    return user.refuse(error) if user else error


def _laid(below: Entry, above: Entry) -> Entry:
    """``above`` on ``below``; sources of values that are there no more are dropped."""
    joined = merged(below.table, above.table)
    left = dict(_leaves(joined))
    numbers = {key: n for key, n in {**below.numbers, **above.numbers}.items() if key in left and left[key] == n.value}
    return Entry(above.name, above.what or below.what, above.source or below.source, joined, numbers)


def _without_name(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "name"}


def _leaves(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


@lru_cache(maxsize=4)
def _entries(files: State) -> dict[str, _Layers]:
    text = resources.files("fedwave.wireless").joinpath("catalogue.toml").read_text(encoding="utf-8")
    found = {name: _Layers(_built_in(name, raw)) for name, raw in tomllib.loads(text).items()}
    for user in catalogues.user_entries("network", files):
        entry, below = _of_user(user), found.get(user.name)
        if user.name in registry.names("network"):
            raise user.refuse(BadInput("this is the name of a registered network; choose another, and set name to it"))
        if below is not None:
            entry = _laid(below.entry, entry)
        elif "name" not in entry.table:
            raise user.refuse(BadInput(f"name is missing (one of: {', '.join(registry.names('network'))})"))
        found[user.name] = _Layers(entry, user)
    return found


def _built_in(name: str, raw: Mapping[str, Any]) -> Entry:
    numbers: dict[str, Number] = {}
    plain = _plain(raw, "", numbers, lambda _, value: catalogues.number(value))
    return Entry(name, raw["what"], raw["source"], plain, numbers)


def _of_user(user: UserEntry) -> Entry:
    numbers: dict[str, Number] = {}
    plain = _plain(user.table, "", numbers, user.number)
    for key in ("name", *_RESERVED):
        user.text(key)
    if isinstance(plain.get("file"), str) and (user.file.parent / plain["file"]).exists():
        plain["file"] = str((user.file.parent / Path(plain["file"])).resolve())
        numbers["file"] = replace(numbers["file"], value=plain["file"])
    return Entry(user.name, user.text("what") or "", user.text("source") or str(user.file), plain, numbers)


def _plain(raw: Mapping[str, Any], path: str, numbers: dict[str, Number], read: Any) -> dict[str, Any]:
    """``raw`` with plain values for those with a source, which are put into ``numbers``."""
    table: dict[str, Any] = {}
    for key, value in raw.items():
        if not path and key in _RESERVED:
            continue
        if isinstance(value, Mapping) and not catalogues.is_number(value):
            table[key] = _plain(value, f"{path}{key}.", numbers, read)
        elif key == "name":
            table[key] = value
        else:
            numbers[path + key] = read(path + key, value)
            table[key] = numbers[path + key].value
    return table
