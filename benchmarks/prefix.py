"""Rounds from kept activations against rounds of the whole model: same clients, rows and adapters, interleaved.

LoRA (r = 8, query and value) sits in the last L of N layers; K clients are stacked and make one step; the file is full
before the clock starts, and filling it is timed apart. ``limit`` is (N + L) / (2 L), what the arithmetic allows.
``sequential_ratio`` is against clients one after another with PEFT alone.

    python benchmarks/prefix.py [CASE ...] [--repeats 7] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_arms import Sequential, clocked, interleaved, job, llama, minilm, ratios, summary

from fedwave.experiment import Experiment
from fedwave.federation import sync
from fedwave.federation.setting import prepare
from fedwave.results.memory_store import MemoryStore

K, B, TOKENS, LAYERS = 16, 4, 64, 6
CASES = ("minilm-last-2", "minilm-last-1", "llama-last-2", "llama-last-1")


def task(folder: Path, model: str, last: int) -> dict:
    layers = range(LAYERS - last, LAYERS)
    if model == "minilm":
        targets = [f"layer.{n}.attention.self.{name}" for n in layers for name in ("query", "value")]
        return minilm(folder, lengths=np.full(K * B, TOKENS), batch=B, targets=tuple(targets))
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": LAYERS}
    table = llama(folder, rows=K * B, tokens=TOKENS, batch=B, **shape)
    table["adapter"]["targets"] = [f"layers.{n}.self_attn.{name}" for n in layers for name in ("q_proj", "v_proj")]
    return table


class Rounds:
    """A session's rounds over one cohort, from kept activations where ``cache`` gives their folder."""

    def __init__(self, table: dict, cache: Path | None, dtype: Any) -> None:
        from fedwave.engines.prefix import PrefixLearner

        experiment = Experiment.parse(table)
        setting = experiment.setting()
        learner = experiment.task.build(experiment.seed)
        self.fill = 0.0
        if cache is not None:
            learner = PrefixLearner(learner, cache, budget_bytes=10**10, dtype=dtype)
            self.fill = clocked(lambda: learner.prefix(learner.order))[0]
        up = setting.codec.up
        self.session = experiment.engine.start(setting.method, learner, up=up, batch_size=setting.batch_size)
        state = sync.begin(setting, self.session)
        self.turn = prepare(setting, setting.world())
        self.message = setting.method.broadcast(setting.spec, state, self.turn.cohort)
        self.store = MemoryStore(None, self.session.memory_leaves)

    def run(self) -> float:
        turn = self.turn
        replies = self.session.run(self.message, self.store, turn.cohort, turn.delivery, turn.key)
        return float(np.mean(replies.loss))


def measure(case: str, repeats: int, dtype: str) -> dict:
    model, _, last = case.split("-")
    with tempfile.TemporaryDirectory() as folder:
        engine = {"max_clients": K, "token_budget": 2 * K * B * TOKENS}
        table = job(task(Path(folder), model, int(last)), clients=K, engine=engine, local_steps=1)
        Experiment.parse(table).task.prepare(None)
        experiment = Experiment.parse(table)
        setting = experiment.setting()
        cohort = prepare(setting, setting.world()).cohort
        sequential = Sequential(setting, experiment.task.build(experiment.seed), cohort)
        arms: dict[str, Any] = {
            "full": Rounds(table, None, dtype),
            "cached": Rounds(table, Path(folder) / "kept", dtype),
        }
        found = interleaved({"sequential": sequential.run} | {name: arm.run for name, arm in arms.items()}, repeats)
    limit = (LAYERS + int(last)) / (2 * int(last))
    row = {"benchmark": "prefix", "case": case, "dtype": dtype, "K": K, "b": B, "tokens": TOKENS, "limit": limit}
    row |= ratios(found["full"], found["cached"])
    row["sequential_ratio"] = ratios(found["sequential"], found["cached"])["ratio"]
    row["of_limit"] = round(row["ratio"]["median"] / limit, 3)
    row |= {f"{arm}_cpu_s": summary([cpu for cpu, _, _ in runs]) for arm, runs in found.items()}
    row["loss"] = {arm: round(runs[-1][2], 6) for arm, runs in found.items()}
    return row | {"fill_cpu_s": round(arms["cached"].fill, 3), "repeats": repeats, "threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE", default=CASES, help="all of them by default")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case in args.cases:
        print(json.dumps(measure(case, args.repeats, args.dtype)), flush=True)


if __name__ == "__main__":
    main()
