"""Sums in the air against digital uploads: seconds, joules and final loss over seeds, with 95 % intervals; a JSON line.

Digits among 20 clients (Dirichlet 0.5), ten a round, MLP 64-128-10 (9,610 values), two local epochs, 40 rounds, in an
urban micro and an urban macro cell. Arms: digital float32 and 8 bits (equal finish), and sums in the air with truncated
inversion (silent below a tenth of the mean gain), full inversion (zero forcing) and the optimal threshold; truncated
also without clients whose mean SNR is below -10 dB. Channel error 1 %, phase error 0.1 rad. Metrics at
the end of the run: simulated seconds; joules of the clients' radios, by the component model, which charges the power
that each client really sends with; held-out loss and accuracy; share of updates that counted. So far rounds are equal;
then seconds are: the loss of each arm at the time at which the truncated one is done.

    python benchmarks/radio_studies_air.py [--seeds 5] [--rounds 40]
"""

import argparse
import json

import numpy as np
import torch
from radio_studies_schedulers import interval

import fedwave as fw

AIR = {"name": "aircomp", "threshold": 0.1, "csi_error": 0.01, "phase_error_rad": 0.1}
EIGHT_BITS = {"transform": [{"name": "quantize", "bits": 8}]}
ARMS = {
    "digital": ({"uplink": {"name": "digital"}}, {}),
    "digital_8_bits": ({"uplink": {"name": "digital"}}, EIGHT_BITS),
    "truncated": ({"uplink": {**AIR, "policy": "truncated"}}, {}),
    "truncated_least_snr": ({"uplink": {**AIR, "policy": "truncated", "least_snr_db": -10.0}}, {}),
    "zero_forcing": ({"uplink": {**AIR, "policy": "zero_forcing"}}, {}),
    "optimal": ({"uplink": {**AIR, "policy": "optimal"}}, {}),
}
JOB = {
    "eval_every": 1,
    "task": {"name": "images", "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 20}},
    "method": {"name": "fedavg", "local_epochs": 2},
    "sampler": {"name": "uniform", "cohort": 10},
    "fleet": {"mix": {"phone": 1.0}},
}
DIVERGED = 100.0  # nats; a loss beyond it is reported as this, so that one run does not make up a whole mean


def run(scenario: str, arm: str, seed: int, rounds: int) -> dict:
    """One run: its end, and its losses over time."""
    uplink, rest = ARMS[arm]
    network = {"name": "cell", "scenario": scenario, "energy": {"name": "components"}, **uplink}
    records = list(fw.stream(fw.Experiment.parse({**JOB, **rest, "seed": seed, "rounds": rounds, "network": network})))
    evaluated = [record for record in records if record.eval]
    losses = [min(float(np.nan_to_num(record.eval["loss"], nan=DIVERGED)), DIVERGED) for record in evaluated]
    turns = [record for record in records if record.clients]
    return {
        "seconds": records[-1].sim_time_s,
        "uplink_s": float(np.mean([record.uplink_s for record in turns])),
        "radio_j": sum(record.energy_radio_j for record in turns),
        "loss": losses[-1],
        "accuracy": evaluated[-1].eval["accuracy"],
        "heard": sum(record.delivered for record in turns) / sum(record.clients for record in turns),
        "at_s": [record.sim_time_s for record in evaluated],
        "losses": losses,
    }


def loss_at(own: dict, seconds: float) -> float:
    """Loss of the last evaluation by then; before the first, that of the start."""
    before = [loss for at, loss in zip(own["at_s"], own["losses"], strict=True) if at <= seconds]
    return before[-1] if before else own["losses"][0]


def study(seeds: int, rounds: int) -> dict:
    table: dict = {}
    for scenario in ("UMi", "UMa"):
        runs = {arm: [run(scenario, arm, seed, rounds) for seed in range(seeds)] for arm in ARMS}
        table[scenario] = {}
        for arm, own in runs.items():
            numbers = {name: [each[name] for each in own] for name in own[0] if name not in ("at_s", "losses")}
            row: dict = {name: interval(values) for name, values in numbers.items()}
            row["diverged"] = f"{sum(value >= DIVERGED for value in numbers['loss'])}/{seeds}"
            then = [loss_at(each, truncated["seconds"]) for each, truncated in zip(own, runs["truncated"], strict=True)]
            table[scenario][arm] = {**row, "loss_when_truncated_is_done": interval(then)}
    return {"study": "sums_in_the_air", "rounds": rounds, "seeds": seeds, "results": table}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(study(args.seeds, args.rounds)))


if __name__ == "__main__":
    main()
