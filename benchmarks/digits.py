"""The peers' job with the wireless model on, against a bare PyTorch loop: ratios of interleaved runs, one JSON line.

scikit-learn digits (360 held out), 100 clients, label-Dirichlet 0.5, cohort 10, MLP 64-128-10, one local epoch,
batch 10, SGD 0.1, 50 rounds, one thread, imports warm. The bare loop trains the same clients on the same
rows, one after another.

    python benchmarks/digits.py [--repeats 5]
"""

import argparse
import json
import statistics
import tempfile
import time

import numpy as np
import torch
from torch import nn

from fedwave.experiment import Experiment
from fedwave.federation import sync
from fedwave.federation.setting import prepare
from fedwave.results.memory_store import MemoryStore
from fedwave.simulation import Simulation, build_session

ROUNDS = 50
JOB = {
    "rounds": ROUNDS,
    "eval_every": 0,
    "task": {"name": "images", "batch_size": 10, "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 100}},
    "method": {"name": "fedavg", "local_epochs": 1, "local_optimizer": {"name": "sgd", "lr": 0.1}},
    "sampler": {"name": "uniform", "cohort": 10},
    "network": {"name": "cell"},
}


def bare(data: dict, cohorts: list[np.ndarray]) -> float:
    """Federated averaging as one would write it in an afternoon; seconds of its loop."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    shared = [p.detach().clone() for p in model.parameters()]
    loss_of = nn.CrossEntropyLoss()
    started = time.perf_counter()
    for ids in cohorts:
        total, mass = [torch.zeros_like(p) for p in shared], 0
        for client in ids:
            with torch.no_grad():
                for p, s in zip(model.parameters(), shared, strict=True):
                    p.copy_(s)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            x, y = data["x"][client], data["y"][client]
            order = torch.randperm(len(x))
            for at in range(0, len(x), 10):
                rows = order[at : at + 10]
                optimizer.zero_grad()
                loss_of(model(x[rows]), y[rows]).backward()
                optimizer.step()
            mass += len(x)
            for t, p in zip(total, model.parameters(), strict=True):
                t += len(x) * p.detach()
        shared = [t / mass for t in total]
    return time.perf_counter() - started


def joined(experiment: Experiment, setting, session, out) -> tuple[float, list]:
    """fedwave's rounds, radio, devices, ledger and run folder included; seconds of its loop."""
    folder = None
    if out:
        from fedwave.results.run_folder import RunFolder

        folder = RunFolder(out).create(experiment.to_toml(), {})
    store = MemoryStore(None, session.memory_leaves)
    state = sync.begin(setting, session)
    simulation = Simulation(experiment, setting, session, store, setting.world(), state, {}, folder)
    started = time.perf_counter()
    records = list(simulation.stream())
    return time.perf_counter() - started, records


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    experiment = Experiment.parse(JOB)
    setting = experiment.setting()
    session = build_session(experiment, setting)
    learner = session.learner
    rows = [learner.order[learner.offsets[c] : learner.offsets[c + 1]] for c in range(learner.clients)]
    batches = [learner.batch(r) for r in rows]
    data = {"x": [b["x"] for b in batches], "y": [b["label"] for b in batches]}
    world, cohorts = setting.world(), []
    for _ in range(ROUNDS):
        turn = prepare(setting, world)
        cohorts.append(turn.cohort.ids)
        world = world.after(turn.cohort, turn.delivery, 0.0)
    ours, theirs, accuracy = [], [], 0.0
    for repeat in range(repeats + 1):  # the first pair warms up
        with tempfile.TemporaryDirectory() as folder:
            seconds, records = joined(experiment, setting, session, folder)
        other = bare(data, cohorts)
        if repeat:
            ours.append(seconds)
            theirs.append(other)
            accuracy = records[-1].eval["accuracy"]
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        json.dumps(
            {
                "benchmark": "digits",
                "fedwave_s": round(statistics.median(ours), 4),
                "bare_s": round(statistics.median(theirs), 4),
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
                "repeats": repeats,
                "accuracy": round(accuracy, 4),
                "threads": 1,
            }
        )
    )


if __name__ == "__main__":
    main()
