"""Seconds that a suitability map takes: 60 models, 8 methods, 8 networks, 8 devices. Prints one JSON line, medians.

    python benchmarks/plan_map.py [--runs 3] [--check 200]

``--check N`` plans N cells drawn at random as well, and says how far the map is from these plans: from those of the
same rounds of the job's own seed (``same_rounds``), and from those that ``fedwave plan`` prints (``several_seeds``).
Run it on one core (``OMP_NUM_THREADS=1``); CPU seconds do not count what other programs take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.experiment import Experiment
from fedwave.planner import Plan, plan
from fedwave.planner.map import Axes, Map, axes_of, suitability
from fedwave.planner.map.grid import ROUNDS

JOB = Path(__file__).resolve().parent.parent / "scripts" / "suitability.toml"
METHODS = "full,lora,ffa-lora,lora-last4,lora-8bit,flora,fedkseed,local"
NETWORKS = "5g-uma,5g-umi,5g-rma,5g-mmwave,lte,wifi-6,leo,nb-iot"
DEVICES = "raspberry-pi-zero-2-w,raspberry-pi-5,phone-mid,phone,phone-2025,laptop,jetson-orin-nano,vehicle"


def cells(job: Experiment) -> Axes:
    """The axes, every model but the largest."""
    found = axes_of(job.to_table(), methods=METHODS, networks=NETWORKS, devices=DEVICES)
    return replace(found, models=found.models[:60])


def check(found: Map, count: int, seed: int = 0) -> dict[str, Any]:
    """The map against plans of the same cells: of the rounds that it has seen, and as ``fedwave plan`` makes them."""
    rng, names, same, full = np.random.default_rng(seed), found.axes, [], []
    while len(same) < count:
        m, r, n, d = (int(rng.integers(size)) for size in names.shape)
        cell = found.cell(m, r, n, d)
        if cell["verdict"] == "impossible":
            continue
        job = found.jobs.experiment(names.models[m], names.methods[r], names.networks[n], names.devices[d])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            same.append(compared(cell, plan(job, rounds=ROUNDS)))
            full.append(compared(cell, plan(job)))
    return {"checked": count, "same_rounds": summary(same), "several_seeds": summary(full)}


def compared(cell: dict[str, Any], planned: Plan) -> dict[str, float]:
    """Of one cell: what agrees with its plan, and how far the seconds of a round are off."""
    bits = [cell[f"{way}link_bits_per_client"] for way in ("up", "down")]
    there = [planned.uplink_bits_per_client, planned.downlink_bits_per_client]
    return {
        "same_verdict": float(cell["verdict"] == planned.verdict),
        "same_binding": float(cell["binding"] == planned.binding),
        "same_bits": float(np.allclose(bits, there, rtol=1e-12)),
        "round_s_off": abs(cell["round_s"] / planned.round_s - 1.0),
    }


def summary(pairs: list[dict[str, float]]) -> dict[str, float]:
    """Shares of the cells that agree, and quantiles of how far rounds are off."""
    off = [one["round_s_off"] for one in pairs]
    agree = {name: float(np.mean([one[name] for one in pairs])) for name in pairs[0] if name != "round_s_off"}
    return agree | {f"round_s_off_p{q}": round(float(np.quantile(off, q / 100)), 4) for q in (50, 90, 99, 100)}


def main() -> None:
    """The arguments, the runs, the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--check", type=int, default=0)
    asked = parser.parse_args()
    job = Experiment.load(JOB)
    wall, cpu, found = [], [], None
    for _ in range(asked.runs):
        started, spent = time.perf_counter(), time.process_time()
        found = suitability(job, cells(job))
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - spent)
    assert found is not None
    line = {"benchmark": "plan_map", "cells": found.verdict.size, "runs": asked.runs}
    line |= {"wall_s": round(statistics.median(wall), 2), "cpu_s": round(statistics.median(cpu), 2)}
    print(json.dumps(line | (check(found, asked.check) if asked.check else {})))


if __name__ == "__main__":
    main()
