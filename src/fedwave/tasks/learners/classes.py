"""The learner of every classification task: images, cached features, tokenised text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwave.core.types import Ints, Spec
from fedwave.tasks.learner import Batch, Learner
from fedwave.tasks.learners.store import Store
from fedwave.tasks.task import Division

Base = list[dict[str, tuple[Tensor, Tensor]]]
Exporter = Callable[[Path, dict[str, Tensor], Base], None]
FEW = 16  # classes
NONE = -100  # the class of a padding row


class ClassLearner(Learner):
    """Softmax cross-entropy over ``model(*inputs)``, the inputs being what ``store`` gathers.

    Rows 0 ... n - 1 are training rows, those after them held out; ``labels`` covers both.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        model: nn.Module,
        leaf_paths: dict[str, str],
        initial: dict[str, Tensor],
        store: Store,
        labels: Ints,
        division: Division,
        eval_rows: Ints,
        exporter: Exporter,
        base_paths: dict[str, str] | None = None,
    ) -> None:
        self.spec, self.model = spec, model
        self.leaf_paths, self.base_paths, self.initial = leaf_paths, base_paths or {}, initial
        self.order, self.offsets, self.public_rows = division.order, division.offsets, division.public
        self.eval_rows = eval_rows
        self._store, self._exporter = store, exporter
        self._labels = np.append(labels, NONE).astype(np.int64)  # row -1 reads the last

    def lengths(self, rows: Ints) -> Ints:
        """See :meth:`Learner.lengths`."""
        return self._store.lengths(rows)

    def batch(self, rows: Ints) -> Batch:
        """See :meth:`Learner.batch`."""
        rows, device = np.asarray(rows), self.device
        return {
            **self._store.gather(rows, device),
            "label": torch.as_tensor(self._labels[rows], device=device),
            "weight": torch.as_tensor(rows >= 0, dtype=torch.float32, device=device),
        }

    def row_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each row; see :meth:`Learner.row_losses`."""
        return self._losses(self.predict(batch), batch), batch["weight"]

    def predict(self, batch: Batch) -> Tensor:
        """Logits, ``[n, classes]``."""
        return self.model(*(batch[name] for name in self._store.names))

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``KL(softmax(target) || softmax(predicted))`` of each row."""
        wanted = F.log_softmax(target, dim=-1)
        return (wanted.exp() * (wanted - F.log_softmax(predicted, dim=-1))).sum(-1)

    def score(self, batch: Batch) -> tuple[dict[str, float], float]:
        """See :meth:`Learner.score`; accuracy beside the loss."""
        logits = self.predict(batch)
        hits = (logits.argmax(-1) == batch["label"]) * batch["weight"]
        loss = self._losses(logits, batch)
        return {"loss": float(loss.double().sum()), "accuracy": float(hits.sum())}, float(batch["weight"].sum())

    def export(
        self, folder: Path, params: dict[str, Tensor], base: list[dict[str, tuple[Tensor, Tensor]]] | None = None
    ) -> None:
        """See :meth:`Learner.export`."""
        self._exporter(folder, params, base or [])

    @staticmethod
    def _losses(logits: Tensor, batch: Batch) -> Tensor:
        logits = logits.float()  # as the sum of the exponentials asks for, whatever the model's arithmetic
        if logits.device.type == "cpu" and logits.shape[1] <= FEW:  # where a softmax along the rows is not vectorised
            scores = F.log_softmax(logits.t().contiguous(), 0).t()
            return F.nll_loss(scores, batch["label"], reduction="none", ignore_index=NONE)
        return F.cross_entropy(logits, batch["label"], reduction="none", ignore_index=NONE)
