"""A pretrained model under an adapter, as planning sees it: leaves, sizes, arithmetic. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from fedwave.core.errors import BadInput, Refused
from fedwave.core.types import Leaf, Leaves, Spec
from fedwave.models import shapes, sources
from fedwave.models.rows import Architecture
from fedwave.tasks.adapters import Adapter, Beside, Head, Lora
from fedwave.tasks.peft_adapters import SCALES, Dora

POOLER = "pooler."
"""Prefix of the pre-training head of BERT, ViT and kin, which is left out of the model: nothing here reads it."""

ASSUMPTIONS = (
    "activations are those of attention that keeps its scores (eager); memory-efficient kernels keep less",
    "a forward pass without gradients holds one layer's activations at a time",
)
FROZEN_BACKWARD = (
    "backward through frozen weights costs one forward pass (input gradients only), down to the first adapted layer"
)
LOGITS = (
    "the logits of all tokens are held at once, with their log-probabilities and gradient; a loss in chunks holds less"
)
HEAD_ONLY = "the encoder runs once on each row and its output is kept on the device: rounds are charged the head only"


class Adapted(NamedTuple):
    """What is put beside a model: its leaves, the layers that it adapts, and of these the frozen weights under plain
    LoRA, module -> (d_out, d_in).
    """

    leaves: Leaves
    modules: list[str]
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
        """What the adapter puts beside the model; raises :class:`BadInput` for unknown targets."""
        if not isinstance(self.adapter, Beside):
            return Adapted({}, [], {})
        arch = self.architecture
        found = self.adapter.leaves(sources.config(self.name), arch)
        leaves: Leaves = {name: leaf for name, leaf in found.items() if not name.startswith(POOLER)}
        if last := self.adapter.last_layers:
            first = arch.layers - last
            leaves = {name: leaf for name, leaf in leaves.items() if (shapes.layer_of(name) or 0) >= first}
            if first < 0 or not leaves:
                raise BadInput(f"adapter.last_layers: must be 1 to {arch.layers}, the model's layers, got {last}")
        ends = (".lora_A.weight", SCALES)
        modules = [name.removesuffix(end) for name in leaves for end in ends if name.endswith(end)]
        plain = isinstance(self.adapter, Lora) and not isinstance(self.adapter, Dora)
        return Adapted(leaves, modules, {module: arch.linears[module] for module in modules} if plain else {})

    def spec(self, tokens: int, *, bytes_per_value: int = 4, assumptions: tuple[str, ...] = ()) -> Spec:
        """The model under an adapter or trained in full, for rows of ``tokens`` tokens.

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
        arch, adapter = self.architecture, self.adapter
        beside = adapter if isinstance(adapter, Beside) else None
        virtual, attended = (beside.prompt_tokens, beside.prefix_tokens) if beside else (0, 0)
        if arch.context and tokens + virtual + attended > arch.context > tokens:
            raise Refused(
                f"{virtual + attended} virtual tokens and max_tokens = {tokens} are more than the "
                f"{arch.context} tokens that {self.name!r} can take"
            )
        leaves, _, bases = self.adapted
        below = min(shapes.layer_of(name) or 0 for name in leaves) if beside else 0
        forward = float(shapes.forward_flops(arch, tokens + virtual))
        forward += 4.0 * arch.layers * tokens * attended * arch.attention_width
        back = forward - below / max(arch.layers, 1) * (forward - _output_flops(arch, tokens))
        whole, kept = (
            float(shapes.activation_bytes(replace(arch, layers=n), tokens + virtual + attended, bytes_per_value))
            for n in (arch.layers, arch.layers - below)
        )
        extra = head_flops + (beside.flops(tokens, leaves) if beside else 0.0)
        return Spec(
            trainable=(leaves if beside else self.body) | head,
            model_parameters=size(self.body) + size(head) + size(leaves),
            base_bytes=bytes_per_value * size(self.body) if beside else 0,
            forward_flops=forward + extra,
            backward_flops=(1.0 if beside else 2.0) * back + 2.0 * extra,
            activation_bytes=kept + 4.0 * size(head),
            inference_bytes=(whole + 4.0 * size(head)) / max(arch.layers, 1),
            output=output,
            bases=bases,
            lora_scale=adapter.scale if isinstance(adapter, Lora) else 1.0,
            max_rank=adapter.max_rank,
            tokens=tokens,
            assumptions=(*assumptions, *ASSUMPTIONS) + ((FROZEN_BACKWARD,) if beside else ()),
        )

    def peft_targets(self) -> list[str]:
        """``target_modules`` of the exported adapter: last names if they select just its modules, else paths."""
        modules = self.adapted.modules
        short = sorted({module.rpartition(".")[2] for module in modules})
        selected = {module for module in self.architecture.linears if module.rpartition(".")[2] in short}
        return short if selected == set(modules) else modules


def pretrained_of(task: object) -> Pretrained | None:
    """The pretrained model of ``task``; ``None`` where it trains a network of its own."""
    return None if getattr(task, "built_in", False) else getattr(task, "pretrained", None)


def _output_flops(arch: Architecture, tokens: int) -> float:
    """Forward FLOPs of what comes after the layers: a language model's output layer."""
    return 2.0 * tokens * arch.vocab * arch.hidden if arch.kind == "causal-lm" else 0.0


def size(leaves: Leaves) -> int:
    """Values in all of the leaves."""
    return sum(leaf.size for leaf in leaves.values())
