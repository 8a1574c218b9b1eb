"""A resident model with client slots, and what a server does with it: evaluate, predict, distil, change the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core import tree
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Ints, Message, Spec
from fedwave.engines.choice import Choice

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedwave.engines.stacked.slots import SlotClients
    from fedwave.tasks.learner import Learner


class Resident:
    """The learner's model rebuilt around stacked leaves, once for all rounds.

    ``choice`` says how many clients are stacked, and why.
    """

    def __init__(self, learner: Learner, choice: Choice) -> None:
        from fedwave.engines.stacked.trial import stack_clients

        self.learner = learner
        self.spec: Spec = learner.spec
        self.initial, self.public_rows = learner.initial, learner.public_rows
        self.population = learner.clients
        self.stack, objection = stack_clients(learner, choice.slots)
        self.choice = choice._replace(slots=1, why=f"one client at a time: {objection}") if objection else choice
        self._base_applied = 0
        self._masters: dict[str, Tensor] = {}

    def apply_base(self, changes: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
        """Add the base changes that the resident model does not have yet: ``W += lora_scale * B A``.

        A head that is tied to the embedding gets a weight of its own, because the change is the head's alone.
        Half-precision weights keep a float32 master from their first change on, or small ones would be rounded away.
        """
        import torch

        new = changes[self._base_applied :]
        tied = _tied(self.learner.model) if new else set()
        with torch.no_grad():
            for change in new:
                for module, (a, b) in change.items():
                    path = self.learner.base_paths[module]
                    owner = self.learner.model.get_submodule(path.rpartition(".")[0])
                    weight = _untied(owner, path.rpartition(".")[2], tied)
                    delta = self.spec.lora_scale * (b @ a).to(weight.device)
                    master = weight
                    if weight.dtype != torch.float32:
                        master = self._masters.setdefault(module, weight.float())
                    # GPT-2's Conv1D stores its weight as [d_in, d_out].
                    master.add_(delta.T if type(owner).__name__ == "Conv1D" else delta)
                    if master is not weight:
                        weight.copy_(master)
        self._base_applied = max(self._base_applied, len(changes))

    def evaluate(self, params: Mapping[str, Any], base: list[Any]) -> dict[str, float]:
        """Held-out metrics of the model with ``params`` and all base changes."""
        from fedwave.engines.stacked.memory import with_less

        self.apply_base(base)
        self._single(params)
        return with_less(self.learner.evaluate, self._halve_evaluation)

    def _halve_evaluation(self) -> str:
        from fedwave.engines.stacked.memory import halved

        self.learner.eval_batch, why = halved(self.learner.eval_batch, "held-out rows", "batch of the evaluation")
        return why

    def predict(self, params: Mapping[str, Any], rows: Ints) -> Tensor:
        """Outputs ``[n, ...]`` without gradient."""
        import torch

        clients = self._single(params)
        with torch.no_grad():
            return torch.cat([clients.predict(rows[None, at : at + 64])[0].cpu() for at in range(0, len(rows), 64)])

    def distill(
        self, params: Mapping[str, Any], targets: Any, *, steps: int, batch_size: int, optimizer: Any, key: Key
    ) -> tree.Tree:
        """Train the model on the public rows towards ``targets [n_public, ...]``."""
        self.stack.train_only(set(self.spec.trainable))
        clients = self._single(params, optimizer)
        for step in range(steps):
            drawn = np.argsort(key.fold("distill", step).uniform(0, len(self.public_rows))[0])[:batch_size]
            outputs = clients.predict(self.public_rows[None, drawn])
            wanted = targets[drawn][None].to(outputs.device)
            clients.descend(clients.gradients(clients.distance(outputs, wanted).mean(1)))
        return {name: value[0].detach().cpu().clone() for name, value in clients.params.items()}

    def _single(self, params: Mapping[str, Any], optimizer: Any = None) -> SlotClients:
        """One client in slot 0 that holds ``params`` at full rank."""
        alone = _server_alone(self.spec.max_rank)
        clients = self.clients(Message(shared={}), optimizer, Key(0), round=0, seats=1)
        clients.seat(np.zeros(1, dtype=np.int64), alone, np.zeros((0, 1, 0), dtype=np.int64))
        clients.load(params)
        return clients

    def clients(
        self, message: Message, optimizer: Any, key: Key, *, round: int, seats: int, clip_norm: float | None = None
    ) -> SlotClients:
        """``seats`` free seats in the stack."""
        from fedwave.engines.stacked.slots import SlotClients

        return SlotClients(
            self.learner,
            self.stack,
            message=message,
            optimizer=optimizer,
            key=key,
            costs=self.choice.costs,
            seats=seats,
            round=round,
            clip_norm=clip_norm,
        )


def _tied(model: nn.Module) -> set[int]:
    """Identities of the parameters that stand at more than one place."""
    places = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    return {value for value, count in places.items() if count > 1}


def _untied(owner: nn.Module, name: str, tied: set[int]) -> Tensor:
    """The frozen parameter ``name`` of ``owner``, a weight of its own from here on if it is ``tied``."""
    from torch import nn

    weight = owner.get_parameter(name)
    if id(weight) in tied:
        weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        setattr(owner, name, weight)
    return weight


def _server_alone(rank: int) -> Cohort:
    """A cohort of one that is no client: the server's own use of slot 0."""
    one, zero = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    return Cohort(0, zero, np.ones(1), one, one, one, rank * one, zero, -one, zero)
