"""Decoders after Llama: Llama, Mistral, Qwen, Gemma, Phi-3, Granite, SmolLM3 and the mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fedwave.models.rows import Architecture, Config, Row, assemble, linear, norm


@dataclass(frozen=True)
class Decoder:
    """What sets one Llama-like family apart; ``kv``, ``head_dim`` and ``tied`` are transformers' defaults."""

    kv: int | None = None
    head_dim: int | None = None
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sandwich: bool = False
    fused: bool = False
    experts: Literal["", "mixtral", "qwen", "deepseek"] = ""

    def __call__(self, c: Config) -> Architecture:
        """The architecture that ``c`` describes."""
        heads, hidden = c["num_attention_heads"], c["hidden_size"]
        family = None if c.is_null("num_key_value_heads") else self.kv  # transformers: a null means as many as heads
        kv = c.get("num_key_value_heads", default=family or heads)
        dim = c.get("head_dim", default=self.head_dim or hidden // heads)
        tied, vocab, layers = c.get("tie_word_embeddings", default=self.tied), c["vocab_size"], c["num_hidden_layers"]
        mla = self.experts == "deepseek"
        rows = [Row("model.embed_tokens.weight", (vocab, hidden))]
        widths = []
        for i in range(layers):
            block = f"model.layers.{i}"
            rows += _mla(f"{block}.self_attn", c) if mla else self._attention(f"{block}.self_attn", c, heads, kv, dim)
            ffn, width = self._ffn(f"{block}.mlp", c, i)
            rows += ffn
            widths.append(width)
            middle = ("pre_feedforward_layernorm", "post_feedforward_layernorm") if self.sandwich else ()
            for name in ("input_layernorm", "post_attention_layernorm", *middle):
                rows += norm(f"{block}.{name}", hidden)
        rows += norm("model.norm", hidden)
        rows += [] if tied else linear("lm_head", vocab, hidden, False)
        return assemble(
            rows,
            kind="causal-lm",
            layers=layers,
            hidden=hidden,
            heads=heads,
            vocab=vocab,
            kv_width=heads * _mla_width(c) if mla else kv * dim,
            attention_width=heads * _mla_width(c) if mla else heads * dim,
            ffn_width=sum(widths) / layers,
            gated=True,
            norms=4 if self.sandwich else 2,
            dropout=c.dropout("attention_dropout", "resid_pdrop", default=0),
            tied=tied,
            context=c.get("max_position_embeddings", default=0),
            routed=self._routed(c),
        )

    def _attention(self, at: str, c: Config, heads: int, kv: int, dim: int) -> Iterator[Row]:
        hidden, bias = c["hidden_size"], c.get("attention_bias", default=False)
        if self.fused:
            yield from linear(f"{at}.o_proj", hidden, heads * dim, False)
            yield from linear(f"{at}.qkv_proj", (heads + 2 * kv) * dim, hidden, False)
            return
        for name, count in (("q_proj", heads), ("k_proj", kv), ("v_proj", kv)):
            yield from linear(f"{at}.{name}", count * dim, hidden, bias or self.qkv_bias)
        yield from linear(f"{at}.o_proj", hidden, heads * dim, bias)
        if self.qk_norm:
            yield from norm(f"{at}.q_norm", dim)
            yield from norm(f"{at}.k_norm", dim)

    def _ffn(self, at: str, c: Config, layer: int) -> tuple[list[Row], float]:
        """Rows of one feed-forward part, and the width that a token uses."""
        hidden, inner = c["hidden_size"], c["intermediate_size"]
        if not self.experts or not self._is_sparse(c, layer):
            return self._mlp(at, hidden, inner, c.get("mlp_bias", default=False)), inner
        inner = inner if self.experts == "mixtral" else c["moe_intermediate_size"]
        experts, routed = self._experts(c), c["num_experts_per_tok"]
        gate = [Row(f"{at}.gate.weight", (experts, hidden), "matmul")]
        rows = [
            Row(f"{at}.experts.gate_up_proj", (experts, 2 * inner, hidden), "expert"),
            Row(f"{at}.experts.down_proj", (experts, hidden, inner), "expert"),
        ]
        if self.experts == "mixtral":
            return gate + rows, routed * inner
        if self.experts == "qwen":
            return rows + gate, routed * inner
        shared = c.get("n_shared_experts", default=1)
        return rows + gate + self._mlp(f"{at}.shared_experts", hidden, shared * inner, False), (routed + shared) * inner

    def _mlp(self, at: str, hidden: int, inner: int, bias: bool) -> list[Row]:
        ups = (("gate_up_proj", 2 * inner),) if self.fused else (("gate_proj", inner), ("up_proj", inner))
        rows = [row for name, width in ups for row in linear(f"{at}.{name}", width, hidden, bias)]
        return rows + list(linear(f"{at}.down_proj", hidden, inner, bias))

    def _is_sparse(self, c: Config, layer: int) -> bool:
        if self.experts == "qwen":
            step = c.get("decoder_sparse_step", default=1)
            return layer not in c.get("mlp_only_layers", default=[]) and (layer + 1) % step == 0
        return self.experts == "mixtral" or layer >= c.get("first_k_dense_replace", default=3)

    def _experts(self, c: Config) -> int:
        count = c.get("num_local_experts", "num_experts", "n_routed_experts", default=None)
        return count if count else c["num_local_experts"]

    def _routed(self, c: Config) -> float:
        return c["num_experts_per_tok"] / self._experts(c) if self.experts else 1.0


def _mla(at: str, c: Config) -> Iterator[Row]:
    """Multi-head latent attention (DeepSeek-V2, Section 2.1)."""
    hidden, heads, bias = c["hidden_size"], c["num_attention_heads"], c.get("attention_bias", default=False)
    rope, nope, value, latent = c["qk_rope_head_dim"], c["qk_nope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
    query = c.get("q_lora_rank", default=0)
    if query:
        yield from linear(f"{at}.q_a_proj", query, hidden, bias)
        yield from norm(f"{at}.q_a_layernorm", query)
        yield from linear(f"{at}.q_b_proj", heads * (rope + nope), query, False)
    else:
        yield from linear(f"{at}.q_proj", heads * (rope + nope), hidden, False)
    yield from linear(f"{at}.kv_a_proj_with_mqa", latent + rope, hidden, bias)
    yield from norm(f"{at}.kv_a_layernorm", latent)
    yield from linear(f"{at}.kv_b_proj", heads * (nope + value), latent, False)
    yield from linear(f"{at}.o_proj", hidden, heads * value, bias)


def _mla_width(c: Config) -> float:
    """Mean of the query-key and the value width of one head."""
    return (c["qk_rope_head_dim"] + c["qk_nope_head_dim"] + c["v_head_dim"]) / 2


DECODERS = {
    "llama": Decoder(),
    "mistral": Decoder(kv=8),
    "qwen2": Decoder(kv=32, qkv_bias=True),
    "qwen3": Decoder(kv=32, head_dim=128, qk_norm=True),
    "gemma": Decoder(kv=16, head_dim=256, tied=True),
    "gemma2": Decoder(kv=4, head_dim=256, tied=True, sandwich=True),
    "gemma3_text": Decoder(kv=4, head_dim=256, tied=True, sandwich=True, qk_norm=True),
    "phi3": Decoder(fused=True),
    "granite": Decoder(),
    "smollm3": Decoder(kv=4, tied=True),
    "mixtral": Decoder(kv=8, experts="mixtral"),
    "qwen3_moe": Decoder(kv=4, qk_norm=True, experts="qwen"),
    "deepseek_v3": Decoder(experts="deepseek"),
}
