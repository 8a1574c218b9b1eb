"""What the engine's benchmarks share: the jobs, both arms, and the timing of interleaved runs.

``Sequential`` is what one writes with PEFT alone: one resident model, each client's leaves copied in and its update
taken out, a fresh fused optimiser per client, batches collated before the clock starts. ``Stacked`` is fedwave's
session on the same clients, rows and steps, its batching and the fold of the updates included. Neither evaluates.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedwave.experiment import Experiment
from fedwave.federation import sync
from fedwave.federation.setting import Setting, prepare
from fedwave.methods.optimizers import AdamW, Optimizer
from fedwave.results.memory_store import MemoryStore
from fedwave.simulation import build_session
from fedwave.testing import tiny_llama

WORDS = ("the", "cell", "sends", "a", "short", "reply", "when", "its", "link", "is", "weak", "and", "waits")
ADAMW = {"name": "adamw", "lr": 1e-3}


# ---- jobs ----------------------------------------------------------------------------------------------------------


def job(task: dict, *, clients: int, optimizer: dict | None = None, engine: dict | None = None, **method: Any) -> dict:
    """One round of all clients over an ideal network; one local epoch unless ``method`` says otherwise."""
    partition = {"name": "iid", "clients": clients}
    return {
        "rounds": 1,
        "eval_every": 0,
        "task": {"partition": partition, **task},
        "method": {"name": "fedavg", "local_optimizer": optimizer or ADAMW, **(method or {"local_epochs": 1})},
        "sampler": {"name": "uniform", "cohort": clients},
        "network": {"name": "ideal"},
        "engine": {"name": "cohort", **(engine or {})},
    }


def mlp(folder: Path, *, rows: int) -> dict:
    """The 64-128-10 network on random rows."""
    rng, path = np.random.default_rng(0), folder / f"rows{rows}.npz"
    np.savez(path, x=rng.random((rows, 64), dtype=np.float32), y=rng.integers(0, 10, rows))
    return {"name": "images", "data": str(path), "batch_size": 10}


def texts(folder: Path, name: str, lengths: np.ndarray, *, unit: int) -> dict:
    """Rows of so many words (``unit`` 1) or bytes (``unit`` 4: the shortest word and its space), and a few held out."""
    rng, paths = np.random.default_rng(1), {}
    for part, wanted in (("data", lengths), ("eval_data", lengths[:4])):
        paths[part] = str(folder / f"{name}.{part}.jsonl")
        with open(paths[part], "w", encoding="utf-8") as file:
            for number, length in enumerate(wanted):
                text = " ".join(rng.choice(WORDS, int(length)))
                text = text if unit == 1 else text[: int(length)]
                file.write(json.dumps({"text": text, "label": f"class {number % 4}"}) + "\n")
    return paths


def minilm(folder: Path, *, lengths: np.ndarray, batch: int, targets: tuple[str, ...] = ("query", "value")) -> dict:
    """MiniLM with LoRA r 8 on ``targets`` and a head, rows of ``lengths`` tokens."""
    data = texts(folder, f"minilm{len(lengths)}-{lengths.max()}", lengths - 2, unit=1)  # [CLS] and [SEP] count too
    adapter = {"name": "lora", "rank": 8, "alpha": 16, "targets": list(targets)}
    return {
        "name": "text-classification", "model": "minilm", **data, "adapter": adapter, "batch_size": batch,
        "max_tokens": int(lengths.max()),
    }  # fmt: skip


def llama(folder: Path, *, rows: int, tokens: int, batch: int, **shape: int) -> dict:
    """A random Llama (d = 64, 2 layers unless ``shape`` says otherwise) with LoRA r 8 on q and v."""
    settings = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2} | shape
    model = tiny_llama(folder / "llama-{hidden_size}-{num_hidden_layers}".format(**settings), chat=False, **settings)
    data = texts(folder, f"llama{rows}-{tokens}", np.full(rows, 2 * tokens), unit=4)
    adapter = {"name": "lora", "rank": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]}
    return {
        "name": "causal-lm", "model": str(model), **data, "adapter": adapter, "batch_size": batch,
        "max_tokens": tokens, "chunk": False,
    }  # fmt: skip


# ---- arms ----------------------------------------------------------------------------------------------------------


def optimizer_of(settings: Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """torch's own, fused."""
    table = vars(settings)
    names = ("weight_decay",) if isinstance(settings, AdamW) else ("weight_decay", "momentum", "nesterov")
    kind = torch.optim.AdamW if isinstance(settings, AdamW) else torch.optim.SGD
    return kind(parameters, lr=settings.lr, fused=True, **{name: table[name] for name in names})


class Sequential:
    """Clients one after another through one resident model (``learner.model`` before any engine has touched it)."""

    def __init__(self, setting: Setting, learner: Any, cohort: Any) -> None:
        named = dict(learner.model.named_parameters())
        self.setting, self.learner, self.cohort = setting, learner, cohort
        self.live = {leaf: named[path] for leaf, path in learner.leaf_paths.items()}
        self.shared = {leaf: learner.initial[leaf].to(p.device) for leaf, p in self.live.items()}
        self.weight = torch.as_tensor(cohort.weight / cohort.weight.sum())
        self.batches = [
            [self.collate(rows) for rows in self.rows(*pair)] for pair in zip(cohort.ids, cohort.steps, strict=True)
        ]

    def rows(self, client: int, steps: int) -> list[np.ndarray]:
        """Epochs of shuffled rows in batches, until all steps are made."""
        learner, size, rng = self.learner, self.setting.batch_size, np.random.default_rng(int(client))
        own = learner.order[learner.offsets[client] : learner.offsets[client + 1]]
        batches: list[np.ndarray] = []
        while len(batches) < steps:
            shuffled = rng.permutation(own)
            batches += [shuffled[at : at + size] for at in range(0, len(own), size)]
        return batches[:steps]

    def collate(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The batch on the model's device; a language model's with ``labels`` as Hugging Face takes them."""
        batch = self.learner.batch(rows)
        if "learned" in batch:
            wanted = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
            wanted.scatter_(1, batch["place"], batch["learned"])
            batch = {"input_ids": batch["input_ids"], "labels": batch["input_ids"].masked_fill(~wanted, -100)}
        return batch

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy; a language model's is Hugging Face's own."""
        if "labels" in batch:
            return self.learner.model(**batch, use_cache=False).loss
        return F.cross_entropy(self.learner.predict(batch), batch["label"])

    def run(self) -> float:
        """One round; the mean of all losses."""
        parameters, losses = list(self.live.values()), []
        update = {leaf: torch.zeros_like(value) for leaf, value in self.shared.items()}
        for batches, weight in zip(self.batches, self.weight.tolist(), strict=True):
            with torch.no_grad():
                for leaf, parameter in self.live.items():
                    parameter.copy_(self.shared[leaf])
            optimizer = optimizer_of(self.setting.method.local_optimizer, parameters)
            for batch in batches:
                optimizer.zero_grad()
                loss = self.loss(batch)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            with torch.no_grad():
                for leaf, parameter in self.live.items():
                    update[leaf].add_(parameter - self.shared[leaf], alpha=weight)
        return float(torch.stack(losses).mean())


class Stacked:
    """fedwave's session on the same cohort."""

    def __init__(self, experiment: Experiment, setting: Setting, turn: Any) -> None:
        self.session = build_session(experiment, setting)
        state = sync.begin(setting, self.session)
        self.turn, self.message = turn, setting.method.broadcast(setting.spec, state, turn.cohort)
        self.store = MemoryStore(None, self.session.memory_leaves)

    def run(self) -> float:
        """One round; the mean of all losses."""
        turn = self.turn
        replies = self.session.run(self.message, self.store, turn.cohort, turn.delivery, turn.key)
        assert len(replies) == len(turn.cohort), "every client of the benchmark must be heard"
        return float(np.average(replies.loss, weights=turn.cohort.steps))


def arms(table: dict) -> tuple[Sequential, Stacked]:
    """Both arms of a job; each has a model of its own."""
    experiment = Experiment.parse(table)
    experiment.task.prepare(None)
    setting = experiment.setting()
    turn = prepare(setting, setting.world())
    learner = experiment.task.build(experiment.seed, public=setting.method.public_samples)
    return Sequential(setting, learner, turn.cohort), Stacked(experiment, setting, turn)


# ---- timing --------------------------------------------------------------------------------------------------------


def clocked(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds of this process, wall seconds, and what ``call`` gave."""
    cpu, wall = time.process_time(), time.perf_counter()
    value = call()
    return time.process_time() - cpu, time.perf_counter() - wall, value


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[tuple[float, float, Any]]]:
    """``repeats`` timings of each call after one that warms up; their order turns round from one repeat to the next."""
    found: dict[str, list[tuple[float, float, Any]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for repeat in range(repeats):
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            found[name].append(clocked(calls[name]))
    return found


def summary(values: list[float], digits: int = 3) -> dict[str, Any]:
    """Median and range."""
    return {
        "median": round(statistics.median(values), digits),
        "range": [round(min(values), digits), round(max(values), digits)],
    }


def ratios(slow: list[tuple[float, float, Any]], fast: list[tuple[float, float, Any]]) -> dict[str, Any]:
    """How many times faster, pair by pair: by CPU time (which other processes disturb least) and by wall time."""
    pairs = list(zip(slow, fast, strict=True))
    return {
        "ratio": summary([a[0] / b[0] for a, b in pairs], 2),
        "wall_ratio": summary([a[1] / b[1] for a, b in pairs], 2),
    }
