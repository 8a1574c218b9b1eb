"""Shapes of any model that transformers knows, from torch's meta device: for families without a table of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.models.rows import Architecture, Config, Row, assemble


def from_meta(config: Mapping[str, Any]) -> Architecture:
    """Shapes of any model that transformers knows, by building it on torch's meta device (imports both).

    Causal language models are built as such, all others with ``AutoModel``; which it is, the config's ``architectures``
    say, else whether transformers has a causal and no masked model of the family. Raises :class:`BadInput` for a
    ``model_type`` that transformers does not know, a config that it cannot build, and a model whose tokens meet in
    other ways than attention: its arithmetic and activations would be those of another model.
    """
    try:
        import torch
        import transformers as hf
    except ImportError:
        raise BadInput(f"the shapes of a {config['model_type']!r} model need the package transformers") from None
    kind = config["model_type"]
    if kind not in (known := set(hf.CONFIG_MAPPING.keys())):
        from fedwave.models.shapes import FAMILIES

        raise BadInput(
            f"model_type {kind!r} is not known: neither to fedwave ({', '.join(sorted(FAMILIES))}), nor to "
            f"transformers {hf.__version__}, which knows {len(known)}"
        )
    table = {key: value for key, value in config.items() if key != "model_type"}
    loader = hf.AutoModelForCausalLM if _is_causal(config) else hf.AutoModel
    try:
        settings = hf.AutoConfig.for_model(config["model_type"], **table)
        with torch.device("meta"):
            model = loader.from_config(settings)
        _check_attention(kind, settings, model)
        return _measure(model, Config(_sizes(settings)))
    except BadInput:
        raise
    except Exception as error:  # each of hundreds of families raises what it likes
        words = " ".join(str(error).split())
        raise BadInput(f"the shapes of a {kind!r} model cannot be found: {words:.200}") from None


def _check_attention(kind: str, settings: Any, model: Any) -> None:
    """Raise :class:`BadInput` where not every layer attends: state spaces, linear attention, short convolutions."""
    import torch

    text = settings.get_text_config()
    names = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    others = sorted({name for name in names if "attention" not in name or "linear" in name})
    others += ["convolutions along the text"] * any(
        isinstance(module, torch.nn.Conv1d) and module.groups > 1 for module in model.modules()
    )
    if getattr(text, "num_attention_heads", None) is None:
        others = ["num_attention_heads is missing"]
    if others:
        raise BadInput(
            f"a {kind} model cannot be planned: arithmetic and activations are counted for layers of attention, and "
            f"not all of its layers are such ({', '.join(others)})"
        )


def _is_causal(config: Mapping[str, Any]) -> bool:
    from transformers.models.auto import modeling_auto as auto

    if config.get("architectures"):
        return config["architectures"][0].endswith(("ForCausalLM", "LMHeadModel"))
    kind = config["model_type"]
    return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _sizes(settings: Any) -> dict[str, Any]:
    """The flat size table of a config, text part first where there are several; attributes follow its aliases."""
    text = settings.get_text_config()
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    keys += ("intermediate_size", "max_position_embeddings", "num_experts_per_tok", "model_type")
    keys += ("image_size", "patch_size", "mlp_ratio", "moe_intermediate_size")
    return {key: getattr(text, key, None) for key in keys}


def _ffn_width(c: Config, experts: int) -> int:
    dense = c.get("intermediate_size", default=int(c.get("mlp_ratio", default=4) * c["hidden_size"]))
    if experts == 1:
        return dense
    return c.get("moe_intermediate_size", default=dense) * c.get("num_experts_per_tok", default=experts)


def _measure(model: Any, c: Config) -> Architecture:
    """Roles by what the modules are: linear layers and Conv1D, convolutions, fused experts, everything else."""
    import torch

    roles: dict[str, str] = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            roles[f"{path}.weight"] = "once" if "pooler" in path else "linear"
        elif type(module).__name__ == "Conv1D":
            roles[f"{path}.weight"] = "conv1d"
        elif isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)) or (
            path.endswith(".gate") and list(module.parameters(recurse=False))
        ):
            roles[f"{path}.weight"] = "matmul"
    weights = dict(model.named_parameters())
    roles |= {name: "expert" for name, p in weights.items() if p.ndim == 3 and ".experts." in name}
    experts = max((len(weights[name]) for name, role in roles.items() if role == "expert"), default=1)
    causal = getattr(model, "lm_head", None) is not None
    heads, hidden = c["num_attention_heads"], c["hidden_size"]
    dim = c.get("head_dim", default=hidden // heads)
    vocab = c.get("vocab_size", default=0)
    patches = (c.get("image_size", default=0) // c.get("patch_size", default=1)) ** 2
    return assemble(
        [Row(name, tuple(p.shape), roles.get(name, "other")) for name, p in weights.items()],  # type: ignore[arg-type]
        kind="causal-lm" if causal else "encoder" if vocab else "image-encoder",
        layers=c["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        vocab=vocab,
        kv_width=c.get("num_key_value_heads", default=heads) * dim,
        attention_width=heads * dim,
        ffn_width=_ffn_width(c, experts),
        gated=any("gate" in name for name in weights),
        context=patches + 1 if patches else c.get("max_position_embeddings", default=0),
        tied=causal and "lm_head.weight" not in weights,
        routed=c.get("num_experts_per_tok", default=experts) / experts,
    )
