"""The trial that a stack has to pass: the gradients of two stacked clients equal those of each client alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwave.core.errors import Refused
from fedwave.core.types import Ints
from fedwave.engines.stacked.memory import is_out_of_memory
from fedwave.engines.stacked.stacking import Stack

_SPREAD = 0.02  # how far the two clients' leaves are moved from the initial ones, so that none is without effect
_CLOSE = {True: 1e-3, False: 0.1}  # relative, by whether the model computes in float32: rounding, not a wrong row


def stack_clients(learner: Any, slots: int) -> tuple[Stack, str]:
    """A stack of the learner's model, which it takes the place of in the learner, and why clients are not stacked.

    Where the model does not let clients be stacked (it does not say which rows are whose, or reads a layer's weights
    behind its back), the stack has one slot and a warning says why. Raises :class:`Refused` for layers that mix rows.
    """
    why = ""
    if slots > 1 and len(learner.order):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model that is not meant for it may warn on the way to failing
            try:
                why = _objection(learner)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                why = "memory does not hold two clients of two rows"
        if why:
            warnings.warn(f"the engine trains clients one by one: {why}", stacklevel=2)
            slots = 1
    stack = Stack(learner.model, learner.leaf_paths, slots)
    learner.model = stack.model
    return stack, why


def _objection(learner: Any) -> str:
    """Why two clients of two rows each cannot be stacked, in a sentence's second half; empty where they can."""
    shortest = learner.order[np.argsort(learner.lengths(learner.order), kind="stable")]
    rows = np.resize(shortest[:4], (2, 2))
    alone = [_marks(learner, 1, rows[slot : slot + 1], slot) for slot in range(2)]
    try:
        together = _marks(learner, 2, rows, 0)
    except Refused as error:
        return str(error)
    except Exception as error:  # a model's code may raise anything on parameters with a client axis
        if is_out_of_memory(error):
            raise
        return f"its model cannot take stacked parameters ({type(error).__name__}: {error})"
    wanted = {name: torch.cat([values[name] for values in alone]) for name in together}
    largest = max(float(value[:, 0].nan_to_num().max()) for value in wanted.values())
    for name, value in wanted.items():
        size = value[:, :1].clamp(min=1e-2 * largest) * _CLOSE[learner.dtype == torch.float32]
        if ((together[name] - value).abs() > size).any():
            return f"stacked, the gradient of {name!r} differs from that of a client alone"
    return ""


def _marks(learner: Any, slots: int, rows: Ints, first: int) -> dict[str, Tensor]:
    """Two numbers for the gradient of each leaf of each client, ``[slots, 2]``: its norm, and a random projection."""
    own = learner.model
    stack = Stack(own, learner.leaf_paths, slots, reversible=True)
    learner.model = stack.model
    try:
        for number, (name, value) in enumerate(stack.full.items()):
            for slot in range(slots):
                value[slot] = learner.initial[name].to(value.device) + _SPREAD * _noise(
                    value[slot], 2 * number + first + slot
                )
        stack.bind(slots)
        stack.rows = rows.shape[1]
        loss, _ = learner.row_losses(learner.batch(rows.reshape(-1)))
        grads = torch.autograd.grad(loss.sum(), list(stack.params.values()), allow_unused=True)
        return {
            name: torch.zeros(slots, 2) if grad is None else _mark(grad.flatten(1), number)
            for number, (name, grad) in enumerate(zip(stack.params, grads, strict=True))
        }
    finally:
        stack.restore()
        learner.model = own


def _mark(grad: Tensor, number: int) -> Tensor:
    return torch.stack([grad.norm(dim=1), grad @ _noise(grad[0], number)], dim=1).cpu()


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device)
