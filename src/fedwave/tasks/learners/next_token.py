"""Cross-entropy over a large vocabulary, in chunks: logits of all places at once would be most of a step's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 2**25
"""Logits that exist at a time: 128 MiB in float32."""

Score = Callable[[Tensor], Tensor]


def cross_entropy(score: Score, hidden: Tensor, wanted: Tensor, *, vocab: int, trained: bool) -> Tensor:
    """Cross-entropy of ``score(hidden)`` at each place, float32, of the shape of ``wanted``; exact.

    With a frozen ``score`` the gradient of each chunk is taken as it is computed, so that nothing is computed twice (as
    ``torch.nn.functional.linear_cross_entropy`` does, which knows no more than a product and one weight for all rows).

    Parameters
    ----------
    score : hidden values to logits ``[..., vocab]``, each place apart.
    hidden : ``[M, d]``, or ``[n, P, d]`` where the rows of different clients must stay apart (they are cut along P).
    wanted : ``[M]`` or ``[n, P]`` token ids.
    trained : whether ``score`` has trained parameters; then its chunks are computed again in the backward pass.
    """
    axis = wanted.dim() - 1
    size = max(1, CHUNK // (vocab * (len(wanted) if axis else 1)))
    if wanted.shape[axis] <= size:
        return _losses(score, hidden, wanted)
    chunks = list(zip(hidden.split(size, axis), wanted.split(size, axis), strict=True))
    if not (torch.is_grad_enabled() and (trained or hidden.requires_grad)):
        return torch.cat([_losses(score, *chunk) for chunk in chunks], axis)
    if trained:
        return torch.cat([checkpoint(_losses, score, *chunk, use_reentrant=False) for chunk in chunks], axis)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return _Frozen.apply(score, hidden, wanted, size)


def _losses(score: Score, hidden: Tensor, wanted: Tensor) -> Tensor:
    logits = score(hidden).float()
    return F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), reduction="none").view(wanted.shape)


class _Frozen(torch.autograd.Function):
    """Losses ``[M]`` of ``hidden [M, d]`` under a score without trained parameters."""

    @staticmethod
    def forward(ctx: Any, score: Score, hidden: Tensor, wanted: Tensor, size: int) -> Tensor:
        losses, grads = [], []
        for part, ids in zip(hidden.split(size), wanted.split(size), strict=True):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                loss = _losses(score, part, ids)
                grads += torch.autograd.grad(loss.sum(), part)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(grads))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *factor: Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return None, (factor[0][:, None] * grad).to(grad.dtype), None, None
