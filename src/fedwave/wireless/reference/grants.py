"""Who gets which block of a slot, where Sionna has no rule for it: rotation, and a limit on a user's blocks."""

from __future__ import annotations

from typing import Any


def rotation(active: Any, prbs: int, cap: Any, number: int) -> Any:
    """``[R, M, U]``: equal parts of adjacent blocks for active users ``[R, U]``, all shifted by one part every slot.

    Each user meets every part of the band, and parts of M / n rounded up or down, equally often. Blocks past a
    user's ``cap [U]`` stay empty.
    """
    import torch

    count = active.sum(dim=1, keepdim=True)
    turn = (torch.cumsum(active, dim=1) - 1 + number) % count.clamp(min=1)  # the part that each active user holds
    part = torch.arange(prbs) * count // prbs  # [R, M]
    granted = (part[:, :, None] == turn[:, None, :]) & active[:, None, :]
    return granted & (torch.cumsum(granted, dim=1) <= cap)


def capped(granted: Any, metric: Any, active: Any, cap: Any) -> Any:
    """``[R, M, U]``: each user keeps its best ``cap [U]`` blocks; the others go to the best active user with room.

    Every pass fills a user or leaves nothing to give, so that there are at most U passes.
    """
    import torch

    if not (granted.sum(dim=1) > cap).any():
        return granted
    for _ in range(len(cap)):
        order = torch.where(granted, metric, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
        granted = granted & (order < cap)
        room = active & (granted.sum(dim=1) < cap)
        free = ~granted.any(dim=2)
        give = free & room.any(dim=1, keepdim=True)
        if not give.any():
            break
        best = torch.where(room[:, None, :], metric, -1.0).argmax(dim=2)
        granted = granted | (give[:, :, None] & (torch.arange(len(cap)) == best[:, :, None]))
    order = torch.where(granted, metric, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    return granted & (order < cap)
