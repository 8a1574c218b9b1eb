"""Initial values and weight files that several learners share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fedwave.core.keys import Key


def uniform(key: Key, name: str, shape: tuple[int, ...], bound: float) -> Tensor:
    """Uniform on (-bound, bound), a function of the key and the leaf's name."""
    generator = key.fold("initial", name).torch()
    return (2.0 * torch.rand(shape, generator=generator) - 1.0) * bound


def linear(wide: int, out: int, *, bias: bool = True) -> nn.Linear:
    """Linear layer whose values are yet to be set; unlike ``nn.Linear`` itself it draws no random numbers."""
    layer = nn.utils.skip_init(nn.Linear, wide, out, bias=bias)
    assert isinstance(layer, nn.Linear)
    return layer


def adopt(model: nn.Module, paths: dict[str, str], values: dict[str, Tensor]) -> None:
    """Freeze ``model`` but for the leaves at ``paths``, which become float32 with the given values."""
    model.eval().requires_grad_(False)
    named = dict(model.named_parameters())
    for leaf, path in paths.items():
        named[path].data = values[leaf].detach().clone().float()
        named[path].requires_grad_(True)


def write_weights(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> None:
    """One safetensors file of contiguous CPU tensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    save_file(plain, folder / name, metadata={"format": "pt"})
