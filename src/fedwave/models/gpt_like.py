"""Decoders with a plain two-matrix feed-forward part: GPT-2, GPT-NeoX (Pythia), Phi, Falcon."""

from __future__ import annotations

from collections.abc import Iterator

from fedwave.models.rows import Architecture, Config, Row, assemble, linear, norm


def _gpt2(c: Config) -> Architecture:
    hidden, layers, vocab, context = c["n_embd"], c["n_layer"], c["vocab_size"], c.get("n_positions", default=1024)
    inner, tied = c.get("n_inner", default=4 * hidden), c.get("tie_word_embeddings", default=True)
    rows = [Row("transformer.wte.weight", (vocab, hidden)), Row("transformer.wpe.weight", (context, hidden))]
    for i in range(layers):
        at = f"transformer.h.{i}"
        rows += norm(f"{at}.ln_1", hidden, True)
        rows += linear(f"{at}.attn.c_attn", 3 * hidden, hidden, True, "conv1d")
        rows += linear(f"{at}.attn.c_proj", hidden, hidden, True, "conv1d")
        rows += norm(f"{at}.ln_2", hidden, True)
        rows += linear(f"{at}.mlp.c_fc", inner, hidden, True, "conv1d")
        rows += linear(f"{at}.mlp.c_proj", hidden, inner, True, "conv1d")
    rows += norm("transformer.ln_f", hidden, True)
    rows += [] if tied else linear("lm_head", vocab, hidden, False)
    return assemble(
        rows,
        kind="causal-lm",
        layers=layers,
        hidden=hidden,
        heads=c["n_head"],
        vocab=vocab,
        ffn_width=inner,
        dropout=c.dropout("resid_pdrop", "attn_pdrop", default=0.1),
        tied=tied,
        context=context,
    )


def _gpt_neox(c: Config) -> Architecture:
    hidden, layers, vocab, inner = c["hidden_size"], c["num_hidden_layers"], c["vocab_size"], c["intermediate_size"]
    bias, tied = c.get("attention_bias", default=True), c.get("tie_word_embeddings", default=False)
    rows = [Row("gpt_neox.embed_in.weight", (vocab, hidden))]
    for i in range(layers):
        at = f"gpt_neox.layers.{i}"
        rows += norm(f"{at}.input_layernorm", hidden, True)
        rows += norm(f"{at}.post_attention_layernorm", hidden, True)
        rows += linear(f"{at}.attention.query_key_value", 3 * hidden, hidden, bias)
        rows += linear(f"{at}.attention.dense", hidden, hidden, bias)
        rows += linear(f"{at}.mlp.dense_h_to_4h", inner, hidden, True)
        rows += linear(f"{at}.mlp.dense_4h_to_h", hidden, inner, True)
    rows += norm("gpt_neox.final_layer_norm", hidden, True)
    rows += [] if tied else linear("lm_head", vocab, hidden, False)
    return assemble(
        rows,
        kind="causal-lm",
        layers=layers,
        hidden=hidden,
        heads=c["num_attention_heads"],
        vocab=vocab,
        ffn_width=inner,
        dropout=c.dropout("attention_dropout", "hidden_dropout", default=0),
        tied=tied,
        context=c.get("max_position_embeddings", default=0),
    )


def _phi(c: Config) -> Architecture:
    hidden, layers, vocab, inner = c["hidden_size"], c["num_hidden_layers"], c["vocab_size"], c["intermediate_size"]
    heads = c["num_attention_heads"]
    kv = c.get("num_key_value_heads", default=heads) * (hidden // heads)
    rows = [Row("model.embed_tokens.weight", (vocab, hidden))]
    for i in range(layers):
        at = f"model.layers.{i}"
        for name, width in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv), ("dense", hidden)):
            rows += linear(f"{at}.self_attn.{name}", width, hidden, True)
        if c.get("qk_layernorm", default=False):
            rows += norm(f"{at}.self_attn.q_layernorm", hidden // heads, True)
            rows += norm(f"{at}.self_attn.k_layernorm", hidden // heads, True)
        rows += linear(f"{at}.mlp.fc1", inner, hidden, True)
        rows += linear(f"{at}.mlp.fc2", hidden, inner, True)
        rows += norm(f"{at}.input_layernorm", hidden, True)
    rows += norm("model.final_layernorm", hidden, True)
    rows += linear("lm_head", vocab, hidden, True)
    return assemble(
        rows,
        kind="causal-lm",
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocab=vocab,
        kv_width=kv,
        ffn_width=inner,
        norms=1,
        dropout=c.dropout("attention_dropout", "resid_pdrop", default=0),
        context=c.get("max_position_embeddings", default=0),
    )


def _falcon(c: Config) -> Architecture:
    hidden, layers, vocab, heads = c["hidden_size"], c["num_hidden_layers"], c["vocab_size"], c["num_attention_heads"]
    inner, dim = c.get("ffn_hidden_size", default=4 * hidden), hidden // heads
    tied, bias = c.get("tie_word_embeddings", default=True), c.get("bias", default=False)
    grouped, multi = c.get("new_decoder_architecture", default=False), c.get("multi_query", default=True)
    kv = c.get("num_kv_heads", default=heads) if grouped else 1 if multi else heads
    norms = _falcon_norms(c, grouped)
    rows = [Row("transformer.word_embeddings.weight", (vocab, hidden))]
    for i in range(layers):
        at = f"transformer.h.{i}"
        rows += linear(f"{at}.self_attention.query_key_value", (heads + 2 * kv) * dim, hidden, bias)
        rows += linear(f"{at}.self_attention.dense", hidden, hidden, bias)
        rows += linear(f"{at}.mlp.dense_h_to_4h", inner, hidden, bias)
        rows += linear(f"{at}.mlp.dense_4h_to_h", hidden, inner, bias)
        rows += _norms(at, norms, hidden)
    rows += norm("transformer.ln_f", hidden, True)
    rows += [] if tied else linear("lm_head", vocab, hidden, False)
    return assemble(
        rows,
        kind="causal-lm",
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocab=vocab,
        kv_width=kv * dim,
        ffn_width=inner,
        norms=len(norms),
        dropout=c.dropout("attention_dropout", "hidden_dropout", default=0),
        tied=tied,
        context=c.get("max_position_embeddings", default=0),
    )


def _falcon_norms(c: Config, grouped: bool) -> tuple[str, ...]:
    if not c.get("parallel_attn", default=True):
        return ("post_attention_layernorm", "input_layernorm")
    two = c.get("num_ln_in_parallel_attn", default=2 if grouped else 1) == 2
    return ("ln_attn", "ln_mlp") if two else ("input_layernorm",)


def _norms(at: str, names: tuple[str, ...], width: int) -> Iterator[Row]:
    for name in names:
        yield from norm(f"{at}.{name}", width, True)


GPTS = {"gpt2": _gpt2, "gpt_neox": _gpt_neox, "phi": _phi, "falcon": _falcon}
