"""The engine against sequential PEFT training on one thread: ratios of interleaved runs, a JSON line per case.

Both arms train the same clients on the same rows for the same steps (``engine_arms``). ``ratio`` is sequential over
fedwave in CPU seconds; above 1 fedwave is faster. ``target`` is what the engine is built to reach.

    python benchmarks/engine_speed.py [CASE ...] [--repeats 5] [--engine '{"token_budget": 8192}'] [--list]

``--engine`` replaces entries of the job's ``[engine]`` table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from engine_arms import arms, interleaved, job, llama, minilm, mlp, ratios, summary

K, SGD = 16, {"name": "sgd", "lr": 0.1}


def ragged(rows: int) -> np.ndarray:
    """Lengths of texts: lognormal, median 24 tokens, at most 128."""
    drawn = np.random.default_rng(2).lognormal(np.log(24), 0.7, rows)
    return np.clip(drawn, 4, 128).astype(np.int64)


def minilm_case(folder: Path, lengths: np.ndarray, batch: int, engine: dict, **task: object) -> dict:
    return job({**minilm(folder, lengths=lengths, batch=batch), **task}, clients=K, engine=engine)


def llama_case(folder: Path, batch: int, engine: dict) -> dict:
    return job(llama(folder, rows=K * batch * 8, tokens=32, batch=batch), clients=K, engine=engine)


SKEWED = {"name": "dirichlet", "alpha": 0.5, "clients": K}
CASES: dict[str, tuple[float | None, Callable[[Path, dict], dict]]] = {
    "mlp-k100-b10-adamw": (5.0, lambda f, e: job(mlp(f, rows=5_000), clients=100, engine=e)),
    "mlp-k100-b10-sgd": (5.0, lambda f, e: job(mlp(f, rows=5_000), clients=100, engine=e, optimizer=SGD)),
    "llama-d64-k16-s32-b1": (4.0, lambda f, e: llama_case(f, 1, e)),
    "llama-d64-k16-s32-b4": (2.5, lambda f, e: llama_case(f, 4, e)),
    "minilm-k16-s32-b1": (1.8, lambda f, e: minilm_case(f, np.full(K * 3, 32), 1, e)),
    "minilm-k16-s64-b4": (1.1, lambda f, e: minilm_case(f, np.full(K * 4, 64), 4, e)),
    "minilm-k16-ragged-b4": (1.2, lambda f, e: minilm_case(f, ragged(K * 8), 4, e)),
    "minilm-k16-ragged-steps-b4": (None, lambda f, e: minilm_case(f, ragged(K * 8), 4, e, partition=SKEWED)),
}  # fmt: skip


def measure(name: str, repeats: int, engine: dict) -> dict:
    target, make = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        sequential, stacked = arms(make(Path(folder), engine))
        found = interleaved({"sequential": sequential.run, "fedwave": stacked.run}, repeats)
    row = {"benchmark": "engine_speed", "case": name, "target": target}
    row |= ratios(found["sequential"], found["fedwave"])
    row |= {f"{arm}_cpu_s": summary([cpu for cpu, _, _ in runs], 4) for arm, runs in found.items()}
    row["steps"] = int(sequential.cohort.steps.sum())
    row["loss"] = {arm: round(runs[-1][2], 4) for arm, runs in found.items()}
    return row | {"repeats": repeats, "threads": 1, **({"engine": engine} if engine else {})}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all of them by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engine", type=json.loads, default={})
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.list or set(args.cases) - set(CASES):
        parser.exit(0 if args.list else 2, "\n".join(CASES) + "\n")
    torch.set_num_threads(1)
    for name in args.cases or CASES:
        print(json.dumps(measure(name, args.repeats, args.engine)), flush=True)


if __name__ == "__main__":
    main()
