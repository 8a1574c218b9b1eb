"""A pretrained model under an adapter, as planning sees it: leaves, sizes, arithmetic. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from fedwave.core.types import Leaf, Leaves, Spec
from fedwave.models import shapes, sources
from fedwave.models.rows import Architecture
from fedwave.tasks.adapters import Adapter, Head, Lora

POOLER = "pooler."
"""Prefix of the pre-training head of BERT, ViT and kin, which is left out of the model: nothing here reads it."""

ASSUMPTIONS = (
    "activations are those of attention that keeps its scores (eager); memory-efficient kernels keep less",
    "a forward pass without gradients holds one layer's activations at a time",
)
FROZEN_BACKWARD = (
    "backward through frozen weights costs one forward pass (input gradients only), down to the first layer"
)
HEAD_ONLY = "the encoder runs once on each row and its output is kept on the device: rounds are charged the head only"


class Adapted(NamedTuple):
    """LoRA beside a model: its leaves, and the frozen weights that it adapts, module -> (d_out, d_in)."""

    leaves: Leaves
    bases: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Pretrained:
    """Model ``name`` with the part of it that is trained.

    Parameters
    ----------
    name : hub id, folder, or a name that ``fedwave models`` knows.
    """

    name: str
    adapter: Adapter

    @cached_property
    def architecture(self) -> Architecture:
        """Shapes of the model, from its config alone."""
        return shapes.architecture(sources.config(self.name))

    @cached_property
    def body(self) -> Leaves:
        """Every weight that is used, by name."""
        parameters = self.architecture.parameters.items()
        return {name: Leaf(tuple(shape)) for name, shape in parameters if not name.startswith(POOLER)}

    @cached_property
    def adapted(self) -> Adapted:
        """LoRA leaves that the adapter puts into the model; raises :class:`BadInput` for unknown targets."""
        arch = self.architecture
        chosen = self.adapter.targets if isinstance(self.adapter, Lora) else None
        targets = chosen or shapes.default_targets(sources.config(self.name))
        leaves: Leaves = {
            name: Leaf(tuple(shape), rank_axis=axis)
            for name, (shape, axis) in shapes.lora_leaves(arch, targets, self.adapter.max_rank).items()
            if not name.startswith(POOLER)
        }
        modules = [name.removesuffix(".lora_A.weight") for name in leaves if name.endswith(".lora_A.weight")]
        return Adapted(leaves, {module: arch.linears[module] for module in modules})

    def spec(self, tokens: int, *, bytes_per_value: int = 4, assumptions: tuple[str, ...] = ()) -> Spec:
        """The model under LoRA or trained in full, for rows of ``tokens`` tokens.

        Backward through the trained part costs twice its forward pass, through frozen weights once (Kaplan et al. 2020,
        section 2.1, counts both input and weight gradients).
        """
        return self._tuned({}, tokens, 0.0, bytes_per_value, assumptions, None)

    def classifier(self, tokens: int, classes: int, *, assumptions: tuple[str, ...] = ()) -> Spec:
        """The same below a linear head that is always trained; with the ``head`` adapter over kept features."""
        hidden = int(self.architecture.hidden)
        head: Leaves = {"head.weight": Leaf((classes, hidden)), "head.bias": Leaf((classes,))}
        turn = 2.0 * hidden * classes
        whole = self._tuned(head, tokens, turn, 4, assumptions, Leaf((classes,)))
        if not isinstance(self.adapter, Head):
            return whole
        return replace(
            whole,
            trainable=head,
            base_bytes=4 * size(self.body),
            forward_flops=turn,
            backward_flops=turn,
            activation_bytes=4.0 * (hidden + classes),
            assumptions=(HEAD_ONLY,),
        )

    def _tuned(
        self,
        head: Leaves,
        tokens: int,
        head_flops: float,
        bytes_per_value: int,
        assumptions: tuple[str, ...],
        output: Leaf | None,
    ) -> Spec:
        arch = self.architecture
        forward = float(shapes.forward_flops(arch, tokens))
        activations = float(shapes.activation_bytes(arch, tokens, bytes_per_value)) + 4.0 * size(head)
        lora = self.adapted if isinstance(self.adapter, Lora) else None
        beside = head_flops + (0.0 if lora is None else 2.0 * tokens * size(lora.leaves))
        return Spec(
            trainable=(self.body if lora is None else lora.leaves) | head,
            model_parameters=size(self.body) + size(head) + (0 if lora is None else size(lora.leaves)),
            base_bytes=0 if lora is None else bytes_per_value * size(self.body),
            forward_flops=forward + beside,
            backward_flops=(2.0 if lora is None else 1.0) * forward + 2.0 * beside,
            activation_bytes=activations,
            inference_bytes=activations / max(arch.layers, 1),
            output=output,
            bases={} if lora is None else lora.bases,
            lora_scale=self.adapter.scale if isinstance(self.adapter, Lora) else 1.0,
            max_rank=self.adapter.max_rank,
            assumptions=(*assumptions, *ASSUMPTIONS) + (() if lora is None else (FROZEN_BACKWARD,)),
        )

    def peft_targets(self) -> list[str]:
        """``target_modules`` of the exported adapter: last names if they select just its modules, else paths."""
        bases = self.adapted.bases
        short = sorted({module.rpartition(".")[2] for module in bases})
        selected = {module for module in self.architecture.linears if module.rpartition(".")[2] in short}
        return short if selected == set(bases) else list(bases)


def size(leaves: Leaves) -> int:
    """Values in all of the leaves."""
    return sum(leaf.size for leaf in leaves.values())
