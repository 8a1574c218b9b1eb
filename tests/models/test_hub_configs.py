"""Plans of models that the catalogue need not know: a ``config.json`` as the hub has it is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.planner.test_plan import LORA, job

from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.models import sources
from fedwave.models.shapes import FAMILIES, architecture, parameter_count
from fedwave.planner import plan

# What the published files hold of sizes, and some of what else stands there. Second: parameters as the hub counts them.
CONFIGS: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama-3.2-1B": (1_235_814_400, {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
        "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 128256}),
    "Qwen2.5-0.5B": (494_032_768, {
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864, "model_type": "qwen2",
        "max_position_embeddings": 32768, "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936}),
    "pythia-160m": (162_322_944, {
        "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": 768, "intermediate_size": 3072,
        "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 12, "num_hidden_layers": 12,
        "rotary_pct": 0.25, "tie_word_embeddings": False, "use_parallel_residual": True, "vocab_size": 50304}),
    "gpt2": (124_439_808, {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "model_type": "gpt2",
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}),
    "Mixtral-8x7B-v0.1": (46_702_792_704, {
        "architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "model_type": "mixtral",
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False, "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 32000}),
    "opt-125m": (125_239_296, {
        "activation_function": "relu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "dropout": 0.1,
        "do_layer_norm_before": True, "ffn_dim": 3072, "hidden_size": 768, "max_position_embeddings": 2048,
        "model_type": "opt", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "vocab_size": 50272,
        "word_embed_proj_dim": 768}),
    "bloom-560m": (559_214_592, {
        "architectures": ["BloomForCausalLM"], "hidden_size": 1024, "model_type": "bloom", "n_head": 16, "n_layer": 24,
        "vocab_size": 250880}),
    "bert-base-uncased": (109_482_240, {
        "architectures": ["BertForMaskedLM"], "hidden_size": 768, "intermediate_size": 3072, "model_type": "bert",
        "hidden_dropout_prob": 0.1, "max_position_embeddings": 512, "num_attention_heads": 12, "num_hidden_layers": 12,
        "type_vocab_size": 2, "vocab_size": 30522}),
    "distilbert-base-uncased": (66_362_880, {
        "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768,
        "dropout": 0.1, "hidden_dim": 3072, "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12,
        "n_layers": 6, "tie_weights_": True, "vocab_size": 30522}),
}  # fmt: skip


def counted_on_the_meta_device(config: dict[str, Any]) -> int:
    """Parameters of the model that transformers makes of the config, without memory for them."""
    import torch
    import transformers as hf

    causal = config["architectures"][0].endswith(("ForCausalLM", "LMHeadModel"))
    rest = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        settings = hf.AutoConfig.for_model(config["model_type"], **rest)
        model = (hf.AutoModelForCausalLM if causal else hf.AutoModel).from_config(settings)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_a_config_are_the_models(name: str, tmp_path: Path) -> None:
    published, config = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for place in (tmp_path, tmp_path / "config.json"):
        assert parameter_count(architecture(sources.config(str(place)))) == published
    assert counted_on_the_meta_device(config) == published


@pytest.mark.parametrize("kind", ["qwen2", "llama", "phi3"])
def test_a_null_is_not_the_familys_default(kind: str) -> None:
    """In transformers as many key and value heads as heads; its other families refuse a null."""
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
             "vocab_size": 100, "model_type": kind, "architectures": ["XForCausalLM"], "head_dim": 8,
             "pad_token_id": None}  # fmt: skip
    config = small | {"num_key_value_heads": None}
    assert parameter_count(architecture(config)) == counted_on_the_meta_device(config)


@pytest.mark.parametrize("name", ["Llama-3.2-1B", "Mixtral-8x7B-v0.1", "opt-125m"])
def test_a_file_or_folder_is_planned(name: str, tmp_path: Path) -> None:
    """A causal model of a listed family, of experts, and of a family without a table: all of it, and LoRA beside it."""
    published, config = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = [plan(Experiment.parse(job() | {"task": job()["task"] | {"model": str(place), "adapter": LORA}}), rounds=1)
             for place in (tmp_path, tmp_path / "config.json")]  # fmt: skip
    assert named[0] == named[1]
    assert named[0].model_parameters == published + named[0].trainable_parameters


def test_a_config_beside_the_job_is_found_by_its_relative_name(fedwave_: Any) -> None:
    Path("models").mkdir()
    Path("models/mine.json").write_text(json.dumps(CONFIGS["Qwen2.5-0.5B"][1]))
    Path("job.toml").write_text('[task]\nname = "causal-lm"\nmodel = "models/mine.json"\n')
    code, out, _ = fedwave_("plan", "job.toml", "--json", "--no-changes")
    table = json.loads(out)
    assert code in (0, 3) and table["model_parameters"] == 494_032_768 + table["trainable_parameters"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "no-such-family"}, "model_type 'no-such-family' is not known: neither to fedwave (bert, "),
        ({"model_type": None}, "no model_type"),
        ({"hidden_size": -1}, "hidden_size must be a whole number from 1 to 10,000,000, got -1"),
        ({"hidden_size": 1e30}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 10,000"),
        ({"num_attention_heads": "many"}, "num_attention_heads must be a whole number"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"attention_dropout": "some"}, "an entry that is no size"),
    ],
)
def test_a_config_that_describes_no_model_is_one_sentence(fedwave_: Any, changed: dict[str, Any], words: str) -> None:
    Path("config.json").write_text(json.dumps(CONFIGS["Llama-3.2-1B"][1] | changed))
    code, out, err = fedwave_("plan", "job.toml", "task={name='causal-lm', model='config.json'}")
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_a_hub_model_without_a_hub_says_what_to_do(fedwave_: Any) -> None:
    code, out, err = fedwave_("plan", "job.toml", "task={name='causal-lm', model='owner/llama-3.2-3B'}")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "download its config.json and name that file: task.model=path/to/config.json" in err
    with pytest.raises(BadInput, match=r"did you mean 'llama-3\.2-3b'"):
        sources.config("lama-3.2-3b")


def test_families_of_the_field_are_listed() -> None:
    assert {"llama", "gpt2", "bert", "mixtral", "qwen2", "gemma2", "deepseek_v3"} <= set(FAMILIES)
