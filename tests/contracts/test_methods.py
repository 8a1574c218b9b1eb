"""What every registered method must do: plan exactly, refuse clearly, depend on the job alone, survive losses."""

import dataclasses
import math

import numpy as np
import pytest

from fedwave import planner, simulation
from fedwave.core import registry
from fedwave.core.errors import Refused
from fedwave.experiment import Experiment
from fedwave.federation.sync import rehearse
from fedwave.testing import tiny_bert, tiny_llama

SETTINGS = {
    "fedkseed": {"pool": 64, "local_optimizer": {"name": "sgd", "lr": 0.01}, "local_steps": 3},
    "scaffold": {"local_optimizer": {"name": "sgd", "lr": 0.02}},
    "distill": {"samples": 16, "server_steps": 4},
}
CHAINS = {
    "raw": [],
    "clip + 8 bits": [{"name": "clip", "norm": 1.0}, {"name": "quantize", "bits": 8}],
    "4 bits both ways": [{"name": "quantize", "bits": 4}, {"name": "quantize", "bits": 8, "direction": "down"}],
    "top-k + 8 bits": [{"name": "top_k", "fraction": 0.2}, {"name": "quantize", "bits": 8}],
}
# Fields that need training to be known.
TRAINED = {"train_loss", "eval", "wall_s"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    llama, bert = str(tiny_llama(folder / "llama")), str(tiny_bert(folder / "bert"))
    data = folder / "rows.csv"
    lines = [f"the cell number {i} sends {'good' if i % 2 else 'weak'} reports,c{i % 2}" for i in range(48)]
    data.write_text("text,label\n" + "\n".join(lines) + "\n")
    iid = {"name": "iid", "clients": 6}
    lora = {"name": "lora", "rank": 4, "alpha": 8}
    return {
        "toy": {"name": "toy", "clients": 6, "samples_per_client": 12, "dimension": 5, "ragged": True},
        "llama": {"name": "causal-lm", "model": llama, "data": str(data), "partition": iid, "adapter": lora,
                  "max_tokens": 32, "batch_size": 4},
        "bert": {"name": "text-classification", "model": bert, "data": str(data), "partition": iid, "adapter": lora,
                 "max_tokens": 32, "batch_size": 4},
    }  # fmt: skip


def job(task, method, transforms=(), **rest):
    table = {
        "seed": 3, "rounds": 4, "eval_every": 2, "task": task, "method": {"name": method, **SETTINGS.get(method, {})},
        "transform": list(transforms), "sampler": {"name": "uniform", "cohort": 4},
        "fleet": {"mix": {"phone": 0.5, "jetson-orin-nano": 0.5}},
    }  # fmt: skip
    return Experiment.parse({**table, **rest})


def supported(task, method, **rest):
    """The experiment, or a skip where the method refuses the task."""
    experiment = job(task, method, **rest)
    try:
        experiment.setting()
    except Refused as refusal:
        pytest.skip(f"refused: {refusal}")
    return experiment


def simplest(tasks, method, **rest):
    """The experiment on the toy, or on a small encoder where the method needs LoRA factors."""
    return supported(tasks["bert" if method in ("ffa_lora", "flora") else "toy"], method, **rest)


@pytest.mark.parametrize("chain", sorted(CHAINS))
@pytest.mark.parametrize("task", ["toy", "llama", "bert"])
@pytest.mark.parametrize("method", registry.names("method"))
def test_planned_equals_simulated(tasks, task, method, chain):
    """Bits, seconds and joules of the plan are those of the simulation, exactly."""
    experiment = supported(tasks[task], method, transforms=CHAINS[chain])
    planned = [record.to_dict() for record, _ in rehearse(experiment.setting(), experiment.rounds)]
    simulated = [record.to_dict() for record in simulation.stream(experiment)]
    for plan, run in zip(planned, simulated, strict=True):
        assert {k: v for k, v in plan.items() if k not in TRAINED} == {k: v for k, v in run.items() if k not in TRAINED}
    assert math.isfinite(simulated[-1]["eval"]["loss"])
    plan = planner.plan(experiment, rounds=experiment.rounds)
    bits = sum(r["uplink_bits"] for r in simulated) / sum(r["clients"] for r in simulated)
    assert plan.uplink_bits_per_client == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("method", registry.names("method"))
def test_runs_are_functions_of_the_job(tasks, method):
    """The same job twice, and one client at a time, give the same numbers (the latter to rounding)."""
    experiment = simplest(tasks, method)
    first, second = (list(simulation.stream(experiment)) for _ in range(2))
    assert [r.eval for r in first] == [r.eval for r in second]
    assert [r.train_loss for r in first] == [r.train_loss for r in second]
    single = dataclasses.replace(experiment, engine=dataclasses.replace(experiment.engine, max_clients=1))
    one_by_one = list(simulation.stream(single))
    assert [r.train_loss for r in first] == pytest.approx([r.train_loss for r in one_by_one], rel=1e-4)


@pytest.mark.parametrize("method", registry.names("method"))
def test_lost_updates_change_nothing_but_themselves(tasks, method):
    """When every update is lost the server's model stays as it was, and the run goes on."""
    experiment = simplest(tasks, method, network={"name": "ideal", "loss": 1.0})
    records = list(simulation.stream(experiment))
    assert all(r.delivered == 0 and r.status == {"outage": 4} for r in records)
    assert records[1].eval == records[3].eval


@pytest.mark.parametrize("method", registry.names("method"))
def test_partly_lost(tasks, method):
    experiment = simplest(tasks, method, network={"name": "ideal", "loss": 0.5}, rounds=6)
    records = list(simulation.stream(experiment))
    assert 0 < sum(r.delivered for r in records) < 24
    assert math.isfinite(records[-1].eval["loss"])


@pytest.mark.parametrize("method", registry.names("method"))
def test_every_method_says_its_source(method):
    cls = registry.lookup("method", method)
    assert (cls.__doc__ or "").strip()
    assert cls.cite or method == "local"


@pytest.mark.parametrize("method", sorted(set(registry.names("method")) - {"local", "ffa_lora", "flora"}))
def test_learns_the_toy(tasks, method):
    """Every method that communicates gets nearer to the known optimum."""
    task = {**tasks["toy"], "clients": 10, "samples_per_client": 40, "heterogeneity": 0.3}
    lr = {"local_optimizer": {"name": "sgd", "lr": 0.05}}
    server = {"server_optimizer": {"name": "adam" if method == "fedadam" else "yogi", "lr": 0.3}}
    extra = server if method in ("fedadam", "fedyogi") else {}
    extra |= {"local_steps": 20} if method == "fedkseed" else {}
    experiment = supported(task, method)
    table = experiment.to_table()
    table["method"] |= lr | extra
    table |= {"rounds": 25, "eval_every": 1}
    records = list(simulation.stream(Experiment.parse(table)))
    assert records[-1].eval["distance"] < 0.5 * np.linalg.norm(experiment.task.optimum(3))
