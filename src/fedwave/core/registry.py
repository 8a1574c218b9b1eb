"""Names for plug-ins: ``@register("method", "fedavg")`` above a frozen dataclass is all that is needed.

A kind's built-in entries live in one package; they are imported at the first look-up. A user's own class is named
``"my_pkg.my_file:MyClass"`` and needs no registration.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
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
    "network": ["fedwave.wireless"],
    "scheduler": ["fedwave.wireless"],
    "uplink": ["fedwave.wireless"],
    "engine": ["fedwave.engines"],
    "sampler": ["fedwave.federation"],
    "federation": ["fedwave.federation"],
}
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
        raise unknown(kind, name, _ENTRIES.get(kind, {})) from None


def name_of(obj: object) -> str:
    """The name under which ``obj``'s class is written into a job file."""
    cls = type(obj)
    return getattr(cls, "registered_name", f"{cls.__module__}:{cls.__qualname__}")


def _load(kind: str) -> None:
    if kind in _LOADED:
        return
    for home in _HOMES.get(kind, []):
        package = importlib.import_module(home)
        for module in pkgutil.iter_modules(package.__path__, home + "."):
            importlib.import_module(module.name)
    _LOADED.add(kind)


def _user_class(kind: str, name: str) -> type:
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        cls = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"{kind} {name!r} cannot be imported: {error}") from error
    if "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = {"extra": "forbid"}
    return cls
