"""Stacked clients in training: the object that a method's client hooks see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwave.core import tree
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Ints, Message, Spec
from fedwave.engines.stacking import Stack
from fedwave.methods.method import Method
from fedwave.methods.optimizers import Optimizer


class SlotClients:
    """A group of clients in the slots of a :class:`Stack`; implements :class:`fedwave.methods.sides.Clients`."""

    def __init__(
        self,
        learner: Any,
        stack: Stack,
        cohort: Cohort,
        *,
        message: Message,
        optimizer: Optimizer,
        key: Key,
        clip_norm: float | None = None,
        memory: tree.Tree | None = None,
        known: Any = None,
    ) -> None:
        self.learner, self.stack, self.cohort = learner, stack, cohort
        self.message, self.optimizer, self.clip_norm, self.key = message, optimizer, clip_norm, key
        self.spec: Spec = learner.spec
        self.initial: tree.Tree = learner.initial
        self.public_rows: Ints = learner.public_rows
        self.round = cohort.round
        self.scratch: dict[str, Any] = {}
        self.residual: tree.Tree = {}
        self.at, self._updates = 0, 0
        self._memory = memory or {}
        self._known = torch.zeros(len(cohort), dtype=torch.bool) if known is None else torch.as_tensor(known)
        self._steps = torch.as_tensor(cohort.steps)
        self._sent: tree.Tree = {}
        self._slots: dict[str, tree.Tree] = {}
        self.activate(len(cohort))

    def activate(self, k: int) -> None:
        """Only the first ``k`` slots take part from here on."""
        self.k = k
        self.stack.bind(k)

    # what hooks read: views of the active slots

    @property
    def ids(self) -> Ints:
        """Client ids ``[K]``."""
        return self.cohort.ids[: self.k]

    @property
    def ranks(self) -> Ints:
        """LoRA ranks ``[K]``."""
        return self.cohort.rank[: self.k]

    @property
    def steps(self) -> Tensor:
        """Local steps that each client makes in all, float ``[K]``."""
        return self._steps[: self.k].to(torch.float32)

    @property
    def params(self) -> tree.Tree:
        """Live leaves ``[K, ...]``."""
        return self.stack.params

    @property
    def sent(self) -> tree.Tree:
        """Leaves as loaded."""
        return tree.map(lambda x: x[: self.k], self._sent)

    @property
    def memory(self) -> tree.Tree:
        """The method's client memory."""
        return tree.map(lambda x: x[: self.k], self._memory)

    @property
    def own(self) -> dict[str, tree.Tree]:
        """The message's parts for each client, ``{part: {leaf: [K, ...]}}``."""
        return {name: tree.map(lambda x: x[: self.k], leaves) for name, leaves in (self.message.own or {}).items()}

    @property
    def known(self) -> Tensor:
        """Whether each client has memory from an earlier round, ``[K]``."""
        return self._known[: self.k]

    # what hooks do

    def load(self, params: Mapping[str, Any], *, stacked: bool = False) -> None:
        """Set the leaves of all active slots, zero beyond each client's rank, and keep a copy as ``sent``."""
        wanted = tree.select(params, self.spec.trainable)
        self._sent = self._at_rank(
            {n: x.clone() for n, x in wanted.items()} if stacked else tree.expand(wanted, self.k)
        )
        for name, value in self._sent.items():
            self.stack.full[name][: self.k].copy_(value)

    def resume_own(self) -> None:
        """Load each client's own model from its memory, the initial one where it has none yet."""

        def own(mine: Tensor, initial: Tensor) -> Tensor:
            return torch.where(self.known.view(-1, *[1] * initial.dim()), mine, initial)

        self.load({name: own(self.memory[name], self.initial[name]) for name in self.spec.trainable}, stacked=True)

    def losses(self, rows: Ints) -> Tensor:
        """Mean loss of each client over its rows ``[K, b]``."""
        self.stack.rows = rows.shape[1]
        loss, weight = self.learner.row_losses(self.learner.batch(rows.reshape(-1)))
        k = rows.shape[0]
        return loss.view(k, -1).sum(1) / weight.view(k, -1).sum(1).clamp(min=1)

    def predict(self, rows: Ints) -> Tensor:
        """Outputs ``[K, b, ...]``."""
        self.stack.rows = rows.shape[1]
        out = self.learner.predict(self.learner.batch(np.array(rows).reshape(-1)))
        return out.view(*rows.shape, *out.shape[1:])

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Distillation loss ``[K, b]``."""
        k, b = predicted.shape[:2]
        return self.learner.distance(predicted.flatten(0, 1), target.flatten(0, 1)).view(k, b)

    def gradients(self, objective: Tensor) -> tree.Tree:
        """Per-client gradients; a leaf that the objective does not touch has gradient zero."""
        wanted = {name: value for name, value in self.params.items() if value.requires_grad}
        grads = torch.autograd.grad(objective.sum(), list(wanted.values()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(wanted.items(), grads, strict=True)}

    def descend(self, grads: tree.Tree) -> None:
        """One optimiser step in place on the leaves in ``grads``."""
        if self.clip_norm is not None:
            norm = tree.dot(grads, grads).sqrt()
            grads = tree.scale_rows(grads, (self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        if not self._slots and self.optimizer.slots:
            self._slots = self.optimizer.init(tree.select(self.stack.full, grads))
        views = {slot: tree.map(lambda x: x[: self.k], leaves) for slot, leaves in self._slots.items()}
        self._updates += 1
        with torch.no_grad():
            self.optimizer.update(tree.select(self.params, grads), grads, views, self._updates)

    def shift(self, direction: tree.Tree, scale: Any) -> None:
        """``params += scale * direction`` in place, each client with its own scale."""
        factor = torch.as_tensor(scale, dtype=torch.float32).expand(self.k)
        with torch.no_grad():
            for name, value in tree.scale_rows(self._at_rank(direction), factor).items():
                self.params[name].add_(value)

    def _at_rank(self, leaves: tree.Tree) -> tree.Tree:
        """``leaves [K, ...]`` with zeros beyond each client's rank; as they are where nobody's is smaller."""
        masked = {}
        for name, value in leaves.items():
            leaf = self.spec.trainable[name]
            axis = leaf.rank_axis
            if axis is not None and (self.ranks < leaf.shape[axis]).any():
                value = value * _rank_mask(leaf.shape, axis, self.ranks)
            masked[name] = value
        return masked


def train(method: Method, clients: SlotClients, rows: Ints) -> Tensor:
    """The local loop for a group sorted by steps, longest first: ``rows [T, K, b]``; returns mean losses ``[K]``."""
    method.begin(clients)
    total = torch.zeros(rows.shape[1])
    for t in range(rows.shape[0]):
        active = int((clients.cohort.steps > t).sum())
        clients.activate(active)
        clients.at = t
        total[:active] += method.step(clients, rows[t, :active])
    clients.activate(rows.shape[1])
    return total / clients.steps.clamp(min=1)


def _rank_mask(shape: tuple[int, ...], axis: int, ranks: Ints) -> Tensor:
    """``[K, ...]`` ones up to each client's rank along ``axis``, zeros beyond."""
    keep = torch.arange(shape[axis])[None, :] < torch.as_tensor(ranks)[:, None]
    view = [len(ranks), *[1] * len(shape)]
    view[axis + 1] = shape[axis]
    return keep.view(view).to(torch.float32)
