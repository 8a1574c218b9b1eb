"""Every family against transformers itself: names, shapes and order of the weights and of the linear layers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedwave.core.errors import BadInput
from fedwave.models.meta import from_meta
from fedwave.models.rows import Architecture
from fedwave.models.shapes import FAMILIES, architecture, parameter_count

# All sizes differ, so that a swapped axis shows; head_dim x heads differs from hidden where the family allows it.
_LLAMA = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=50,
)
_LLAMA |= dict(max_position_embeddings=20)
_MOE = dict(num_experts_per_tok=2, moe_intermediate_size=8)
_BERT = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=50)
_BERT |= dict(max_position_embeddings=20)
_VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4, num_channels=2)
_FALCON = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=50, ffn_hidden_size=40)
_FALCON |= dict(max_position_embeddings=20)
_MLA = dict(kv_lora_rank=6, qk_rope_head_dim=4, v_head_dim=5, qk_nope_head_dim=3, n_group=2, topk_group=1)
_MLA |= dict(n_routed_experts=4, first_k_dense_replace=1, **_MOE)

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {**_LLAMA, "head_dim": 6}),
    ("llama", {**_LLAMA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("mistral", {**_LLAMA, "head_dim": 6}),
    ("qwen2", _LLAMA),
    ("qwen2", {**_LLAMA, "tie_word_embeddings": True}),
    ("qwen3", {**_LLAMA, "head_dim": 6}),
    ("gemma", {**_LLAMA, "head_dim": 6}),
    ("gemma2", {**_LLAMA, "head_dim": 6}),
    ("gemma3_text", {**_LLAMA, "head_dim": 6}),
    ("phi3", _LLAMA),
    ("granite", _LLAMA),
    ("smollm3", _LLAMA),
    ("phi", _LLAMA),
    ("phi", {**_LLAMA, "qk_layernorm": True}),
    ("gpt2", dict(n_embd=16, n_layer=2, n_head=4, vocab_size=50, n_positions=20)),
    (
        "gpt2",
        dict(n_embd=16, n_layer=2, n_head=4, vocab_size=50, n_positions=20, n_inner=24, tie_word_embeddings=False),
    ),
    ("gpt_neox", _BERT),
    ("gpt_neox", {**_BERT, "attention_bias": False, "tie_word_embeddings": True}),
    ("falcon", _FALCON),
    ("falcon", {**_FALCON, "parallel_attn": False, "multi_query": False, "bias": True}),
    ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    ("mixtral", {**_LLAMA, "num_local_experts": 3, "num_experts_per_tok": 2}),
    ("qwen3_moe", {**_LLAMA, **_MOE, "num_experts": 3, "head_dim": 6}),
    ("qwen3_moe", {**_LLAMA, **_MOE, "num_local_experts": 3, "decoder_sparse_step": 2}),
    ("deepseek_v3", {**_LLAMA, **_MLA, "q_lora_rank": 8}),
    ("deepseek_v3", {**_LLAMA, **_MLA, "q_lora_rank": None, "n_shared_experts": 2}),
    ("bert", {**_BERT, "type_vocab_size": 3}),
    ("roberta", _BERT),
    ("xlm-roberta", _BERT),
    ("distilbert", dict(dim=16, hidden_dim=24, n_layers=2, n_heads=4, vocab_size=50, max_position_embeddings=20)),
    ("vit", {**_VIT, "intermediate_size": 24, "pooler_output_size": 12}),
    ("vit", {**_VIT, "intermediate_size": 24, "qkv_bias": False}),
    ("dinov2", {**_VIT, "mlp_ratio": 3}),
    ("dinov2", {**_VIT, "use_mask_token": False}),
]
IDS = [f"{family}-{number}" for number, (family, _) in enumerate(CASES)]


def _build(family: str, sizes: dict[str, Any]) -> Any:
    import torch
    import transformers as hf

    loader = hf.AutoModelForCausalLM if _is_causal(family) else hf.AutoModel
    settings = hf.AutoConfig.for_model(family, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    with torch.device("meta"):
        return loader.from_config(settings)


def _is_causal(family: str) -> bool:
    return family not in ("bert", "roberta", "xlm-roberta", "distilbert", "vit", "dinov2")


def _linears(model: Any) -> dict[str, tuple[int, int]]:
    found = {}
    for path, module in model.named_modules():
        if type(module).__name__ == "Conv1D":
            found[path] = tuple(module.weight.shape)[::-1]
        elif type(module).__name__.endswith("Linear"):
            found[path] = tuple(module.weight.shape)
    return found


@pytest.mark.parametrize(("family", "sizes"), CASES, ids=IDS)
def test_weights_and_linear_layers_equal_those_of_transformers(family: str, sizes: dict[str, Any]) -> None:
    model = _build(family, sizes)
    arch = architecture({"model_type": family, **sizes})
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert list(arch.parameters.items()) == list(expected.items())
    assert list(arch.linears.items()) == list(_linears(model).items())
    assert arch.layers == 2 and arch.hidden == 16 and arch.heads == 4
    assert parameter_count(arch) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("family", "sizes"), CASES, ids=IDS)
def test_a_config_written_by_transformers_gives_the_same_shapes(family: str, sizes: dict[str, Any]) -> None:
    model = _build(family, sizes)
    written = json.loads(model.config.to_json_string())
    assert architecture(written) == architecture({"model_type": family, **sizes})


def test_every_family_has_a_case() -> None:
    assert {family for family, _ in CASES} == set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "sizes"), [CASES[0], CASES[1], CASES[3], CASES[14], CASES[21], CASES[26], CASES[32]]
)
def test_the_meta_device_agrees_with_the_tables(family: str, sizes: dict[str, Any]) -> None:
    """The two roads to an architecture are independent; what either derives must be the same."""
    known: Architecture = architecture({"model_type": family, **sizes})
    found = from_meta({"model_type": family, "pad_token_id": 0, **sizes})
    assert list(found.parameters.items()) == list(known.parameters.items())
    assert list(found.linears.items()) == list(known.linears.items())
    for field in ("kind", "layers", "heads", "vocab", "kv_width", "tied", "attention_width", "ffn_width"):
        assert getattr(found, field) == getattr(known, field), field
    assert found.active_parameters == known.active_parameters
    assert found.matmul_parameters == known.matmul_parameters


def test_an_unlisted_family_is_built_on_the_meta_device() -> None:
    sizes = {**_LLAMA, "model_type": "olmo2", "pad_token_id": 0}
    arch = architecture(sizes)
    assert "olmo2" not in FAMILIES
    # 2 layers x (q 16x16, k and v 8x16, o 16x16; q_norm 16, k_norm 8; three 24x16; two norms 16), two 50x16, a norm
    assert parameter_count(arch) == 2 * (256 + 2 * 128 + 256 + 24 + 3 * 384 + 32) + 2 * 800 + 16
    assert arch.kind == "causal-lm" and arch.kv_width == 8


_TINY = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 50}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba", **_TINY}, "num_attention_heads is missing"),
        ({"model_type": "jamba", **_LLAMA, "num_experts": 2, "pad_token_id": 0}, "convolutions along"),
        ({"model_type": "lfm2", **_LLAMA, "pad_token_id": 0, "layer_types": ["conv", "full_attention"]}, "conv"),
    ],
)
def test_layers_that_do_not_attend_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=f"a {config['model_type']} model cannot be planned: .*attention.*{words}"):
        architecture(config)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba2", **_TINY, "num_attention_heads": 2, "head_dim": 8, "expand": 3},  # transformers' check
        {"model_type": "swin"},  # widths per stage: no hidden_size of all layers
    ],
)
def test_what_transformers_or_the_count_trips_over_is_one_sentence(config: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"the shapes of a '{config['model_type']}' model cannot be found: ") as caught:
        architecture(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "no model_type"),
        ({"model_type": "llama", "hidden_size": 8}, "lacks num_attention_heads"),
        ({"model_type": "no-such-family"}, "no-such-family"),
        ({"model_type": "mixtral", **_LLAMA, "num_experts_per_tok": 2}, "lacks num_local_experts"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_in_one_sentence(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        architecture(config)
