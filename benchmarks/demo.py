"""The README's figures: the demo's job with three seeds, all its clients alone, and the same steps on pooled data.

python benchmarks/demo.py [--out runs/readme]      writes docs/demo.png, prints a table in Markdown (about 10 minutes)
"""

import argparse
import json
import statistics
from pathlib import Path

from fedwave.baselines import alone
from fedwave.demo import demo_job
from fedwave.experiment import Experiment
from fedwave.results.figures import loss_curve
from fedwave.results.format import data, duration, si
from fedwave.simulation import Simulation

ROUNDS, SEEDS = 6, (0, 1, 2)


def federated(seed: int, out: Path):
    folder = out / f"seed{seed}"
    # A run of an earlier call counts; one that was broken off goes on.
    simulation = Simulation.resume(folder) if folder.exists() else Simulation.start(demo_job(seed, ROUNDS), folder)
    for record in simulation.stream():
        print(json.dumps(record.to_dict()), flush=True)
    return simulation.result()


def pooled(seed: int) -> float:
    """All rows in one place, as many local steps as the federation makes in all (6 x 6 x 3), six fresh optimisers."""
    table = demo_job(seed, ROUNDS).to_table()
    table["task"]["partition"] = {"name": "iid", "clients": 1}
    table["method"]["local_steps"] = 18
    table |= {
        "transform": [],
        "network": {"name": "ideal"},
        "federation": {"name": "sync"},
        "eval_every": 0,
        "sampler": {"name": "uniform", "cohort": 1},
    }
    simulation = Simulation.start(Experiment.parse(table))
    return list(simulation.stream())[-1].eval["loss"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/readme"))
    out = parser.parse_args().out
    runs = [federated(seed, out) for seed in SEEDS]
    lonely = [m["loss"] for m in alone(demo_job(0, ROUNDS), clients=21, steps=3 * ROUNDS)]
    together = pooled(0)
    start = {"sim_time_s": 0.0, "uplink_bits": 0.0, "eval": runs[0].initial}
    references = {"before training": runs[0].initial["loss"], "each device alone (mean)": statistics.mean(lonely),
                  "all data in one place": together}  # fmt: skip
    loss_curve({"federated": [[start, *run.records] for run in runs]}, "docs/demo.png", references=references,
               label="held-out loss (nats per token)")  # fmt: skip
    print("| seed | after round 1 | 3 | 6 | delivered | simulated | up | down | energy |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed, run in zip(SEEDS, runs, strict=True):
        r = run.records
        total = {
            key: sum(row[key] for row in r)
            for key in ("uplink_bits", "downlink_bits", "energy_j", "delivered", "clients")
        }
        losses = " | ".join(f"{r[i]['eval']['loss']:.3f}" for i in (0, 2, 5))
        print(f"| {seed} | {losses} | {total['delivered']}/{total['clients']} | {duration(r[-1]['sim_time_s'])} | "
              f"{data(total['uplink_bits'])} | {data(total['downlink_bits'])} | "
              f"{si(total['energy_j'], 'J')} |")  # fmt: skip
    print(f"before {runs[0].initial['loss']:.3f}; alone mean {statistics.mean(lonely):.3f} "
          f"({min(lonely):.3f} to {max(lonely):.3f}, {len(lonely)} devices); pooled {together:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
