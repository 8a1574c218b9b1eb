"""A line of a plan's explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One number of a plan.

    Parameters
    ----------
    part : what it belongs to; names are unique within it.
    name, value, unit : the number; ``unit`` "1" has no dimension.
    source : where it is from: a table, a paper, the job, or how it is averaged.
    formula : over the names of rows above it; empty where it is no such product.
    """

    part: str
    name: str
    value: float | int | str | bool | None
    unit: str
    source: str
    formula: str = ""


def evaluate(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Every row with a formula, and what the formula comes to with the values of the rows above it."""
    everything: dict[str, Any] = {"max": max, "min": min}
    own: dict[str, dict[str, Any]] = {}
    found = []
    for row in rows:
        mine = own.setdefault(row.part, {})
        if row.formula:
            names: Mapping[str, Any] = {**everything, **mine}
            found.append((row, float(eval(row.formula, {"__builtins__": {}}, dict(names)))))
        mine[row.name] = everything[row.name] = row.value
    return found
