"""Federated distillation: clients send what their models say about public samples; the server trains its own model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from fedwave.core import tree
from fedwave.core.config import Count, Index, part
from fedwave.core.errors import Refused
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Floats, Leaf, Leaves, Message, Part, Replies, Schema, Spec, count_values
from fedwave.methods.method import Method, State
from fedwave.methods.optimizers import Optimizer, Sgd

if TYPE_CHECKING:
    from fedwave.core.keys import Key
    from fedwave.methods.sides import Clients, Server


@register("method", "distill")
@dataclass(frozen=True)
class Distill(Method):
    """Outputs on a public set travel, never parameters (FedMD: Li & Wang, 2019, Algorithm 1).

    A client digests the consensus (``digest_steps`` on public samples), revisits its own data, and sends its outputs.
    The server averages them and trains its own model towards the average (as DS-FL does: Itahara et al., 2021,
    Section III; plain averaging, without their entropy reduction). Clients keep their own model between rounds.

    Parameters
    ----------
    samples : size of the public set, taken from the training data; its labels are not used.
    digest_steps : steps of each client towards the consensus before it revisits its own data.
    server_steps : steps of the server's model towards the consensus in each round.
    server_trainer : optimiser of those steps.
    batch_size : public samples of one digest or server step.
    """

    samples: Count = 128
    digest_steps: Index = 2
    server_steps: Count = 20
    server_trainer: Annotated[Optimizer, part("optimizer")] = Sgd(lr=0.1)
    batch_size: Count = 32

    formulas: ClassVar[Mapping[str, str]] = {
        **Method.formulas,
        "flops": "(rows + method_digest_steps * min(method_batch_size, method_samples)) * "
        "(forward_flops + backward_flops) + method_samples * forward_flops",
    }
    cite: ClassVar[str] = "Li & Wang, FedMD: Heterogenous Federated Learning via Model Distillation, arXiv 1910.03581"

    @property
    def public_samples(self) -> int:
        """The public set."""
        return self.samples

    def check(self, spec: Spec) -> None:
        """Needs outputs of a fixed size."""
        super().check(spec)
        if spec.output is None:
            raise Refused("method distill needs a task with one fixed-size output per sample; causal-lm has none")

    def uplink(self, spec: Spec) -> Schema:
        """Outputs on the public set."""
        assert spec.output is not None
        return {"outputs": Part({"outputs": Leaf((self.samples, *spec.output.shape))}, increment=False)}

    def downlink(self, spec: Spec) -> Schema:
        """The consensus."""
        return self.uplink(spec)

    def memory(self, spec: Spec) -> Leaves:
        """The client's own model."""
        return spec.trainable

    def flops(self, spec: Spec, cohort: Cohort) -> Floats:
        """Own training, digestion, and a forward pass over the public set."""
        digested = self.digest_steps * min(self.batch_size, self.samples)
        train = spec.forward_flops + spec.backward_flops
        return (cohort.rows + digested) * train + self.samples * spec.forward_flops

    def server_flops(self, spec: Spec, cohort: Cohort) -> float:
        """Averaging, and the training of the server's model."""
        rows = self.server_steps * min(self.batch_size, self.samples)
        return super().server_flops(spec, cohort) + rows * (spec.forward_flops + spec.backward_flops)

    def server_memory_bytes(self, spec: Spec, cohort: int, batch_size: int) -> dict[str, float]:
        """With what training the server's own model takes, and the consensus."""
        return {
            **super().server_memory_bytes(spec, cohort, batch_size),
            "step": 0.0,  # it trains its model in place
            "gradients": 4.0 * spec.trainable_parameters,
            "optimizer": 4.0 * spec.trainable_parameters * len(self.server_trainer.slots),
            "method": 4.0 * count_values(self.uplink(spec)),
            "activations": min(self.batch_size, self.samples) * spec.activation_bytes,
        }

    def init(self, spec: Spec, initial: Mapping[str, Any], server: Server, key: Key) -> State:
        """The first consensus is what the initial model says."""
        state = super().init(spec, initial, server, key)
        return {**state, "consensus": {"outputs": server.predict(initial, server.public_rows)}}

    def broadcast(self, spec: Spec, state: State, cohort: Cohort) -> Message:
        """The consensus."""
        return Message(shared={"outputs": state["consensus"]})

    def begin(self, clients: Clients) -> None:
        """Resume the client's own model and digest the consensus."""
        clients.resume_own()
        consensus = clients.message.shared["outputs"]["outputs"]
        for turn in range(self.digest_steps):
            picked = public_batch(len(consensus), self.batch_size, clients.key.fold("digest", turn))
            rows = np.broadcast_to(clients.public_rows[picked], (len(clients.ids), len(picked)))
            outputs = clients.predict(rows)
            target = consensus[picked].expand(outputs.shape)
            clients.descend(clients.gradients(clients.distance(outputs, target).mean(1)))

    def reply(self, clients: Clients) -> tuple[dict[str, tree.Tree], tree.Tree]:
        """Outputs on the public set; the model stays with the client."""
        import torch

        with torch.no_grad():
            rows = np.broadcast_to(clients.public_rows, (len(clients.ids), len(clients.public_rows)))
            outputs = torch.cat([clients.predict(rows[:, at : at + 64]) for at in range(0, rows.shape[1], 64)], 1)
        return {"outputs": {"outputs": outputs}}, {name: value.clone() for name, value in clients.params.items()}

    def settle(self, old: tree.Tree, new: tree.Tree, heard: Any) -> tree.Tree:
        """The client has trained, whether or not it was heard."""
        return new

    def server_update(self, spec: Spec, state: State, replies: Replies, server: Server, key: Key) -> State:
        """Average, then train the server's model towards the average."""
        consensus = replies.parts["outputs"]["outputs"]
        params = server.distill(
            state["params"],
            consensus,
            steps=self.server_steps,
            batch_size=self.batch_size,
            optimizer=self.server_trainer,
            key=key,
        )
        return {**state, "consensus": {"outputs": consensus}, "params": params}


def public_batch(n: int, batch_size: int, key: Key) -> np.ndarray:
    """Indices of a random batch without replacement, a function of the key."""
    return np.argsort(key.uniform(0, n)[0])[:batch_size]
