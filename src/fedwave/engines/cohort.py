"""The cohort engine: many clients through one forward and backward pass, in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core import tree
from fedwave.core.config import Count, Index
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Cohort, Delivery, Ints, Message, Replies, Spec
from fedwave.engines.encoding import METHOD, encode, memory_leaves, pack
from fedwave.engines.fold import Fold, finite

if TYPE_CHECKING:
    from torch import Tensor

    from fedwave.engines.slots import SlotClients
    from fedwave.methods.method import Method
    from fedwave.results.memory_store import MemoryStore
    from fedwave.tasks.learner import Learner
    from fedwave.transforms.chain import Chain


@register("engine", "cohort")
@dataclass(frozen=True)
class CohortEngine:
    """Client-stacked training by leaf swap.

    Parameters
    ----------
    token_budget : tokens (rows, where rows have no length) that one step may hold; bounds memory whatever the cohort.
    max_clients : clients stacked at most; 0: as many as the budget holds; 1: one by one.
    threads : torch threads; 0: torch's own choice.
    """

    token_budget: Count = 4096
    max_clients: Index = 0
    threads: Index = 0

    def start(self, method: Method, learner: Learner, *, up: Chain, batch_size: int) -> Session:
        """A session with the learner's model resident. The learner's model is rebuilt around stacked leaves."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        row_tokens = int(learner.lengths(learner.order).max()) if len(learner.order) else 1
        slots = max(1, self.token_budget // (batch_size * max(row_tokens, 1)))
        slots = min(slots, learner.clients, self.max_clients or slots)
        return Session(method, learner, up=up, batch_size=batch_size, slots=slots)


class Session:
    """A resident model with ``slots`` client slots. One session serves all rounds, the evaluation and the server."""

    def __init__(self, method: Method, learner: Learner, *, up: Chain, batch_size: int, slots: int) -> None:
        from fedwave.engines.stacking import Stack

        self.method, self.learner, self.up, self.batch_size = method, learner, up, batch_size
        self.spec: Spec = learner.spec
        self.initial, self.public_rows = learner.initial, learner.public_rows
        self.population = learner.clients
        self.stack = Stack(learner.model, learner.leaf_paths, slots)
        learner.model = self.stack.model
        self.uplink = method.uplink(self.spec)
        self.memory_leaves = memory_leaves(method, up, self.spec)
        self._base_applied = 0
        self._masters: dict[str, Tensor] = {}

    # ---- one round -------------------------------------------------------------------------------------------------

    def run(self, message: Message, store: MemoryStore, cohort: Cohort, delivery: Delivery, key: Key) -> Replies:
        """Train the cohort and fold what was delivered, group by group; memory stays O(slots) for summed parts.

        Clients that are known not to be heard train only where that leaves a trace (client memory, error feedback).
        """
        runs = delivery.trained if self.memory_leaves else delivery.heard
        fold = Fold(self.uplink, len(cohort), delivery.coefficient.shape[1], delivery.noise)
        for group in self._groups(np.flatnonzero(runs), cohort):
            mine = own_of(message, group)
            loss, parts, ok = self._train(mine, store, cohort.take(group), delivery.heard[group], key)
            fold.add(group, cohort, np.where(ok[:, None], delivery.coefficient[group], 0.0), parts, loss)
            fold.dropped += [int(client) for client in cohort.ids[group[~ok & delivery.heard[group]]]]
        return fold.close(cohort, key.fold("air"))

    def reply_bytes(self, message: Message, store: MemoryStore, cohort: Cohort, key: Key) -> bytes:
        """The packed payload of a cohort of one: what its device puts on the air."""
        clients, _, parts, _ = self._reply(message, store, cohort, key)
        return pack(self.up, self.uplink, parts, clients.residual, cohort, key)

    def _groups(self, positions: Ints, cohort: Cohort) -> Iterator[Ints]:
        """Positions in groups of at most ``slots``, longest first so that few finished clients ride along."""
        ordered = positions[np.argsort(-cohort.steps[positions], kind="stable")]
        for start in range(0, len(ordered), self.stack.slots):
            yield ordered[start : start + self.stack.slots]

    def _train(
        self, message: Message, store: MemoryStore, cohort: Cohort, heard: Bools, key: Key
    ) -> tuple[Tensor, dict[str, tree.Tree], Bools]:
        """Train one group, encode and decode its replies, settle its memory; says whose replies are finite."""
        import torch

        clients, loss, parts, kept = self._reply(message, store, cohort, key)
        decoded, heard_residual, lost_residual = encode(self.up, self.uplink, parts, clients.residual, cohort, key)
        ok = finite(loss, {**decoded, "memory": kept})
        if self.memory_leaves:
            was_heard = torch.as_tensor(heard)
            rows = {METHOD + n: v for n, v in self.method.settle(clients.memory, kept, was_heard).items()}
            for name, value in heard_residual.items():
                rows[name] = torch.where(was_heard.view(-1, *[1] * (value.dim() - 1)), value, lost_residual[name])
            store.put(cohort.ids[ok], {name: value[torch.as_tensor(ok)] for name, value in rows.items()})
        return loss, decoded, ok

    def _reply(self, message: Message, store: MemoryStore, cohort: Cohort, key: Key) -> Any:
        """Local training of one group: (clients, mean losses, raw parts, memory to keep)."""
        from fedwave.engines.slots import train

        self.apply_base(message.base)
        memory, known = store.get(cohort.ids) if self.memory_leaves else ({}, None)
        self.stack.train_only(set(self.method.travelling(self.spec)) if self.method.trains_by_gradient else set())
        clients = self._clients(
            cohort,
            message,
            self.method.local_optimizer,
            key,
            clip_norm=self.method.clip_norm,
            known=known,
            memory={n[len(METHOD) :]: v for n, v in memory.items() if n.startswith(METHOD)},
        )
        clients.residual = {n: v for n, v in memory.items() if not n.startswith(METHOD)}
        rows = self._rows(cohort, key)
        loss = train(self.method, clients, rows)
        parts, kept = self.method.reply(clients)
        detached = {name: tree.map(lambda x: x.detach(), leaves) for name, leaves in parts.items()}
        return clients, loss, detached, tree.map(lambda x: x.detach(), kept)

    def _clients(self, cohort: Cohort, message: Message, optimizer: Any, key: Key, **rest: Any) -> SlotClients:
        from fedwave.engines.slots import SlotClients

        return SlotClients(self.learner, self.stack, cohort, message=message, optimizer=optimizer, key=key, **rest)

    def _rows(self, cohort: Cohort, key: Key) -> Ints:
        from fedwave.engines.batches import plan_rows

        return plan_rows(
            self.learner.order,
            self.learner.offsets,
            ids=cohort.ids,
            steps=cohort.steps,
            batch_size=self.batch_size,
            key=key,
        )

    # ---- the server's own use of the model -------------------------------------------------------------------------

    def apply_base(self, changes: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
        """Add the base changes that the resident model does not have yet: ``W += lora_scale * B A``.

        Half-precision weights keep a float32 master from their first change on, or small changes would be rounded away.
        """
        import torch

        with torch.no_grad():
            for change in changes[self._base_applied :]:
                for module, (a, b) in change.items():
                    path = self.learner.base_paths[module]
                    weight = self.learner.model.get_parameter(path)
                    delta = self.spec.lora_scale * (b @ a)
                    owner = self.learner.model.get_submodule(path.rpartition(".")[0])
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
        self.apply_base(base)
        self._single(params)
        return self.learner.evaluate()

    def predict(self, params: Mapping[str, Any], rows: Ints) -> Tensor:
        """Outputs ``[n, ...]`` without gradient."""
        import torch

        clients = self._single(params)
        with torch.no_grad():
            return torch.cat([clients.predict(rows[None, at : at + 64])[0] for at in range(0, len(rows), 64)])

    def distill(
        self, params: Mapping[str, Any], targets: Any, *, steps: int, batch_size: int, optimizer: Any, key: Key
    ) -> tree.Tree:
        """Train the model on the public rows towards ``targets [n_public, ...]``."""
        self.stack.train_only(set(self.spec.trainable))
        clients = self._single(params, optimizer)
        for step in range(steps):
            drawn = np.argsort(key.fold("distill", step).uniform(0, len(self.public_rows))[0])[:batch_size]
            outputs = clients.predict(self.public_rows[None, drawn])
            clients.descend(clients.gradients(clients.distance(outputs, targets[drawn][None]).mean(1)))
        return {name: value[0].detach().clone() for name, value in clients.params.items()}

    def _single(self, params: Mapping[str, Any], optimizer: Any = None) -> SlotClients:
        """One client in slot 0 that holds ``params`` at full rank."""
        self.stack.rows = 1
        clients = self._clients(_server_alone(self.spec.max_rank), Message(shared={}), optimizer, Key(0))
        clients.load(params)
        return clients


def own_of(message: Message, positions: Ints) -> Message:
    """The message as the clients at ``positions`` of the cohort get it."""
    if message.own is None:
        return message
    own = {name: tree.take(leaves, positions) for name, leaves in message.own.items()}
    return replace(message, own=own)


def _server_alone(rank: int) -> Cohort:
    """A cohort of one that is no client: the server's own use of slot 0."""
    one, zero = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    return Cohort(0, zero, np.ones(1), one, one, one, rank * one, zero, -one, zero)
