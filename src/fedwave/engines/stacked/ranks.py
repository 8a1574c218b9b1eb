"""Clients of different LoRA ranks in one stack: leaves have the largest rank, and are zero beyond each client's own."""

from __future__ import annotations

import torch
from torch import Tensor

from fedwave.core import tree
from fedwave.core.types import Ints, Leaves


def within_ranks(leaves: tree.Tree, shapes: Leaves, ranks: Ints) -> tree.Tree:
    """``leaves [K, ...]`` with zeros beyond each client's rank ``[K]``; as they are where nobody's is smaller."""
    masked = {}
    for name, value in leaves.items():
        axis = shapes[name].rank_axis
        if axis is not None and (ranks < shapes[name].shape[axis]).any():
            value = value * _mask(shapes[name].shape, axis, ranks).to(value.device)
        masked[name] = value
    return masked


def _mask(shape: tuple[int, ...], axis: int, ranks: Ints) -> Tensor:
    """``[K, ...]`` ones up to each client's rank along ``axis``, zeros beyond."""
    keep = torch.arange(shape[axis])[None, :] < torch.as_tensor(ranks)[:, None]
    view = [len(ranks), *[1] * len(shape)]
    view[axis + 1] = shape[axis]
    return keep.view(view).to(torch.float32)
