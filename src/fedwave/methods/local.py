"""No communication: every client trains alone. The baseline that shows what federation buys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedwave.core import tree
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Leaves, Message, Replies, Schema, Spec
from fedwave.methods.method import Method, State

if TYPE_CHECKING:
    from fedwave.core.keys import Key
    from fedwave.methods.sides import Clients, Server


@register("method", "local")
@dataclass(frozen=True)
class Local(Method):
    """Each client continues its own model from round to round; nothing is sent and the server's model never changes."""

    cite: ClassVar[str] = ""

    def uplink(self, spec: Spec) -> Schema:
        """Nothing."""
        return {}

    def downlink(self, spec: Spec) -> Schema:
        """Nothing."""
        return {}

    def memory(self, spec: Spec) -> Leaves:
        """The client's own model."""
        return spec.trainable

    def broadcast(self, spec: Spec, state: State, cohort: Cohort) -> Message:
        """Nothing."""
        return Message(shared={})

    def begin(self, clients: Clients) -> None:
        """Go on from the client's own model."""
        clients.resume_own()

    def reply(self, clients: Clients) -> tuple[dict[str, tree.Tree], tree.Tree]:
        """Nothing to send, the model to keep."""
        return {}, {name: value.clone() for name, value in clients.params.items()}

    def settle(self, old: tree.Tree, new: tree.Tree, heard: object) -> tree.Tree:
        """Nobody needs to hear it."""
        return new

    def server_update(self, spec: Spec, state: State, replies: Replies, server: Server, key: Key) -> State:
        """Unchanged."""
        return state
