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
        self.window = slice(0, 0)  # the slots in view
        self.k = 0
        self.groups: dict[str, tree.Tree] = {}
        self._views: dict[str, tree.Tree] = {}  # of the window, as long as it stands: a step asks for them many times

    def look(self, first: int, last: int) -> None:
        """Let the window be the slots ``[first, last)``."""
        self.window, self.k = slice(first, last), last - first
        self._views.clear()

    def hold(self, group: str, leaves: tree.Tree) -> None:
        """Make the tensors ``leaves [slots, ...]`` a group."""
        self.groups[group] = leaves
        self._views.pop(group, None)

    def get(self, group: str) -> tree.Tree:
        """Views of the window; empty where nothing was put."""
        if group not in self._views:
            self._views[group] = {name: value[self.window] for name, value in self.groups.get(group, {}).items()}
        return self._views[group]

    def put(self, group: str, leaves: Mapping[str, Tensor], *, once: bool = False) -> None:
        """Copy ``leaves [K, ...]`` into the window; with ``once``, one row stands for all as long as they are equal."""
        table = self.groups.setdefault(group, {})
        for name, value in leaves.items():
            kept, equal = table.get(name), once and _is_one(value)
            if kept is None and equal:
                table[name] = value[:1].clone().expand(self.slots, *value.shape[1:])
            elif kept is None:
                make = torch.empty if self.k == self.slots else torch.zeros
                table[name] = make((self.slots, *value.shape[1:]), dtype=value.dtype, device=self.device)
            elif _is_one(kept) and not (equal and torch.equal(kept[0], value[0])):
                table[name] = kept.clone(memory_format=torch.contiguous_format)
            if table[name] is not kept:
                self._views.pop(group, None)
            if not _is_one(table[name]):
                self.get(group)[name].copy_(value)

    def move(self, to: Ints, source: Ints) -> None:
        """Rows of the slots ``source`` to the slots ``to``, all at once."""
        for leaves in self.groups.values():
            for value in leaves.values():
                if not _is_one(value):
                    value[to] = value[source]


def _is_one(value: Tensor) -> bool:
    """Whether all rows are the same place in memory."""
    return len(value) > 1 and value.stride(0) == 0
