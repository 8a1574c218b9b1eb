"""A round of MiniLM with LoRA in Ray workers against the cohort engine in this process: wall seconds, interleaved.

A JSON line: median and range of each arm, the load of the machine before and after, and how much faster Ray is.
``cpu_s`` is what all processes of an arm spent, workers included: what other work on the machine disturbs least. Rounds
alone are timed, after one that starts the workers and builds their models.

    python benchmarks/engine_ray.py [--workers 2] [--clients 16] [--rows 256] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from engine_arms import Stacked, interleaved, job, minilm, ratios, summary
from engine_speed import ragged

from fedwave.experiment import Experiment
from fedwave.federation.setting import prepare


def arm(task: dict, clients: int, engine: dict) -> Stacked:
    experiment = Experiment.parse(job(task, clients=clients) | {"engine": engine})
    experiment.task.prepare(None)
    setting = experiment.setting()
    return Stacked(experiment, setting, prepare(setting, setting.world()))


def threaded(stacked: Stacked, threads: int) -> Callable[[], float]:
    """A round of ``stacked`` on so many threads of this process."""

    def run() -> float:
        torch.set_num_threads(threads)
        return stacked.run()

    return run


def counted(there: Stacked, spent: list[float]) -> Callable[[], float]:
    """A round in the workers; what they spent on it, and this process beside them, is appended to ``spent``."""
    pool: Any = there.session

    def cpu() -> float:
        workers = [psutil.Process(ray.get(begun)).cpu_times() for begun in pool.pool._begun]
        return time.process_time() + sum(times.user + times.system for times in workers)

    def run() -> float:
        before = cpu()
        loss = there.run()
        spent.append(cpu() - before)
        return loss

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        task = minilm(Path(folder), lengths=ragged(args.rows), batch=4)
        here, there = (
            arm(task, args.clients, engine) for engine in ({"name": "cohort"}, {"name": "ray", "workers": args.workers})
        )
        spent: list[float] = []
        calls = {
            "ray": counted(there, spent),
            "1 thread": threaded(here, 1),
            f"{args.workers} threads": threaded(here, args.workers),
        }
        found = interleaved(calls, args.repeats)
    load.append(os.getloadavg()[0])
    row = {
        "benchmark": "engine_ray",
        **vars(args),
        "cpus": len(os.sched_getaffinity(0)),
        "load": np.round(load, 1).tolist(),
    }
    row |= {f"{name}_s": summary([wall for _, wall, _ in runs]) for name, runs in found.items()}
    row |= {f"{name}_cpu_s": summary([cpu for cpu, _, _ in runs]) for name, runs in found.items()}
    row["ray_cpu_s"] = summary(spent[1:])
    row |= {f"ray_faster_than_{name}": ratios(found[name], found["ray"])["wall_ratio"] for name in list(calls)[1:]}
    row["loss"] = {name: round(runs[-1][2], 5) for name, runs in found.items()}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
