"""Further kinds of parameter-efficient training: DoRA, IA3, prompt tuning, prefix tuning. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedwave.core.config import Count, Index
from fedwave.core.errors import BadInput, Refused
from fedwave.core.registry import register
from fedwave.core.types import Leaf, Leaves
from fedwave.models import shapes
from fedwave.models.rows import Architecture
from fedwave.tasks.adapters import Beside, Lora

MAGNITUDE, SCALES, VIRTUAL = ".lora_magnitude_vector", ".ia3_l", "prompt_embeddings"

# Keys, values and the last feed-forward layer (Liu et al. 2022, Section 3.3) by family; the last one is scaled at its
# input. Where a family fuses query, key and value, the fused layer.
_SCALED = (
    ("k_proj", "v_proj", "down_proj"), ("c_attn", "mlp.c_proj"), ("key", "value", "output.dense"),
    ("query_key_value", "dense_4h_to_h"), ("k_lin", "v_lin", "lin2"),
)  # fmt: skip


@register("adapter", "dora")
@dataclass(frozen=True)
class Dora(Lora):
    """Weight-decomposed LoRA: ``m (W + scale B A) / ||W + scale B A||``, row by row (Liu et al., ICML 2024, Eq. 5).

    The trained magnitudes ``m [d_out]`` start at the norms of W's rows; no gradient flows through the norm (their
    Section 4.3). The parameters are those of ``lora``.
    """

    cite: ClassVar[str] = "Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024"

    def leaves(self, config: Mapping[str, Any], arch: Architecture) -> Leaves:
        """See :meth:`Beside.leaves`: LoRA's, and the magnitudes."""
        found: Leaves = {}
        for name, leaf in super().leaves(config, arch).items():
            found[name] = leaf
            if name.endswith(".lora_B.weight"):
                found[name.removesuffix(".lora_B.weight") + MAGNITUDE] = Leaf(leaf.shape[:1])
        return found

    def flops(self, tokens: int, leaves: Leaves) -> float:
        """See :meth:`Beside.flops`; B A and its norm, made once a pass, are charged to every row."""
        total = 0.0
        for name, leaf in leaves.items():
            total += 2.0 * tokens * leaf.size
            if name.endswith(".lora_A.weight"):
                out = leaves[name.removesuffix(".lora_A.weight") + ".lora_B.weight"].shape[0]
                total += out * (2.0 * leaf.size + 3.0 * leaf.shape[1])
        return total


@register("adapter", "ia3")
@dataclass(frozen=True)
class Ia3(Beside):
    """Learned scales of keys, values and feed-forward activations (Liu et al., NeurIPS 2022, Section 3.3).

    They start at 1.

    Parameters
    ----------
    targets : names of the layers to scale (their last component or a dotted suffix); by default keys, values and the
        last feed-forward layer of the model's family.
    feedforward : those of ``targets`` that are scaled at their input instead of their output; by default the last
        feed-forward layer of the family, where ``targets`` are the default.
    last_layers : as for ``lora``.
    """

    targets: tuple[str, ...] | None = None
    feedforward: tuple[str, ...] | None = None
    last_layers: Index = 0  # pyright: ignore[reportIncompatibleMethodOverride]

    cite: ClassVar[str] = (
        "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, "
        "NeurIPS 2022"
    )

    def leaves(self, config: Mapping[str, Any], arch: Architecture) -> Leaves:
        """See :meth:`Beside.leaves`: ``[d_out, 1]``, at a layer's input ``[1, d_in]``."""
        targets, inputs = self._chosen(config, arch)
        at_input = set(shapes.match(arch, inputs)) if inputs else set()
        found: Leaves = {}
        for module in shapes.match(arch, targets):
            out, into = arch.linears[module]
            found[module + SCALES] = Leaf((1, into) if module in at_input else (out, 1))
        return found

    def flops(self, tokens: int, leaves: Leaves) -> float:
        """See :meth:`Beside.flops`: a product per scale and token."""
        return float(tokens * sum(leaf.size for leaf in leaves.values()))

    def _chosen(self, config: Mapping[str, Any], arch: Architecture) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.targets is not None:
            strangers = [name for name in self.feedforward or () if name not in self.targets]
            if strangers:
                raise BadInput(f"adapter.feedforward: {strangers[0]!r} is not among adapter.targets")
            return self.targets, self.feedforward or ()
        for targets in _SCALED:
            if all(any(f".{name}".endswith(f".{target}") for name in arch.linears) for target in targets):
                return targets, self.feedforward or targets[-1:]
        raise BadInput(
            f"name adapter.targets: a {config['model_type']} model has no key, value and feed-forward layers of a "
            "known name"
        )


@register("adapter", "prompt")
@dataclass(frozen=True)
class Prompt(Beside):
    """Trained embeddings before each row's own (Lester et al., EMNLP 2021, Section 2).

    They start at embeddings of tokens drawn from the vocabulary. The loss, and the pooling of an encoder, are over a
    row's own tokens alone.

    Parameters
    ----------
    tokens : virtual tokens.
    """

    tokens: Count = 20

    cite: ClassVar[str] = "Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, EMNLP 2021"

    @property
    def prompt_tokens(self) -> int:
        """See :attr:`Beside.prompt_tokens`."""
        return self.tokens

    def leaves(self, config: Mapping[str, Any], arch: Architecture) -> Leaves:
        """See :meth:`Beside.leaves`: ``[tokens, d]``. Raises :class:`Refused` for models of images."""
        if arch.kind == "image-encoder":
            raise Refused("adapter prompt puts embeddings of tokens before a text; images have none")
        return {VIRTUAL: Leaf((self.tokens, arch.parameters[_embedding(arch)][1]))}


@register("adapter", "prefix")
@dataclass(frozen=True)
class Prefix(Beside):
    """Trained keys and values that every layer attends to before a row's own (Li & Liang, ACL 2021, Section 4.2).

    They are trained themselves, without the network that the paper makes them by (its Section 4.3). Causal language
    models only.

    Parameters
    ----------
    tokens : virtual tokens.
    """

    tokens: Count = 20

    cite: ClassVar[str] = "Li & Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL 2021"

    @property
    def prefix_tokens(self) -> int:
        """See :attr:`Beside.prefix_tokens`."""
        return self.tokens

    def leaves(self, config: Mapping[str, Any], arch: Architecture) -> Leaves:
        """See :meth:`Beside.leaves`: keys and values of all layers, ``[tokens, 2 L d_kv]``; else :class:`Refused`."""
        if arch.kind != "causal-lm":
            raise Refused("adapter prefix needs the attention cache of a causal language model; an encoder has none")
        if config.get("kv_lora_rank"):
            raise Refused("adapter prefix needs keys and values as they are; the model keeps latent ones")
        return {VIRTUAL: Leaf((self.tokens, 2 * arch.layers * arch.kv_width))}


def _embedding(arch: Architecture) -> str:
    """Name of the token embedding: the first matrix of ``vocab`` rows."""
    return next(name for name, shape in arch.parameters.items() if len(shape) == 2 and shape[0] == arch.vocab)
