"""A line of a plan's explanation."""

from __future__ import annotations

from dataclasses import dataclass


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
