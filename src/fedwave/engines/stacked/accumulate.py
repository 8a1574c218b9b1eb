"""Losses and gradients of all clients' rows, pass by pass: exact, whatever the passes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwave.core import tree
from fedwave.core.types import Ints
from fedwave.engines.stacked.batches import Costs, Pass, cut_passes
from fedwave.engines.stacked.stacking import Stack
from fedwave.tasks.learner import Learner


def losses_of(learner: Learner, stack: Stack, rows: Ints, costs: Costs) -> Tensor:
    """Mean loss of each client over its ``rows [K, b]``, differentiable in ``stack.params``, ``[K]``.

    With several passes the gradients are taken as the passes go, because that bounds what is kept, and handed out when
    they are asked for. This is exact because a client's loss depends on its own leaves alone.
    """
    passes = cut_passes(rows, _lengths(learner, rows), costs)
    if len(passes) == 1 and passes[0].slots is None:
        place, _ = passes[0]
        stack.rows = place.shape[1]
        loss, weight = learner.row_losses(learner.batch(_take(rows, place)))
        return loss.view(len(rows), -1).sum(1) / weight.view(len(rows), -1).sum(1).clamp(min=1)
    leaves = {name: value for name, value in stack.params.items() if value.requires_grad}
    differentiable = torch.is_grad_enabled() and bool(leaves)
    grads = tree.map(torch.zeros_like, leaves) if differentiable else {}
    total, terms = (torch.zeros(len(rows), device=learner.device) for _ in range(2))
    with closing(_lent(stack, passes)) as turns:
        for one, lent in turns:
            loss, weight = learner.row_losses(learner.batch(_take(rows, one.place)))
            slots = torch.as_tensor(np.arange(len(rows)) if one.slots is None else one.slots, device=loss.device)
            for sums, values in ((total, loss), (terms, weight)):
                sums.index_add_(0, slots, values.detach().float().view(len(slots), -1).sum(1))
            if differentiable:
                wanted = {name: lent[name] for name in grads}
                found = torch.autograd.grad(loss.sum(), list(wanted.values()), allow_unused=True)
                for name, grad in zip(wanted, found, strict=True):
                    if grad is not None:
                        grads[name].index_add_(0, slots, grad)
    terms = terms.clamp(min=1)
    mean = total / terms
    return _Known.apply(mean, tree.scale_rows(grads, 1 / terms), *leaves.values()) if differentiable else mean


def outputs_of(learner: Learner, stack: Stack, rows: Ints, costs: Costs) -> Tensor:
    """Outputs ``[K, b, ...]`` of each client's model on ``rows [K, b]``; with gradients all in one pass."""
    if torch.is_grad_enabled():
        stack.rows = rows.shape[1]
        out = learner.predict(learner.batch(rows.reshape(-1)))
        return out.view(*rows.shape, *out.shape[1:])
    found: Tensor | None = None
    with closing(_lent(stack, cut_passes(rows, _lengths(learner, rows), costs))) as turns:
        for one, _ in turns:
            out = learner.predict(learner.batch(_take(rows, one.place)))
            found = out.new_zeros((rows.size, *out.shape[1:])) if found is None else found
            real = np.flatnonzero(one.place.reshape(-1) >= 0)
            found[torch.as_tensor(one.place.reshape(-1)[real])] = out[torch.as_tensor(real)]
    assert found is not None
    return found.view(*rows.shape, *found.shape[1:])


class _Known(torch.autograd.Function):
    """``mean [K]`` with the gradients that are already known; each client's is its own."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, grads: tree.Tree, *leaves: Tensor) -> Tensor:
        ctx.grads = grads
        return mean.clone()

    @staticmethod
    def backward(ctx: Any, *factor: Tensor) -> Any:
        return None, None, *tree.scale_rows(ctx.grads, factor[0]).values()


def _lent(stack: Stack, passes: list[Pass]) -> Generator[tuple[Pass, tree.Tree], None, None]:
    """Each pass with the leaves of its lanes in place; the window's own are put back in the end."""
    try:
        for one in passes:
            lent = stack.params
            if one.slots is not None:
                index = torch.as_tensor(one.slots, device=next(iter(lent.values())).device)
                lent = {n: v.detach()[index].requires_grad_(v.requires_grad) for n, v in lent.items()}
            stack.lend(lent, len(one.place))
            stack.rows = one.place.shape[1]
            yield one, lent
    finally:
        stack.lend(stack.params, len(next(iter(stack.params.values()))))


def _lengths(learner: Learner, rows: Ints) -> Ints:
    return learner.lengths(rows.reshape(-1)).reshape(rows.shape)


def _take(rows: Ints, place: Ints) -> Ints:
    """Row numbers at flat ``place``, -1 where there is none."""
    return np.where(place < 0, -1, rows.reshape(-1)[place]).reshape(-1)
