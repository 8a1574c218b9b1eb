"""What belongs to the clients in the slots: tensors ``[slots, ...]`` in named groups, seen through a window."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedwave.core import tree
from fedwave.core.types import Ints


class Table:
    """Groups of leaves; hooks get views of the slots ``[first, first + k)``, and rows move with their clients."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.slots, self.device = slots, device
        self.first = self.k = 0
        self.groups: dict[str, tree.Tree] = {}

    @property
    def window(self) -> slice:
        """The slots in view."""
        return slice(self.first, self.first + self.k)

    def get(self, group: str) -> tree.Tree:
        """Views of the window; empty where nothing was put."""
        return {name: value[self.window] for name, value in self.groups.get(group, {}).items()}

    def put(self, group: str, leaves: Mapping[str, Tensor]) -> None:
        """Copy ``leaves [K, ...]`` into the window."""
        table = self.groups.setdefault(group, {})
        for name, value in leaves.items():
            if name not in table:
                table[name] = torch.zeros((self.slots, *value.shape[1:]), dtype=value.dtype, device=self.device)
            table[name][self.window].copy_(value)

    def move(self, to: Ints, source: Ints) -> None:
        """Rows of the slots ``source`` to the slots ``to``, all at once."""
        for leaves in self.groups.values():
            for value in leaves.values():
                value[to] = value[source]
