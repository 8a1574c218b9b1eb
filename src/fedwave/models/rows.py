"""The small vocabulary in which the families are written: a config that insists on its sizes, a linear layer, a norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.models.shapes import Role, Row


class Config:
    """A config whose missing sizes are errors; ``None`` counts as missing, as in transformers."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table

    def get(self, *keys: str, default: Any) -> Any:
        return next((self.table[key] for key in keys if self.table.get(key) is not None), default)

    def __getitem__(self, key: str) -> Any:
        value = self.table.get(key)
        if value is None:
            raise BadInput(f"the config of a {self.table['model_type']} model lacks {key}")
        return value

    def dropout(self, *keys: str, default: float) -> bool:
        return any(self.get(key, default=default) > 0 for key in keys)


def linear(name: str, out: int, into: int, bias: bool, role: Role = "linear") -> Iterator[Row]:
    yield Row(f"{name}.weight", (into, out) if role == "conv1d" else (out, into), role)
    if bias:
        yield Row(f"{name}.bias", (out,))


def norm(name: str, width: int, bias: bool = False) -> Iterator[Row]:
    yield Row(f"{name}.weight", (width,))
    if bias:
        yield Row(f"{name}.bias", (width,))
