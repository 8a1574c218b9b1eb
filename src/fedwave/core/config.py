"""Dataclass <-> table: parse TOML tables straight into frozen dataclasses, and write them back fully resolved.

A field that holds a plug-in is annotated ``Annotated[Method, part("method")]``; its table names the class by ``name``.
A table without ``name`` changes the field's default, key by key; a name of a catalogue stands for a table of its own.
"""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import core_schema

from fedwave.core import registry
from fedwave.core.errors import BadInput, Refused, unknown

_MOST = 2**31 - 1  # counts and indices become array sizes; what is larger is a slip

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Decibel = Annotated[float, Field(ge=-300, le=300, allow_inf_nan=False, strict=True)]
Loss = Annotated[float, Field(ge=0, le=300, allow_inf_nan=False, strict=True)]  # dB
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, le=_MOST, strict=True)]
Index = Annotated[int, Field(ge=0, le=_MOST, strict=True)]
_Whole = BeforeValidator(lambda x: int(x) if isinstance(x, float) and x.is_integer() else x)  # 1e10 is a float in TOML
Bytes = Annotated[int, _Whole, Field(ge=0, lt=2**63, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Marks a field that holds one plug-in of ``kind``, or with ``many`` a tuple of them."""

    kind: str
    many: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def read(self, value: Any) -> Any:
        """Plug-in objects from tables, names or objects."""
        if not self.many:
            return build(self.kind, value)
        if not isinstance(value, (list, tuple)):
            raise BadInput(f"must be a list of {self.kind} tables, got {_short(value)}")
        return tuple(self._item(index, item) for index, item in enumerate(value))

    def _item(self, index: int, value: Any) -> Any:
        try:
            return build(self.kind, value)
        except BadInput as error:
            raise _located(error, (str(index),), None) from None


def part(kind: str) -> _Part:
    """Annotation of a field that holds a registered ``kind``: a table with ``name``, a bare name, or the object."""
    return _Part(kind)


def parts(kind: str) -> _Part:
    """Annotation of a field that holds a tuple of registered ``kind``."""
    return _Part(kind, many=True)


def build(kind: str, value: Any) -> Any:
    """Object of ``kind`` from a table ``{"name": ..., key: value}``. Raises :class:`BadInput` naming the key."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return value
        raise BadInput(f"must be the name of a {kind} or a table with one, got {_short(value)}")
    if "name" not in value:
        raise BadInput(f"name is missing (one of: {', '.join(registry.known(kind))})")
    preset = registry.preset(kind, value["name"])
    if preset is not None:
        value = merged(preset, {k: v for k, v in value.items() if k != "name"})
    return parse(registry.lookup(kind, value["name"]), {k: v for k, v in value.items() if k != "name"})


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid on ``below``, table by table; a table with another ``name`` takes the place of the one below."""
    result = dict(below)
    for key, value in above.items():
        old = {"name": result[key]} if isinstance(result.get(key), str) else result.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            value = merged(old, value)
        result[key] = value
    return result


def parse(cls: type, table: dict[str, Any]) -> Any:
    """Dataclass ``cls`` from ``table``. Raises :class:`BadInput`: key, value, what is allowed."""
    try:
        return _adapter(cls).validate_python(_with_defaults(cls, table))
    except ValidationError as error:
        raise _explained(cls, error) from None


def dump(obj: Any) -> Any:
    """Plain table of a configuration object, plug-ins with their ``name``, ``None`` left out."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        table: dict[str, Any] = {"name": registry.name_of(obj)} if "registered_name" in vars(type(obj)) else {}
        plugins = _parts(type(obj))
        for field in dataclasses.fields(obj):
            value = getattr(obj, field.name)
            if value is None or not field.init:
                continue
            if field.name not in plugins:
                table[field.name] = dump(value)
            elif plugins[field.name].many:
                table[field.name] = [_named(item) for item in value]
            else:
                table[field.name] = _named(value)
        return table
    if isinstance(obj, dict):
        return {str(key): dump(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [dump(value) for value in obj]
    return obj


def _named(plugin: Any) -> dict[str, Any]:
    return {"name": registry.name_of(plugin), **dump(plugin)}


def _with_defaults(cls: type, table: dict[str, Any]) -> dict[str, Any]:
    """``table`` with the field's default filled in below a plug-in's table that has no ``name``."""
    filled = dict(table)
    for name, marker in _parts(cls).items():
        value, default = filled.get(name), _default(cls, name)
        if isinstance(value, dict) and "name" not in value and default is not None and not marker.many:
            filled[name] = {**_named(default), **value}
    return filled


def _default(cls: type, name: str) -> Any:
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


@lru_cache(maxsize=None)
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


@lru_cache(maxsize=None)
def _parts(cls: type) -> dict[str, _Part]:
    """The fields of ``cls`` that hold plug-ins."""
    hints = typing.get_type_hints(cls, include_extras=True)
    marked = {f.name: getattr(hints.get(f.name), "__metadata__", ()) for f in dataclasses.fields(cls)}
    return {name: m for name, metadata in marked.items() for m in metadata if isinstance(m, _Part)}


# ---- errors --------------------------------------------------------------------------------------------------------


class _Located(BadInput):
    """A :class:`BadInput` that knows the key it is about; each table around it adds its own."""

    def __init__(self, where: tuple[str, ...], reason: str) -> None:
        super().__init__(f"{'.'.join(where)}: {reason}" if where else reason)
        self.where, self.reason = where, reason


class _LocatedRefusal(_Located, Refused):
    """The same for a :class:`Refused`."""


def _located(error: BadInput, outer: tuple[str, ...], owner: type | None) -> BadInput:
    """``error`` below the keys ``outer``; a text ``radius_m: ...`` of a class ``owner`` names its key itself."""
    if isinstance(error, _Located):
        inner, reason = error.where, error.reason
    else:
        inner, reason = (), str(error)
        head, colon, rest = reason.partition(": ")
        names = {f.name for f in dataclasses.fields(owner)} if owner is not None else set()
        if colon and head.split(".")[0] in names:
            inner, reason = tuple(head.split(".")), rest
    return (_LocatedRefusal if isinstance(error, Refused) else _Located)((*outer, *inner), reason)


_PLAIN = dict.fromkeys(("dataclass_type", "dict_type"), "input should be a table") | {
    "tuple_type": "input should be a list"
}  # as TOML calls them


def _explained(cls: type, error: ValidationError) -> BadInput:
    unexpected = ("unexpected_keyword_argument", "extra_forbidden")
    # A misspelt key may also be a missing one: the misspelling says more.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] not in unexpected)
    where = tuple(str(step) for step in first["loc"] if step != "[key]")
    if first["type"] in unexpected:
        owner = _inside(cls, where[:-1]) or cls
        known = [field.name for field in dataclasses.fields(owner) if field.init]
        return _Located(where, str(unknown("key", where[-1], known, of=vars(owner).get("registered_name", ""))))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):
        return _located(cause, where, _inside(cls, where))
    if first["type"] == "missing":
        return _Located(where, "this key is missing and has no default")
    message = _PLAIN.get(first["type"]) or first["msg"][:1].lower() + first["msg"][1:]
    return _Located(where, f"{message}, got {_short(first['input'])}")


def _inside(cls: Any, where: tuple[str, ...]) -> Any:
    """The dataclass that the keys ``where`` lead to from ``cls``; ``None`` where there is none."""
    hint = cls
    for step in where:
        if dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint).get(step)
        else:  # dict[str, X], tuple[X, ...]
            arguments = [a for a in typing.get_args(hint) if a is not Ellipsis]
            hint = arguments[-1] if arguments else None
        if isinstance(hint, types.UnionType):
            hint = next((a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)), hint)
    return hint if dataclasses.is_dataclass(hint) else None


def _short(value: Any) -> str:
    """``repr`` of bounded length, on one line."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 60
    return shortener.repr(value)
