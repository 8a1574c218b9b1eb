"""Recipes: named bundles of overrides that stand for a way of fine-tuning. The map's axis of methods."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedwave.core.errors import BadInput, unknown

JOB = "job"
_KEPT = ("local_steps", "local_epochs", "clip_norm", "weighting", "local_optimizer")  # of the job's method


@dataclass(frozen=True)
class Recipe:
    """A way of fine-tuning.

    Parameters
    ----------
    name, what : for people.
    overrides : as the command line takes them; what they leave out is the job's.
    """

    name: str
    what: str
    overrides: tuple[str, ...]


def recipes_of(job: Mapping[str, Any]) -> dict[str, Recipe]:
    """The built-in recipes for a job's table, by name; its local steps, optimiser and weights are kept.

    ``job`` is the job's own method, adapter and transforms.
    """
    lora, plain, last = '{name = "lora", rank = 8}', "[]", '{name = "lora", rank = 8, last_layers = 4}'
    fedavg, sgd = _method(job, "fedavg"), {"name": "sgd"}
    seeds = _method(job, "fedkseed", clip_norm=None, local_optimizer=sgd)
    rows = (
        ("full", "full fine-tuning, FedAvg", fedavg, "full", plain),
        ("lora", "LoRA r = 8, FedAvg of both factors (FedIT)", fedavg, lora, plain),
        ("ffa-lora", "LoRA r = 8 whose A is frozen: only B travels", _method(job, "ffa_lora"), lora, plain),
        ("lora-last4", "LoRA r = 8 in the last four layers", fedavg, last, plain),
        ("lora-8bit", "LoRA r = 8, updates of 8 bits a value", fedavg, lora, _quantized(8)),
        ("lora-4bit", "LoRA r = 8, updates of 4 bits a value", fedavg, lora, _quantized(4)),
        ("flora", "LoRA r = 8, stacked factors travel down as changes of the base", _method(job, "flora"), lora, plain),
        ("ia3", "learned scales of activations, (IA)3", fedavg, "ia3", plain),
        ("fedkseed", "all weights by forward passes alone: 4096 scalars travel", seeds, "full", plain),
        ("local", "LoRA r = 8, each client alone: nothing travels", _method(job, "local"), lora, plain),
    )
    found = {
        name: Recipe(name, what, (f"method={method}", f"task.adapter={adapter}", f"transform={transform}"))
        for name, what, method, adapter, transform in rows
    }
    return {JOB: Recipe(JOB, "the job's own method, adapter and transforms", ()), **found}


def read(path: Path) -> dict[str, Recipe]:
    """A user's recipes: tables ``[recipe.NAME]`` with ``overrides = ["key=value", ...]`` and, if wanted, ``what``.

    Raises :class:`BadInput` naming the file and the entry.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"--methods: {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"--methods: {path}: not a TOML file: {' '.join(str(error).split())}") from None
    entries = table.get("recipe")
    if not isinstance(entries, dict) or not entries or set(table) != {"recipe"}:
        raise BadInput(f"--methods: {path}: must hold tables [recipe.NAME] and nothing else")
    return {name: _entry(path, name, entry) for name, entry in entries.items()}


def _entry(path: Path, name: str, entry: Any) -> Recipe:
    where = f"--methods: {path}: recipe.{name}"
    if not isinstance(entry, dict):
        raise BadInput(f"{where}: must be a table with overrides, got {entry!r:.60}")
    for key in entry:
        if key not in ("what", "overrides"):
            raise BadInput(f"{where}: {unknown('key', key, ('what', 'overrides'))}")
    texts, what = entry.get("overrides"), entry.get("what", name)
    if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
        raise BadInput(f"{where}: overrides must be a list of texts key=value, got {texts!r:.60}")
    if not isinstance(what, str):
        raise BadInput(f"{where}: what must be text, got {what!r:.60}")
    return Recipe(name, what, tuple(texts))


def _method(job: Mapping[str, Any], name: str, **changes: Any) -> str:
    """The method's table with what the job says of local work; ``None`` in ``changes`` leaves a key out."""
    own = job.get("method", {})
    kept = {key: own[key] for key in _KEPT if isinstance(own, Mapping) and key in own}
    table = {"name": name, **kept, **changes}
    return inline({key: value for key, value in table.items() if value is not None})


def _quantized(bits: int) -> str:
    return inline([{"name": "quantize", "bits": bits, "direction": "up"}])


def inline(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _key(value) if isinstance(value, str) else repr(value)


def _key(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
