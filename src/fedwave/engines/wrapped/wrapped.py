"""A learner around another one: what it does itself is in its subclasses, all else is the other's."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from fedwave.core.types import Ints
from fedwave.tasks.learner import Batch, Learner

_COPIED = ("spec", "leaf_paths", "base_paths", "initial", "order", "offsets", "public_rows", "eval_rows", "dropped",
           "eval_batch")  # fmt: skip


class Wrapped(Learner):
    """``inner``, whose forward passes run within :meth:`_around`."""

    def __init__(self, inner: Learner) -> None:
        self.inner = inner
        for name in _COPIED:
            setattr(self, name, getattr(inner, name))

    def _around(self, batch: Batch) -> AbstractContextManager[object]:
        """What a forward pass over ``batch`` runs within."""
        return nullcontext()

    @property
    def model(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The wrapped learner's model."""
        return self.inner.model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self.inner.model = model
        self._placed(model)

    def _placed(self, model: nn.Module) -> None:
        """``model`` has taken the place of the model so far."""

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The wrapped learner's."""
        return self.inner.device

    @device.setter
    def device(self, device: torch.device) -> None:
        self.inner.device = device

    @property
    def dtype(self) -> torch.dtype:
        """The wrapped learner's."""
        return self.inner.dtype

    def lengths(self, rows: Ints) -> Ints:
        """See :meth:`Learner.lengths`."""
        return self.inner.lengths(rows)

    def batch(self, rows: Ints) -> Batch:
        """See :meth:`Learner.batch`."""
        return self.inner.batch(rows)

    def row_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :meth:`Learner.row_losses`."""
        with self._around(batch):
            return self.inner.row_losses(batch)

    def predict(self, batch: Batch) -> Tensor:
        """See :meth:`Learner.predict`."""
        with self._around(batch):
            return self.inner.predict(batch)

    def score(self, batch: Batch) -> tuple[dict[str, float], float]:
        """See :meth:`Learner.score`."""
        with self._around(batch):
            return self.inner.score(batch)

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """See :meth:`Learner.distance`."""
        return self.inner.distance(predicted, target)

    def evaluate(self) -> dict[str, float]:
        """See :meth:`Learner.evaluate`; a learner with an evaluation of its own runs it as it is."""
        first = self.inner
        while isinstance(first, Wrapped):
            first = first.inner
        return super().evaluate() if type(first).evaluate is Learner.evaluate else self.inner.evaluate()

    def export(
        self, folder: Path, params: dict[str, Tensor], base: list[dict[str, tuple[Tensor, Tensor]]] | None = None
    ) -> None:
        """See :meth:`Learner.export`."""
        self.inner.export(folder, params, base)
