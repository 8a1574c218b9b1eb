"""One job in fedwave with the wireless model on, in a bare PyTorch loop, in pfl and in Flower: a JSON line per cohort.

scikit-learn digits (360 held out), 100 clients, label-Dirichlet 0.5, MLP 64-128-10, one local epoch, batch 10, SGD 0.1,
50 rounds; everybody trains the same clients on the same rows. Each arm is a process of its own, runs interleaved:
``loop_s`` the rounds alone, imports done and after one whole loop that warms up; ``loop_cpu_s`` their CPU seconds in
the process and all below it; ``command_s`` the whole process, the warm-up included; ``rss_mib`` the peak sum over the
process tree, pages shared by several counted in each. What is below a process is read from ``/proc``, so outside Linux
``rss_mib`` is 0 and Flower's CPU seconds lack its actors. ``faster_than_bare`` compares loops,
``faster_than_bare_cpu`` their CPU seconds, which other processes disturb least. fedwave's loop includes radio, devices,
ledger and run folder, the final evaluation and the export.

    python benchmarks/peers.py [--repeats 3] [--cohorts 10 100] [--pfl-python PATH] [--flower-python PATH]

pfl and Flower want older releases of packages than fedwave's environment has, so each has one of its own, made
beforehand with Python 3.11 (torch first: the build that fedwave's environment has, not the newest):

    python3.11 -m venv pfl-env
    pfl-env/bin/pip install torch==2.13.0
    pfl-env/bin/pip install 'pfl[pytorch]==0.6.0'

    python3.11 -m venv flower-env
    flower-env/bin/pip install torch==2.13.0
    flower-env/bin/pip install 'flwr[simulation]==1.41.0'

An arm whose environment is not named, does not run or lacks a package is left out, with the reason.

What differs. pfl keeps a client's batches as they lie, cut once, where the others shuffle them every round; it
evaluates its first cohort, which it cannot leave out. Flower draws its own cohorts of the same size, and works in two
Ray actors, so on two cores at a time, where the others have one; between its steps it sleeps up to 0.1 s at a time,
which weighs on short rounds and costs no CPU. One thread a process and one core a client are
set here for every arm: by itself pfl leaves torch a thread per core, and Flower takes two cores a client (on two cores
one actor with two threads). Flower is started by ``run_simulation``, which it deprecates in favour of ``flwr run``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROUNDS, CLIENTS, BATCH, LR = 50, 100, 10, 0.1
TARGETS = {10: 2.0, 100: 4.0}
NEEDS = {"pfl": "torch, pfl.model.pytorch", "flower": "torch, ray, flwr.simulation"}
JOB = {
    "rounds": ROUNDS,
    "eval_every": 0,
    "task": {"name": "images", "batch_size": BATCH,
             "partition": {"name": "dirichlet", "alpha": 0.5, "clients": CLIENTS}},
    "method": {"name": "fedavg", "local_epochs": 1, "local_optimizer": {"name": "sgd", "lr": LR}},
    "network": {"name": "cell"},
}  # fmt: skip


# ---- what all arms share -------------------------------------------------------------------------------------------


def job(cohort: int) -> dict:
    return {**JOB, "sampler": {"name": "uniform", "cohort": cohort}}


def network() -> nn.Sequential:
    """Seeded by whoever starts a loop: seeded here, Flower's clients would draw the same order in every round."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


@functools.lru_cache(maxsize=1)
def load(path: str) -> dict[str, Any]:
    """Rows of every client, held-out rows, and who is heard in each round."""
    with np.load(path) as file:
        at = file["offsets"]
        pairs = [(torch.as_tensor(file["x"][a:b]), torch.as_tensor(file["y"][a:b])) for a, b in itertools.pairwise(at)]
        held = torch.as_tensor(file["held_x"]), torch.as_tensor(file["held_y"])
        return {"clients": pairs, "held": held, "cohorts": np.split(file["heard"], file["ends"][:-1])}


def train(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One local epoch."""
    optimizer, loss_of = torch.optim.SGD(model.parameters(), lr=LR), nn.CrossEntropyLoss()
    order = torch.randperm(len(x))
    for at in range(0, len(x), BATCH):
        rows = order[at : at + BATCH]
        optimizer.zero_grad()
        loss_of(model(x[rows]), y[rows]).backward()
        optimizer.step()


def put(model: nn.Module, values: list[Tensor]) -> nn.Module:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
    return model


def accuracy(model: nn.Module, held: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((model(held[0]).argmax(1) == held[1]).float().mean())


def tree(pid: int) -> Iterator[Path]:
    """``/proc``'s folders of a process and of all below it; none where the system has no ``/proc``."""
    folder = Path(f"/proc/{pid}")
    try:
        below = {child for file in folder.glob("task/*/children") for child in file.read_text().split()}
    except OSError:  # it has ended
        return
    if folder.exists():
        yield folder
        for child in below:
            yield from tree(int(child))


def resident_mib(folder: Path) -> float:
    try:
        return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # it has ended
        return 0.0


def cpu_s(folder: Path) -> float:
    """CPU seconds of a process and of those that ended below it: their user and system ticks, after its name."""
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def spent() -> float:
    """CPU seconds of this process, finely, and of all below it, in ticks of ``/proc``."""
    return time.process_time() + sum(cpu_s(folder) for folder in tree(os.getpid()) if folder.name != str(os.getpid()))


# ---- the arms, each in a process of its own ------------------------------------------------------------------------


def timed(prepare: Callable[[], Callable[[], Any]], score: Callable[[Any], float]) -> dict:
    """``prepare`` gives a loop; the first one warms up, the second one is timed and what it returns is scored."""
    prepare()()
    loop = prepare()
    cpu, started = spent(), time.perf_counter()
    value = loop()
    seconds, cpu = time.perf_counter() - started, spent() - cpu
    return {"loop_s": seconds, "loop_cpu_s": cpu, "accuracy": score(value)}


def bare(path: str, cohort: int) -> dict:
    """Federated averaging as one would write it in an afternoon."""
    data = load(path)

    def loop() -> nn.Module:
        torch.manual_seed(0)
        model = network()
        shared = [p.detach().clone() for p in model.parameters()]
        for ids in data["cohorts"]:
            total, mass = [torch.zeros_like(p) for p in shared], 0
            for client in ids:
                put(model, shared)
                x, y = data["clients"][client]
                train(model, x, y)
                mass += len(x)
                for t, p in zip(total, model.parameters(), strict=True):
                    t += len(x) * p.detach()
            shared = [t / mass for t in total]
        return put(model, shared)

    return timed(lambda: loop, lambda model: accuracy(model, data["held"]))


def fedwave(path: str, cohort: int) -> dict:
    """Rounds as ``fedwave run`` plays them."""
    from fedwave.experiment import Experiment
    from fedwave.simulation import Simulation

    with tempfile.TemporaryDirectory() as folder:
        places = iter([Path(folder) / "first", Path(folder) / "second"])

        def prepare() -> Callable[[], Any]:
            simulation = Simulation.start(Experiment.parse(job(cohort)), next(places))
            return lambda: list(simulation.stream())

        return timed(prepare, lambda records: records[-1].eval["accuracy"])


class PflNetwork(nn.Module):
    """The network as pfl wants it: with its loss and its metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.loss_of = network(), nn.CrossEntropyLoss()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss_of(self.layers(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        from pfl.metrics import Weighted

        return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}


def pfl(path: str, cohort: int) -> dict:
    """pfl's simulated backend with this job's cohorts in their order."""
    from pfl.model.pytorch import PyTorchModel  # isort: skip  # first: it says which framework is used
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams

    data = load(path)
    if any(len(ids) != cohort for ids in data["cohorts"]):
        raise SystemExit("pfl's cohorts are of one size, and the network did not hear everybody")
    users = [PyTorchTensorDataset(pair) for pair in data["clients"]]
    params = NNAlgorithmParams(
        central_num_iterations=ROUNDS, evaluation_frequency=ROUNDS + 1, train_cohort_size=cohort, val_cohort_size=0
    )
    local = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH)

    def prepare() -> Callable[[], Any]:
        order = iter([int(client) for ids in data["cohorts"] for client in ids])
        rows = FederatedDataset(users.__getitem__, lambda: next(order))
        backend = SimulatedBackend(training_data=rows, val_data=rows, postprocessors=[WeightByDatapoints()])
        torch.manual_seed(0)
        model = PflNetwork()
        wrapped = PyTorchModel(model, torch.optim.SGD, torch.optim.SGD(model.parameters(), lr=1.0))
        scored = NNEvalHyperParams(local_batch_size=None)
        algorithm = FederatedAveraging()
        return lambda: algorithm.run(params, backend, wrapped, local, scored, send_metrics_to_platform=False)

    return timed(prepare, lambda wrapped: accuracy(wrapped.pytorch_model.layers, data["held"]))


def flower_train(message: Any, context: Any) -> Any:
    """A client's task in Flower; ``PEERS_DATA`` names the rows."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    torch.set_num_threads(1)
    x, y = load(os.environ["PEERS_DATA"])["clients"][int(context.node_config["partition-id"])]
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train(model, x, y)
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(x)})}
    return Message(content=RecordDict(content), reply_to=message)


def flower(path: str, cohort: int) -> dict:
    """Flower's simulation on Ray; both loops in one server app, because each simulation starts its own cluster."""
    import peers  # so that Ray's workers find the client's function by name
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client, server, result = ClientApp(), ServerApp(), {}
    client.train()(peers.flower_train)

    def score(found: Any) -> float:
        replies = [metrics["clients"] for metrics in found.train_metrics_clientapp.values()]
        if replies != [cohort] * ROUNDS:
            raise RuntimeError("Flower went on without clients that failed")
        model = network()
        model.load_state_dict(found.arrays.to_torch_state_dict())
        return accuracy(model, load(path)["held"])

    @server.main()
    def main(grid: Any, context: Any) -> None:
        def prepare() -> Callable[[], Any]:
            torch.manual_seed(0)
            strategy = FedAvg(
                fraction_train=cohort / CLIENTS, fraction_evaluate=0.0, min_train_nodes=cohort,
                min_available_nodes=CLIENTS,
                train_metrics_aggr_fn=lambda replies, key: MetricRecord({"clients": len(replies)}),
            )  # fmt: skip
            arrays = ArrayRecord(network().state_dict())
            return lambda: strategy.start(grid, arrays, num_rounds=ROUNDS)

        result.update(timed(prepare, score))

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, client, num_supernodes=CLIENTS, backend_config=resources)
    return result


ARMS = {"fedwave": fedwave, "bare": bare, "pfl": pfl, "flower": flower}


# ---- the comparison ------------------------------------------------------------------------------------------------


def export(path: str, cohort: int) -> None:
    """The job's rows and the clients that fedwave's network hears, for the other arms."""
    from fedwave.experiment import Experiment
    from fedwave.federation.setting import prepare

    experiment = Experiment.parse(job(cohort))
    setting = experiment.setting()
    learner, world, heard = experiment.task.build(experiment.seed), setting.world(), []
    for _ in range(ROUNDS):
        turn = prepare(setting, world)
        heard.append(turn.cohort.ids[turn.delivery.heard])
        world = world.after(turn.cohort, turn.delivery, 0.0)
    rows, held = learner.batch(learner.order), learner.batch(learner.eval_rows)
    np.savez(path, x=rows["x"], y=rows["label"], held_x=held["x"], held_y=held["label"], offsets=learner.offsets,
             heard=np.concatenate(heard), ends=np.cumsum([len(ids) for ids in heard]))  # fmt: skip


def why_not(arm: str, python: str | None) -> str | None:
    """Why a peer is left out; None where its environment has what it needs."""
    if not python:
        return f"left out: no --{arm}-python"
    try:
        found = subprocess.run([python, "-c", f"import {NEEDS[arm]}"], capture_output=True, text=True)
    except OSError as error:
        return f"left out: {python} does not run: {error.strerror}"
    said = found.stderr.strip().splitlines() or [f"exit status {found.returncode}"]
    return f"left out: {python} cannot import {NEEDS[arm]}: {said[-1]}" if found.returncode else None


def run(arm: str, python: str, path: str, cohort: int, home: str) -> dict:
    """One process of ``arm``. Raises RuntimeError with the end of what it said where it fails."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": home, "PEERS_DATA": path,
             "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    out, started, peak = Path(home) / f"{arm}.json", time.perf_counter(), 0.0
    command = [python, __file__, "--arm", arm, "--data", path, "--cohorts", str(cohort), "--out", str(out)]
    with open(Path(home) / f"{arm}.log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, env={**os.environ, **quiet}, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, sum(resident_mib(folder) for folder in tree(process.pid)))
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{arm} failed: ...{log.read()[-800:]}")
    return {**json.loads(out.read_text(encoding="utf-8")), "command_s": seconds, "rss_mib": peak}


def compare(cohort: int, pythons: dict[str, str], repeats: int) -> dict:
    found: dict[str, list[dict]] = {arm: [] for arm in pythons}
    with tempfile.TemporaryDirectory() as home:
        path = str(Path(home) / "digits.npz")
        export(path, cohort)
        for _ in range(repeats):
            for arm, runs in found.items():
                runs.append(run(arm, pythons[arm], path, cohort, home))
        delivered = int(sum(len(ids) for ids in load(path)["cohorts"]))
    load.cache_clear()
    row: dict[str, Any] = {"benchmark": "peers", "cohort": cohort, "target": TARGETS.get(cohort), "repeats": repeats}
    for arm, runs in found.items():
        row[arm] = {name: round(statistics.median(r[name] for r in runs), 3) for name in runs[0]}
        for clock in ("loop_s", "loop_cpu_s"):
            ratios = [b[clock] / r[clock] for b, r in zip(found["bare"], runs, strict=True)]
            name = clock.replace("loop", "faster_than_bare").removesuffix("_s")
            row[arm][name] = round(statistics.median(ratios), 3)
            row[arm][name + "_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return row | {"updates": delivered, "threads": 1, "load": round(os.getloadavg()[0], 2)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cohorts", type=int, nargs="+", default=list(TARGETS))
    parser.add_argument("--pfl-python", help="an interpreter that has pfl and torch")
    parser.add_argument("--flower-python", help="an interpreter that has flwr, ray and torch")
    for name in ("--arm", "--data", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.arm:
        result = ARMS[args.arm](args.data, args.cohorts[0])
        Path(args.out).write_text(json.dumps(result), encoding="utf-8")
        return
    peers = {"pfl": args.pfl_python, "flower": args.flower_python}
    reasons = {arm: reason for arm, python in peers.items() if (reason := why_not(arm, python))}
    pythons = {"fedwave": sys.executable, "bare": sys.executable}
    pythons |= {arm: python for arm, python in peers.items() if arm not in reasons}
    for cohort in args.cohorts:
        try:
            print(json.dumps(compare(cohort, pythons, args.repeats) | reasons), flush=True)
        except RuntimeError as error:
            raise SystemExit(f"peers.py: {error}") from None


if __name__ == "__main__":
    main()
