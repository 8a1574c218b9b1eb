"""From the replies of groups to the reply of a round: weighted sums in float64, gathered rows in cohort order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core import tree
from fedwave.core.types import Bools, Cohort, Floats, Ints, Replies, Schema

if TYPE_CHECKING:
    from torch import Tensor


class Fold:
    """Running weighted sums in float64 and gathered rows of one round's replies."""

    def __init__(self, schema: Schema, clients: int) -> None:
        self.schema = schema
        self.sums: dict[str, tree.Tree] = {name: {} for name, part in schema.items() if part.reduce == "sum"}
        self.rows: dict[str, list[tree.Tree]] = {name: [] for name, part in schema.items() if part.reduce == "gather"}
        self.loss = np.full(clients, np.nan)
        self.weights = np.zeros(clients)
        self.order: list[int] = []
        self.dropped: list[int] = []

    def add(self, positions: Ints, cohort: Cohort, coefficient: Floats, parts: Any, loss: Tensor) -> None:
        """Take in one group; rows with coefficient 0 leave no trace, whatever is in them."""
        import torch

        self.loss[positions] = loss.detach().double().numpy()
        weight = cohort.weight[positions] * coefficient
        counts = np.flatnonzero(weight > 0)
        self.weights[positions[counts]] = weight[counts]
        self.order += [int(p) for p in positions[counts]]
        picked, factor = torch.as_tensor(counts), torch.as_tensor(weight[counts])
        for name, leaves in parts.items():
            if name in self.rows:
                self.rows[name].append({leaf: x[picked].clone() for leaf, x in leaves.items()})
                continue
            for leaf, x in leaves.items():
                term = torch.tensordot(factor, x[picked].double(), dims=1)
                self.sums[name][leaf] = self.sums[name].get(leaf, 0.0) + term

    def close(self, cohort: Cohort) -> Replies:
        """Weighted means of the sums; gathered rows in cohort order, whatever order they trained in."""
        import torch

        position = np.array(sorted(self.order), dtype=np.int64)
        place = np.argsort(np.array(self.order, dtype=np.int64), kind="stable")
        total = self.weights.sum()
        parts = {name: tree.map(lambda x: (x / total).float(), leaves) for name, leaves in self.sums.items() if total}
        for name, groups in self.rows.items():
            if groups:
                parts[name] = {n: torch.cat([g[n] for g in groups])[torch.as_tensor(place)] for n in groups[0]}
        return Replies(
            parts=parts,
            weight=self.weights[position] / total if total else np.zeros(0),
            position=position,
            rank=cohort.rank[position],
            loss=self.loss,
            dropped=self.dropped,
        )


def finite(loss: Tensor, parts: dict[str, tree.Tree]) -> Bools:
    """Whose loss and values are all finite, ``[K]``."""
    import torch

    ok = loss.isfinite()
    for leaves in parts.values():
        for value in leaves.values():
            ok = ok & torch.linalg.vector_norm(value.reshape(len(value), -1), torch.inf, 1).isfinite()
    return ok.numpy()
