"""Rounds from kept activations and in bfloat16 against rounds of the whole model in float32, interleaved.

LoRA (r = 8, query and value) sits in the last L of N layers; K clients make one step. Arms: ``sequential`` (clients
one after another with PEFT alone), ``full`` (stacked), ``bf16`` (stacked, in half precision), ``cached`` (stacked, from
kept activations), ``both``. The file is full before the clock starts, and filling it is timed apart. ``limit`` is
(N + L) / (2 L), what the arithmetic allows ``full`` over ``cached``. Ratios are of CPU seconds.

    python benchmarks/prefix.py [CASE ...] [--repeats 7]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from engine_arms import Sequential, clocked, interleaved, job, llama, minilm, ratios, summary

from fedwave.experiment import Experiment
from fedwave.federation import sync
from fedwave.federation.setting import prepare
from fedwave.models.sources import cache_root
from fedwave.results.memory_store import MemoryStore
from fedwave.simulation import build_session

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
    """A session's rounds over one cohort."""

    def __init__(self, table: dict) -> None:
        experiment = Experiment.parse(table)
        setting = experiment.setting()
        self.session = build_session(experiment, setting)
        learner, self.fill = self.session.learner, 0.0
        if "prefix_bytes" in table["engine"]:
            self.fill = clocked(lambda: learner.prefix(learner.order))[0]
        state = sync.begin(setting, self.session)
        self.turn = prepare(setting, setting.world())
        self.message = setting.method.broadcast(setting.spec, state, self.turn.cohort)
        self.store = MemoryStore(None, self.session.memory_leaves)

    def run(self) -> float:
        turn = self.turn
        replies = self.session.run(self.message, self.store, turn.cohort, turn.delivery, turn.key)
        return float(np.mean(replies.loss))


KEPT = {"prefix_bytes": 10**10}
ENGINES = {
    "full": {},
    "bf16": {"dtype": "bfloat16"},
    "cached": KEPT,
    "both": {"dtype": "bfloat16", "prefix_dtype": "bfloat16", **KEPT},
}


def measure(case: str, repeats: int) -> dict:
    model, _, last = case.split("-")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(cache_root() / "models")  # its own cache but for the models
        os.environ["FEDWAVE_CACHE"] = folder
        shared = {"max_clients": K, "token_budget": 2 * K * B * TOKENS}
        table = job(task(Path(folder), model, int(last)), clients=K, engine=shared, local_steps=1)
        Experiment.parse(table).task.prepare(None)
        experiment = Experiment.parse(table)
        setting = experiment.setting()
        cohort = prepare(setting, setting.world()).cohort
        sequential = Sequential(setting, experiment.task.build(experiment.seed), cohort)
        arms = {name: Rounds({**table, "engine": {**table["engine"], **own}}) for name, own in ENGINES.items()}
        found = interleaved({"sequential": sequential.run} | {name: arm.run for name, arm in arms.items()}, repeats)
        del os.environ["FEDWAVE_CACHE"]
    limit = (LAYERS + int(last)) / (2 * int(last))
    row = {"benchmark": "prefix", "case": case, "K": K, "b": B, "tokens": TOKENS, "limit": limit}
    for name in ENGINES:
        row[name] = {f"over_{arm}": ratios(found[arm], found[name])["ratio"] for arm in ("sequential", "full")}
        row[name] |= {"cpu_s": summary([cpu for cpu, _, _ in found[name]]), "loss": round(found[name][-1][2], 6)}
    row["of_limit"] = round(row["cached"]["over_full"]["median"] / limit, 3)
    return row | {"fill_cpu_s": round(arms["cached"].fill, 3), "repeats": repeats, "threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE", default=CASES, help="all of them by default")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case in args.cases:
        print(json.dumps(measure(case, args.repeats)), flush=True)


if __name__ == "__main__":
    main()
