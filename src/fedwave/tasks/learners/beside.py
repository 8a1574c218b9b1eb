"""What is trained beside a pretrained model: put in by PEFT or as virtual tokens, exported as a PEFT folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedwave.core.keys import Key
from fedwave.core.types import Spec
from fedwave.tasks.adapters import Beside
from fedwave.tasks.learners.classes import Base
from fedwave.tasks.learners.pretrained import Prepared, either, peft_layout, with_lora, write_lora
from fedwave.tasks.learners.weights import uniform, write_weights
from fedwave.tasks.peft_adapters import MAGNITUDE, SCALES, VIRTUAL, Dora, Ia3, Prefix, Prompt


def put_beside(adapter: Beside, model: Any, spec: Spec, key: Key) -> tuple[Any, Prepared]:
    """``model`` with the adapter in it (in place where that can be), and where its leaves are.

    Initial values follow from the key and the model's weights. Raises :class:`Refused` for an unknown kind.
    """
    if isinstance(adapter, (Prompt, Prefix)):
        return _with_virtual(adapter, model, spec, key)
    if isinstance(adapter, (Dora, Ia3)):
        return model, _injected(adapter, model, spec, key)
    return model, with_lora(model, spec, key)


# ---- layers adapted by PEFT ----------------------------------------------------------------------------------------


def _injected(adapter: Dora | Ia3, model: nn.Module, spec: Spec, key: Key) -> Prepared:
    """DoRA or IA3 in the layers that the leaves name; A is drawn as for LoRA, magnitudes are norms, scales are 1."""
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):  # PEFT's own draws are replaced: leave the caller's generator as it was
        inject_adapter_in_model(_config(adapter, spec, either(_modules(spec)), **peft_layout(model)), model)
    named = dict(model.named_parameters())
    paths: dict[str, str] = {}
    initial: dict[str, Tensor] = {}
    ends = (MAGNITUDE, SCALES, "lora_A.weight", "lora_B.weight")
    for leaf in [name for name in spec.trainable if name.endswith(ends)]:
        inside = leaf.removesuffix(".weight")
        paths[leaf] = f"{inside}.default" if leaf.endswith(SCALES) else f"{inside}.default.weight"
        shape = spec.trainable[leaf].shape
        if leaf.endswith("lora_A.weight"):
            initial[leaf] = uniform(key, leaf, shape, shape[1] ** -0.5)
        elif leaf.endswith("lora_B.weight"):
            initial[leaf] = torch.zeros(shape)
        else:
            initial[leaf] = named[paths[leaf]].detach().float().clone()
    return Prepared(paths, {}, initial)


def _config(adapter: Dora | Ia3, spec: Spec, targets: Any, fan_in_fan_out: bool, **rest: Any) -> Any:
    from peft import IA3Config, LoraConfig

    if isinstance(adapter, Dora):
        scale = {"r": spec.max_rank, "lora_alpha": spec.lora_scale * spec.max_rank}
        return LoraConfig(target_modules=targets, fan_in_fan_out=fan_in_fan_out, use_dora=True, **scale, **rest)
    inputs = [module for module in _modules(spec) if spec.trainable[module + SCALES].shape[0] == 1]
    feedforward = either(inputs) if isinstance(targets, str) else inputs
    return IA3Config(
        target_modules=targets if isinstance(targets, str) else _modules(spec),
        feedforward_modules=feedforward,
        fan_in_fan_out=fan_in_fan_out,
        **rest,
    )


def _modules(spec: Spec) -> list[str]:
    """The adapted layers, in the model's order."""
    ends = (".lora_A.weight", SCALES)
    return [name.removesuffix(end) for name in spec.trainable for end in ends if name.endswith(end)]


# ---- virtual tokens ------------------------------------------------------------------------------------------------


class _Virtual(nn.Module):
    """A body with ``tokens`` trained vectors of size ``width`` for each row."""

    def __init__(self, body: Any, tokens: int, width: int) -> None:
        super().__init__()
        self.body, self.virtual = body, nn.Embedding(tokens, width)

    def get_input_embeddings(self) -> nn.Module:
        """The body's, which Hugging Face asks for."""
        return self.body.get_input_embeddings()

    def vectors(self, ids: Tensor) -> Tensor:
        """``[n, tokens, width]``, for the rows of ``ids``."""
        places = torch.arange(self.virtual.num_embeddings, device=ids.device)
        return self.virtual(places[None].expand(len(ids), -1))


class Prompted(_Virtual):
    """A body that sees virtual tokens before each row's own, and gives what it makes of the row's own alone."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any) -> Any:
        """The body's output, ``last_hidden_state [n, T, d]``."""
        own = self.body.get_input_embeddings()(input_ids)
        rows, tokens = len(input_ids), self.virtual.num_embeddings
        first = self.vectors(input_ids).to(own.dtype)
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask.new_ones(rows, tokens), attention_mask], dim=1)
        seen = torch.cat([first, own], dim=1)
        out = self.body(inputs_embeds=seen, attention_mask=attention_mask, **rest)
        out.last_hidden_state = out.last_hidden_state[:, tokens:]
        return out


class Prefixed(_Virtual):
    """A decoder whose layers attend to trained keys and values before each row's own."""

    def forward(self, input_ids: Tensor, **rest: Any) -> Any:
        """The body's output, ``last_hidden_state [n, T, d]``."""
        from transformers import DynamicCache

        config, tokens = self.body.config, self.virtual.num_embeddings
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        values = self.vectors(input_ids).to(self.body.dtype)
        values = values.view(len(input_ids), tokens, 2 * config.num_hidden_layers, heads, -1)
        layers: Any = values.permute(2, 0, 3, 1, 4).split(2)  # keys and values [n, heads, tokens, d] of each
        cache = DynamicCache(layers)
        return self.body(input_ids=input_ids, past_key_values=cache, **rest)


def _with_virtual(adapter: Prompt | Prefix, model: Any, spec: Spec, key: Key) -> tuple[Any, Prepared]:
    body, shape = model.base_model, spec.trainable[VIRTUAL].shape
    if isinstance(adapter, Prompt):
        table = body.get_input_embeddings().weight
        drawn = torch.randint(table.shape[0], shape[:1], generator=key.fold("initial", VIRTUAL).torch())
        initial, around = table.detach()[drawn].float().clone(), Prompted(body, *shape)
    else:
        initial, around = uniform(key, VIRTUAL, shape, body.config.hidden_size**-0.5), Prefixed(body, *shape)
    path = "virtual.weight"
    if body is model:
        return around, Prepared({VIRTUAL: path}, {}, {VIRTUAL: initial})
    setattr(model, model.base_model_prefix, around)
    return model, Prepared({VIRTUAL: f"{model.base_model_prefix}.{path}"}, {}, {VIRTUAL: initial})


# ---- export --------------------------------------------------------------------------------------------------------


def write_beside(
    adapter: Beside,
    folder: Path,
    params: Mapping[str, Tensor],
    base: Base,
    *,
    spec: Spec,
    task_type: str,
    targets: list[str],
    model_name: str,
    layout: dict[str, Any],
) -> None:
    """A PEFT folder for the leaves of ``params``; ``base`` are changes of the base, which LoRA alone has."""
    how: dict[str, Any] = {"task_type": task_type, "base_model_name_or_path": model_name, "inference_mode": True}
    if isinstance(adapter, (Prompt, Prefix)):
        from peft import PrefixTuningConfig, PromptTuningConfig

        kind = PromptTuningConfig if isinstance(adapter, Prompt) else PrefixTuningConfig
        config, tensors = kind(num_virtual_tokens=adapter.tokens, **how), {VIRTUAL: params[VIRTUAL]}
    elif isinstance(adapter, (Dora, Ia3)):
        config = _config(adapter, spec, targets, **layout, **how)
        tensors = {f"base_model.model.{name}": value for name, value in params.items()}
    else:
        names = {"task_type": task_type, "targets": targets, "model_name": model_name}
        return write_lora(folder, params, base, spec=spec, layout=layout, **names)
    write_weights(folder, tensors, "adapter_model.safetensors")
    config.save_pretrained(str(folder))
