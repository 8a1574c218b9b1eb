"""Seconds that a suitability map takes: 60 models, 8 methods, 8 networks, 8 devices. Prints one JSON line, medians.

    python benchmarks/plan_map.py [--runs 3] [--check 200]

``--check N`` plans N cells drawn at random by themselves as well, and says how far the map is from these plans.
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
from fedwave.planner import plan
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
    """The map against plans of the same cells."""
    rng, names = np.random.default_rng(seed), found.axes
    verdict, binding, bits, seconds = [], [], [], []
    while len(verdict) < count:
        at = tuple(int(rng.integers(size)) for size in names.shape)
        cell = found.cell(*at)
        if cell["verdict"] == "impossible":
            continue
        m, r, n, d = at
        job = found.jobs.experiment(names.models[m], names.methods[r], names.networks[n], names.devices[d])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            planned = plan(job, rounds=ROUNDS)
        verdict.append(cell["verdict"] == planned.verdict)
        binding.append(cell["binding"] == planned.binding)
        bits.append(
            np.allclose(
                [cell["uplink_bits_per_client"], cell["downlink_bits_per_client"]],
                [planned.uplink_bits_per_client, planned.downlink_bits_per_client],
                rtol=1e-12,
            )
        )
        seconds.append(abs(cell["round_s"] / planned.round_s - 1.0))
    return {
        "checked": count,
        "same_verdict": float(np.mean(verdict)),
        "same_binding": float(np.mean(binding)),
        "same_bits": float(np.mean(bits)),
        **{f"round_s_off_p{q}": round(float(np.quantile(seconds, q / 100)), 4) for q in (50, 90, 99, 100)},
    }


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
