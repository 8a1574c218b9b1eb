"""The learner of the toy regression."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fedwave.core.types import Floats, Ints, Spec
from fedwave.tasks.learner import Batch, Learner
from fedwave.tasks.learners.store import Vectors
from fedwave.tasks.learners.weights import adopt, linear, write_weights
from fedwave.tasks.toy import Regression


class ToyLearner(Learner):
    """Linear regression with squared error."""

    def __init__(self, spec: Spec, data: Regression, optimum: Floats) -> None:
        rows = int(data.offsets[-1])
        self.spec = spec
        self.model = linear(data.x.shape[1], 1, bias=False)
        self.leaf_paths, self.base_paths = {"weight": "weight"}, {}
        self.initial = {"weight": torch.zeros(spec.trainable["weight"].shape)}
        adopt(self.model, self.leaf_paths, self.initial)
        self.order, self.offsets = np.arange(rows), data.offsets
        self.public_rows, self.eval_rows = np.arange(rows, len(data.y)), np.arange(rows)
        self._inputs = Vectors(data.x)
        self._targets = Vectors(data.y[:, None])
        self._optimum = torch.as_tensor(optimum)

    def batch(self, rows: Ints) -> Batch:
        """See :meth:`Learner.batch`."""
        rows, device = np.asarray(rows), self.device
        return {
            **self._inputs.gather(rows, device),
            "y": self._targets.gather(rows, device)["x"],
            "weight": torch.as_tensor(rows >= 0, dtype=torch.float32, device=device),
        }

    def row_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``(x w - y)^2 / 2`` of each row; see :meth:`Learner.row_losses`."""
        error = (self.predict(batch) - batch["y"]).squeeze(1)
        return 0.5 * error.square() * batch["weight"], batch["weight"]

    def predict(self, batch: Batch) -> Tensor:
        """``x w``, ``[n, 1]``."""
        return self.model(batch["x"])

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Half the squared difference of each row."""
        return 0.5 * (predicted - target).square().sum(1)

    def evaluate(self) -> dict[str, float]:
        """Loss on the pooled data and Euclidean ``distance`` of the weight to the optimum."""
        weight = cast(Tensor, self.model.weight).detach().double().cpu().reshape(-1)
        return super().evaluate() | {"distance": float((weight - self._optimum).norm())}

    def export(
        self, folder: Path, params: dict[str, Tensor], base: list[dict[str, tuple[Tensor, Tensor]]] | None = None
    ) -> None:
        """``model.safetensors`` with the one leaf."""
        write_weights(folder, params)
