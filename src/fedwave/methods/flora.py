"""FLoRA: stack the clients' factors; every device merges the stack into its base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedwave.core import tree
from fedwave.core.errors import Refused
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import DTYPE_BITS, Bools, Cohort, Leaf, Leaves, Message, Part, Replies, Schema, Spec
from fedwave.methods.method import Method, State, base_changes

if TYPE_CHECKING:
    from fedwave.methods.sides import Clients, Server


@register("method", "flora")
@dataclass(frozen=True)
class Flora(Method):
    """``W <- W + lr_s (alpha/r) [p_1 B_1 .. p_K B_K] [A_1; ..; A_K]`` (Wang et al., NeurIPS 2024, Eq. 3-5).

    Exact for any mix of ranks. Every round starts from fresh factors (A from a broadcast seed, B zero). The stack is a
    change of the base model: its bits are charged as downlink for every round since a client last heard a broadcast.
    Head leaves, where there are any, are averaged as in FedAvg. ``alpha/r`` is one number for all clients, whatever
    their rank.
    """

    cite: ClassVar[str] = (
        "Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations, "
        "NeurIPS 2024"
    )
    heterogeneous_rank: ClassVar[bool] = True

    def check(self, spec: Spec) -> None:
        """Needs LoRA leaves."""
        super().check(spec)
        if not spec.max_rank:
            raise Refused("method flora stacks LoRA factors; set task.adapter.name = 'lora'")
        if not self.server_optimizer.plain:
            raise Refused(
                "method flora adds its stack to the base; "
                "server_optimizer must be sgd without momentum and weight decay"
            )
        if not spec.bases:
            raise Refused("method flora merges B A into the base, which dora scales; set task.adapter.name = 'lora'")

    def factors(self, spec: Spec) -> Leaves:
        """The LoRA leaves."""
        return {name: leaf for name, leaf in spec.trainable.items() if leaf.rank_axis is not None}

    def averaged(self, spec: Spec) -> Leaves:
        """The other leaves (a head)."""
        return {name: leaf for name, leaf in spec.trainable.items() if leaf.rank_axis is None}

    def uplink(self, spec: Spec) -> Schema:
        """Each client's factors; the update of what is averaged."""
        schema = {"factors": Part(self.factors(spec), reduce="gather", increment=False)}
        return {**schema, "update": Part(self.averaged(spec))} if self.averaged(spec) else schema

    def downlink(self, spec: Spec) -> Schema:
        """A seed for the fresh factors, and what is averaged."""
        schema = {"seed": Part({"seed": Leaf((1,), "int64")})}
        return {**schema, "params": Part(self.averaged(spec))} if self.averaged(spec) else schema

    def base_bits(self, spec: Spec, cohort: Cohort, heard: Bools) -> float:
        """The stack of the heard clients' factors."""
        per_rank = sum(leaf.at_rank(1).size * DTYPE_BITS[leaf.dtype] for leaf in self.factors(spec).values())
        return float(per_rank * cohort.rank[heard].sum())

    def broadcast(self, spec: Spec, state: State, cohort: Cohort) -> Message:
        """Seed, averaged leaves and the base changes."""
        import torch

        message = Message(shared={"seed": {"seed": torch.tensor([cohort.round])}}, base=base_changes(state))
        if self.averaged(spec):
            message.shared["params"] = tree.select(state["params"], self.averaged(spec))
        return message

    def begin(self, clients: Clients) -> None:
        """Fresh factors: A uniform in ``+-1/sqrt(d_in)`` (PEFT's Kaiming start), B zero."""
        seed = int(clients.message.shared["seed"]["seed"].item())
        fresh = fresh_factors(self.factors(clients.spec), clients.initial, Key(seed).fold("flora"))
        clients.load({**clients.initial, **fresh, **clients.message.shared.get("params", {})})

    def reply(self, clients: Clients) -> tuple[dict[str, tree.Tree], tree.Tree]:
        """The trained factors themselves, and the update of the averaged leaves."""
        names = list(self.averaged(clients.spec))
        parts = {"factors": tree.select(clients.params, self.factors(clients.spec))}
        if names:
            parts["update"] = tree.sub(tree.select(clients.params, names), tree.select(clients.sent, names))
        return parts, {}

    def server_update(self, spec: Spec, state: State, replies: Replies, server: Server, key: Key) -> State:
        """Append the weighted stack to the base changes."""
        factors, ranks = replies.parts["factors"], [int(r) for r in replies.rank]
        weights = [self.server_optimizer.lr * float(w) for w in replies.weight]
        group: dict[str, Any] = {}
        for module in spec.bases:
            a, b = factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"]
            group[f"{module}.A"] = _cat([a[k, :r] for k, r in enumerate(ranks)], 0)
            group[f"{module}.B"] = _cat([weights[k] * b[k, :, :r] for k, r in enumerate(ranks)], 1)
        number = sum(name.startswith("base.") for name in state)
        state = {**state, f"base.{number:06d}": group}
        return self.step_server(state, replies.parts["update"]) if "update" in replies.parts else state


def fresh_factors(leaves: Leaves, like: tree.Tree, key: Key) -> tree.Tree:
    """New LoRA factors: A uniform in ``+-1/sqrt(d_in)``, B zero; a function of the key and each leaf's name."""
    fresh = {}
    for name, leaf in leaves.items():
        values = np.zeros(leaf.shape)
        if name.endswith(".lora_A.weight"):
            values = (2 * key.fold(name).uniform(0, leaf.size).reshape(leaf.shape) - 1) / np.sqrt(leaf.shape[1])
        fresh[name] = like[name].new_tensor(values)
    return fresh


def _cat(tensors: list[Any], dim: int) -> Any:
    import torch

    return torch.cat(tensors, dim)
