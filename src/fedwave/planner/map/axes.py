"""What the map's four axes can hold, and how a user names some of it: names, globs, ``all``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fedwave.core.errors import BadInput, unknown
from fedwave.devices import catalogue as devices
from fedwave.models import catalogue as models
from fedwave.planner.map.recipes import JOB, Recipe, read, recipes_of
from fedwave.wireless import catalogue as networks

ALL = "all"


@dataclass(frozen=True)
class Axes:
    """The cells of a map: every combination. Models are sorted by their parameters."""

    models: tuple[str, ...]
    methods: tuple[Recipe, ...]
    networks: tuple[str, ...]
    devices: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Entries of each axis."""
        return len(self.models), len(self.methods), len(self.networks), len(self.devices)


def axes_of(
    job: Mapping[str, Any], *, models: str = ALL, methods: str = ALL, networks: str = ALL, devices: str = ALL
) -> Axes:
    """The axes that the texts name, for a job's table.

    Each text is a list with commas of names and globs, or ``all``: all of the catalogue. ``job`` stands for the job's
    own method or network, and a name that ends in ``.toml`` among the methods for all recipes of that file.

    Raises :class:`BadInput` for a name that does not exist and a glob that finds nothing.
    """
    known, wanted = _with_files(recipes_of(job), methods)
    return Axes(
        models=tuple(_selected("--models", models, _by_size(), "model")),
        methods=tuple(known[name] for name in _selected("--methods", wanted, known, "method", apart=(JOB,))),
        networks=tuple(_selected("--networks", networks, [JOB, *networks_known()], "network", apart=(JOB,))),
        devices=tuple(_selected("--devices", devices, _by_speed(job), "device")),
    )


def networks_known() -> list[str]:
    """The named networks."""
    return networks.names()


def entry(name: str) -> models.Entry:
    """The catalogue's entry of a model on the axis."""
    found = models.lookup(name)
    assert found is not None
    return found


def _by_size() -> list[str]:
    return sorted(models.names(), key=lambda name: (entry(name).parameters_m, name))


def _by_speed(job: Mapping[str, Any]) -> list[str]:
    """Classes of the catalogue and of the job, the slowest first."""
    fleet = job.get("fleet", {})
    own = fleet.get("device", {}) if isinstance(fleet, Mapping) else {}
    flops = {name: devices.lookup(name).peak_flops for name in devices.names()}
    flops |= {name: one["peak_flops"] for name, one in own.items()}
    return sorted(flops, key=lambda name: (flops[name], name))


def _with_files(known: dict[str, Recipe], text: str) -> tuple[dict[str, Recipe], str]:
    """The recipes with those of the files that ``text`` names, and ``text`` with the files' recipes in their place."""
    wanted = []
    for name in _words(text):
        if name.endswith(".toml"):
            own = read(Path(name))
            known = {**known, **own}
            wanted += own
        else:
            wanted.append(name)
    return known, ",".join(wanted)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _selected(option: str, text: str, known: Iterable[str], what: str, apart: tuple[str, ...] = ()) -> list[str]:
    """In the order of ``known``; ``apart`` only where they are named."""
    known, words = list(known), _words(text)
    if not words:
        raise BadInput(f"{option}: name at least one {what}, or all")
    found: set[str] = set()
    for word in words:
        plain = [name for name in known if name not in apart]
        some = plain if word == ALL else [n for n in known if n == word or (n in plain and fnmatchcase(n, word))]
        if not some:
            raise BadInput(f"{option}: {unknown(what, word, known)}")
        found.update(some)
    return [name for name in known if name in found]
