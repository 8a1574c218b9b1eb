"""Coordinate-wise median: robust to a minority of arbitrary updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedwave.core import tree
from fedwave.core.registry import register
from fedwave.core.types import Part, Replies, Schema, Spec
from fedwave.methods.method import Method, State

if TYPE_CHECKING:
    from fedwave.core.keys import Key
    from fedwave.methods.sides import Server


@register("method", "median")
@dataclass(frozen=True)
class Median(Method):
    """``w <- w + lr_s * median_k (w_k - w)``, by coordinate, unweighted (Yin et al., ICML 2018, Algorithm 1).

    With an even number of updates the median is the mean of the middle two. It needs each client's own update, so it is
    refused with sums in the air and with secure aggregation.
    """

    cite: ClassVar[str] = (
        "Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018"
    )

    def uplink(self, spec: Spec) -> Schema:
        """Each client's own update."""
        return {"update": Part(self.travelling(spec), reduce="gather")}

    def server_update(self, spec: Spec, state: State, replies: Replies, server: Server, key: Key) -> State:
        """Server step along the median."""
        return self.step_server(state, tree.map(_median, replies.parts["update"]))


def _median(x: Any) -> Any:
    """Median over the first axis (``torch.quantile`` takes no more than 2**24 values)."""
    ordered = x.sort(dim=0).values
    return (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2
