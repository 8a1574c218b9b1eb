"""Exports are loaded by plain PEFT and transformers, and give the logits of the trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM

from fedwave.core import config
from fedwave.tasks.learner import Learner
from fedwave.tasks.learners.pretrained import compress


def random_like(learner: Learner, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in learner.initial.items()}


def random_changes(learner: Learner, ranks: list[dict[str, int]]) -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """One change per entry of ``ranks``: {part of a module's name: rank}."""
    generator = torch.Generator().manual_seed(9)
    changes = []
    for by_name in ranks:
        change = {}
        for module, (out, into) in learner.spec.bases.items():
            for part, rank in by_name.items():
                if part in module:
                    a, b = torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator)
                    change[module] = (0.1 * a, 0.1 * b)
        changes.append(change)
    return changes


def install(learner: Learner, params: dict[str, Any], base: list[dict[str, Any]]) -> None:
    """What an engine does: leaves set, base changes added to the frozen weights."""
    with torch.no_grad():
        for name, value in params.items():
            learner.model.get_parameter(learner.leaf_paths[name]).copy_(value)
        for change in base:
            for module, (a, b) in change.items():
                learner.model.get_parameter(learner.base_paths[module]).add_(learner.spec.lora_scale * b @ a)


BASES = {
    "none": [],
    "extra rank": [
        {"q_proj": 3, "v_proj": 3, "query": 3, "value": 3},
        {"q_proj": 2, "v_proj": 2, "query": 2, "value": 2},
    ],
    "one module more than another": [{"q_proj": 5, "query": 5}],
    "beyond full rank": [{"q_proj": 40, "v_proj": 2, "query": 40, "value": 2}],
}


@pytest.mark.parametrize("case", BASES)
def test_language_adapters(case: str, llama: Path, dialogues: Path, tmp_path: Path) -> None:
    table = {"name": "causal-lm", "model": str(llama), "data": str(dialogues), "max_tokens": 80, "partition": "iid"}
    table |= {"adapter": {"name": "lora", "rank": 4, "alpha": 6}, "partition": {"name": "iid", "clients": 2}}
    learner = config.build("task", table).build(0)
    params, base = random_like(learner), random_changes(learner, BASES[case])
    install(learner, params, base)
    learner.export(tmp_path, params, base)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(loaded(ids).logits, learner.model(ids).logits, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(loaded(ids).logits, AutoModelForCausalLM.from_pretrained(llama)(ids).logits, atol=0.1)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["q_proj", "v_proj"] or set(settings["target_modules"]) == {"q_proj", "v_proj"}
    assert settings["lora_alpha"] / settings["r"] == pytest.approx(learner.spec.lora_scale)
    ranks = {
        module: load_file(tmp_path / "adapter_model.safetensors")[f"base_model.model.{module}.lora_A.weight"].shape[0]
        for module in learner.spec.bases
    }
    assert all(rank <= min(learner.spec.bases[module]) for module, rank in ranks.items())


@pytest.mark.parametrize("case", BASES)
def test_classifier_adapters(case: str, bert: Path, labelled: Path, tmp_path: Path) -> None:
    table = {
        "name": "text-classification",
        "model": str(bert),
        "data": str(labelled),
        "adapter": {"name": "lora", "rank": 4},
    }
    learner = config.build("task", table).build(0)
    params, base = random_like(learner), random_changes(learner, BASES[case])
    install(learner, params, base)
    learner.export(tmp_path, params, base)
    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(bert), tmp_path)
    batch = learner.batch(learner.order[:5])
    hidden = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask = batch["attention_mask"][..., None]
    pooled = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    head = load_file(tmp_path / "head.safetensors")
    logits = pooled @ head["head.weight"].T + head["head.bias"]
    torch.testing.assert_close(logits, learner.predict(batch), atol=1e-4, rtol=1e-4)
    assert json.loads((tmp_path / "head.json").read_text())["classes"] == ["alpha", "beta", "gamma"]


def test_all_linear_layers_of_an_encoder(bert: Path, labelled: Path, tmp_path: Path) -> None:
    adapter = {"name": "lora", "rank": 2, "targets": ["all-linear"]}
    table = {"name": "text-classification", "model": str(bert), "data": str(labelled), "adapter": adapter}
    learner = config.build("task", table).build(0)
    params = random_like(learner)
    install(learner, params, [])
    learner.export(tmp_path, params)
    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(bert), tmp_path)
    batch = learner.batch(learner.order[:2])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = learner.model.get_submodule("pooled.encoder")(**inputs).last_hidden_state
    torch.testing.assert_close(encoder(**inputs).last_hidden_state, ours, atol=1e-4, rtol=1e-4)


def test_full_models(llama: Path, bert: Path, dialogues: Path, labelled: Path, tmp_path: Path) -> None:
    table: dict[str, Any] = {"name": "causal-lm", "model": str(llama), "data": str(dialogues), "max_tokens": 80}
    language = config.build("task", table | {"adapter": "full", "partition": {"name": "iid", "clients": 2}}).build(0)
    params = random_like(language)
    install(language, params, [])
    language.export(tmp_path / "lm", params)
    ids = torch.arange(20)[None]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    torch.testing.assert_close(loaded(ids).logits, language.model(ids).logits)
    assert (tmp_path / "lm" / "tokenizer.json").is_file()

    table = {"name": "text-classification", "model": str(bert), "data": str(labelled), "adapter": "full"}
    text = config.build("task", table).build(0)
    params = random_like(text)
    install(text, params, [])
    text.export(tmp_path / "text", params)
    body = load_file(tmp_path / "text" / "model.safetensors")
    assert body.keys() == params.keys() - {"head.weight", "head.bias"}
    encoder = text.model.get_submodule("pooled.encoder")
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in body.items())


def test_small_models(tmp_path: Path) -> None:
    learner = config.build("task", {"name": "images", "adapter": "head"}).build(0)
    params = random_like(learner)
    install(learner, params, [])
    learner.export(tmp_path / "images", params)
    stored = load_file(tmp_path / "images" / "model.safetensors")
    assert stored.keys() == learner.model.state_dict().keys()  # the frozen layers too: the file is the whole model
    assert all(torch.equal(value, learner.model.state_dict()[name]) for name, value in stored.items())
    toy = config.build("task", "toy").build(0)
    toy.export(tmp_path / "toy", random_like(toy))
    assert load_file(tmp_path / "toy" / "model.safetensors")["weight"].shape == (1, 10)


def test_gpt2_stores_its_weights_transposed(tmp_path: Path, dialogues: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from fedwave.testing import tiny_llama

    folder = tiny_llama(tmp_path / "model")
    settings = GPT2Config(vocab_size=260, n_positions=128, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    GPT2LMHeadModel(settings).save_pretrained(folder)
    table = {"name": "causal-lm", "model": str(folder), "data": str(dialogues), "max_tokens": 80}
    learner = config.build("task", table | {"partition": {"name": "iid", "clients": 2}}).build(0)
    module, (out, into) = next(iter(learner.spec.bases.items()))
    assert learner.model.get_parameter(learner.base_paths[module]).shape == (into, out)
    params = random_like(learner)
    install(learner, params, [])
    learner.export(tmp_path / "out", params)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "out")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(loaded(ids).logits, learner.model(ids).logits, atol=1e-4, rtol=1e-4)


def test_compression_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 8, generator=generator), torch.randn(12, 50, generator=generator)
    small_a, small_b = compress(a, b)
    assert small_a.shape == (8, 8) and small_b.shape == (12, 8)
    torch.testing.assert_close(small_b @ small_a, b @ a, atol=1e-4, rtol=1e-5)
