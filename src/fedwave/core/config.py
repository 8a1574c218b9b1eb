"""Dataclass <-> table: parse TOML tables straight into frozen dataclasses, and write them back fully resolved.

A field that holds a plug-in is annotated ``Annotated[Method, part("method")]``; its table names the class by ``name``.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError

from fedwave.core import registry
from fedwave.core.errors import BadInput, unknown

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


def part(kind: str) -> PlainValidator:
    """Validator of a field that holds a registered ``kind``: a table with ``name``, a bare name, or the object itself."""
    return PlainValidator(lambda value: build(kind, value))


def parts(kind: str) -> PlainValidator:
    """Validator of a field that holds a tuple of registered ``kind``."""
    return PlainValidator(lambda values: tuple(build(kind, value) for value in _as_list(kind, values)))


def build(kind: str, value: Any) -> Any:
    """Object of ``kind`` from a table ``{"name": ..., key: value}``. Raises :class:`BadInput` naming the key."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        if dataclasses.is_dataclass(value):
            return value
        raise BadInput(f"{kind} must be a table with a name, got {value!r}")
    if "name" not in value:
        raise BadInput(f"name is missing (one of: {', '.join(registry.names(kind))})")
    return parse(registry.lookup(kind, value["name"]), {k: v for k, v in value.items() if k != "name"})


def parse(cls: type, table: dict[str, Any]) -> Any:
    """Dataclass ``cls`` from ``table``. Raises :class:`BadInput`: key, value, what is allowed."""
    try:
        return _adapter(cls).validate_python(table)
    except ValidationError as error:
        raise BadInput(_sentence(cls, error)) from None


def dump(obj: Any) -> Any:
    """Plain table of a configuration object, plug-ins with their ``name``, ``None`` left out."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        table = {"name": registry.name_of(obj)} if hasattr(type(obj), "registered_name") or _is_user(obj) else {}
        for field in dataclasses.fields(obj):
            value = getattr(obj, field.name)
            if value is not None and field.init:
                table[field.name] = dump(value)
        return table
    if isinstance(obj, dict):
        return {str(key): dump(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [dump(value) for value in obj]
    return obj


def _is_user(obj: Any) -> bool:
    return not type(obj).__module__.startswith("fedwave.")


@lru_cache(maxsize=None)
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _as_list(kind: str, values: Any) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        raise BadInput(f"must be a list of {kind} tables, got {values!r}")
    return list(values)


def _sentence(cls: type, error: ValidationError) -> str:
    first = error.errors()[0]
    path = ".".join(str(step) for step in first["loc"])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        prefix, _, key = path.rpartition(".")
        return f"{prefix + ': ' if prefix else ''}{unknown('key', key, known)}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):
        text = str(cause)
        return f"{path}.{text}" if _names_a_key(text) else f"{path}: {text}"
    return f"{path}: {first['msg'].lower()}, got {first['input']!r}"


def _names_a_key(text: str) -> bool:
    head = text.split(":", 1)[0]
    return ":" in text and " " not in head
