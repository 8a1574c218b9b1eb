"""FedKSeed: zeroth-order tuning with a finite pool of seeds; a few thousand scalars travel, whatever the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedwave.core import tree
from fedwave.core.config import Count, Positive
from fedwave.core.errors import Refused
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Floats, Leaf, Message, Part, Replies, Schema, Spec
from fedwave.methods.method import Method, State

if TYPE_CHECKING:
    from fedwave.methods.sides import Clients, Server


@register("method", "fedkseed")
@dataclass(frozen=True)
class FedKSeed(Method):
    """Step: draw seed s from the pool, ``g = (L(w + eps z_s) - L(w - eps z_s)) / 2 eps``, ``w <- w - lr g z_s``.

    Each client sends its accumulated ``sum lr g`` per seed; the server averages them into ``a``, and any device
    rebuilds ``w = w_0 - sum_s a_s z_s`` (Qin et al., ICML 2024; seeds are drawn uniformly, the paper's
    importance-based choice is left out). ``pool`` = 4096 float32 scalars are 16,384 bytes each way.

    Parameters
    ----------
    pool : number of seeds, which is the number of scalars that travel.
    eps : how far the two forward passes of a step are from the weights.
    """

    pool: Count = 4096
    eps: Positive = 5e-4

    cite: ClassVar[str] = (
        "Qin et al., Federated Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost under "
        "18 Kilobytes, ICML 2024"
    )
    trains_by_gradient: ClassVar[bool] = False
    formulas: ClassVar[Mapping[str, str]] = {
        **Method.formulas,
        "method": "4 * trainable_parameters",
        "activations": "batch_size * inference_bytes",
        "flops": "2 * rows * forward_flops",
    }

    def check(self, spec: Spec) -> None:
        """The scalars reproduce plain descent only."""
        super().check(spec)
        if not (self.local_optimizer.plain and self.server_optimizer.plain):
            raise Refused(
                "method fedkseed needs local_optimizer and server_optimizer = sgd without momentum and weight decay"
            )
        if self.clip_norm:
            raise Refused("method fedkseed has no gradients to clip; leave clip_norm out")

    def uplink(self, spec: Spec) -> Schema:
        """One scalar per seed."""
        return {"scalars": Part({"accumulated": Leaf((self.pool,))})}

    def downlink(self, spec: Spec) -> Schema:
        """The same."""
        return self.uplink(spec)

    def flops(self, spec: Spec, cohort: Cohort) -> Floats:
        """Two forward passes per row."""
        return cohort.rows * 2.0 * spec.forward_flops

    def memory_bytes(self, spec: Spec, batch_size: int) -> dict[str, float]:
        """Inference memory: weights, one perturbation; no gradients, no optimiser."""
        return {
            "weights": spec.base_bytes + 4.0 * spec.trainable_parameters,
            "method": 4.0 * spec.trainable_parameters,
            "activations": batch_size * spec.inference_bytes,
        }

    def server_memory_bytes(self, spec: Spec, cohort: int, batch_size: int) -> dict[str, float]:
        """With the accumulators, and one direction while the model is rebuilt; the server optimiser has no slots."""
        return {
            **super().server_memory_bytes(spec, cohort, batch_size),
            "method": 4.0 * (self.pool + spec.trainable_parameters),
        }

    def init(self, spec: Spec, initial: Mapping[str, Any], server: Server, key: Key) -> State:
        """All accumulators at zero."""
        state = super().init(spec, initial, server, key)
        return {**state, "scalars": {"accumulated": state["count"]["updates"].new_zeros(self.pool)}}

    def broadcast(self, spec: Spec, state: State, cohort: Cohort) -> Message:
        """The accumulators."""
        return Message(shared={"scalars": state["scalars"]})

    def begin(self, clients: Clients) -> None:
        """Rebuild the model from its start and the scalars."""
        clients.load(self.rebuild(clients.initial, clients.message.shared["scalars"]["accumulated"]))
        clients.scratch["accumulated"] = clients.steps.new_zeros((len(clients.ids), self.pool))

    def step(self, clients: Clients, rows: Any) -> Any:
        """Two-point estimate along one pooled direction per client."""
        import torch

        seeds = (clients.key.fold("seed", clients.at).uniform(clients.ids)[:, 0] * self.pool).astype(int)
        drawn = [direction(int(s), clients.initial) for s in seeds]
        z = {name: torch.stack([one[name] for one in drawn]) for name in clients.initial}
        with torch.no_grad():
            clients.shift(z, self.eps)
            plus = clients.losses(rows)
            clients.shift(z, -2 * self.eps)
            minus = clients.losses(rows)
            clients.shift(z, self.eps)
            move = self.local_optimizer.lr * (plus - minus) / (2 * self.eps)
            clients.shift(z, -move)
        slots = torch.arange(len(seeds))
        clients.scratch["accumulated"][slots, torch.as_tensor(seeds)] += move
        return (plus + minus) / 2

    def reply(self, clients: Clients) -> tuple[dict[str, tree.Tree], tree.Tree]:
        """The accumulators."""
        return {"scalars": {"accumulated": clients.scratch["accumulated"]}}, {}

    def server_update(self, spec: Spec, state: State, replies: Replies, server: Server, key: Key) -> State:
        """Add the mean; the model is rebuilt from its start, as a device would."""
        total = state["scalars"]["accumulated"] + self.server_optimizer.lr * replies.parts["scalars"]["accumulated"]
        return {**state, "scalars": {"accumulated": total}, "params": self.rebuild(server.initial, total)}

    def rebuild(self, initial: Mapping[str, Any], accumulated: Any) -> tree.Tree:
        """``w_0 - sum_s a_s z_s`` over the seeds in use, in their order."""
        params = {name: value.clone() for name, value in initial.items()}
        for seed in accumulated.nonzero().flatten().tolist():
            z = direction(seed, initial)
            for name, value in params.items():
                value.sub_(z[name] * accumulated[seed])
        return params


def direction(seed: int, like: Mapping[str, Any]) -> tree.Tree:
    """Standard normal direction of a pooled seed, over all leaves of ``like``."""
    import torch

    generator = Key(seed).fold("direction").torch()
    return {name: torch.randn(value.shape, generator=generator) for name, value in like.items()}
