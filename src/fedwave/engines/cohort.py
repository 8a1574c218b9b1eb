"""The cohort engine: many clients through one forward and backward pass, in one process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from fedwave.core import tree
from fedwave.core.config import Bytes, Count, Index
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Cohort, Delivery, Ints, Message, Replies
from fedwave.engines.choice import Choice, choose
from fedwave.engines.encoding import METHOD, encode, memory_leaves, pack
from fedwave.engines.fold import Fold, finite
from fedwave.engines.heap import keep_freed
from fedwave.engines.resident import Resident
from fedwave.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from fedwave.engines.stacked.slots import SlotClients
    from fedwave.results.memory_store import MemoryStore
    from fedwave.tasks.learner import Learner
    from fedwave.transforms.chain import Chain

THREADS = 8  # for each CPU at most: far more and the system has none to give


@register("engine", "cohort")
@dataclass(frozen=True)
class CohortEngine:
    """Client-stacked training by leaf swap.

    Parameters
    ----------
    token_budget : tokens (rows, where rows have no length) that one pass may hold; bounds memory whatever the cohort.
    max_clients : clients stacked at most; 0: as many as a pass holds, or one by one where stacking would not pay;
        1: one by one.
    threads : torch threads; 0: torch's own choice.
    device : that trains: ``"cpu"``, ``"cuda"`` or one of several, ``"cuda:1"``.
    dtype : of the model's arithmetic. ``"bfloat16"`` is faster on processors that have it, and another trajectory:
        trained values and sums stay float32.
    compile : run the model's layers through ``torch.compile``; the first rounds wait for its compiler.
    prefix_bytes : of disk for what the layers below the first adapted one make of each row, computed once and kept
        between runs; 0: computed at every visit. Devices are charged the whole forward pass all the same.
    prefix_dtype : in which it is kept: ``"bfloat16"`` halves the file and rounds to 8 significant bits.
    """

    token_budget: Count = 4096
    max_clients: Index = 0
    threads: Index = 0
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    prefix_bytes: Bytes = 0
    prefix_dtype: Literal["float32", "bfloat16"] = "float32"

    def start(
        self,
        method: Method,
        learner: Learner,
        *,
        up: Chain,
        batch_size: int,
        again: Callable[[], Learner] | None = None,
    ) -> Session:
        """A session with the learner's model resident. The learner's model is rebuilt around stacked leaves.

        ``again`` makes an equal learner: what an engine sends to processes that train beside this one.
        """
        learner, choice = self.ready(method, learner, batch_size)
        session = Session(method, learner, up=up, batch_size=batch_size, choice=choice)
        if self.compile:
            from fedwave.engines.wrapped.layers import compile_layers

            compile_layers(session.learner.model)
        logging.getLogger(__name__).info(session.choice.why)
        return session

    def ready(self, method: Method, learner: Learner, batch_size: int) -> tuple[Learner, Choice]:
        """The learner as it will train, and how many clients to stack."""
        import torch

        if self.threads > (most := THREADS * (os.cpu_count() or 1)):
            raise BadInput(f"engine.threads: at most {most} on a machine of {os.cpu_count()} CPUs, got {self.threads}")
        if self.threads:
            torch.set_num_threads(self.threads)
        keep_freed()
        learner = self._prepared(learner)
        return learner, choose(
            learner.spec,
            tokens=learner.lengths(learner.order),
            held=np.diff(learner.offsets),
            batch_size=batch_size,
            copies=3 + len(method.local_optimizer.slots),
            modules=sum(1 for _ in learner.model.modules()),
            device=learner.device.type,
            token_budget=self.token_budget,
            max_clients=self.max_clients,
        )

    def _prepared(self, learner: Learner) -> Learner:
        """The learner on its device, in the arithmetic asked for, its frozen layers played back from a cache."""
        import torch

        if self.device != "cpu" and int(self.device[5:] or 0) >= torch.cuda.device_count():
            raise BadInput(
                f"engine.device: {self.device!r} is not there; torch sees {torch.cuda.device_count()} GPU(s)"
            )
        learner.model.to(self.device)
        learner.device = torch.device(self.device)
        if self.dtype == "bfloat16":
            from fedwave.engines.wrapped.precision import HalfLearner

            learner = HalfLearner(learner)
        if self.prefix_bytes:
            from fedwave.engines.wrapped.prefix import PrefixLearner
            from fedwave.models.sources import cache_root

            folder, dtype = cache_root() / "prefix", self.prefix_dtype
            learner = PrefixLearner(learner, folder, budget_bytes=self.prefix_bytes, dtype=dtype)
        return learner


class Session(Resident):
    """Rounds of clients on a resident model."""

    def __init__(self, method: Method, learner: Learner, *, up: Chain, batch_size: int, choice: Choice) -> None:
        super().__init__(learner, choice)
        self.method, self.up, self.batch_size = method, up, batch_size
        self.uplink = method.uplink(self.spec)
        self.memory_leaves = memory_leaves(method, up, self.spec)

    # ---- one round -------------------------------------------------------------------------------------------------

    def run(self, message: Message, store: MemoryStore, cohort: Cohort, delivery: Delivery, key: Key) -> Replies:
        """Train the cohort and fold what was delivered as clients are done; memory stays O(slots) for summed parts.

        Clients that are known not to be heard train only where that leaves a trace (client memory, error feedback).
        """
        return self.fold(message, store, cohort, delivery, key).close(cohort, key.fold("air"))

    def fold(self, message: Message, store: MemoryStore, cohort: Cohort, delivery: Delivery, key: Key) -> Fold:
        """:meth:`run` up to sums that are not divided yet and can be merged with those of other clients."""
        fold = Fold(self.uplink, len(cohort), delivery.coefficient.shape[1], delivery.noise)
        for clients in self._trained(message, store, cohort, self.runs(delivery), key):
            group = clients.positions
            loss, parts, ok = self._settle(clients, store, cohort.take(group), delivery.heard[group], key)
            fold.add(group, cohort, np.where(ok[:, None], delivery.coefficient[group], 0.0), parts, loss)
            fold.dropped += [int(client) for client in clients.ids[~ok & delivery.heard[group]]]
        return fold

    def runs(self, delivery: Delivery) -> Ints:
        """Positions of those who train."""
        return np.flatnonzero(delivery.trained if self.memory_leaves else delivery.heard)

    def reply_bytes(self, message: Message, store: MemoryStore, cohort: Cohort, key: Key) -> bytes:
        """The packed payload of a cohort of one: what its device puts on the air."""
        clients = next(self._trained(message, store, cohort, np.arange(1), key))
        parts, _ = self._reply(clients)
        return pack(self.up, self.uplink, parts, tree.map(_home, clients.residual), cohort, key)

    def _trained(
        self, message: Message, store: MemoryStore, cohort: Cohort, positions: Ints, key: Key
    ) -> Iterator[SlotClients]:
        """Local training; yields whenever the window holds clients that are done, until all at ``positions`` were.

        The longest start first, and their successors take over their slots, a quarter of them at a time (all at once
        where nobody waits). A method with a step of its own may count on all clients being at the same step: there a
        group ends before the next begins.
        """
        from fedwave.engines.stacked.slots import train

        self.apply_base(message.base)
        self.stack.train_only(set(self.method.travelling(self.spec)) if self.method.trains_by_gradient else set())
        seats = min(self.stack.slots, len(positions))
        optimizer, clip_norm = self.method.local_optimizer, self.method.clip_norm
        clients = self.clients(message, optimizer, key, round=cohort.round, seats=seats, clip_norm=clip_norm)
        queue = positions[np.argsort(-cohort.steps[positions], kind="stable")]
        together = type(self.method).step is not Method.step
        quota = self.stack.slots if together else -(-self.stack.slots // 4)
        while len(queue) or clients.seated:
            come, queue = np.split(queue, [self.stack.slots - clients.seated])
            if len(come):
                self._seat(clients, message, store, cohort, come, key)
                self.method.begin(clients)
            train(self.method, clients, quota if len(queue) else self.stack.slots)
            self.choice = self.choice._replace(costs=clients.costs)  # smaller passes, where memory did not suffice
            clients.open(clients.active, clients.seated)
            yield clients
            clients.release()

    def _seat(
        self, clients: SlotClients, message: Message, store: MemoryStore, cohort: Cohort, come: Ints, key: Key
    ) -> None:
        """Give those at ``come`` their slots, rows, memory and parts of the message."""
        from fedwave.engines.stacked.batches import plan_rows

        group = cohort.take(come)
        learner, sizes = self.learner, {"steps": group.steps, "batch_size": self.batch_size}
        rows = plan_rows(learner.order, learner.offsets, ids=group.ids, key=key, **sizes)
        memory, known = store.get(group.ids) if self.memory_leaves else ({}, np.zeros(len(group), dtype=bool))
        clients.seat(
            come,
            group,
            rows,
            own={name: tree.take(leaves, come) for name, leaves in (message.own or {}).items()},
            memory={n[len(METHOD) :]: v for n, v in memory.items() if n.startswith(METHOD)},
            residual={n: v for n, v in memory.items() if not n.startswith(METHOD)},
            known=known,
        )

    def _settle(
        self, clients: SlotClients, store: MemoryStore, cohort: Cohort, heard: Bools, key: Key
    ) -> tuple[Tensor, dict[str, tree.Tree], Bools]:
        """Encode and decode the replies of the window, settle its memory; says whose replies are finite."""
        import torch

        parts, kept = self._reply(clients)
        residual, memory, loss = tree.map(_home, clients.residual), tree.map(_home, clients.memory), clients.mean_loss
        decoded, heard_residual, lost_residual = encode(self.up, self.uplink, parts, residual, cohort, key)
        ok = finite(loss, {**decoded, "memory": kept})
        if self.memory_leaves:
            was_heard = torch.as_tensor(heard)
            rows = {METHOD + n: v for n, v in self.method.settle(memory, kept, was_heard).items()}
            for name, value in heard_residual.items():
                rows[name] = torch.where(was_heard.view(-1, *[1] * (value.dim() - 1)), value, lost_residual[name])
            store.put(cohort.ids[ok], {name: value[torch.as_tensor(ok)] for name, value in rows.items()})
        return loss, decoded, ok

    def _reply(self, clients: SlotClients) -> tuple[dict[str, tree.Tree], tree.Tree]:
        """Raw parts of the window's replies, and the memory to keep, off the device that trained them."""
        parts, kept = self.method.reply(clients)
        return {name: tree.map(_home, leaves) for name, leaves in parts.items()}, tree.map(_home, kept)


def _home(value: Tensor) -> Tensor:
    return value.detach().cpu()
