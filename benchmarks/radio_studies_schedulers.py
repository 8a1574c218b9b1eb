"""Two studies of schedulers, a JSON line each, with means and 95 % intervals over seeds.

``client_scheduling``: round robin, random and proportional fair (the registered one, which remembers throughput, and
the published one, which does not) choose 20 of 100 clients a round, after Yang et al.,
"Scheduling policies for federated learning in wireless networks", IEEE Trans. Commun. 68(1), 2020. Each chosen client
sends on a subchannel of its own at the rate of a SINR threshold, at once and within one fading state (Rayleigh, drawn
anew every round, known to the scheduler); its update counts where mean SINR x fading reaches the threshold. Mean SINRs
are those of an urban macro cell with open-loop power control. Training is real: digits, 100 clients of Dirichlet 0.5,
MLP 64-128-10, one local epoch, SGD 0.1. Metrics: updates heard a second; rounds and seconds to the target accuracy, by
the mean of the last three evaluations (counted as the whole run where it is not reached; how many runs reached it is
stated); accuracy at the end. Differences to random are paired by seed.

``equal_finish``: round time of the same uploads in the same cell under equal finish, static equal bandwidth (1/K each,
left idle by those that are done) and round robin (1/n to each of the n that are active). Devices need 1 to 10 s for
their training. Metric: from the end of the (free) broadcast to the last update heard; ratios are paired by seed.

    python benchmarks/radio_studies_schedulers.py [--seeds 10] [--rounds 80] [--target 0.8] [--study equal_finish]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from scipy import stats

import fedwave as fw
from fedwave.core.config import Decibel, build, part
from fedwave.core.keys import Key
from fedwave.core.types import Bools, Cohort, Compute, Delivery, Floats, Ints, Phase, Work, World
from fedwave.wireless.cells.coverage import Coverage
from fedwave.wireless.energy import FREE, Connection
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.network import Network
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.power import prb_hz
from fedwave.wireless.scheduler import Asked, Scheduler, best_of
from fedwave.wireless.sharing.rates import Rates

SUBCHANNELS, CLIENTS = 20, 100
SHARE = SUBCHANNELS / CLIENTS
POLICIES = {
    "random": {"name": "random", "share": SHARE},
    "round_robin": {"name": "round_robin", "share": SHARE},
    "proportional_fair": {"name": "proportional_fair", "share": SHARE},
}
THRESHOLDS_DB = {"low": -10.0, "middle": 3.0, "high": 12.0}
JOB = {
    "eval_every": 1,
    "task": {"name": "images", "batch_size": 10, "partition": {"name": "dirichlet", "alpha": 0.5, "clients": CLIENTS}},
    "method": {"name": "fedavg", "local_epochs": 1, "local_optimizer": {"name": "sgd", "lr": 0.1}},
    "sampler": {"name": "uniform", "cohort": CLIENTS},
}


@dataclass(frozen=True)
class Subchannels(Network):
    """A carrier in equal subchannels: those admitted send at the threshold's rate and are heard where SINR reaches it.

    Parameters
    ----------
    scheduler : chooses the clients of a round.
    threshold_db : SINR; the rate is ``B log2(1 + threshold)`` of a subchannel's share of the uplink.
    cell : geometry, link budget and power control.
    """

    scheduler: Annotated[Scheduler, part("scheduler")]
    threshold_db: Decibel
    cell: Annotated[Cell, part("network")] = field(default_factory=Cell)

    def place(self, n: int, key: Key) -> Floats:
        """As in the cell."""
        return self.cell.place(n, key)

    def deliver(
        self,
        world: World,
        cohort: Cohort,
        work: Work,
        compute: Compute,
        key: Key,
        *,
        static_key: Key,
        deadline_s: float | None,
        server_s: float = 0.0,
        server_j: float = 0.0,
    ) -> Delivery:
        """See :meth:`Network.deliver`; the broadcast is free and the radio too."""
        snr = self.snr(world.position_m[cohort.ids], cohort.ids, static_key)
        fading = -np.log(key.fold("fading").uniform(cohort.ids)[:, 0])
        bandwidth_hz = self.cell.prbs / SUBCHANNELS * prb_hz(self.cell.subcarrier_khz)
        rate = self.cell.budget.tdd_uplink_share * bandwidth_hz * np.log2(1.0 + 10.0 ** (self.threshold_db / 10.0))
        nothing, whole = np.zeros(len(cohort)), np.full(len(cohort), rate)
        asked = Asked(
            ids=cohort.ids,
            cell=np.zeros(len(cohort), dtype=np.int64),
            samples=cohort.samples,
            down_bits=nothing,
            up_bits=work.up_bits,
            compute_s=compute.seconds.sum(axis=0),
            compute_j=compute.joules.sum(axis=0),
            down_bps=whole,
            up_bps=bandwidth_hz * np.log2(1.0 + snr),
            snr=snr,
            fading=fading,
            radio_j=nothing,
            deadline_s=np.inf if deadline_s is None else deadline_s,
            memory=world.remembered(cohort.ids, self.scheduler.initial, "scheduler"),
            round=cohort.round,
        )
        admitted = self.scheduler.admit(asked, key.fold("admit"))
        links = Links(
            down=lambda start_s, bits: start_s,
            up=lambda start_s, bits: start_s + bits / rate,
            connection=Connection(0.0, 0.0, 0.0),
            energy=FREE,
            sinr_db=10.0 * np.log10(snr * fading),
            lost=snr * fading < 10.0 ** (self.threshold_db / 10.0),
            admitted=admitted,
        )
        done = run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)
        kept = self.scheduler.remember(asked, admitted, done.heard, done.radio_j + done.compute_j)
        return replace(done, remembered={f"scheduler.{name}": value for name, value in kept.items()})

    def snr(self, position_m: Floats, ids: Ints, static_key: Key) -> Floats:
        """Mean SINR on a subchannel, linear, ``[C]``."""
        coverage = Coverage(self.cell, static_key)
        seen = coverage.look(position_m, ids)
        still = np.full(len(ids), self.cell.budget.fading_speed_kmh / 3.6)
        radio = coverage.radio(seen, seen.serving, still, coverage.background)
        blocks = np.array([self.cell.prbs / SUBCHANNELS])
        return 10.0 ** ((radio.up_sinr_db(blocks)[:, 0] - self.cell.budget.implementation_loss_db) / 10.0)


@dataclass(frozen=True)
class BestMoment(Scheduler):
    """PF as Yang et al. define it: the largest SINR of the moment over its mean, whoever was served before."""

    def admit(self, asked: Asked, key: Key) -> Bools:
        """The largest fading."""
        return best_of(asked.fading, asked, SHARE)

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """One each."""
        return np.ones(len(bits))


@dataclass(frozen=True)
class EqualBandwidth(Scheduler):
    """1/K of the carrier for each of K transfers; nobody takes up what another leaves."""

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """1/K each."""
        return np.full(len(bits), 1.0 / len(bits))

    def shares(self, weight: Floats, active: Bools) -> Floats:
        """As claimed."""
        return weight


def interval(values) -> dict:
    """Mean and half-width of the 95 % interval (Student's t)."""
    values = np.asarray(values, dtype=float)
    half = (
        stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    )
    return {"mean": float(f"{values.mean():.4g}"), "ci95": float(f"{half:.2g}") if np.isfinite(half) else None}


def trained(scheduler: Scheduler, threshold_db: float, seed: int, rounds: int, target: float) -> dict:
    """One run: what it took and what came of it."""
    experiment = fw.Experiment.parse({**JOB, "seed": seed, "rounds": rounds})
    network = Subchannels(scheduler, threshold_db)
    records = list(fw.stream(replace(experiment, network=network)))
    accuracy = np.array([record.eval["accuracy"] for record in records if record.eval])
    records = records[-len(accuracy) :]
    smooth = np.convolve(accuracy, np.full(3, 1.0 / 3.0), mode="valid")
    reached = np.flatnonzero(smooth >= target)
    at = int(reached[0]) + 2 if len(reached) else len(accuracy) - 1
    return {
        "heard_share": sum(record.delivered for record in records) / (len(records) * SUBCHANNELS),
        "updates_per_s": sum(record.delivered for record in records) / records[-1].sim_time_s,
        "rounds_to_target": at + 1.0,
        "seconds_to_target": records[at].sim_time_s,
        "accuracy": float(smooth[-1]),
        "reached": bool(len(reached)),
    }


def client_scheduling(seeds: int, rounds: int, target: float) -> dict:
    """Study (a)."""
    schedulers = {name: build("scheduler", table) for name, table in POLICIES.items()}
    schedulers["proportional_fair_of_yang"] = BestMoment()
    table: dict = {}
    for level, threshold_db in THRESHOLDS_DB.items():
        runs = {
            name: [trained(scheduler, threshold_db, seed, rounds, target) for seed in range(seeds)]
            for name, scheduler in schedulers.items()
        }
        table[level] = {"threshold_db": threshold_db}
        for name, own in runs.items():
            numbers = {key: [run[key] for run in own] for key in own[0]}
            reached = sum(numbers.pop("reached"))
            row: dict = {key: interval(values) for key, values in numbers.items()}
            if name != "random":
                for key in ("updates_per_s", "rounds_to_target", "accuracy"):
                    row[f"{key}_less_random"] = interval(
                        [a[key] - b[key] for a, b in zip(own, runs["random"], strict=True)]
                    )
            table[level][name] = {**row, "reached_target": f"{reached}/{seeds}"}
    return {
        "study": "client_scheduling", "clients": CLIENTS, "chosen": SUBCHANNELS, "rounds": rounds,
        "target_accuracy": target, "seeds": seeds, "results": table,
    }  # fmt: skip


def round_s(scheduler: Scheduler, count: int, bits: float, seed: int) -> float:
    """Uplink and training of one round in a cell, all heard; the worst clients of the cell have a link."""
    cell, key = Cell(scheduler=scheduler), Key(seed)
    places = cell.place(10 * count, key.fold("place"))
    coverage = Coverage(cell, key.fold("static"))
    seen = coverage.look(places, np.arange(len(places)))
    radio = coverage.radio(seen, seen.serving, np.full(len(places), 0.8), coverage.background)
    ids = np.flatnonzero(radio.up_full_bps > 1e5)[:count]
    zeros = np.zeros(count, dtype=np.int64)
    phase = Phase(np.zeros(count), np.zeros(count), np.full(count, bits))
    seconds = 10.0 ** key.fold("compute").uniform(ids)[:, 0]
    compute = Compute(
        seconds[None], seconds[None], np.zeros(count), np.ones(count, bool), np.ones(count, bool), np.zeros(count)
    )
    world = World(0, 0.0, np.full(len(places), np.inf), places, np.full(len(places), -1), np.zeros(0))
    done = cell.deliver(
        world,
        Cohort(0, ids, np.ones(count), zeros, zeros, zeros, zeros, zeros, zeros, zeros),
        Work((phase,), np.zeros(count), np.zeros(count)),
        compute,
        key.fold("round", 0),
        static_key=key.fold("static"),
        deadline_s=None,
    )
    return float(done.round_s)


def equal_finish(seeds: int) -> dict:
    """Study (b)."""
    ways = {"equal_finish": build("scheduler", "equal_finish"), "equal_bandwidth": EqualBandwidth()}
    ways["round_robin"] = build("scheduler", "round_robin")
    rows = []
    for count in (5, 20, 50):
        for megabytes in (0.1, 9.0):
            times = {
                name: np.array([round_s(way, count, 8e6 * megabytes, seed) for seed in range(seeds)])
                for name, way in ways.items()
            }
            row: dict = {"clients": count, "upload_mb": megabytes}
            for name, values in times.items():
                row[f"{name}_s"] = interval(values)
                if name != "equal_finish":
                    row[f"{name}_over_equal_finish"] = interval(values / times["equal_finish"])
            rows.append(row)
    return {"study": "equal_finish", "seeds": seeds, "results": rows}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--study", choices=("both", "equal_finish", "client_scheduling"), default="both")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.study != "client_scheduling":
        print(json.dumps(equal_finish(args.seeds)), flush=True)
    if args.study != "equal_finish":
        print(json.dumps(client_scheduling(args.seeds, args.rounds, args.target)), flush=True)


if __name__ == "__main__":
    main()
