"""Stacked training equals each client trained alone by a plain torch loop: any K, ragged data, unequal steps."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedwave.core import config, registry, tree
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Message, Part
from fedwave.engines.cohort import CohortEngine
from fedwave.engines.stacked.batches import plan_rows
from fedwave.results.memory_store import MemoryStore
from fedwave.testing import tiny_bert, tiny_llama
from fedwave.transforms.chain import Chain

sys.path.insert(0, str(Path(__file__).parents[1]))
from methods.helpers import delivered
from references.plain import train_alone, train_peft

OPTIMIZERS = {
    "sgd": ({"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01)),
    "nesterov": ({"name": "sgd", "lr": 0.05, "momentum": 0.7, "nesterov": True},
                 lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.7, nesterov=True)),
    # With a smaller eps a gradient that is zero but for rounding would be taken for a direction.
    "adamw": ({"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "eps": 1e-6},
              lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01, eps=1e-6)),
}  # fmt: skip


def write_jsonl(path, rows):
    import json

    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


def sentences(n):
    words = [
        "the",
        "cell",
        "sends",
        "a",
        "short",
        "reply",
        "when",
        "its",
        "link",
        "is",
        "weak",
        "and",
        "waits",
        "for",
        "more",
        "power",
        "near",
        "the",
        "edge",
    ]
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(n)]


def build(task, batch_size):
    task = config.build("task", {**task, "batch_size": batch_size})
    return task.build(seed=5)


def cohort_of(learner, steps):
    ids = np.arange(len(steps))
    held = np.diff(learner.offsets)[ids]
    rank = np.full(len(ids), learner.spec.max_rank)
    zero = np.zeros(len(ids), dtype=np.int64)
    return Cohort(0, ids, np.ones(len(ids)), held, np.array(steps), held, rank, zero, zero - 1, zero)


def stacked(learner, optimizer, steps, batch_size, k, method="fedavg"):
    """``{client: (batches, final leaves)}``, trained with ``k`` slots; each one's own reply is gathered."""

    class Gathered(registry.lookup("method", method)):
        def uplink(self, spec):
            return {"update": Part(self.travelling(spec), reduce="gather")}

    method = Gathered(local_optimizer=config.build("optimizer", optimizer), local_steps=1)
    session = CohortEngine(max_clients=k, token_budget=10**6).start(method, learner, up=Chain(), batch_size=batch_size)
    cohort, key = cohort_of(learner, steps), Key(7)
    message = Message(shared={"params": tree.select(learner.initial, method.travelling(learner.spec))})
    store = MemoryStore(None, session.memory_leaves)
    update = session.run(message, store, cohort, delivered(cohort.ids), key).parts["update"]
    rows = plan_rows(learner.order, learner.offsets, ids=cohort.ids, steps=cohort.steps, batch_size=batch_size, key=key)
    result = {}
    for slot, client in enumerate(cohort.ids):
        batches = [rows[t, slot][rows[t, slot] >= 0] for t in range(cohort.steps[slot])]
        moved = {name: value[slot] for name, value in update.items()}
        leaves = {name: value + moved.get(name, 0.0) for name, value in learner.initial.items()}
        result[int(client)] = (batches, leaves)
    return result


def largest_difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    llama, bert = str(tiny_llama(folder / "llama")), str(tiny_bert(folder / "bert"))
    lines = sentences(41)
    plain = write_jsonl(folder / "plain.jsonl", [{"text": t, "label": f"c{i % 3}"} for i, t in enumerate(lines)])
    dialogue = write_jsonl(folder / "chat.jsonl", [{"prompt": t, "response": t[::-1]} for t in lines])
    parts = {"name": "dirichlet", "alpha": 1.0, "clients": 5}
    language = {"name": "causal-lm", "model": llama, "max_tokens": 48, "partition": {"name": "iid", "clients": 5}}
    classes = {"name": "text-classification", "model": bert, "data": plain, "max_tokens": 32, "partition": parts}
    lora = {"name": "lora", "rank": 4, "alpha": 8}
    return {
        "llama lora": {**language, "data": dialogue, "adapter": {**lora, "targets": ["q_proj", "v_proj", "gate_proj"]}},
        "llama full": {**language, "data": plain, "adapter": "full"},
        "bert lora": {**classes, "adapter": {**lora, "targets": ["query", "value"]}},
        "bert head": {**classes, "adapter": "head"},
        "bert full": {**classes, "adapter": "full"},
        "mlp full": {"name": "images", "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 60}},
        "toy": {"name": "toy", "ragged": True},
    }


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("name", ["llama lora", "llama full", "bert lora", "bert head", "bert full", "mlp full", "toy"])
def test_stacked_equals_alone(tasks, name, optimizer):
    """Ragged: 5 / 4 / 4 / 3 / 2 steps over clients of unequal data; last batches hold what is left."""
    table, make = OPTIMIZERS[optimizer]
    learner = build(tasks[name], 4)
    plain = copy.deepcopy(learner.model)
    steps = [5, 3, 4, 2, 4]
    result = stacked(learner, table, steps, 4, k=3)
    moved = 0.0
    for batches, params in result.values():
        alone = train_alone(learner, plain, batches, make)
        assert largest_difference(params, alone) < 1e-5
        moved = max(moved, largest_difference(params, learner.initial))
    assert moved > 1e-4


def test_lora_equals_peft(tasks):
    """The same adapters as ``peft.get_peft_model`` with Hugging Face's own loss on the same tokens."""
    learner = build(tasks["llama lora"], 1)
    table, make = OPTIMIZERS["adamw"]
    result = stacked(learner, table, [3, 5, 2], 1, k=2)
    task = tasks["llama lora"]
    for batches, params in result.values():
        tokens = []
        for rows in batches:
            batch = learner.batch(rows)
            labels = torch.full_like(batch["input_ids"], -100)
            where = batch["place"][batch["learned"]]
            labels[0, where] = batch["input_ids"][0, where]
            tokens.append((batch["input_ids"], labels))
        adapter = task["adapter"]
        alone = train_peft(task["model"], adapter["targets"], 4, 8, learner.initial, tokens, make)
        assert largest_difference(params, alone) < 1e-5


@pytest.mark.parametrize("name", ["llama lora", "mlp full"])
def test_one_by_one_equals_stacked(tasks, name):
    learners = [build(tasks[name], 4) for _ in range(2)]
    steps = [3, 5, 1, 2, 4]
    one = stacked(learners[0], OPTIMIZERS["sgd"][0], steps, 4, k=1)
    all_ = stacked(learners[1], OPTIMIZERS["sgd"][0], steps, 4, k=5)
    for client, (_, params) in one.items():
        assert largest_difference(params, all_[client][1]) < 1e-5


def test_frozen_factors_stay(tasks):
    """FFA-LoRA: A never moves and B equals a plain loop in which A is frozen."""
    learner = build(tasks["llama lora"], 4)
    plain = copy.deepcopy(learner.model)
    frozen = {name for name in learner.initial if name.endswith("lora_A.weight")}
    table, make = OPTIMIZERS["adamw"]
    for batches, params in stacked(learner, table, [4, 2, 3], 4, k=3, method="ffa_lora").values():
        assert all(torch.equal(params[name], learner.initial[name]) for name in frozen)
        assert largest_difference(params, train_alone(learner, plain, batches, make, frozen=frozen)) < 1e-5
