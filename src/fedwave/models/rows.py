"""The vocabulary in which the families are written: rows of weights, the architecture that they make up, configs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
    context : the longest sequence, for images the tokens of one image; 0 where the config does not say.
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


class Config:
    """A config whose missing sizes are errors; ``None`` counts as missing."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table

    def get(self, *keys: str, default: Any) -> Any:
        """The first of ``keys`` that is set, else ``default``."""
        return next((self.table[key] for key in keys if self.table.get(key) is not None), default)

    def is_null(self, key: str) -> bool:
        """Whether ``key`` is there, as ``None``: no value, and not the family's own either."""
        return key in self.table and self.table[key] is None

    def __getitem__(self, key: str) -> Any:
        value = self.table.get(key)
        if value is None:
            raise BadInput(f"the config of a {self.table['model_type']} model lacks {key}")
        return value

    def dropout(self, *keys: str, default: float) -> bool:
        """Whether any of these dropout rates is above zero."""
        return any(self.get(key, default=default) > 0 for key in keys)


def linear(name: str, out: int, into: int, bias: bool, role: Role = "linear") -> Iterator[Row]:
    """Weight and bias of a linear layer."""
    yield Row(f"{name}.weight", (into, out) if role == "conv1d" else (out, into), role)
    if bias:
        yield Row(f"{name}.bias", (out,))


def norm(name: str, width: int, bias: bool = False) -> Iterator[Row]:
    """Weight and bias of a normalisation."""
    yield Row(f"{name}.weight", (width,))
    if bias:
        yield Row(f"{name}.bias", (width,))
