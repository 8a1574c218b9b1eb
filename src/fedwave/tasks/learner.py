"""The learner: what an engine trains. Torch-free to import; its implementations are in ``fedwave.tasks.learners``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core.types import Ints, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Batch = dict[str, Any]


class Learner(ABC):
    """A model with its data, divided among clients.

    Dropout is off throughout (the model is in eval mode), because results must not depend on how clients are packed.
    Trainable parameters are float32 and require grad; all others are frozen.

    Forward contract: rows come first, keep their order and are never mixed, so that an engine may replace each module
    that owns trainable parameters by a twin that treats the ``n`` rows as ``k`` clients of ``n / k`` rows.

    Attributes
    ----------
    spec : equal to the task's ``spec()``.
    model : an ordinary torch, Hugging Face or PEFT-injected model.
    leaf_paths : leaf name -> dotted path of its parameter in ``model``.
    base_paths : LoRA'd module (a key of ``spec.bases``) -> dotted path of its frozen weight in ``model``.
    initial : leaf name -> initial value (CPU, float32), a function of the seed alone.
    order, offsets : rows of client c are ``order[offsets[c]:offsets[c + 1]]``.
    public_rows : rows of the server's public set, held by no client.
    eval_rows : held-out rows.
    dropped : training rows left out because nothing of them could be learned (truncated answers).
    """

    spec: Spec
    model: nn.Module
    leaf_paths: dict[str, str]
    base_paths: dict[str, str]
    initial: dict[str, Tensor]
    order: Ints
    offsets: Ints
    public_rows: Ints
    eval_rows: Ints
    dropped: int = 0
    eval_batch: int = 256

    @property
    def clients(self) -> int:
        """Number of clients."""
        return len(self.offsets) - 1

    @cached_property
    def device(self) -> torch.device:
        """Where the model is at the first use; batches are put there too. A stack may leave it without parameters."""
        import torch

        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's arithmetic: the narrowest type of its floating-point parameters."""
        import torch

        kinds = {value.dtype for value in self.model.parameters() if value.is_floating_point()}
        return min(kinds, key=lambda kind: kind.itemsize, default=torch.float32)

    def lengths(self, rows: Ints) -> Ints:
        """Tokens of each row (1 where rows have no length), so that an engine may group rows of like length."""
        return np.ones(len(rows), dtype=np.int64)

    @abstractmethod
    def batch(self, rows: Ints) -> Batch:
        """Tensors of ``rows`` on the model's device, one gather; row -1 is a padding row of zero weight."""

    @abstractmethod
    def row_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the model: (sum of each row's loss terms ``[n]``, number of terms ``[n]``), 0 and 0 for padding rows."""

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Logits or predictions of each row, ``[n, *spec.output.shape]``."""

    @abstractmethod
    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """How far each row's prediction is from a target prediction, ``[n]``, for distillation."""

    def evaluate(self) -> dict[str, float]:
        """Mean held-out loss per term (and accuracy where it exists) at the model's current parameters."""
        import torch

        totals: dict[str, float] = {}
        terms = 0.0
        rows = self.eval_rows[np.argsort(self.lengths(self.eval_rows), kind="stable")]
        with torch.no_grad():
            for start in range(0, len(rows), self.eval_batch):
                sums, count = self.score(self.batch(rows[start : start + self.eval_batch]))
                terms += count
                for name, value in sums.items():
                    totals[name] = totals.get(name, 0.0) + value
        return {name: value / terms for name, value in totals.items()}

    def score(self, batch: Batch) -> tuple[dict[str, float], float]:
        """Sums over a held-out batch of what :meth:`evaluate` reports, and the number of terms behind them."""
        loss, weight = self.row_losses(batch)
        return {"loss": float(loss.double().sum())}, float(weight.sum())

    @abstractmethod
    def export(
        self, folder: Path, params: dict[str, Tensor], base: list[dict[str, tuple[Tensor, Tensor]]] | None = None
    ) -> None:
        """Write the result in its standard format: a PEFT folder for LoRA, else ``model.safetensors``.

        Parameters
        ----------
        params : leaf name -> value, one client's.
        base : changes of the base, ``{module: (A [R, d_in], B [d_out, R])}``, each ``spec.lora_scale * B @ A``.
        """
