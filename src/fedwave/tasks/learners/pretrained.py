"""Pretrained models as learners hold them: LoRA put in, exported as a standard PEFT folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedwave.core.keys import Key
from fedwave.core.types import Spec
from fedwave.tasks.learners.classes import Base
from fedwave.tasks.learners.weights import uniform, write_weights

_CARRIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
            "preprocessor_config.json")  # fmt: skip


class Prepared(NamedTuple):
    """Where a model's leaves and LoRA'd weights are, and how the leaves start; see :class:`Learner`."""

    leaf_paths: dict[str, str]
    base_paths: dict[str, str]
    initial: dict[str, Tensor]


def load(loader: Any, folder: Path, dtype: torch.dtype) -> Any:
    """``loader.from_pretrained(folder)`` (an ``AutoModel`` class) without its progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return loader.from_pretrained(folder, dtype=dtype)
    finally:
        if shown:
            logging.enable_progress_bar()


def whole(model: nn.Module) -> Prepared:
    """Every parameter of ``model`` is a leaf and starts as it is."""
    named = dict(model.named_parameters())
    return Prepared({name: name for name in named}, {}, {name: value.detach().float() for name, value in named.items()})


def with_lora(model: nn.Module, spec: Spec, key: Key) -> Prepared:
    """Put LoRA into ``model`` (in place): A uniform within 1 / sqrt(d_in) as PEFT draws it, B zero.

    Hu et al., ICLR 2022, section 4.1. The draws depend on the key and the leaf's name alone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    r, alpha = spec.max_rank, spec.lora_scale * spec.max_rank
    targets = either(spec.bases)
    with torch.random.fork_rng(devices=[]):  # PEFT's own draws are replaced: leave the caller's generator as it was
        inject_adapter_in_model(LoraConfig(r=r, lora_alpha=alpha, target_modules=targets, **peft_layout(model)), model)  # type: ignore[arg-type]
    paths: dict[str, str] = {}
    initial: dict[str, Tensor] = {}
    for module, (out, into) in spec.bases.items():
        for factor, shape in (("lora_A", (r, into)), ("lora_B", (out, r))):
            leaf = f"{module}.{factor}.weight"
            paths[leaf] = f"{module}.{factor}.default.weight"
            initial[leaf] = uniform(key, leaf, shape, into**-0.5) if factor == "lora_A" else torch.zeros(shape)
    return Prepared(paths, {module: f"{module}.base_layer.weight" for module in spec.bases}, initial)


def either(modules: Iterable[str]) -> str:
    """A ``target_modules`` pattern that matches just these modules."""
    return "(" + "|".join(re.escape(module) for module in modules) + ")"


def peft_layout(model: nn.Module) -> dict[str, Any]:
    """``fan_in_fan_out`` where linear layers store their weight transposed, as GPT-2's ``Conv1D`` does."""
    from transformers.pytorch_utils import Conv1D

    return {"fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules())}


def write_lora(
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
    """A PEFT folder (``adapter_config.json``, ``adapter_model.safetensors``) for the LoRA leaves of ``params``.

    Changes of the base become further rank: the factors are concatenated, and PEFT's scale alpha / r stays
    ``spec.lora_scale`` because alpha grows with r. Beyond the full rank of a module its product is compressed, exactly.
    """
    from peft import LoraConfig

    factors = {module: _stacked(module, params, base) for module in spec.bases}
    ranks = {module: a.shape[0] for module, (a, _) in factors.items()}
    r = max(ranks.values())
    own = {module: rank for module, rank in ranks.items() if rank != r}
    config = LoraConfig(
        task_type=task_type,  # type: ignore[arg-type]
        base_model_name_or_path=model_name,
        inference_mode=True,
        r=r,
        lora_alpha=_alpha(spec.lora_scale, r),  # type: ignore[arg-type]
        target_modules=targets,
        rank_pattern={re.escape(module): rank for module, rank in own.items()},
        alpha_pattern={re.escape(module): _alpha(spec.lora_scale, rank) for module, rank in own.items()},
        **layout,
    )
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    write_weights(folder, tensors, "adapter_model.safetensors")
    config.save_pretrained(str(folder))


def _alpha(scale: float, rank: int) -> float:
    alpha = scale * rank
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha


def _stacked(module: str, params: Mapping[str, Tensor], base: Base) -> tuple[Tensor, Tensor]:
    """Factors (A, B) of the module's whole change, compressed if their rank exceeds what the weight can have."""
    pairs = [(params[f"{module}.lora_A.weight"], params[f"{module}.lora_B.weight"])]
    pairs += [change[module] for change in base if module in change]
    a = torch.cat([first.detach().cpu().float() for first, _ in pairs], dim=0)
    b = torch.cat([second.detach().cpu().float() for _, second in pairs], dim=1)
    return compress(a, b) if a.shape[0] > min(a.shape[1], b.shape[0]) else (a, b)


def compress(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of rank at most min(d_out, d_in) with the same product ``b @ a``, equal to rounding.

    QR of both factors, then an SVD of the small product of their triangles, in float64.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().mT)
    u, s, v = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
    root = s.sqrt()
    return ((root[:, None] * v) @ q_a.mT).float(), ((q_b @ u) * root).float()


def write_whole(folder: Path, params: dict[str, Tensor], config: Any, source: Path) -> None:
    """A Hugging Face model folder: config, ``model.safetensors``, and the tokenizer files of ``source``."""
    write_weights(folder, params)
    config.save_pretrained(str(folder))
    for name in _CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
