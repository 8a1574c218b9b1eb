"""Stacked clients in training: the object that a method's client hooks see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwave.core import tree
from fedwave.core.errors import Refused
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Ints, Message, Spec
from fedwave.engines.stacked.accumulate import losses_of, outputs_of
from fedwave.engines.stacked.batches import Costs
from fedwave.engines.stacked.memory import halved, with_less
from fedwave.engines.stacked.ranks import within_ranks
from fedwave.engines.stacked.stacking import Stack
from fedwave.engines.stacked.table import Table
from fedwave.methods.method import Method
from fedwave.methods.optimizers import Optimizer


class SlotClients:
    """The clients in the slots of a :class:`Stack`; implements :class:`fedwave.methods.sides.Clients`.

    Seats are filled from slot 0 on: clients in training come first, then those that are done and wait to be folded.
    Hooks see a window ``[first, first + K)`` of the slots: those that have just come, those in training, or those done.
    All that belongs to a client (leaves, optimiser state, memory, ...) is a row of a table and moves with it. The table
    has as many rows as there are ``seats``, clients at the same time.
    """

    def __init__(
        self,
        learner: Any,
        stack: Stack,
        *,
        message: Message,
        optimizer: Optimizer,
        key: Key,
        costs: Costs,
        seats: int,
        round: int = 0,
        clip_norm: float | None = None,
    ) -> None:
        self.learner, self.stack, self.costs = learner, stack, costs
        self.optimizer, self.clip_norm, self.key = optimizer, clip_norm, key
        self.spec: Spec = learner.spec
        self.initial: tree.Tree = tree.map(lambda x: x.to(learner.device), learner.initial)
        shared = {part: tree.map(lambda x: x.to(learner.device), leaves) for part, leaves in message.shared.items()}
        self.message = replace(message, shared=shared)
        self.public_rows: Ints = learner.public_rows
        self.round = round
        self.scratch: dict[str, Any] = {}
        self.seated = self.active = 0
        self._table = Table(seats, learner.device)
        self._table.hold("params", tree.map(lambda x: x[:seats], stack.full))
        loss = torch.zeros(seats, dtype=torch.float64, device=learner.device)
        self._table.hold("clients", {"loss": loss, "known": torch.zeros_like(loss, dtype=torch.bool)})
        names = ("position", "id", "rank", "steps", "made", "updates")
        self._numbers = {name: np.zeros(seats, dtype=np.int64) for name in names}
        self._plan = np.zeros((seats, 0, 0), dtype=np.int64)

    # ---- seats -----------------------------------------------------------------------------------------------------

    def seat(
        self,
        positions: Ints,
        cohort: Cohort,
        rows: Ints,
        *,
        own: Mapping[str, tree.Tree] | None = None,
        memory: tree.Tree | None = None,
        residual: tree.Tree | None = None,
        known: Any = False,
    ) -> None:
        """Give free slots to the clients ``cohort``, which stand at ``positions`` of the round's; the window is theirs.

        Parameters
        ----------
        rows : ``[T, K, b]`` of every step.
        own : the message's parts for each of them.
        memory, residual, known : their memory and error feedback by leaf, and whether they had any ``[K]``.
        """
        first, last = self.seated, self.seated + len(cohort)
        self.seated = self.active = last
        self.open(first, last)
        for name, value in (
            ("position", positions), ("id", cohort.ids), ("rank", cohort.rank), ("steps", cohort.steps),
            ("made", 0), ("updates", 0),
        ):  # fmt: skip
            self._numbers[name][first:last] = value
        loss, knew = self._table.get("clients").values()
        loss.zero_()
        knew.copy_(torch.as_tensor(known))
        self._table.put("memory", memory or {})
        self._table.put("residual", residual or {})
        for part, leaves in (own or {}).items():
            self._table.put(f"own/{part}", leaves)
        for group in [g for g in self._table.groups if g.startswith("optimizer/")]:
            fresh = self.optimizer.init({n: x[first:last] for n, x in self._table.groups[group].items()})
            self._table.put(group, fresh[group.partition("/")[2]])
        grown = np.maximum(self._plan.shape[1:], (rows.shape[0], rows.shape[2])) - self._plan.shape[1:]
        self._plan = np.pad(self._plan, ((0, 0), (0, grown[0]), (0, grown[1])), constant_values=-1)
        self._plan[first:last] = -1
        self._plan[first:last, : rows.shape[0], : rows.shape[2]] = rows.transpose(1, 0, 2)

    def park(self) -> int:
        """Move clients that have made their steps behind those in training; how many wait there now."""
        done = self._numbers["made"][: self.active] >= self._numbers["steps"][: self.active]
        if done.any():
            self._keep_scratch()
            order = np.argsort(done, kind="stable")
            to = np.flatnonzero(order != np.arange(self.active))
            if len(to):
                self._table.move(to, order[to])
                for values in (*self._numbers.values(), self._plan):
                    values[to] = values[order[to]]
            self.active -= int(done.sum())
        return self.seated - self.active

    def open(self, first: int, last: int) -> None:
        """Hooks see the slots ``[first, last)`` from here on."""
        self._keep_scratch()
        self._table.look(first, last)
        self.scratch = dict(self._table.get("scratch"))
        self.stack.params = {
            name: value[first:last].detach().requires_grad_(name in self.stack.trains)
            for name, value in self.stack.full.items()
        }
        self.stack.lend(self.stack.params, self.k)

    def release(self) -> None:
        """Free the slots of those that are done."""
        self.seated = self.active
        if self.active:
            self.open(0, self.active)

    def step(self, method: Method) -> None:
        """One local step of all clients in training."""
        if self._table.window != slice(0, self.active):
            self.open(0, self.active)
        here = np.arange(self.k)
        rows = self._plan[here, self._numbers["made"][: self.k]]
        # Until it descends, the step of most methods changes nothing, so that it may be begun anew.
        again = type(method).step is Method.step
        loss = with_less(lambda: method.step(self, rows), self._halve) if again else method.step(self, rows)
        self._table.get("clients")["loss"] += loss
        self._numbers["made"][: self.k] += 1

    # ---- what hooks read, of the clients in the window -------------------------------------------------------------

    @property
    def positions(self) -> Ints:
        """Places in the round's cohort ``[K]``."""
        return self._number("position")

    @property
    def ids(self) -> Ints:
        """Client ids ``[K]``."""
        return self._number("id")

    @property
    def ranks(self) -> Ints:
        """LoRA ranks ``[K]``."""
        return self._number("rank")

    @property
    def steps(self) -> Tensor:
        """Local steps that each client makes in all, float ``[K]``."""
        return torch.as_tensor(self._number("steps"), dtype=torch.float32, device=self.learner.device)

    @property
    def at(self) -> int:
        """Local steps made so far. Raises :class:`Refused` where clients differ."""
        made = np.unique(self._number("made"))
        if len(made) > 1:
            raise Refused("clients.at is one number only in methods that have a step of their own; override step")
        return int(made[0])

    @property
    def mean_loss(self) -> Tensor:
        """Mean over the steps of each client's loss, ``[K]``."""
        return self._table.get("clients")["loss"] / self.steps.clamp(min=1)

    @property
    def params(self) -> tree.Tree:
        """Live leaves ``[K, ...]``."""
        return self.stack.params

    @property
    def sent(self) -> tree.Tree:
        """Leaves as loaded."""
        return self._table.get("sent")

    @property
    def memory(self) -> tree.Tree:
        """Each client's memory, by leaf."""
        return self._table.get("memory")

    @property
    def residual(self) -> tree.Tree:
        """Each client's error feedback, by ``part/leaf``."""
        return self._table.get("residual")

    @property
    def own(self) -> dict[str, tree.Tree]:
        """The message's parts for each client, ``{part: {leaf: [K, ...]}}``."""
        return {name: self._table.get(f"own/{name}") for name in self.message.own or {}}

    @property
    def known(self) -> Tensor:
        """Whether each client has memory from an earlier round, ``[K]``."""
        return self._table.get("clients")["known"]

    # ---- what hooks do ---------------------------------------------------------------------------------------------

    def load(self, params: Mapping[str, Any], *, stacked: bool = False) -> None:
        """Set the leaves, zero beyond each client's rank, and keep a copy as ``sent``."""
        wanted = tree.select(params, self.spec.trainable)
        leaves = wanted if stacked else tree.expand(wanted, self.k)
        within = within_ranks(leaves, self.spec.trainable, self.ranks)
        self._table.put("sent", within, once=True)
        self._table.put("params", within)

    def resume_own(self) -> None:
        """Load each client's own model from its memory, the initial one where it has none yet."""

        def own(mine: Tensor, initial: Tensor) -> Tensor:
            return torch.where(self.known.view(-1, *[1] * initial.dim()), mine, initial)

        self.load({name: own(self.memory[name], self.initial[name]) for name in self.spec.trainable}, stacked=True)

    def losses(self, rows: Ints) -> Tensor:
        """Mean loss of each client over its rows ``[K, b]``."""
        return with_less(lambda: losses_of(self.learner, self.stack, np.asarray(rows), self.costs), self._halve)

    def predict(self, rows: Ints) -> Tensor:
        """Outputs ``[K, b, ...]``."""
        return with_less(lambda: outputs_of(self.learner, self.stack, np.array(rows), self.costs), self._halve)

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
        if not any(group.startswith("optimizer/") for group in self._table.groups):
            empty = self.optimizer.init(tree.select(self._table.groups["params"], grads))
            for slot, leaves in empty.items():
                self._table.hold(f"optimizer/{slot}", leaves)
        state = {slot: self._table.get(f"optimizer/{slot}") for slot in self.optimizer.slots}
        self._number("updates")[:] += 1
        with torch.no_grad():
            self.optimizer.update(tree.select(self.params, grads), grads, state, self._number("updates"))

    def shift(self, direction: tree.Tree, scale: Any) -> None:
        """``params += scale * direction`` in place, each client with its own scale."""
        factor = torch.as_tensor(scale, dtype=torch.float32, device=self.learner.device).expand(self.k)
        here = tree.map(lambda x: x.to(self.learner.device), direction)
        with torch.no_grad():
            within = within_ranks(here, self.spec.trainable, self.ranks)
            for name, value in tree.scale_rows(within, factor).items():
                self.params[name].add_(value)

    # ---- the table -------------------------------------------------------------------------------------------------

    @property
    def k(self) -> int:
        """Clients in the window."""
        return self._table.k

    def _halve(self) -> str:
        """Smaller passes from here on."""
        budget, why = halved(self.costs.budget, "tokens", "engine.token_budget")
        self.costs = self.costs._replace(budget=budget)
        return why

    def _number(self, name: str) -> Ints:
        return self._numbers[name][self._table.window]

    def _keep_scratch(self) -> None:
        """Rows of the method's own tensors back into the table, from where they move with their clients."""
        self._table.put("scratch", {name: value.detach() for name, value in self.scratch.items()})
        self.scratch = dict(self._table.get("scratch"))


def train(method: Method, clients: SlotClients, quota: int) -> None:
    """Local steps until ``quota`` clients are done, or all of them."""
    while clients.park() < quota and clients.active:
        clients.step(method)
