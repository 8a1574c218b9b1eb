"""Test doubles that users' tests may want too: tiny random models with a byte tokenizer, in Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}\n{{ message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)


def tiny_llama(folder: Path, *, chat: bool = True, seed: int = 0, **settings: Any) -> Path:
    """A random Llama for causal language modelling (2 layers, width 32, grouped-query attention) saved in ``folder``.

    ``settings`` replace entries of its config; ``chat`` gives it a chat template. The weights depend on ``seed`` alone.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config: dict[str, Any] = {
        "vocab_size": 256 + len(SPECIAL),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return _save(LlamaForCausalLM, LlamaConfig(**(config | settings)), folder, seed=seed, chat=chat)


def tiny_bert(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """A random BERT encoder (2 layers, width 32) saved in ``folder``; see :func:`tiny_llama`."""
    from transformers import BertConfig, BertModel

    config: dict[str, Any] = {
        "vocab_size": 256 + len(SPECIAL),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    return _save(BertModel, BertConfig(**(config | settings)), folder, seed=seed, chat=False)


def tiny_vit(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """A random vision transformer (2 layers, width 32, grey images of 8 x 8, patches of 4) saved in ``folder``.

    ``settings`` replace entries of its config; its preprocessor maps [0, 1] to [-1, 1]. See :func:`tiny_llama`.
    """
    from transformers import ViTConfig, ViTModel

    config: dict[str, Any] = {
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
    }
    _save_model(ViTModel, ViTConfig(**(config | settings)), folder, seed=seed)
    channels = (config | settings)["num_channels"]
    table = {"do_normalize": True, "image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    (folder / "preprocessor_config.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    return folder


def _save_model(cls: Any, config: Any, folder: Path, *, seed: int) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cls(config).save_pretrained(folder)


def _save(cls: Any, config: Any, folder: Path, *, seed: int, chat: bool) -> Path:
    _save_model(cls, config, folder, seed=seed)
    _tokenizer().save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    table = names | {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"chat_template": CHAT_TEMPLATE} if chat else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    return folder


def _tokenizer() -> Any:
    """One token a byte (byte-level alphabet, no merges), after the special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer
