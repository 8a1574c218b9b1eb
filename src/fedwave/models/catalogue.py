"""The catalogue of foundation-model shapes: enough of each ``config.json`` to plan with. Data: catalogue.toml.

Files of ``FEDWAVE_CATALOGUE`` add models, ``[model.NAME]``, in the same keys; ``parameters_m`` may be left out there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any

from fedwave.core import catalogues
from fedwave.core.catalogues import Basis, Number, State, UserEntry
from fedwave.core.errors import BadInput
from fedwave.models.encoders import ENCODERS
from fedwave.models.rows import Architecture
from fedwave.models.shapes import FAMILIES, architecture, parameter_count

_ABOUT = ("aliases", "basis", "hub", "source")
_COUNTS = ("parameters_m", "active_m")


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue.

    Parameters
    ----------
    name : hub name without the organisation, lower case.
    hub : the model's id on the Hugging Face hub; ``None`` where its weights are not public.
    config : the keys of its ``config.json`` that set its shape.
    source, basis : where the shape was read, and what kind of source that is.
    parameters_m, active_m : parameters, and those that one token uses, in millions as that source gives them.
    aliases : other names that find it.
    own : numbers of a user's file, each with its own source.
    """

    name: str
    hub: str | None
    config: Mapping[str, Any]
    source: str
    basis: Basis
    parameters_m: float
    active_m: float
    aliases: tuple[str, ...] = ()
    own: Mapping[str, Number] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """One of "decoder", "decoder, experts", "text encoder" and "image encoder", by the model's family."""
        family = self.config.get("model_type")
        if family in ENCODERS:
            return "image encoder" if "patch_size" in self.config else "text encoder"
        return "decoder, experts" if self.active_m < self.parameters_m else "decoder"

    def numbers(self) -> dict[str, Number]:
        """Each number of the entry with its source."""
        counts = {"parameters_m": self.parameters_m, "active_m": self.active_m}
        values = {**counts, **{k: v for k, v in self.config.items() if type(v) in (int, float)}}
        units = dict.fromkeys(counts, "1e6")
        rest = {key: Number(value, units.get(key, "1"), self.source, self.basis) for key, value in values.items()}
        return {**rest, **{key: number for key, number in self.own.items() if key in rest}}


def lookup(name: str) -> Entry | None:
    """The entry called ``name``: catalogue name, alias or hub id, in any case; ``None`` if there is none.

    Raises :class:`BadInput` about a file of the user's that is wrong.
    """
    return _index(catalogues.state()).get(name.lower())


def names() -> list[str]:
    """All catalogue names, sorted."""
    return sorted(_entries(catalogues.state()))


def canonical(name: str) -> str:
    """The catalogue's name for ``name``; unchanged where the catalogue has none."""
    entry = lookup(name)
    return entry.name if entry else name


@lru_cache(maxsize=4)
def _entries(files: State) -> dict[str, Entry]:
    entries = dict(_built_in())
    for user in catalogues.user_entries("model", files):
        entries[user.name.lower()] = _laid(entries.get(user.name.lower()), user)
    return entries


@lru_cache(maxsize=1)
def _built_in() -> dict[str, Entry]:
    table = tomllib.loads(resources.files("fedwave.models").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    sources = table.pop("sources")
    entries = {}
    for name, row in table["models"].items():
        source, total = sources[row.pop("source")], row.pop("parameters_m")
        entries[name] = Entry(
            name=name,
            hub=row.pop("hub", None),
            source=source["source"],
            basis=source["basis"],
            parameters_m=total,
            active_m=row.pop("active_m", total),
            aliases=tuple(row.pop("aliases", ())),
            config=row,
        )
    return entries


def _laid(below: Entry | None, user: UserEntry) -> Entry:
    """A user's model on the one of that name. Raises :class:`BadInput` naming file, entry and key."""
    own = {key: user.number(key, value) for key, value in user.table.items() if key not in _ABOUT}
    values = {key: number.value for key, number in own.items()}
    shape = {key: value for key, value in values.items() if key not in _COUNTS}
    total, active = _counts(user, {**(below.config if below else {}), **shape}, values)
    if below and not shape:
        total, active = total or below.parameters_m, active or below.active_m
    aliases = user.table.get("aliases", ())
    if not isinstance(aliases, (list, tuple)) or not all(isinstance(alias, str) for alias in aliases):
        raise user.refuse(BadInput(f"aliases: must be a list of names, got {aliases!r:.60}"))
    source = catalogues.number({"value": 0, **{k: v for k, v in user.table.items() if k in ("source", "basis")}})
    changed: dict[str, Any] = {
        "config": {**(below.config if below else {}), **shape},
        "source": source.source or str(user.file),
        "basis": source.basis,
        "parameters_m": total,
        "active_m": active,
        "aliases": (*(below.aliases if below else ()), *(alias.lower() for alias in aliases)),
        "own": {**(below.own if below else {}), **own},
    }
    hub = user.text("hub")
    return replace(below, **changed, hub=hub or below.hub) if below else Entry(user.name.lower(), hub, **changed)


def _counts(user: UserEntry, config: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[float, float]:
    """Parameters and active ones in millions: as given, else from the shape. Raises :class:`BadInput`."""
    for key in _COUNTS:
        if key in values and not (isinstance(values[key], (int, float)) and values[key] > 0):
            raise user.refuse(BadInput(f"{key}: must be a number above 0, in millions, got {values[key]!r:.60}"))
    kind, total = config.get("model_type"), values.get("parameters_m")
    if kind not in FAMILIES:
        if total is None:
            families = ", ".join(sorted(FAMILIES))
            raise user.refuse(
                BadInput(f"model_type: must be one of {families}, got {kind!r:.60}; others need parameters_m")
            )
        return float(total), float(values.get("active_m", total))
    arch = _shape(user, config)
    given = values.get("active_m", arch.active_parameters / 1e6)
    return float(total or parameter_count(arch) / 1e6), float(given)


def _shape(user: UserEntry, config: Mapping[str, Any]) -> Architecture:
    for key, value in config.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
            raise user.refuse(BadInput(f"{key}: must not be negative, got {value!r}"))
    try:
        return architecture(config)
    except BadInput as error:
        raise user.refuse(error) from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        texts = [key for key, value in config.items() if key != "model_type" and isinstance(value, (str, list, dict))]
        wrong = f"{texts[0]}: must be a number, got {config[texts[0]]!r:.60}" if texts else f"no shape: {error}"
        raise user.refuse(BadInput(wrong)) from None


@lru_cache(maxsize=4)
def _index(files: State) -> dict[str, Entry]:
    entries = _entries(files).values()
    index = {entry.hub.lower(): entry for entry in entries if entry.hub}
    for entry in entries:
        index |= dict.fromkeys((entry.name, *entry.aliases), entry)
    return index
