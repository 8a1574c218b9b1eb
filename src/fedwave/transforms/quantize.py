"""Stochastic uniform quantisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Leaves
from fedwave.transforms.transform import Buffer, Buffers, Tensors, Transform, is_real, rows

if TYPE_CHECKING:
    from torch import Tensor


@register("transform", "quantize")
@dataclass(frozen=True)
class Quantize(Transform):
    """Unbiased stochastic rounding of each leaf to ``2 s + 1`` levels, ``s = 2**(bits - 1) - 1``, and a float32 scale.

    ``Q(x_i) = (scale / s) floor(s x_i / scale + u_i)``, ``u_i`` uniform in [0, 1); ``E Q(x) = x``. Source: Alistarh et
    al., NeurIPS 2017, "QSGD", Section 3.1 (there the scale is the L2 norm and the sign is coded apart; here codes are
    offset binary of fixed width, without entropy coding). With either scale QSGD's Lemma 3.1 holds,
    ``E ||Q(x) - x||^2 <= min(d / s^2, sqrt(d) / s) ||x||^2``; with the largest magnitude also
    ``E ||Q(x) - x||^2 <= d max|x|^2 / (4 s^2)``, which is tighter. Leaves in half precision are rounded to their own
    dtype after decoding. A leaf with a value that is not finite decodes to values that are not finite.

    Parameters
    ----------
    bits : bits of a code, 2, 4 or 8.
    scale : ``"max"`` largest magnitude of the leaf; ``"l2"`` its norm, as in the paper.
    """

    bits: Literal[2, 4, 8] = 8
    scale: Literal["max", "l2"] = "max"

    cite: ClassVar[str] = (
        "Alistarh et al., QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding, NeurIPS 2017"
    )

    final: ClassVar[bool] = True

    @property
    def levels(self) -> int:
        """Levels ``s`` on each side of zero."""
        return 2 ** (self.bits - 1) - 1

    def shapes(self, leaves: Leaves) -> tuple[Leaves, Buffers]:
        """Codes and a scale for each floating-point leaf; integer leaves remain."""
        buffers: Buffers = {}
        for name, leaf in leaves.items():
            if is_real(leaf):
                buffers[f"{name}/scale"] = Buffer(1, 32, real=True)
                buffers[f"{name}/codes"] = Buffer(leaf.size, self.bits)
        return {name: leaf for name, leaf in leaves.items() if not is_real(leaf)}, buffers

    def encode(self, values: Tensors, keys: Sequence[Key]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Offset-binary codes ``[K, size]`` (uint8) and scales ``[K, 1]`` of each floating-point leaf."""
        import torch

        real = {name: rows(value).float() for name, value in values.items() if value.is_floating_point()}
        draws = iter(_uniform(keys, [value.shape[1] for value in real.values()], values))
        side: dict[str, Tensor] = {}
        for name, x in real.items():
            scale = self._scale(x)
            # A scale of 0 (all zeros) or one that is not finite must not reach the codes; decoding multiplies by it.
            usable = torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
            rounded = (x / usable).nan_to_num_(0.0).mul_(self.levels).add_(next(draws)).floor_()
            side[f"{name}/scale"] = scale
            side[f"{name}/codes"] = rounded.clamp_(-self.levels, self.levels).add_(self.levels).to(torch.uint8)
        return {name: value for name, value in values.items() if name not in real}, side

    def decode(self, remaining: Tensors, side: Tensors, leaves: Leaves) -> dict[str, Tensor]:
        """``(code - s) / s * scale`` in the leaf's shape and dtype."""
        import torch

        values: dict[str, Tensor] = {}
        for name, leaf in leaves.items():
            if name in remaining:
                values[name] = remaining[name]
            else:
                x = (side[f"{name}/codes"].float() - self.levels).div_(self.levels) * side[f"{name}/scale"]
                values[name] = x.to(getattr(torch, leaf.dtype)).reshape(len(x), *leaf.shape)
        return values

    def _scale(self, x: Tensor) -> Tensor:
        """``[K, 1]``; 0 for a leaf without values."""
        if x.shape[1] == 0:
            return x.new_zeros(len(x), 1)
        if self.scale == "max":
            return x.abs().amax(dim=1, keepdim=True)
        return x.double().norm(dim=1, keepdim=True).float()


def _uniform(keys: Sequence[Key], sizes: list[int], like: Tensors) -> tuple[Tensor, ...]:
    """``[K, size]`` for each size, uniform in [0, 1): one draw per client, by its own generator."""
    import torch

    device = next(iter(like.values())).device if like else torch.device("cpu")
    draws = torch.empty(len(keys), sum(sizes), device=device)
    for row, key in zip(draws, keys, strict=True):
        row.uniform_(generator=key.torch(str(device)))
    return draws.split(sizes, dim=1)
