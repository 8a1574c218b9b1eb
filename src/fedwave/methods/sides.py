"""What a method's hooks may ask of the two sides of the link. The engine provides both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fedwave.core.keys import Key
from fedwave.core.tree import Tree
from fedwave.core.types import Ints, Message, Spec


class Clients(Protocol):
    """Stacked clients in training. Trees and arrays cover the clients still active, ``[K, ...]``, in slot order."""

    spec: Spec
    message: Message
    initial: Tree  # trainable leaves as every device has them from the initial delivery, unstacked
    round: int
    key: Key  # of this round; fold a purpose, then draw by id
    public_rows: Ints
    scratch: dict[str, Any]  # a method's own tensors of this round, [K, ...] over all slots

    @property
    def ids(self) -> Ints:
        """Client ids [K]."""
        ...

    @property
    def ranks(self) -> Ints:
        """LoRA ranks [K]."""
        ...

    @property
    def steps(self) -> Any:
        """Local steps that each client makes in all, tensor [K]."""
        ...

    @property
    def at(self) -> int:
        """Local steps made so far."""
        ...

    @property
    def params(self) -> Tree:
        """Live trainable leaves [K, ...]."""
        ...

    @property
    def sent(self) -> Tree:
        """As loaded [K, ...]."""
        ...

    @property
    def memory(self) -> Tree:
        """This method's client memory [K, ...], zeros where none yet."""
        ...

    @property
    def own(self) -> dict[str, Tree]:
        """The message's own parts {part: {leaf: [K, ...]}}."""
        ...

    @property
    def known(self) -> Any:
        """Whether each client has memory from an earlier round, bool tensor [K]."""
        ...

    def load(self, params: Mapping[str, Any], *, stacked: bool = False) -> None:
        """Set the trainable leaves (masked to each client's rank) and remember them as ``sent``."""
        ...

    def resume_own(self) -> None:
        """Load each client's own model from its memory, the initial one where it has none yet."""
        ...

    def losses(self, rows: Any) -> Any:
        """Mean loss of each client over its ``rows [K, b]`` (-1: no row), differentiable, ``[K]``."""
        ...

    def predict(self, rows: Any) -> Any:
        """Outputs ``[K, b, ...]`` of each client's model on ``rows [K, b]``, differentiable."""
        ...

    def distance(self, predicted: Any, target: Any) -> Any:
        """The task's distillation loss per row, ``[K, b]``, of outputs ``[K, b, ...]``."""
        ...

    def gradients(self, objective: Any) -> Tree:
        """Gradients ``[K, ...]`` of each client's objective ``[K]``; leaves that do not travel are left out."""
        ...

    def descend(self, grads: Tree) -> None:
        """Clip, then one step of the local optimiser on the leaves in ``grads``."""
        ...

    def shift(self, direction: Tree, scale: Any) -> None:
        """``params += scale [K] * direction [K, ...]`` in place."""
        ...


class Server(Protocol):
    """The server's own means: its copy of the model, public data, and where its client weights come from."""

    spec: Spec
    initial: Tree
    public_rows: Ints
    population: int

    def predict(self, params: Mapping[str, Any], rows: Ints) -> Any:
        """Outputs ``[n, ...]`` of the model with ``params`` on training rows, no gradient."""
        ...

    def distill(
        self, params: Mapping[str, Any], targets: Any, *, steps: int, batch_size: int, optimizer: Any, key: Key
    ) -> Tree:
        """Train the server's model on the public rows towards ``targets [n_public, ...]``; returns its leaves."""
        ...
