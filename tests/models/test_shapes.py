"""What follows from the shapes: FLOPs, activations, LoRA leaves; each against a hand calculation or a running model."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.models import catalogue
from fedwave.models.shapes import (
    activation_bytes,
    architecture,
    default_targets,
    forward_flops,
    lora_leaves,
    match,
    parameter_count,
)

GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 3, "n_head": 4, "vocab_size": 50, "n_positions": 20}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


def _measured_flops(config: dict[str, Any], tokens: int) -> int:
    """What torch counts in a forward pass with eager attention."""
    import torch
    import transformers as hf
    from torch.utils.flop_counter import FlopCounterMode

    sizes = {key: value for key, value in config.items() if key != "model_type"}
    settings = hf.AutoConfig.for_model(config["model_type"], pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    model = hf.AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, tokens, dtype=torch.long))
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [LLAMA, {**LLAMA, "tie_word_embeddings": True}, {**LLAMA, "head_dim": 6}, GPT2])
@pytest.mark.parametrize("tokens", [1, 12])
def test_forward_flops_are_those_that_torch_counts(config: dict[str, Any], tokens: int) -> None:
    assert forward_flops(architecture(config), tokens) == _measured_flops(config, tokens)


def test_forward_flops_by_hand() -> None:
    """Llama: a layer q, o 16x16, k, v 8x16, three 24x16: 1920 weights; output layer 50x16; attention 4 s^2 x 16."""
    arch = architecture(LLAMA)
    assert forward_flops(arch, 10) == 2 * 10 * (2 * 1920 + 800) + 2 * 4 * 100 * 16


def test_a_mixture_counts_the_experts_that_a_token_uses() -> None:
    config = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 1}
    arch = architecture(config)
    # a layer's experts hold 4 x (2 x 24 x 16 + 16 x 24) = 4608 weights; three quarters of them rest
    assert parameter_count(arch) - arch.active_parameters == 2 * 4608 * 3 // 4
    dense = architecture(LLAMA)
    assert arch.matmul_parameters == dense.matmul_parameters + 2 * 4 * 16  # the router


def test_activations_of_a_plain_layer_are_korthikanti_equation_1() -> None:
    """GPT-2: ffn 4 h, dropout: s h (34 + 5 a s / h) a layer at two bytes; then 4 s h (two inputs) + 12 s v (logits)."""
    s, h, a = 12, 16, 4
    expected = 3 * s * h * (34 + 5 * a * s / h) + 4 * s * h + 3 * 4 * s * 50
    assert activation_bytes(architecture(GPT2), s, 2) == pytest.approx(expected)


def test_activations_of_a_gated_grouped_layer_by_hand() -> None:
    """Llama, no dropout, 4 bytes: norms 32, attention in 16, q 16, k and v 16, mix 16, ffn in 16, gated part 4 x 24."""
    s, values = 12, 32 + 16 + 16 + 16 + 16 + 16 + 96
    head = s * (2 * 16 * 4 + 3 * 4 * 50)
    arch = architecture(LLAMA)
    assert activation_bytes(arch, s, 4, scores=False) == 2 * 4 * s * values + head
    assert activation_bytes(arch, s, 4) == 2 * 4 * (s * values + 4 * s * s) + head


@given(st.sampled_from(catalogue.names()), st.integers(1, 2048), st.integers(1, 64))
def test_costs_grow_with_the_sequence(name: str, tokens: int, more: int) -> None:
    entry = catalogue.lookup(name)
    assert entry is not None
    arch = architecture(entry.config)
    assert forward_flops(arch, tokens) < forward_flops(arch, tokens + more)
    assert activation_bytes(arch, tokens, 2) < activation_bytes(arch, tokens + more, 2)
    assert activation_bytes(arch, tokens, 2) < activation_bytes(arch, tokens, 4)


def _lora_values(name: str, targets: tuple[str, ...], rank: int) -> int:
    entry = catalogue.lookup(name)
    assert entry is not None
    return sum(math.prod(shape) for shape, _ in lora_leaves(architecture(entry.config), targets, rank).values())


@pytest.mark.parametrize(
    ("name", "targets", "rank", "values"),
    [
        ("tinyllama-1.1b", ("q_proj", "v_proj"), 16, 9_011_200 // 4),  # fp32 bytes / 4
        ("llama-3.2-3b", ("q_proj", "v_proj"), 8, 9_175_040 // 4),
        ("roberta-base", ("query", "value"), 8, 294_912),  # 12 layers x 2 x 8 x (768 + 768)
        ("smollm2-135m", ("q_proj", "v_proj"), 8, 460_800),  # 30 x 8 x (576 + 576 + 576 + 192)
        ("minilm", ("query", "value"), 8, 73_728),  # 6 x 2 x 8 x 768
    ],
)
def test_lora_payloads_of_the_field(name: str, targets: tuple[str, ...], rank: int, values: int) -> None:
    assert _lora_values(name, targets, rank) == values


def test_lora_leaves_stand_in_model_order_with_a_before_b() -> None:
    leaves = lora_leaves(architecture(LLAMA), ("v_proj", "q_proj"), 3)
    block = "model.layers.0.self_attn"
    assert list(leaves.items())[:4] == [
        (f"{block}.q_proj.lora_A.weight", ((3, 16), 0)),
        (f"{block}.q_proj.lora_B.weight", ((16, 3), 1)),
        (f"{block}.v_proj.lora_A.weight", ((3, 16), 0)),
        (f"{block}.v_proj.lora_B.weight", ((8, 3), 1)),
    ]
    assert len(leaves) == 8


# PEFT asks transformers for an attribute that transformers deprecates.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["layers.1.mlp.up_proj"], ["proj"], ["all-linear"]])
@pytest.mark.parametrize("config", [LLAMA, {**LLAMA, "tie_word_embeddings": True}])
def test_lora_leaves_equal_those_of_peft(config: dict[str, Any], targets: list[str]) -> None:
    import transformers as hf
    from peft import LoraConfig, get_peft_model

    sizes = {key: value for key, value in config.items() if key != "model_type"}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes))
    arch = architecture(config)
    if targets == ["proj"]:  # a suffix of a name is not a path component: no match, in PEFT neither
        with pytest.raises(BadInput, match="'proj'"):
            lora_leaves(arch, targets, 2)
        with pytest.raises(ValueError, match="not found"):
            get_peft_model(model, LoraConfig(r=2, target_modules=targets))
        return
    asked = "all-linear" if targets == ["all-linear"] else targets
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=asked))
    peft = {
        name.removeprefix("base_model.model.").replace(".default", ""): tuple(p.shape)
        for name, p in wrapped.named_parameters()
        if p.requires_grad
    }
    assert list(peft.items()) == [(name, shape) for name, (shape, _) in lora_leaves(arch, targets, 2).items()]


def test_gpt2_layers_keep_their_direction() -> None:
    """Conv1D stores [d_in, d_out]: c_attn maps 16 to 48."""
    arch = architecture(GPT2)
    assert arch.linears["transformer.h.0.attn.c_attn"] == (48, 16)
    assert arch.parameters["transformer.h.0.attn.c_attn.weight"] == (16, 48)


def test_an_unknown_target_is_refused_with_what_the_model_has() -> None:
    with pytest.raises(BadInput, match=r"'query' matches no linear layer .*k_proj.*v_proj"):
        match(architecture(LLAMA), ["q_proj", "query"])
    with pytest.raises(BadInput, match="rank must be at least 1"):
        lora_leaves(architecture(LLAMA), ["q_proj"], 0)


@pytest.mark.parametrize("name", catalogue.names())
def test_default_targets_are_layers_of_every_block(name: str) -> None:
    entry = catalogue.lookup(name)
    assert entry is not None
    arch, targets = architecture(entry.config), default_targets(entry.config)
    assert len(match(arch, targets)) == arch.layers * len(targets)


def test_default_targets_by_family() -> None:
    assert default_targets(LLAMA) == ("q_proj", "v_proj")
    assert default_targets(GPT2) == ("c_attn",)
