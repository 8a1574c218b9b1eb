"""Plans against simulation: one JSON line a job.

    python benchmarks/plan_accuracy.py [--seeds 50] [JOB ...]

A plan is made of a job with seed 0; then the job's rounds are simulated with as many other seeds: other places,
shadows, devices, data and cohorts. Rounds are simulated without their training, which changes none of the numbers
compared (tests/contracts holds that to equality, method by method). Per quantity (seconds of a round; joules of a
round, mean over its clients): the plan's mean over the simulated one, the width p95 / p5 of the plan's range, and the
share of the simulated rounds within it. ``bits_exact``: every client that is heard moves exactly the bits that the plan
says, or (``bits_in_range``) a number in the range that it states.

``WIDE`` are jobs whose rounds differ too much for a range of a factor of two; docs/howto/plan.md says why.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.experiment import Experiment
from fedwave.federation.sync import rehearse
from fedwave.planner import Plan, plan
from fedwave.testing import tiny_bert, tiny_llama

SEEDS = 50
_FIRST_SEED = 1_000
WITHIN, WIDEST, COVERS = 0.05, 2.0, (0.85, 0.99)

_BOARD = {
    "peak_flops": 2e9, "memory_bytes": 1e9, "memory_bandwidth_bytes_s": 2e9, "active_power_w": 2.0, "idle_power_w": 0.3,
}  # fmt: skip
_SLOW = _BOARD | {"peak_flops": 2e5}
_PHONES = {"mix": {"phone": 0.6, "phone-mid": 0.4}}
_PIS = {"mix": {"raspberry-pi-5": 0.7, "jetson-orin-nano": 0.3}}
_BOARDS = {"mix": {"board": 1.0}, "device": {"board": _BOARD}}
_MIXED = {"mix": {"board": 0.5, "raspberry-pi-zero-2-w": 0.5}, "device": {"board": _BOARD}}
_SGD = {"name": "sgd", "lr": 0.05}
_8_BITS = {"name": "quantize", "bits": 8}


def jobs(folder: Path) -> tuple[dict[str, Experiment], dict[str, Experiment]]:
    """The jobs, and those that are too variable; their models and data are written to ``folder``."""
    size: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    names = {"model": str(tiny_llama(folder / "llama", **size)), "data": str(_rows(folder / "rows.csv"))}
    encoder = names | {"model": str(tiny_bert(folder / "bert", **size))}
    trace = {"name": "trace", "file": str(_trace(folder / "trace.csv"))}
    common = {"adapter": {"name": "lora", "rank": 16}, "max_tokens": 48, "batch_size": 4}

    def lm(clients: int) -> dict[str, Any]:
        return {"name": "causal-lm", **names, **common, "partition": _dirichlet(clients)}

    def text(clients: int) -> dict[str, Any]:
        return {"name": "text-classification", **encoder, **common, "partition": _dirichlet(clients)}

    def images(clients: int) -> dict[str, Any]:
        return {"name": "images", "partition": _dirichlet(clients)}

    tables = {
        "fedavg full, fixed": (images(40), {"name": "fedavg"}, "fixed", _PHONES, {}),
        "fedavg lora 8 bits, 5g-uma": (lm(200), _steps("fedavg", 12), "5g-uma", _BOARDS, {"transform": [_8_BITS]}),
        "fedavg lora 8 bits, 5g-umi": (lm(100), _steps("fedavg", 4), "5g-umi", _BOARDS, {"transform": [_8_BITS]}),
        "fedadam lora, 5g-indoor": (lm(100), _steps("fedadam", 4), "5g-indoor", _MIXED, {}),
        "fedprox lora top-k 8 bits, 5g-mmwave": (
            lm(100), _steps("fedprox", 8), "5g-mmwave", _MIXED,
            {"transform": [{"name": "top_k", "fraction": 0.1}, _8_BITS]},
        ),
        "ffa_lora, lte": (text(300), _steps("ffa_lora", 4), "lte", _PHONES, {"sampler": {"cohort": 100}}),
        "ffa_lora, wifi-6-crowded": (text(100), _steps("ffa_lora", 4), "wifi-6-crowded", _PHONES, {}),
        "flora, wifi-6": (text(40), _steps("flora", 4), "wifi-6", _BOARDS, {}),
        "fedkseed 8 bits, nb-iot": (
            lm(200), _steps("fedkseed", 4) | {"pool": 256, "local_optimizer": _SGD}, "nb-iot", _PIS,
            {"transform": [_8_BITS], "sampler": {"cohort": 100}},
        ),
        "scaffold, leo": (
            images(80), {"name": "scaffold", "local_optimizer": _SGD}, "leo", _PIS, {"sampler": {"cohort": 25}},
        ),
        "distill, wifi-6": (images(40), {"name": "distill"}, "wifi-6", _PHONES, {}),
        "ffa_lora, trace": (text(200), _steps("ffa_lora", 4), trace, _MIXED, {"sampler": {"cohort": 50}}),
        "fedavg full over the air, 5g-umi": (
            images(100), {"name": "fedavg"}, {"name": "5g-umi", "uplink": "aircomp"},
            {"mix": {"board": 1.0}, "device": {"board": _SLOW}}, {},
        ),
    }  # fmt: skip
    wide = {
        "fedavg lora, 5g-uma": (lm(40), _steps("fedavg", 4), "5g-uma", _PHONES, {}),
        "fedavg lora, 5g-uma, 100 of 300": (
            lm(300), _steps("fedavg", 4), "5g-uma", _PHONES, {"sampler": {"cohort": 100}},
        ),
        "ffa_lora, 5g-uma-multicell": (text(40), _steps("ffa_lora", 4), "5g-uma-multicell", _PHONES, {}),
        "distill, 5g-rma": (images(40), {"name": "distill"}, "5g-rma", _PHONES, {}),
        "flora, wifi-6-crowded": (text(40), _steps("flora", 4), "wifi-6-crowded", _PHONES, {}),
    }  # fmt: skip
    return {n: _job(*t) for n, t in tables.items()}, {n: _job(*t) for n, t in wide.items()}


def measure(name: str, job: Experiment, seeds: int = SEEDS) -> dict[str, Any]:
    """The plan of ``job`` against its rounds with ``seeds`` other seeds."""
    started = time.perf_counter()
    found = plan(job)
    spent_s = time.perf_counter() - started
    rounds = []
    for number in range(seeds):
        setting = replace(job, seed=_FIRST_SEED + number).setting()
        rounds += list(rehearse(setting, job.rounds))
    each_j = [(r.energy_compute_j + r.energy_radio_j) / max(r.clients, 1) for r, _ in rounds]
    return {
        "benchmark": "plan_accuracy",
        "job": name,
        "seeds": seeds,
        "rounds": job.rounds,
        "planned_seeds": found.seeds,
        "planned_rounds": found.rehearsed,
        "plan_s": round(spent_s, 2),
        "round_s": _against(found, "round_s", [r.round_s for r, _ in rounds]),
        "joules": _against(found, "energy_j_per_client", each_j),
        **_bits(found, rounds),
        "delivered": round(float(np.mean([r.delivered / max(r.clients, 1) for r, _ in rounds])), 3),
    }


def _against(found: Plan, name: str, simulated: list[float]) -> dict[str, float]:
    values, one = np.array(simulated), found.ranges[name]
    within = (values >= one.p5) & (values <= one.p95)
    return {
        "planned": float(f"{getattr(found, name):.4g}"),
        "off": round(float(getattr(found, name) / values.mean() - 1.0), 4),
        "width": round(one.p95 / one.p5, 3),
        "covered": round(float(within.mean()), 3),
    }


def _bits(found: Plan, rounds: list[Any]) -> dict[str, bool]:
    """Whether the bits of every client that was heard are the planned ones, or in the range that the plan states."""
    exact, inside = True, True
    for way, sent in (("uplink", "up_sent_bits"), ("downlink", "down_sent_bits")):
        one, mean = found.ranges[f"{way}_bits_per_client"], getattr(found, f"{way}_bits_per_client")
        bits = np.concatenate([getattr(turn.delivery, sent)[turn.delivery.heard] for _, turn in rounds])
        exact &= bool((bits == mean).all())
        inside &= bool((bits >= one.low).all() and (bits <= one.high).all())
    return {"bits_exact": exact, "bits_in_range": inside}


def _job(task: dict[str, Any], method: dict[str, Any], network: Any, fleet: dict[str, Any], rest: Any) -> Experiment:
    table = {"rounds": 12, "task": task, "method": method, "network": network, "fleet": fleet}
    return Experiment.parse({**table, "sampler": {"cohort": 20}, **rest})


def _dirichlet(clients: int) -> dict[str, Any]:
    return {"name": "dirichlet", "alpha": 1.0, "clients": clients}


def _steps(method: str, steps: int) -> dict[str, Any]:
    return {"name": method, "local_steps": steps}


def _rows(path: Path) -> Path:
    """Six hundred texts of two to six words, in four classes."""
    words = np.random.default_rng(0).integers(1, 6, 600)
    lines = [f"cell {i} {'reports ' * int(n)},c{i % 4}" for i, n in enumerate(words)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def _trace(path: Path) -> Path:
    """Five minutes of a link: log-normal rates around 8 Mbit/s up, a new one every second."""
    up = np.exp(np.random.default_rng(1).normal(np.log(8.0), 0.6, 300))
    lines = [f"{second},{rate:.3f},{5 * rate:.3f}" for second, rate in enumerate(up)]
    path.write_text("time_s,uplink_mbps,downlink_mbps\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="JOB")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        held, wide = jobs(Path(folder))
        for name, job in (held | wide).items():
            if not options.names or name in options.names:
                print(json.dumps(measure(name, job, options.seeds) | {"wide": name in wide}), flush=True)


if __name__ == "__main__":
    main()
