"""Names for plug-ins: ``@register("method", "fedavg")`` above a frozen dataclass is all that is needed.

A kind's built-in entries live in one package; they are imported at the first look-up. A user's own class is named
``"my_pkg.my_file:MyClass"`` and needs no registration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import operator
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fedwave.core.errors import BadInput, unknown

T = TypeVar("T", bound=type)

_HOMES = {
    "task": ["fedwave.tasks"],
    "adapter": ["fedwave.tasks"],
    "partition": ["fedwave.tasks"],
    "method": ["fedwave.methods"],
    "optimizer": ["fedwave.methods"],
    "transform": ["fedwave.transforms"],
    "network": ["fedwave.wireless.networks"],
    "scheduler": ["fedwave.wireless.schedulers"],
    "uplink": ["fedwave.wireless.uplinks"],
    "downlink": ["fedwave.wireless.downlinks"],
    "mobility": ["fedwave.wireless.geometry"],
    "energy": ["fedwave.wireless"],
    "engine": ["fedwave.engines"],
    "sampler": ["fedwave.federation"],
    "federation": ["fedwave.federation"],
    "sink": ["fedwave.results.sinks"],
}
_CATALOGUES = {"network": "fedwave.wireless.catalogue"}  # names that stand for a class and some of its keys
_ENTRIES: dict[str, dict[str, type]] = {}
_LOADED: set[str] = set()


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator: make a frozen dataclass available as ``name`` of ``kind`` in jobs, lists and contract tests."""

    def add(cls: T) -> T:
        cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
        cls.registered_name = name  # type: ignore[attr-defined]
        _ENTRIES.setdefault(kind, {})[name] = cls
        return cls

    return add


def names(kind: str) -> list[str]:
    """All registered names of ``kind``, sorted."""
    _load(kind)
    return sorted(_ENTRIES.get(kind, {}))


def known(kind: str) -> list[str]:
    """All names that a job may use for a ``kind``, sorted: registered ones, and those of its catalogue."""
    named = _catalogue(kind)
    return sorted({*names(kind), *(named.names() if named else ())})


def preset(kind: str, name: object) -> dict[str, Any] | None:
    """The table that ``name`` stands for in the catalogue of ``kind``, with a registered name; ``None`` if in none.

    Registered names come first. Raises :class:`BadInput` for an entry of the user's own that is wrong.
    """
    if not isinstance(name, str) or kind not in _CATALOGUES or name in names(kind):
        return None
    named = _catalogue(kind)
    return named.table(name) if named and name in named.names() else None


def _catalogue(kind: str) -> Any:
    return importlib.import_module(_CATALOGUES[kind]) if kind in _CATALOGUES else None


def lookup(kind: str, name: str) -> type:
    """The class for ``name``; raises :class:`BadInput` with the nearest known name."""
    if not isinstance(name, str):
        raise BadInput(f"the name of a {kind} must be a string, got {name!r}")
    if ":" in name:
        return _user_class(kind, name)
    _load(kind)
    try:
        return _ENTRIES.get(kind, {})[name]
    except KeyError:
        raise unknown(kind, name, known(kind)) from None


def name_of(obj: object) -> str:
    """The name of ``obj``'s class in a job file; a user's class goes by where it is imported from."""
    cls = type(obj)
    own = vars(cls).get("registered_name") if cls.__module__.startswith("fedwave.") else None
    return own or f"{cls.__module__}:{cls.__qualname__}"


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Within: the user's modules in ``folder`` come first; afterwards last, for what they import when called."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before if str(folder) in before else [*before, str(folder)]


def _load(kind: str) -> None:
    if kind in _LOADED:
        return
    for home in _HOMES.get(kind, []):
        package = importlib.import_module(home)
        for module in pkgutil.iter_modules(package.__path__, home + "."):
            importlib.import_module(module.name)
    _LOADED.add(kind)


def _user_class(kind: str, name: str) -> type:
    """The dataclass ``module:Class``; modules in the current folder come first. Raises :class:`BadInput`."""
    module_name, _, attribute = name.partition(":")
    try:
        with importing_from(Path(os.getcwd())):
            cls = operator.attrgetter(attribute)(importlib.import_module(module_name))
    except Exception as error:  # a user's module may raise anything while it is imported
        raise BadInput(f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise BadInput(f"{kind} {name!r} must be a frozen dataclass, it is not a dataclass")
    base = _base(kind)
    if base is not None and not issubclass(cls, base):
        raise BadInput(f"{kind} {name!r} must be a subclass of {base.__module__}.{base.__name__}")
    if "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return cls


def _base(kind: str) -> type | None:
    """The class that all built-in entries of ``kind`` descend from."""
    _load(kind)
    own = [cls for cls in _ENTRIES.get(kind, {}).values() if cls.__module__.startswith("fedwave.")]
    shared = (
        [c for c in own[0].__mro__ if c.__module__.startswith("fedwave.") and all(issubclass(o, c) for o in own)]
        if own
        else []
    )
    return shared[-1] if shared else None
