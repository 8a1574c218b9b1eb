"""Encoders: BERT, RoBERTa, DistilBERT for text; ViT, DINOv2 for images. All as ``AutoModel`` builds them."""

from __future__ import annotations

from collections.abc import Iterator

from fedwave.models.rows import Architecture, Config, Row, assemble, linear, norm


def _bert(c: Config) -> Architecture:
    """BERT and RoBERTa differ in the order of the embeddings alone."""
    hidden, layers, vocab, inner = c["hidden_size"], c["num_hidden_layers"], c["vocab_size"], c["intermediate_size"]
    context = c.get("max_position_embeddings", default=512)
    position = Row("embeddings.position_embeddings.weight", (context, hidden))
    last = c["model_type"] != "bert"
    rows = [Row("embeddings.word_embeddings.weight", (vocab, hidden))]
    rows += [] if last else [position]
    rows.append(Row("embeddings.token_type_embeddings.weight", (c.get("type_vocab_size", default=2), hidden)))
    rows += norm("embeddings.LayerNorm", hidden, True)
    rows += [position] if last else []
    for i in range(layers):
        at = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            rows += linear(f"{at}.attention.{name}", hidden, hidden, True)
        rows += norm(f"{at}.attention.output.LayerNorm", hidden, True)
        rows += linear(f"{at}.intermediate.dense", inner, hidden, True)
        rows += linear(f"{at}.output.dense", hidden, inner, True)
        rows += norm(f"{at}.output.LayerNorm", hidden, True)
    rows += linear("pooler.dense", hidden, hidden, True, "once")
    return assemble(
        rows,
        kind="encoder",
        layers=layers,
        hidden=hidden,
        heads=c["num_attention_heads"],
        vocab=vocab,
        ffn_width=inner,
        dropout=c.dropout("hidden_dropout_prob", "attention_probs_dropout_prob", default=0.1),
        # RoBERTa numbers its positions from the padding index + 1 on, so two of them are never used.
        context=context - 2 if last else context,
    )


def _distilbert(c: Config) -> Architecture:
    hidden, layers, vocab, inner = c["dim"], c["n_layers"], c["vocab_size"], c["hidden_dim"]
    context = c.get("max_position_embeddings", default=512)
    rows = [Row("embeddings.word_embeddings.weight", (vocab, hidden))]
    rows.append(Row("embeddings.position_embeddings.weight", (context, hidden)))
    rows += norm("embeddings.LayerNorm", hidden, True)
    for i in range(layers):
        at = f"transformer.layer.{i}"
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            rows += linear(f"{at}.attention.{name}", hidden, hidden, True)
        rows += norm(f"{at}.sa_layer_norm", hidden, True)
        rows += linear(f"{at}.ffn.lin1", inner, hidden, True)
        rows += linear(f"{at}.ffn.lin2", hidden, inner, True)
        rows += norm(f"{at}.output_layer_norm", hidden, True)
    return assemble(
        rows,
        kind="encoder",
        layers=layers,
        hidden=hidden,
        heads=c["n_heads"],
        vocab=vocab,
        ffn_width=inner,
        dropout=c.dropout("dropout", "attention_dropout", default=0.1),
        context=context,
    )


def _patches(c: Config) -> int:
    return (c["image_size"] // c["patch_size"]) ** 2


def _patch_embedding(c: Config, hidden: int) -> Iterator[Row]:
    patch, channels = c["patch_size"], c.get("num_channels", default=3)
    yield Row("embeddings.position_embeddings", (1, _patches(c) + 1, hidden))
    yield Row("embeddings.patch_embeddings.projection.weight", (hidden, channels, patch, patch), "matmul")
    yield Row("embeddings.patch_embeddings.projection.bias", (hidden,))


def _image_attention(at: str, c: Config, hidden: int) -> Iterator[Row]:
    for name in ("q_proj", "k_proj", "v_proj"):
        yield from linear(f"{at}.attention.{name}", hidden, hidden, c.get("qkv_bias", default=True))
    yield from linear(f"{at}.attention.o_proj", hidden, hidden, True)


def _image_encoder(c: Config, rows: list[Row], inner: int) -> Architecture:
    return assemble(
        rows,
        kind="image-encoder",
        layers=c["num_hidden_layers"],
        hidden=c["hidden_size"],
        heads=c["num_attention_heads"],
        ffn_width=inner,
        dropout=c.dropout("hidden_dropout_prob", "attention_probs_dropout_prob", default=0),
        context=_patches(c) + 1,
    )


def _vit(c: Config) -> Architecture:
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    rows = [Row("embeddings.cls_token", (1, 1, hidden)), *_patch_embedding(c, hidden)]
    for i in range(c["num_hidden_layers"]):
        at = f"layers.{i}"
        rows += _image_attention(at, c, hidden)
        rows += norm(f"{at}.layernorm_before", hidden, True)
        rows += norm(f"{at}.layernorm_after", hidden, True)
        rows += linear(f"{at}.mlp.fc1", inner, hidden, True)
        rows += linear(f"{at}.mlp.fc2", hidden, inner, True)
    rows += norm("layernorm", hidden, True)
    rows += linear("pooler.dense", c.get("pooler_output_size", default=hidden), hidden, True, "once")
    return _image_encoder(c, rows, inner)


def _dinov2(c: Config) -> Architecture:
    """Models with a plain MLP; the SwiGLU one (giant) is left to the meta device."""
    hidden, inner = c["hidden_size"], int(c["hidden_size"] * c.get("mlp_ratio", default=4))
    rows = [Row("embeddings.cls_token", (1, 1, hidden))]
    rows += [Row("embeddings.mask_token", (1, hidden))] if c.get("use_mask_token", default=True) else []
    rows += _patch_embedding(c, hidden)
    for i in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        rows += norm(f"{at}.norm1", hidden, True)
        rows += _image_attention(at, c, hidden)
        rows.append(Row(f"{at}.layer_scale1.lambda1", (hidden,)))
        rows += norm(f"{at}.norm2", hidden, True)
        rows += linear(f"{at}.mlp.fc1", inner, hidden, True)
        rows += linear(f"{at}.mlp.fc2", hidden, inner, True)
        rows.append(Row(f"{at}.layer_scale2.lambda1", (hidden,)))
    rows += norm("layernorm", hidden, True)
    return _image_encoder(c, rows, inner)


ENCODERS = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "distilbert": _distilbert,
    "vit": _vit,
    "dinov2": _dinov2,
}
