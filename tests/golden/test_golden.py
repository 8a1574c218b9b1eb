"""Loss curves that must not move. A change that is meant to alter numbers rewrites the file:

python tests/golden/test_golden.py
"""

import json
from pathlib import Path

import pytest

from fedwave import simulation
from fedwave.experiment import Experiment

FILE = Path(__file__).with_name("curves.json")
CELL = {"name": "cell", "scenario": "UMi", "scheduler": "round_robin"}
JOBS = {
    "digits-fedavg-cell": {
        "rounds": 10, "eval_every": 2, "task": {"name": "images"}, "network": CELL,
        "method": {"name": "fedavg", "local_optimizer": {"name": "sgd", "lr": 0.1}},
        "federation": {"name": "sync", "deadline_s": 0.5},
    },
    "digits-fedadam-4bit": {
        "rounds": 10, "eval_every": 2, "task": {"name": "images"}, "network": {"name": "ideal", "loss": 0.2},
        "method": {"name": "fedadam", "local_optimizer": {"name": "adamw", "lr": 3e-3}},
        "transform": [{"name": "quantize", "bits": 4}],
    },
    "toy-scaffold-topk": {
        "rounds": 10, "eval_every": 2, "task": {"name": "toy", "ragged": True}, "network": CELL,
        "method": {"name": "scaffold", "local_optimizer": {"name": "sgd", "lr": 0.05}},
        "transform": [{"name": "top_k", "fraction": 0.5}],
    },
    "toy-fedkseed": {
        "rounds": 10, "eval_every": 2, "task": {"name": "toy"}, "network": {"name": "ideal"},
        "method": {"name": "fedkseed", "pool": 128, "local_steps": 5, "local_optimizer": {"name": "sgd", "lr": 0.02}},
    },
}  # fmt: skip


def curve(job):
    records = list(simulation.stream(Experiment.parse(job)))
    return {
        "loss": [r.eval["loss"] for r in records if r.eval],
        "sim_time_s": records[-1].sim_time_s,
        "uplink_bits": sum(r.uplink_bits for r in records),
        "energy_j": sum(r.energy_j for r in records),
        "delivered": sum(r.delivered for r in records),
    }


@pytest.mark.parametrize("name", sorted(JOBS))
def test_curve(name):
    """Up to rounding: processors differ in the order of their sums."""
    expected = json.loads(FILE.read_text())[name]
    found = curve(JOBS[name])
    assert found["loss"] == pytest.approx(expected["loss"], rel=2e-4)
    for key in ("sim_time_s", "uplink_bits", "energy_j", "delivered"):
        assert found[key] == pytest.approx(expected[key], rel=1e-9)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: curve(job) for name, job in JOBS.items()}, indent=1) + "\n")
