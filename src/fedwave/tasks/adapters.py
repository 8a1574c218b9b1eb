"""Which part of a model is trained: leaves beside it, the head, or everything. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import PlainValidator

from fedwave.core.config import Index, Positive
from fedwave.core.errors import BadInput
from fedwave.core.registry import register
from fedwave.core.types import Ints, Leaf, Leaves
from fedwave.models import shapes
from fedwave.models.rows import Architecture


def _rank(value: Any) -> int | dict[str, int]:
    """A rank >= 1, or a non-empty table of ranks by device."""
    table = value if isinstance(value, dict) else {"rank": value}
    for name, rank in table.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise BadInput(f"must be an integer >= 1 or a table of them by device, got {rank!r} for {name!r}")
    if not table:
        raise BadInput("must be an integer >= 1 or a table of them by device, got an empty table")
    return value


@dataclass(frozen=True)
class Adapter:
    """The trainable part of a model."""

    @property
    def max_rank(self) -> int:
        """The largest LoRA rank of any client; 0 without LoRA."""
        return 0

    def ranks(self, device_names: tuple[str, ...], device: Ints) -> Ints:
        """LoRA rank of each client, ``[N]``, from its device (an index into ``device_names``)."""
        return np.zeros(len(device), dtype=np.int64)


@dataclass(frozen=True)
class Beside(Adapter):
    """Trained leaves beside a pretrained model whose own weights are frozen."""

    @property
    def prompt_tokens(self) -> int:
        """Virtual tokens that go through all layers before each row's own."""
        return 0

    @property
    def last_layers(self) -> int:
        """Layers that are adapted, counted from the output; 0: all."""
        return 0

    @property
    def prefix_tokens(self) -> int:
        """Virtual keys and values that each layer attends to beside the row's own."""
        return 0

    def leaves(self, config: Mapping[str, Any], arch: Architecture) -> Leaves:
        """The trained leaves for a model, named as PEFT exports them.

        Raises :class:`BadInput` for targets that the model does not have.
        """
        raise NotImplementedError

    def flops(self, tokens: int, leaves: Leaves) -> float:
        """Arithmetic of the leaves in a forward pass over a row of ``tokens`` tokens, the model's own apart."""
        return 0.0


@register("adapter", "lora")
@dataclass(frozen=True)
class Lora(Beside):
    """Low-rank adapters beside frozen weights: ``W + scale B A`` (Hu et al., ICLR 2022, equation 3).

    ``scale = alpha / r`` with the *largest* rank of all clients, one factor for every client whatever its own rank, so
    that factors of different ranks can be added, padded with zeros or stacked. A text classifier trains its head too.

    Parameters
    ----------
    rank : r, or a table of ranks by device name.
    alpha : the numerator of the scale.
    targets : names of the modules to adapt (their last component or a dotted suffix); by default the query and value
        projections of the model's family.
    last_layers : only so many layers next to the output are adapted; 0: all. Nothing flows back below the first of
        them, and ``engine.prefix_bytes`` keeps what the layers below make of each row.
    """

    rank: Annotated[int | dict[str, int], PlainValidator(_rank)] = 8
    alpha: Positive = 16.0
    targets: tuple[str, ...] | None = None
    last_layers: Index = 0  # pyright: ignore[reportIncompatibleMethodOverride]

    cite: ClassVar[str] = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022"

    @property
    def max_rank(self) -> int:
        """See :attr:`Adapter.max_rank`."""
        return max(self.rank.values()) if isinstance(self.rank, dict) else self.rank

    @property
    def scale(self) -> float:
        """alpha / largest rank."""
        return self.alpha / self.max_rank

    def leaves(self, config: Mapping[str, Any], arch: Architecture) -> Leaves:
        """See :meth:`Beside.leaves`: A ``[r, d_in]`` and B ``[d_out, r]`` of each adapted layer."""
        targets = self.targets or shapes.default_targets(config)
        found = shapes.lora_leaves(arch, targets, self.max_rank)
        return {name: Leaf(tuple(shape), rank_axis=axis) for name, (shape, axis) in found.items()}

    def flops(self, tokens: int, leaves: Leaves) -> float:
        """See :meth:`Beside.flops`: two products."""
        return 2.0 * tokens * sum(leaf.size for leaf in leaves.values())

    def ranks(self, device_names: tuple[str, ...], device: Ints) -> Ints:
        """See :meth:`Adapter.ranks`. Raises :class:`BadInput` for a device without a rank."""
        if not isinstance(self.rank, dict):
            return np.full(len(device), self.rank, dtype=np.int64)
        for name in (device_names[index] for index in np.unique(device)):
            if name not in self.rank:
                raise BadInput(
                    f"adapter.rank has no entry for device {name!r} (it has: {', '.join(sorted(self.rank))})"
                )
        return np.asarray([self.rank.get(name, 0) for name in device_names], dtype=np.int64)[np.asarray(device)]


@register("adapter", "head")
@dataclass(frozen=True)
class Head(Adapter):
    """The last linear layer only; everything below it is frozen."""


@register("adapter", "full")
@dataclass(frozen=True)
class Full(Adapter):
    """Every parameter of the model."""
