"""The base of all transforms. A transform owns both ends: what the sender encodes and what the receiver decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from fedwave.core.keys import Key
from fedwave.core.types import Leaf, Leaves

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Buffer:
    """A packed side buffer: ``count`` values of ``width`` bits, padded to whole bytes.

    Values are unsigned integers, or float32 where ``real`` is set (then ``width`` is 32).
    """

    count: int
    width: int
    real: bool = False

    @property
    def bytes(self) -> int:
        """Size on the wire in bytes."""
        return (self.count * self.width + 7) // 8


Buffers = dict[str, Buffer]


def is_real(leaf: Leaf) -> bool:
    """The leaf holds floating-point values; integer leaves (seeds, counts) pass every transform untouched."""
    return "float" in leaf.dtype


def rows(value: Tensor) -> Tensor:
    """A stacked leaf ``[K, ...]`` as ``[K, size]``; also where ``K`` or the size is 0."""
    return value.flatten(1) if value.dim() > 1 else value[:, None]


@dataclass(frozen=True)
class Transform:
    """Base of all transforms; works on one payload part, a flat tree ``{leaf: [K, ...]}`` with the client axis first.

    ``encode`` takes values away into side buffers (codes, scales, places) and leaves the rest, which the next
    transform of the chain may work on and which travels raw at the end. ``decode`` is its inverse at the receiver.

    Parameters
    ----------
    direction : the link that it works on, ``"up"`` (client to server) or ``"down"``.

    Class attributes
    ----------------
    additive : encoded values may be summed (in the air, or under secure aggregation): shared scale and support.
    final : leaves no floating-point values to a next transform.
    """

    direction: Literal["up", "down"] = field(default="up", kw_only=True)

    additive: ClassVar[bool] = False
    final: ClassVar[bool] = False

    @property
    def stateful(self) -> bool:
        """What was not sent is remembered and added to the next update (error feedback)."""
        return False

    def shapes(self, leaves: Leaves) -> tuple[Leaves, Buffers]:
        """Leaves that remain for the next transform, and the side buffers. Torch-free: plans use it."""
        return dict(leaves), {}

    def encode(self, values: Tensors, keys: Sequence[Key]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Remaining values and side buffers ``{name: [K, count]}`` named as in :meth:`shapes`.

        ``keys`` holds one key per client: a draw depends on the client's key alone, never on the packing.
        """
        raise NotImplementedError

    def decode(self, remaining: Tensors, side: Tensors, leaves: Leaves) -> dict[str, Tensor]:
        """Values of ``leaves`` (the input of :meth:`shapes`), ``{leaf: [K, ...]}``, as the receiver sees them."""
        return dict(remaining)
