"""Weights of a Hugging Face model from its ``config.json``, family by family, without torch.

Names, shapes and order follow transformers 5.23 (mixtures of experts hold their experts as fused tensors there); the
tests build a small model of each family and compare. Other families are instantiated on torch's meta device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.models.encoders import ENCODERS
from fedwave.models.gpt_like import GPTS
from fedwave.models.llama_like import DECODERS
from fedwave.models.rows import Config
from fedwave.models.shapes import Architecture, Row, assemble

FAMILIES: Mapping[str, Callable[[Config], Architecture]] = {**DECODERS, **GPTS, **ENCODERS}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Shapes of the model that ``config`` (the content of a ``config.json``) describes.

    Raises :class:`BadInput` where ``model_type`` or a size is missing. A ``model_type`` that :data:`FAMILIES` does not
    list needs transformers and is instantiated without memory (:func:`from_meta`).
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise BadInput("the model's config has no model_type")
    return FAMILIES[kind](Config(config)) if kind in FAMILIES else from_meta(config)


def from_meta(config: Mapping[str, Any]) -> Architecture:
    """Shapes of any model that transformers knows, by building it on torch's meta device (imports both).

    Causal language models are built as such, all others with ``AutoModel``. Raises :class:`BadInput` for a
    ``model_type`` that transformers does not know, or a config that it cannot build.
    """
    try:
        import torch
        import transformers as hf
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    except ImportError:
        raise BadInput(f"the shapes of a {config['model_type']!r} model need the package transformers") from None
    table = {key: value for key, value in config.items() if key != "model_type"}
    loader = hf.AutoModelForCausalLM if config["model_type"] in CAUSAL else hf.AutoModel
    try:
        settings = hf.AutoConfig.for_model(config["model_type"], **table)
        with torch.device("meta"):
            model = loader.from_config(settings)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise BadInput(f"the shapes of a {config['model_type']!r} model cannot be found: {error}") from None
    return _measure(model, Config(_sizes(settings)))


def _sizes(settings: Any) -> dict[str, Any]:
    """The flat size table of a config, text part first where there are several; attributes follow its aliases."""
    text = settings.get_text_config()
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    keys += ("intermediate_size", "max_position_embeddings", "num_experts_per_tok", "image_size", "model_type")
    return {key: getattr(text, key, None) for key in keys}


def _measure(model: Any, c: Config) -> Architecture:
    """Roles by what the modules are: linear layers and Conv1D, convolutions, fused experts, everything else."""
    import torch

    roles: dict[str, str] = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            roles[f"{path}.weight"] = "once" if "pooler" in path else "linear"
        elif type(module).__name__ == "Conv1D":
            roles[f"{path}.weight"] = "conv1d"
        elif isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            roles[f"{path}.weight"] = "matmul"
    weights = dict(model.named_parameters())
    roles |= {name: "expert" for name, p in weights.items() if p.ndim == 3 and ".experts." in name}
    experts = max((len(weights[name]) for name, role in roles.items() if role == "expert"), default=1)
    causal = getattr(model, "lm_head", None) is not None
    heads, hidden = c["num_attention_heads"], c["hidden_size"]
    dim = c.get("head_dim", default=hidden // heads)
    vocab = c.get("vocab_size", default=0)
    return assemble(
        [Row(name, tuple(p.shape), roles.get(name, "other")) for name, p in weights.items()],  # type: ignore[arg-type]
        kind="causal-lm" if causal else "encoder" if vocab else "image-encoder",
        layers=c["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        vocab=vocab,
        kv_width=c.get("num_key_value_heads", default=heads) * dim,
        attention_width=heads * dim,
        ffn_width=c.get("intermediate_size", default=4 * hidden),
        gated=any("gate" in name for name in weights),
        context=c.get("max_position_embeddings", default=0),
        tied=causal and "lm_head.weight" not in weights,
        routed=c.get("num_experts_per_tok", default=experts) / experts,
    )
