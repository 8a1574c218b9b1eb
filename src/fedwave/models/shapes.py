"""A model as planning sees it: names and shapes of its weights, and what follows from them. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedwave.core.errors import BadInput

Shape = tuple[int, ...]
Role = Literal["linear", "conv1d", "once", "matmul", "expert", "other"]


@dataclass(frozen=True)
class Row:
    """One weight: its name, its shape, and what it does.

    ``linear`` [d_out, d_in] and ``conv1d`` [d_in, d_out] are layers that LoRA can wrap; ``once`` is a linear layer that
    runs once per sample (a pooler); ``matmul`` multiplies every token without being such a layer (router, patch
    embedding); ``expert`` [experts, ...] is used by the routed tokens only.
    """

    name: str
    shape: Shape
    role: Role = "other"


@dataclass(frozen=True)
class Architecture:
    """Shapes of a model.

    Parameters
    ----------
    kind : the class that loads it: ``AutoModelForCausalLM`` for ``causal-lm``, ``AutoModel`` for the encoders.
    parameters : name -> shape, as ``named_parameters()`` lists them (a tied output layer appears once, as embedding).
    linears : linear layers, module path -> (d_out, d_in), in ``named_modules()`` order (a tied output layer included).
    layers, hidden, heads, vocab : blocks, width, attention heads, vocabulary (0 for images).
    kv_width : width of the keys (and of the values) of one token: what grouped-query attention stores.
    attention_width : mean of the query-key and of the value width over all heads; ``hidden`` in a plain transformer.
    ffn_width : hidden width of the feed-forward part that one token uses, mean over the layers.
    gated : the feed-forward part has a gate (SwiGLU and kin).
    norms : normalisations per block.
    dropout : the config asks for dropout while training.
    context : the longest sequence, for images the tokens of one image.
    active_parameters : parameters that one token uses (experts that are not routed to left out).
    matmul_parameters : weights that multiply each token, the output layer included, embeddings not.
    tied : output layer and embedding are one matrix.
    """

    kind: Literal["causal-lm", "encoder", "image-encoder"]
    parameters: dict[str, Shape]
    linears: dict[str, tuple[int, int]]
    layers: int
    hidden: int
    heads: int
    vocab: int
    kv_width: int
    attention_width: float
    ffn_width: float
    gated: bool
    norms: int
    dropout: bool
    context: int
    active_parameters: int
    matmul_parameters: int
    tied: bool


def assemble(
    rows: Iterable[Row],
    *,
    kind: Literal["causal-lm", "encoder", "image-encoder"],
    layers: int,
    hidden: int,
    heads: int,
    context: int,
    ffn_width: float,
    vocab: int = 0,
    kv_width: int = 0,
    attention_width: float = 0,
    gated: bool = False,
    norms: int = 2,
    dropout: bool = False,
    tied: bool = False,
    routed: float = 1.0,
) -> Architecture:
    """Architecture from its weights in order; ``routed`` is the share of the experts that a token uses."""
    parameters: dict[str, Shape] = {}
    linears: dict[str, tuple[int, int]] = {}
    active = matmul = 0.0
    for row in rows:
        parameters[row.name] = row.shape
        size = math.prod(row.shape) * (routed if row.role == "expert" else 1.0)
        active += size
        matmul += size if row.role in ("linear", "conv1d", "matmul", "expert") else 0
        if row.role in ("linear", "conv1d", "once"):
            out, into = row.shape[::-1] if row.role == "conv1d" else row.shape
            linears[row.name.removesuffix(".weight")] = (out, into)
    if tied and kind == "causal-lm":
        linears["lm_head"] = (vocab, hidden)
        matmul += vocab * hidden
    return Architecture(
        kind=kind,
        parameters=parameters,
        linears=linears,
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocab=vocab,
        kv_width=kv_width or hidden,
        attention_width=attention_width or hidden,
        ffn_width=ffn_width,
        gated=gated,
        norms=norms,
        dropout=dropout,
        context=context,
        active_parameters=round(active),
        matmul_parameters=round(matmul),
        tied=tied,
    )


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
    dropout. Causal models add their Section 4.3: last norm, input of the output layer, and logits in 32 bit.

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
        total += tokens * (2 * hidden * bytes_per_value + 4 * arch.vocab)
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
            raise BadInput(f"adapter target {target!r} matches no linear layer of the model (it has: {', '.join(known)})")
    return [name for name in arch.linears if any(_ends(name, target) for target in targets)]


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


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
