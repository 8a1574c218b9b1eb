"""Clipping of a client's update to an L2 ball."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedwave.core.config import Positive
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.transforms.transform import Tensors, Transform, rows

if TYPE_CHECKING:
    from torch import Tensor


@register("transform", "clip")
@dataclass(frozen=True)
class Clip(Transform):
    """Scale each client's whole part to at most ``norm``: ``x min(1, norm / ||x||_2)``; the size does not change.

    The norm runs over all floating-point leaves of the part, in float32 (float64 leaves: float64). A client with a
    value that is not finite stays not finite. Source: McMahan et al., ICLR 2018, "Learning Differentially Private
    Recurrent Language Models", FlatClip.

    Parameters
    ----------
    norm : largest L2 norm of a client's part, > 0.
    """

    norm: Positive = 1.0

    cite: ClassVar[str] = "McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018"

    additive: ClassVar[bool] = True

    def encode(self, values: Tensors, keys: Sequence[Key]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Scaled values, no side buffers."""
        import torch

        real = {name: _wide(rows(value)) for name, value in values.items() if value.is_floating_point()}
        if not real:
            return dict(values), {}
        norms = torch.stack([value.norm(dim=1).double() for value in real.values()])
        factor = (self.norm / norms.norm(dim=0)).clamp(max=1.0)
        scaled = {
            name: (wide * factor[:, None].to(wide.dtype)).to(values[name].dtype).reshape(values[name].shape)
            for name, wide in real.items()
        }
        return {name: scaled.get(name, value) for name, value in values.items()}, {}


def _wide(value: Tensor) -> Tensor:
    """At least float32, so that squares of half-precision values neither overflow nor vanish."""
    return value if value.element_size() >= 4 else value.float()
