"""Arithmetic in bfloat16: products in half the bytes, on processors that have it."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fedwave.engines.wrapped.wrapped import Wrapped
from fedwave.tasks.learner import Batch, Learner


class HalfLearner(Wrapped):
    """A learner whose forward passes run under torch's autocast to bfloat16; trained values stay float32.

    Frozen weights of products are kept in bfloat16, so that no pass has to round them anew. Results are those of
    arithmetic with 8 significant bits: a trajectory of its own, not equal to float32's. bfloat16 has the range of
    float32, so no loss needs scaling (Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019).
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        device = learner.device.type
        if not has_bfloat16(device):
            warnings.warn(
                f"this {device} has no arithmetic in bfloat16, so that engine.dtype = 'bfloat16' makes a run slower",
                stacklevel=2,
            )
        trained = set(self.leaf_paths.values())
        for path, module in self.model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) or type(module).__name__ == "Conv1D":  # GPT-2's
                for name, value in list(module.named_parameters(recurse=False)):
                    if f"{path}.{name}" not in trained and not value.requires_grad:
                        # A parameter of its own, because an embedding that shares it stays as it is.
                        setattr(module, name, nn.Parameter(value.to(torch.bfloat16), requires_grad=False))

    def _around(self, batch: Batch) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16, whatever the parameters are."""
        return torch.bfloat16

    def predict(self, batch: Batch) -> Tensor:
        """See :meth:`Learner.predict`; in float32."""
        return super().predict(batch).float()


def has_bfloat16(device: str) -> bool:
    """Whether the machine's devices of this type multiply in bfloat16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
