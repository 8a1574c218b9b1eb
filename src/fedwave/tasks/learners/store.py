"""Row stores: one gather turns row numbers into tensors. Row -1 is a padding row."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedwave.core.types import Ints


class Store(Protocol):
    """What a model is fed: ``names`` are the keys of :meth:`gather`, in the order of the model's arguments."""

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of :meth:`gather`."""
        ...

    def gather(self, rows: Ints, device: torch.device) -> dict[str, Tensor]:
        """Tensors of the given rows."""
        ...

    def lengths(self, rows: Ints) -> Ints:
        """Tokens of each row; 1 where rows have no length."""
        ...


class Vectors:
    """Rows of equal shape, float32; a padding row is all zeros."""

    names = ("x",)

    def __init__(self, values: NDArray[np.floating] | Tensor) -> None:
        self._values = torch.as_tensor(values, dtype=torch.float32)

    def gather(self, rows: Ints, device: torch.device) -> dict[str, Tensor]:
        """``x [n, ...]``."""
        rows = np.asarray(rows)
        values = self._values.index_select(0, torch.as_tensor(rows.clip(min=0)))
        if (rows < 0).any():
            values[torch.as_tensor(rows < 0)] = 0.0
        return {"x": values.to(device)}

    def lengths(self, rows: Ints) -> Ints:
        """1 for every row: there is nothing to group by."""
        return np.ones(len(rows), dtype=np.int64)


class Tokens:
    """Token rows of unequal length, kept end to end; a batch is padded on the right to its longest row.

    A padding row is one padding token that attends to itself, because attention over nothing is not a number.
    """

    names = ("input_ids", "attention_mask")

    def __init__(self, flat: NDArray[np.integer], offsets: Ints, pad: int) -> None:
        self._flat = np.append(np.asarray(flat, dtype=np.int64), pad)
        self._start, self._length = offsets[:-1], np.diff(offsets)
        self._pad = pad

    def gather(self, rows: Ints, device: torch.device) -> dict[str, Tensor]:
        """``input_ids [n, T]`` and ``attention_mask [n, T]``, int64."""
        rows = np.asarray(rows)
        length = self.lengths(rows)[:, None]
        place = np.arange(int(length.max()))
        real = place < length
        index = np.where(real & (rows[:, None] >= 0), self._start[rows][:, None] + place, len(self._flat) - 1)
        ids, mask = torch.as_tensor(self._flat[index]), torch.as_tensor(real.astype(np.int64))
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def lengths(self, rows: Ints) -> Ints:
        """Tokens of each row; 1 for a padding row."""
        rows = np.asarray(rows)
        return np.where(rows >= 0, self._length[rows], 1)
