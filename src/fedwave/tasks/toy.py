"""Federated linear regression: a quadratic whose optimum is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedwave.core.config import Count, NonNegative
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Floats, Ints, Leaf, Spec
from fedwave.tasks.task import Learner, Progress, Task


class Regression(NamedTuple):
    """Features ``x [n, d]``, targets ``y [n]``, clients' ``offsets [N + 1]``; public rows follow the last client."""

    x: Floats
    y: Floats
    offsets: Ints


@register("task", "toy")
@dataclass(frozen=True)
class Toy(Task):
    """Linear regression, one leaf ``weight`` ``[1, d]``, loss ``(x w - y)^2 / 2`` per row, started at zero.

    Client c draws ``x ~ N(0, I)`` and ``y = x (w* + h u_c) + s e`` with ``w*, u_c ~ N(0, I)`` and ``e ~ N(0, 1)``.
    Evaluation is on the clients' pooled data: the loss, and the distance to the pooled least-squares optimum.

    Parameters
    ----------
    clients : number of clients.
    dimension : d, the features of a row.
    samples_per_client : rows of each client; with ``ragged`` uniform on 1 ... 2 x this - 1, so the same on average.
    heterogeneity : h, how far the clients' own optima spread.
    noise : s, standard deviation of the noise in the targets.
    ragged : clients hold different numbers of rows.
    batch_size : rows of a local step.
    """

    clients: Count = 20
    dimension: Count = 10
    samples_per_client: Count = 32
    heterogeneity: NonNegative = 1.0
    noise: NonNegative = 0.1
    ragged: bool = False
    batch_size: Count = 8

    def spec(self) -> Spec:
        """See :meth:`Task.spec`. One multiply-add (2 FLOPs) a feature forward, as many for the weight gradient."""
        return Spec(
            trainable={"weight": Leaf((1, self.dimension))},
            model_parameters=self.dimension,
            base_bytes=0,
            forward_flops=2.0 * self.dimension,
            backward_flops=2.0 * self.dimension,
            activation_bytes=4.0 * (self.dimension + 1),
            output=Leaf((1,)),
            inference_bytes=4.0 * (self.dimension + 1),
        )

    def samples(self, seed: int, *, public: int = 0) -> Ints:
        """See :meth:`Task.samples`. Public rows are drawn in addition, so they take nothing from the clients."""
        if not self.ragged:
            return np.full(self.clients, self.samples_per_client, dtype=np.int64)
        u = Key(seed).fold("toy", "samples").uniform(np.arange(self.clients))[:, 0]
        return 1 + np.floor(u * (2 * self.samples_per_client - 1)).astype(np.int64)

    def data(self, seed: int, *, public: int = 0) -> Regression:
        """The regression problem; public rows come from ``w*`` itself."""
        key, count = Key(seed).fold("toy"), self.samples(seed)
        offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        rows = np.arange(offsets[-1] + public)
        common = key.fold("optimum").normal(0, self.dimension)[0]
        shift = key.fold("shift").normal(np.arange(self.clients), self.dimension)
        own = np.concatenate([shift, np.zeros((1, self.dimension))])[
            np.repeat(np.arange(len(count) + 1), [*count, public])
        ]
        x = key.fold("features").normal(rows, self.dimension)
        y = np.einsum("nd,nd->n", x, common + self.heterogeneity * own)
        return Regression(x, y + self.noise * key.fold("noise").normal(rows)[:, 0], offsets)

    def optimum(self, seed: int) -> Floats:
        """Least-squares solution over all clients' rows, ``[d]`` (of least norm where they do not determine it)."""
        x, y, _ = self.data(seed)
        return np.linalg.lstsq(x, y, rcond=None)[0].astype(np.float64)

    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """See :meth:`Task.build`."""
        from fedwave.tasks.learners.toy import ToyLearner

        return ToyLearner(self.spec(), self.data(seed, public=public), self.optimum(seed))
