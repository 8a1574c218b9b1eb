"""FedProx: a proximal term keeps each client near the model it was sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedwave.core import tree
from fedwave.core.config import NonNegative
from fedwave.core.registry import register
from fedwave.methods.method import Method

if TYPE_CHECKING:
    from fedwave.methods.sides import Clients


@register("method", "fedprox")
@dataclass(frozen=True)
class FedProx(Method):
    """Each client minimises ``F_k(w) + mu/2 ||w - w_sent||^2`` (Li et al., MLSys 2020, Eq. 2).

    Parameters
    ----------
    mu : weight of the proximal term; 0 is FedAvg.
    """

    mu: NonNegative = 0.01

    cite: ClassVar[str] = "Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020"

    def objective(self, clients: Clients, losses: Any) -> Any:
        """Local loss plus the proximal term."""
        return losses + self.mu / 2 * tree.sqdist(clients.params, clients.sent)
