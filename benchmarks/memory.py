"""Peak memory against the number of clients: the same data and the same slots, 100 against 10,000 clients.

Each run is a process of its own; its peak resident set is the operating system's figure. In one pair of runs the cohort
is 100 clients in both, in the other it is every tenth client. One JSON line.

    python benchmarks/memory.py [--repeats 3]
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

ROWS = 20_000


def job(data: str, clients: int, cohort: int) -> dict:
    return {
        "rounds": 5,
        "eval_every": 0,
        "task": {"name": "images", "data": data, "batch_size": 10, "partition": {"name": "iid", "clients": clients}},
        "method": {"name": "fedavg", "local_steps": 4, "local_optimizer": {"name": "sgd", "lr": 0.1}},
        "sampler": {"name": "uniform", "cohort": cohort},
        "network": {"name": "cell"},
        "engine": {"name": "cohort", "max_clients": 50},
    }


def measure(data: str, clients: int, cohort: int, pipe) -> None:
    import torch

    from fedwave.experiment import Experiment
    from fedwave.simulation import run

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(Experiment.parse(job(data, clients, cohort)), Path(folder) / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send(peak / 1024 if sys.platform != "darwin" else peak / 1024**2)


def peak_mib(data: str, clients: int, cohort: int) -> float:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(data, clients, cohort, send))
    process.start()
    value = receive.recv()
    process.join()
    return value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "rows.npz")
        np.savez(data, x=rng.random((ROWS, 64), dtype=np.float32), y=rng.integers(0, 10, ROWS))
        runs: dict[str, list[float]] = {"100 of 100": [], "100 of 10000": [], "1000 of 10000": []}
        for _ in range(repeats):
            for name, peaks in runs.items():
                cohort, clients = (int(part) for part in name.split(" of "))
                peaks.append(peak_mib(data, clients, cohort))
    middle = {name: statistics.median(peaks) for name, peaks in runs.items()}
    ratios = {name: round(value / middle["100 of 100"], 3) for name, value in middle.items()}
    print(json.dumps({"benchmark": "memory", "peak_mib": {n: round(v, 1) for n, v in middle.items()}, "ratio": ratios,
                      "repeats": repeats, "slots": 50}))  # fmt: skip


if __name__ == "__main__":
    main()
