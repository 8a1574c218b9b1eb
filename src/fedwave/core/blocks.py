"""Which block carries which value of a payload: the one mapping that the radio and the fold share.

Values are numbered in schema order: parts as they stand, their leaves as they stand, row-major. Value ``j`` travels on
block ``j mod B`` (a block is a group of subcarriers for as long as their channel holds; interleaving spreads every leaf
over all of them).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedwave.core.types import Floats, Schema


def along(of_block: Floats, start: int, size: int) -> Floats:
    """``[size]`` what holds for each of the values numbered from ``start`` on: ``of_block[(start + i) mod B]``."""
    return np.resize(np.roll(of_block, -(start % len(of_block))), size)


def starts(schema: Schema) -> Iterator[tuple[str, str, int]]:
    """``(part, leaf, number of its first value)`` in schema order, at the shapes of ``schema``."""
    number = 0
    for name, part in schema.items():
        for key, leaf in part.leaves.items():
            yield name, key, number
            number += leaf.size
