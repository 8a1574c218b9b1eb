"""A model as planning sees it: names and shapes of its weights from ``config.json``, and what follows from them.

Names, shapes and order follow transformers 5.23 (mixtures of experts hold their experts as fused tensors there); the
tests build a small model of each family and compare. No torch, but for families that are not listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.models.encoders import ENCODERS
from fedwave.models.gpt_like import GPTS
from fedwave.models.llama_like import DECODERS
from fedwave.models.rows import Architecture, Config, Shape

FAMILIES: Mapping[str, Callable[[Config], Architecture]] = {**DECODERS, **GPTS, **ENCODERS}

_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 10_000),
    **dict.fromkeys(("hidden_size", "n_embd", "dim", "intermediate_size", "n_inner", "hidden_dim"), 10**7),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "head_dim"), 10**7),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_key_value_heads", "num_kv_heads"), 10**6),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok"), 10**6),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions", "image_size", "patch_size"), 10**9),
}
"""Sizes by their keys in configs, and the largest that is believed."""

_QUERY_VALUE = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("qkv_proj",),
    ("query_key_value",),
    ("c_attn",),
    ("q_b_proj", "kv_b_proj"),
    ("q_proj", "kv_b_proj"),
    ("q", "v"),
)


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Shapes of the model that ``config`` (the content of a ``config.json``) describes.

    Raises :class:`BadInput` where ``model_type`` or a size is missing, or a size is none. A ``model_type`` that
    :data:`FAMILIES` does not list needs transformers and is instantiated without memory
    (:func:`fedwave.models.meta.from_meta`).
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise BadInput("the model's config has no model_type")
    listed = kind in FAMILIES and not config.get("use_swiglu_ffn")  # DINOv2 giant has a feed-forward part of its own
    _check_sizes(config)
    if listed:
        try:
            return FAMILIES[kind](Config(config))
        except BadInput:
            raise
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            raise BadInput(f"the config of a {kind} model has an entry that is no size of one: {error}") from None
    from fedwave.models.meta import from_meta

    return from_meta(config)


def _check_sizes(config: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` for a size that is no count, or beyond all models."""
    for key, most in _SIZES.items():
        value = config.get(key)
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise BadInput(f"the model's {key} must be a whole number from 1 to {most:,}, got {value!r:.60}")


def parameter_count(arch: Architecture) -> int:
    """Number of parameters, a tied output layer counted once."""
    return sum(math.prod(shape) for shape in arch.parameters.values())


def forward_flops(arch: Architecture, tokens: int) -> float:
    """FLOPs of one forward pass over a sample of ``tokens`` tokens: 2 N s + 4 L s^2 w.

    N are the weights that multiply each token (output layer included, embedding look-ups free), w the attention width.
    The second term is the full s x s attention: causal kernels that skip the upper half do less.

    Source: Kaplan et al. 2020, "Scaling laws for neural language models", Table 1, with their sum over all tokens.
    """
    return 2.0 * arch.matmul_parameters * tokens + 4.0 * arch.layers * tokens**2 * arch.attention_width


def activation_bytes(arch: Architecture, tokens: int, bytes_per_value: int, *, scores: bool = True) -> float:
    """Bytes kept for the backward pass of one sample of ``tokens`` tokens, without recomputation.

    Korthikanti et al. 2022, "Reducing activation recomputation in large transformer models", Section 4.1, term by term:
    per layer s h (10 + 24 a / a) and 5 a s^2 at two bytes become sums over this model's widths, so that a plain layer
    (ffn 4 h, dropout, 2 bytes) gives their equation (1), s h (34 + 5 a s / h). Adapted: grouped-query widths, gated
    feed-forward (gate, activated gate, up and product are kept), dropout masks (1 byte) only where the config has
    dropout. Causal models add their Section 4.3: last norm, input of the output layer, and logits in 32 bit; these
    three times, for when the backward pass begins there are logits, log-probabilities that cross-entropy keeps, and the
    logits' gradient.

    Parameters
    ----------
    scores : the s x s attention probabilities are kept (eager attention); ``False`` for memory-efficient kernels.
    """
    hidden, width = arch.hidden, arch.attention_width
    attention = hidden + width + 2 * arch.kv_width + width
    ffn = hidden + (4 if arch.gated else 2) * arch.ffn_width
    values = tokens * (arch.norms * hidden + attention + ffn)
    masks = 2.0 * tokens * hidden * arch.dropout
    if scores:
        values += (2 if arch.dropout else 1) * arch.heads * tokens**2
        masks += arch.heads * tokens**2 * arch.dropout
    total = arch.layers * (values * bytes_per_value + masks)
    if arch.kind == "causal-lm":
        total += tokens * (2 * hidden * bytes_per_value + 3 * 4 * arch.vocab)
    return float(total)


def match(arch: Architecture, targets: Sequence[str]) -> list[str]:
    """Linear layers that LoRA wraps: path equal to a target, or ending in ``.target`` (PEFT's rule).

    ``"all-linear"`` stands for all but the output layer. Raises :class:`BadInput` for a target that matches nothing.
    """
    if list(targets) == ["all-linear"]:
        return [name for name in arch.linears if name != "lm_head"]
    for target in targets:
        if not any(_ends(name, target) for name in arch.linears):
            known = sorted({name.rpartition(".")[2] for name in arch.linears})
            raise BadInput(
                f"adapter target {target!r} matches no linear layer of the model (it has: {', '.join(known)})"
            )
    return [name for name in arch.linears if any(_ends(name, target) for target in targets)]


def default_targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Modules that LoRA adapts unless told otherwise: the query and value projections (Hu et al. 2021, Section 4.2).

    Where a family fuses them with the key projection, the fused layer; with latent attention, the layers that expand to
    queries and to keys and values. Raises :class:`BadInput` where the model has no layer of a known name.
    """
    arch = architecture(config)
    for targets in _QUERY_VALUE:
        if all(any(_ends(name, target) for name in arch.linears) for target in targets):
            return targets
    raise BadInput(
        f"name adapter.targets: a {config['model_type']} model has no query and value layers of a known name"
    )


def lora_leaves(arch: Architecture, targets: Sequence[str], rank: int) -> dict[str, tuple[Shape, int]]:
    """LoRA's trainable leaves, name -> (shape, rank axis): A [r, d_in], B [d_out, r] per wrapped layer, in model order.

    Raises :class:`BadInput` for a rank below 1 or a target that the model does not have.
    Source: Hu et al. 2021, "LoRA", Section 4.1; names as PEFT exports them.
    """
    if rank < 1:
        raise BadInput(f"LoRA rank must be at least 1, got {rank}")
    leaves: dict[str, tuple[Shape, int]] = {}
    for name in match(arch, targets):
        out, into = arch.linears[name]
        leaves[f"{name}.lora_A.weight"] = ((rank, into), 0)
        leaves[f"{name}.lora_B.weight"] = ((out, rank), 1)
    return leaves


def layer_of(name: str) -> int | None:
    """Number of the layer that a weight or module belongs to; ``None`` for what is outside the layers."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
