"""The rounds of a run as a DataFrame, for people who live in pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedwave.core.errors import BadInput

if TYPE_CHECKING:
    import pandas


def frame(records: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """One row per record; nested values become dotted columns (``eval.loss``, ``status.deadline``, ``lost.deadline``).

    A round that lost nobody to a reason has 0 in its ``status`` column; a round without evaluation has NaN. Raises
    :class:`BadInput` where pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise BadInput("a DataFrame needs the package 'pandas': pip install pandas") from None
    table = pandas.json_normalize([dict(record) for record in records])
    counts = [name for name in table.columns if name.startswith("status.")]
    table[counts] = table[counts].fillna(0).astype(int)
    return table
