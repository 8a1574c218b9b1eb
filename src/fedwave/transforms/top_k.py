"""Magnitude sparsification with error feedback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedwave.core.config import Fraction
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Leaf, Leaves
from fedwave.transforms.transform import Buffer, Buffers, Tensors, Transform, is_real, rows

if TYPE_CHECKING:
    from torch import Tensor


@register("transform", "top_k")
@dataclass(frozen=True)
class TopK(Transform):
    """Send the ``k = max(1, round(fraction * size))`` values of largest magnitude of each leaf, and their places.

    A place costs ``ceil(log2(size))`` bits; the values remain for the next transform (``quantize`` may follow). Of
    equal magnitudes the first in memory order is sent. With error feedback what was not sent is added to the client's
    next update, so that nothing is lost over time. Source: Stich, Cordonnier & Jaggi, NeurIPS 2018, "Sparsified SGD
    with Memory", Algorithm 1 (there per step and on one worker; here per round, on the update).

    Parameters
    ----------
    fraction : part of a leaf's values that is sent, in (0, 1].
    error_feedback : remember what was not sent.
    """

    fraction: Fraction = 0.1
    error_feedback: bool = True

    cite: ClassVar[str] = "Stich, Cordonnier & Jaggi, Sparsified SGD with Memory, NeurIPS 2018"

    @property
    def stateful(self) -> bool:
        """Keeps a residual per client with error feedback."""
        return self.error_feedback

    def shapes(self, leaves: Leaves) -> tuple[Leaves, Buffers]:
        """``k`` values remain of each floating-point leaf; a buffer holds their places."""
        remaining = {name: self._kept(leaf) if is_real(leaf) else leaf for name, leaf in leaves.items()}
        places = {
            f"{name}/places": Buffer(remaining[name].size, max(leaf.size - 1, 0).bit_length())
            for name, leaf in leaves.items()
            if is_real(leaf)
        }
        return remaining, places

    def encode(self, values: Tensors, keys: Sequence[Key]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The kept values ``[K, k]`` and their places ``[K, k]``, in ascending order."""
        remaining: dict[str, Tensor] = {}
        side: dict[str, Tensor] = {}
        for name, value in values.items():
            if value.is_floating_point():
                flat = rows(value)
                side[f"{name}/places"] = _largest(flat, self._count(flat.shape[1]))
                remaining[name] = flat.gather(1, side[f"{name}/places"])
            else:
                remaining[name] = value
        return remaining, side

    def decode(self, remaining: Tensors, side: Tensors, leaves: Leaves) -> dict[str, Tensor]:
        """Kept values in their places, zero elsewhere."""
        values: dict[str, Tensor] = {}
        for name, leaf in leaves.items():
            values[name] = kept = remaining[name]
            if is_real(leaf):
                full = kept.new_zeros(len(kept), leaf.size).scatter_(1, side[f"{name}/places"], kept)
                values[name] = full.reshape(len(kept), *leaf.shape)
        return values

    def _count(self, size: int) -> int:
        return min(size, max(1, round(self.fraction * size)))

    def _kept(self, leaf: Leaf) -> Leaf:
        return replace(leaf, shape=(self._count(leaf.size),), rank_axis=None)


def _largest(flat: Tensor, k: int) -> Tensor:
    """Places ``[K, k]`` of the largest magnitudes of each row of ``[K, size]``, ascending; the first of equals wins.

    ``torch.topk`` breaks ties as it likes, hence its threshold only. NaN counts as infinite: it is sent, not hidden.
    """
    if k == flat.shape[1]:
        import torch

        return torch.arange(k, device=flat.device).expand(len(flat), k)
    magnitude = flat.abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    threshold = magnitude.topk(k, dim=1).values[:, -1:]
    above = magnitude > threshold
    equal = magnitude == threshold
    take = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return take.nonzero()[:, 1].reshape(len(flat), k)
