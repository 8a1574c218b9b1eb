"""The map as a table: CSV, plain values for JSON, and a summary for the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.planner.map.grid import VERDICTS, Map
from fedwave.results.files import disk, write_text

SUITABLE, IMPOSSIBLE = VERDICTS.index("suitable"), VERDICTS.index("impossible")


def rows(found: Map) -> Iterator[dict[str, Any]]:
    """Every cell as a flat table; see :meth:`Map.cell`."""
    for at in product(*map(range, found.axes.shape)):
        yield found.cell(*at)


def write_csv(found: Map, out: Path) -> Path:
    """All cells, a line each. Raises :class:`BadInput` where ``out`` cannot be written."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for index, row in enumerate(rows(found)):
        if not index:
            table.writerow(row)
        table.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in row.values())
    return write(out, text.getvalue())


def write(out: Path, text: str) -> Path:
    """A file that a user named. Raises :class:`BadInput`."""
    if out.is_dir():
        raise BadInput(f"{out} is a folder: name the file to write")
    with disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    return out


def to_dict(found: Map) -> dict[str, Any]:
    """Everything as plain values: cells, recipes, assumptions, and why some jobs are impossible."""
    return {
        "cells": list(rows(found)),
        "methods": {one.name: {"what": one.what, "overrides": list(one.overrides)} for one in found.axes.methods},
        "refused": [{"model": model, "method": method, "why": why} for (model, method), why in found.refused.items()],
        "assumptions": list(found.assumptions),
    }


def shares(found: Map) -> list[dict[str, Any]]:
    """Share of suitable cells by method (rows) and network (columns), among those that are jobs."""
    table = []
    for r, recipe in enumerate(found.axes.methods):
        row: dict[str, Any] = {"suitable": recipe.name}
        for n, network in enumerate(found.axes.networks):
            row[network] = share(found.verdict[:, r, n])
        table.append(row)
    return table


def share(verdicts: np.ndarray) -> str:
    """Of suitable ones among those that are jobs."""
    there = verdicts != IMPOSSIBLE
    return f"{(verdicts == SUITABLE).sum() / there.sum():.0%}" if there.any() else "-"


def bound(found: Map) -> dict[str, int]:
    """How many of the cells that are not suitable each constraint binds, the most frequent first."""
    broken = (found.verdict != SUITABLE) & (found.verdict != IMPOSSIBLE)
    counted = Counter(found.bounds[code] for code in found.binding[broken])
    return dict(counted.most_common())


def totals(found: Map) -> dict[str, int]:
    """Cells by verdict."""
    return {name: int((found.verdict == code).sum()) for code, name in enumerate(VERDICTS)}
