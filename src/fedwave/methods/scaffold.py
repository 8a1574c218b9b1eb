"""SCAFFOLD: control variates correct the drift of clients with different data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fedwave.core import tree
from fedwave.core.errors import Refused
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Leaves, Message, Part, Replies, Schema, Spec
from fedwave.methods.method import Method, State
from fedwave.methods.optimizers import Sgd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedwave.core.keys import Key
    from fedwave.methods.sides import Clients, Server


@register("method", "scaffold")
@dataclass(frozen=True)
class Scaffold(Method):
    """Local step ``w <- w - lr (g - c_k + c)``; then ``c_k+ = c_k - c + (w_sent - w) / (steps * lr)``.

    Karimireddy et al., ICML 2020, Algorithm 1, option II. Averages are uniform and ``c <- c + |S|/N mean(c_k+ - c_k)``.
    A client that was not heard keeps its old control variate, so that ``c`` stays the mean of the ``c_k``.
    """

    weighting: Literal["samples", "uniform"] = "uniform"

    cite: ClassVar[str] = (
        "Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020"
    )

    def check(self, spec: Spec) -> None:
        """Option II holds for plain gradient descent; ``c`` is the mean of the ``c_k`` under equal weights only."""
        super().check(spec)
        if self.weighting != "uniform":
            raise Refused("method scaffold averages with equal weights; set weighting = 'uniform' or leave it out")
        plain = isinstance(self.local_optimizer, Sgd) and not self.local_optimizer.momentum
        if not plain or self.clip_norm:
            raise Refused("method scaffold needs local_optimizer = sgd without momentum, and no clip_norm (option II)")

    def uplink(self, spec: Spec) -> Schema:
        """Model and control updates."""
        return {"update": Part(self.travelling(spec)), "control": Part(self.travelling(spec))}

    def downlink(self, spec: Spec) -> Schema:
        """Model and server control variate."""
        return {"params": Part(self.travelling(spec)), "control": Part(self.travelling(spec))}

    def memory(self, spec: Spec) -> Leaves:
        """The client's control variate."""
        return self.travelling(spec)

    def server_memory_bytes(self, spec: Spec, cohort: int, batch_size: int) -> dict[str, float]:
        """With the server's control variate."""
        return {
            **super().server_memory_bytes(spec, cohort, batch_size),
            "method": 4.0 * sum(leaf.size for leaf in self.travelling(spec).values()),
        }

    def init(self, spec: Spec, initial: Mapping[str, Any], server: Server, key: Key) -> State:
        """Control variates start at zero."""
        state = super().init(spec, initial, server, key)
        return {**state, "control": tree.map(lambda x: x.new_zeros(x.shape), state["params"])}

    def broadcast(self, spec: Spec, state: State, cohort: Cohort) -> Message:
        """The model and ``c``."""
        message = super().broadcast(spec, state, cohort)
        message.shared["control"] = tree.select(state["control"], self.travelling(spec))
        return message

    def correct(self, clients: Clients, grads: tree.Tree) -> tree.Tree:
        """``g - c_k + c``."""
        control = clients.message.shared["control"]
        return tree.map(lambda g, own, c: g - own + c, grads, clients.memory, control)

    def reply(self, clients: Clients) -> tuple[dict[str, tree.Tree], tree.Tree]:
        """Both updates; the memory to keep is the new ``c_k``."""
        parts, _ = super().reply(clients)
        rate = 1.0 / (clients.steps * self.local_optimizer.lr)
        drift = tree.scale_rows(parts["update"], -rate)
        step = tree.map(lambda d, c: d - c, drift, clients.message.shared["control"])
        return {**parts, "control": step}, tree.add(clients.memory, step)

    def server_update(self, spec: Spec, state: State, replies: Replies, server: Server, key: Key) -> State:
        """Model step, then the control variate's."""
        state = super().server_update(spec, state, replies, server, key)
        share = len(replies) / server.population
        return {
            **state,
            "control": {
                **state["control"],
                **tree.add(tree.select(state["control"], replies.parts["control"]), replies.parts["control"], share),
            },
        }
