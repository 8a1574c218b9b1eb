"""The base of all methods. Its defaults are FedAvg; a method overrides the hooks in which it differs.

Client hooks see *stacked* clients: every tensor carries the client axis first, ``[K, ...]``, and reductions keep it.
Whatever ``plan`` needs (payload schemas, arithmetic, memory, refusals) is torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from fedwave.core import tree
from fedwave.core.config import Count, Positive, part
from fedwave.core.errors import Refused
from fedwave.core.types import (
    Bools,
    Cohort,
    Floats,
    Ints,
    Leaves,
    Message,
    Part,
    Phase,
    Replies,
    Schema,
    Spec,
    Wire,
    Work,
    at_rank,
    count_values,
)
from fedwave.methods.optimizers import Optimizer, ServerAdam, Sgd

if TYPE_CHECKING:
    from fedwave.core.keys import Key
    from fedwave.methods.sides import Clients, Server

State = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """Federated averaging and the hooks around it.

    Parameters
    ----------
    local_steps, local_epochs : how much each client trains; at most one of them (neither: one epoch).
    local_optimizer : fresh at every round, as in the cross-device setting.
    server_optimizer : applied to the negated mean update (Reddi et al., ICLR 2021, Algorithm 1).
    clip_norm : bound on each client's gradient norm at every step.
    weighting : aggregation weights: samples held, or equal.
    """

    local_steps: Count | None = None
    local_epochs: Count | None = None
    local_optimizer: Annotated[Optimizer, part("optimizer")] = Sgd(lr=0.1)
    server_optimizer: Annotated[Optimizer, part("optimizer")] = Sgd(lr=1.0)
    clip_norm: Positive | None = None
    weighting: Literal["samples", "uniform"] = "samples"

    cite: ClassVar[str] = ""
    heterogeneous_rank: ClassVar[bool] = False
    trains_by_gradient: ClassVar[bool] = True
    formulas: ClassVar[Mapping[str, str]] = {
        "weights": "base_bytes + 4 * trainable_parameters",
        "gradients": "4 * trained_values",
        "optimizer": "4 * trained_values * optimizer_slots",
        "method": "4 * kept_values",
        "activations": "batch_size * activation_bytes",
        "flops": "rows * (forward_flops + backward_flops)",
        "storage": "base_bytes + 4 * (trainable_parameters + kept_values)",
    }
    """:meth:`memory_bytes` and :meth:`flops` in words of a plan's explanation; fields of a method with ``method_``."""

    # ---- what planning needs (no torch) ----------------------------------------------------------------------------

    @property
    def public_samples(self) -> int:
        """Unlabelled samples that server and clients share; set aside from the training data."""
        return 0

    def check(self, spec: Spec) -> None:
        """Raise :class:`Refused` where this method cannot train this task."""
        if self.local_steps and self.local_epochs:
            raise Refused("method: local_steps and local_epochs exclude each other; give one of them")
        if isinstance(self.local_optimizer, ServerAdam):
            raise Refused(
                "method.local_optimizer: adam and yogi are server rules without bias correction; "
                "use adamw (with weight_decay = 0 it is Adam)"
            )
        for side in ("local", "server"):
            optimizer = getattr(self, f"{side}_optimizer")
            if isinstance(optimizer, Sgd) and optimizer.nesterov and not optimizer.momentum:
                raise Refused(f"method.{side}_optimizer: nesterov needs a momentum above 0")

    def travelling(self, spec: Spec) -> Leaves:
        """Trainable leaves that clients change and send."""
        return spec.trainable

    def uplink(self, spec: Spec) -> Schema:
        """Parts of a client's reply, at the largest rank."""
        return {"update": Part(self.travelling(spec))}

    def downlink(self, spec: Spec) -> Schema:
        """Parts of the broadcast, base changes apart."""
        return {"params": Part(self.travelling(spec))}

    def memory(self, spec: Spec) -> Leaves:
        """What each client keeps between rounds."""
        return {}

    def base_bits(self, spec: Spec, cohort: Cohort, heard: Bools) -> float:
        """Bits of the base change that this round will cause, given who was heard."""
        return 0.0

    def amount(self, samples: Ints, batch_size: int) -> tuple[Ints, Ints]:
        """Local steps and rows touched by clients that hold ``samples``; an epoch's last batch is what is left."""
        per_epoch = -(-samples // batch_size)
        steps = np.full_like(samples, self.local_steps) if self.local_steps else per_epoch * (self.local_epochs or 1)
        full, rest = np.divmod(steps, np.maximum(per_epoch, 1))
        return steps, full * samples + np.minimum(rest * batch_size, samples)

    def flops(self, spec: Spec, cohort: Cohort) -> Floats:
        """Training arithmetic of each client, ``[C]``."""
        return cohort.rows * (spec.forward_flops + spec.backward_flops)

    def memory_bytes(self, spec: Spec, batch_size: int) -> dict[str, float]:
        """What one client holds at its peak, part by part; the sum is what must fit into its memory."""
        trained = sum(leaf.size for leaf in self.travelling(spec).values())
        kept = sum(leaf.size for leaf in self.memory(spec).values())
        return {
            "weights": spec.base_bytes + 4.0 * spec.trainable_parameters,
            "gradients": 4.0 * trained,
            "optimizer": 4.0 * trained * len(self.local_optimizer.slots),
            "method": 4.0 * kept,
            "activations": batch_size * spec.activation_bytes,
        }

    def server_flops(self, spec: Spec, cohort: Cohort) -> float:
        """Aggregation arithmetic: a multiply and an add per received value."""
        return 2.0 * len(cohort) * sum(leaf.size for p in self.uplink(spec).values() for leaf in p.leaves.values())

    def server_memory_bytes(self, spec: Spec, cohort: int, batch_size: int) -> dict[str, float]:
        """What the server holds at its peak, part by part, changes of the base apart.

        The whole model, to evaluate it on ``batch_size`` rows at a time; sums, or all replies of ``cohort`` where
        it needs each; the server optimiser's slots; and while it makes a step, the new leaves and slots beside the old
        ones, with the pseudo-gradient.
        """
        moved = sum(leaf.size for leaf in self.travelling(spec).values())
        sizes = [(sum(leaf.size for leaf in p.leaves.values()), p.reduce) for p in self.uplink(spec).values()]
        return {
            "weights": spec.base_bytes + 4.0 * spec.trainable_parameters,
            "updates": 4.0 * sum(size * (1 if reduce == "sum" else cohort) for size, reduce in sizes),
            "optimizer": 4.0 * moved * len(self.server_optimizer.slots),
            "step": 4.0 * moved * (2 + len(self.server_optimizer.slots)),
            "activations": batch_size * spec.inference_bytes,
        }

    def work(self, spec: Spec, cohort: Cohort, wire: Wire, *, batch_size: int, missed_bits: Floats) -> Work:
        """The round's demand on each client: one phase of receive, train, send.

        ``missed_bits [C]`` are base changes since each client's last round. Memory traffic assumes that every step
        reads the weights twice (forward, backward) and writes and reads the activations once.
        """
        ranks, place = np.unique(cohort.rank, return_inverse=True)
        schemas = [at_rank(self.uplink(spec), int(r)) for r in ranks]
        up = np.array([wire.up_bits(schema) for schema in schemas], dtype=float)[place]
        values = np.array([count_values(schema) for schema in schemas], dtype=float)[place]
        summed = all(part.reduce == "sum" for part in self.uplink(spec).values())
        down = np.array([wire.down_bits(at_rank(self.downlink(spec), int(r))) for r in ranks], dtype=float)[place]
        weights = spec.base_bytes + 4.0 * spec.trainable_parameters
        return Work(
            phases=(Phase(down + missed_bits, self.flops(spec, cohort), up),),
            memory_bytes=np.full(len(cohort), sum(self.memory_bytes(spec, batch_size).values())),
            touched_bytes=2.0 * cohort.steps * weights + 2.0 * cohort.rows * spec.activation_bytes,
            server_flops=self.server_flops(spec, cohort),
            up_values=values if summed else None,
        )

    # ---- server ----------------------------------------------------------------------------------------------------

    def init(self, spec: Spec, initial: Mapping[str, Any], server: Server, key: Key) -> State:
        """State before the first round: the model, and the server optimiser's slots as groups ``server.<slot>``."""
        params = {name: value.clone() for name, value in initial.items()}
        slots = self.server_optimizer.init(tree.select(params, self.travelling(spec)))
        count = next(iter(params.values())).new_zeros(1)
        return {"params": params, "count": {"updates": count}, **{f"server.{k}": v for k, v in slots.items()}}

    def broadcast(self, spec: Spec, state: State, cohort: Cohort) -> Message:
        """What the clients of ``cohort`` are sent."""
        return Message(shared={"params": tree.select(state["params"], self.travelling(spec))})

    def server_update(self, spec: Spec, state: State, replies: Replies, server: Server, key: Key) -> State:
        """New state from the folded replies: the server optimiser's step along the mean update."""
        return self.step_server(state, replies.parts["update"])

    def step_server(self, state: State, update: Mapping[str, Any]) -> State:
        """The server optimiser on pseudo-gradient ``-update``; leaves not in ``update`` stay."""
        count = state["count"]["updates"] + 1
        params = {name: value.clone() for name, value in state["params"].items()}
        moved = tree.select(params, update)
        slots = {s: tree.map(lambda x: x.clone(), state[f"server.{s}"]) for s in self.server_optimizer.slots}
        self.server_optimizer.update(moved, tree.map(lambda u: -u, update), slots, int(count.item()))
        return {
            **state,
            "params": params,
            "count": {"updates": count},
            **{f"server.{name}": value for name, value in slots.items()},
        }

    def model(self, state: State) -> tuple[dict[str, Any], list[dict[str, tuple[Any, Any]]]]:
        """The server's model: trainable leaves, and all base changes so far, the oldest first."""
        return state["params"], base_changes(state)

    # ---- clients, stacked ------------------------------------------------------------------------------------------

    def begin(self, clients: Clients) -> None:
        """Load what the message says into the stacked clients."""
        clients.load({**clients.initial, **clients.message.shared["params"]})

    def step(self, clients: Clients, rows: Any) -> Any:
        """One local step on ``rows [K, b]``; returns each client's loss before it, ``[K]``."""
        losses = clients.losses(rows)
        grads = clients.gradients(self.objective(clients, losses))
        clients.descend(self.correct(clients, grads))
        return losses.detach()

    def objective(self, clients: Clients, losses: Any) -> Any:
        """What each client descends on, ``[K]``."""
        return losses

    def correct(self, clients: Clients, grads: tree.Tree) -> tree.Tree:
        """Gradients ``[K, ...]`` as the optimiser shall see them."""
        return grads

    def reply(self, clients: Clients) -> tuple[dict[str, tree.Tree], tree.Tree]:
        """Payload parts ``{part: {leaf: [K, ...]}}`` and the memory to keep if heard."""
        names = list(self.travelling(clients.spec))
        return {"update": tree.sub(tree.select(clients.params, names), tree.select(clients.sent, names))}, {}

    def settle(self, old: tree.Tree, new: tree.Tree, heard: Any) -> tree.Tree:
        """Client memory once the client knows whether it was heard ``[K]``: by default an unheard round never was."""
        return tree.map(lambda n, o: n.where(heard.reshape((-1,) + (1,) * (n.dim() - 1)), o), new, old)


def base_changes(state: State) -> list[dict[str, tuple[Any, Any]]]:
    """Base changes stored in ``state`` as groups ``base.<number>`` of ``<module>.A`` and ``<module>.B``."""
    groups = [state[name] for name in sorted(state) if name.startswith("base.")]
    return [
        {name[:-2]: (group[name], group[name[:-2] + ".B"]) for name in group if name.endswith(".A")} for group in groups
    ]
