"""A user's own module, loss and data: cost by hand, training equal to a plain loop, resume, refusals."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fedwave as fw
from fedwave.core import config
from fedwave.core.errors import BadInput, Refused
from fedwave.experiment import Experiment
from fedwave.federation.sync import rehearse
from fedwave.methods.fedavg import FedAvg
from fedwave.methods.optimizers import Sgd
from fedwave.tasks.custom import Custom, Problem
from fedwave.tasks.partitions import IID, Dirichlet
from fedwave.tasks.toy import Toy
from fedwave.transforms.quantize import Quantize
from fedwave.wireless.networks.ideal import Ideal

ROWS = 60


class Recurrent(nn.Module):
    """A recurrent layer whose final state feeds the head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn, self.head = getattr(nn, kind)(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.rnn(x)[1]
        return self.head((state[0] if isinstance(state, tuple) else state)[-1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(1, 8), nn.Linear(8, 1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


MODULES = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 1)),
    "convolution": lambda: nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 1),
    ),
    "gru": lambda: Recurrent("GRU"),
    "lstm": lambda: Recurrent("LSTM"),
    "attention": Attention,
}  # fmt: skip


def error(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (output - batch["y"]).square().mean(1)


def table(rows: int = ROWS, seed: int = 0) -> dict[str, torch.Tensor]:
    x = torch.rand(rows, 6, 1, generator=torch.Generator().manual_seed(seed))
    return {"x": x, "y": x.mean(1), "kind": (torch.arange(rows) % 3)}


def make(module: str = "linear") -> Problem:
    return Problem(MODULES[module], error, table())


def make_clients() -> Problem:
    return Problem(MODULES["linear"], error, [table(5 + client, client) for client in range(12)], eval_data=table(9))


class Pairs(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.full((6, 1), row / ROWS)
        return x, x.mean(0)


def make_pairs() -> Problem:
    metrics = {"large": lambda output, batch: None}
    del metrics
    return Problem(
        MODULES["linear"],
        error,
        Pairs(),
        metrics=lambda output, batch: {"target": batch["y"][:, 0]},
        columns={"y": [row % 4 for row in range(ROWS)]},
    )


def job(task: Custom, **rest: Any) -> Experiment:
    method = FedAvg(local_steps=2, local_optimizer=Sgd(lr=0.1))
    return fw.Experiment(task=task, method=method, rounds=3, eval_every=1, network=Ideal(), **rest)


def test_cost_by_hand() -> None:
    # One product of 6 weights: 12 FLOPs forward; the input needs no gradient, so backward costs as much for the weight.
    spec = Custom(make).spec()
    assert spec.forward_flops == 12 and spec.backward_flops == 12 and spec.model_parameters == 7
    assert {name: leaf.shape for name, leaf in spec.trainable.items()} == {"1.weight": (1, 6), "1.bias": (1,)}
    assert spec.output is not None and spec.output.shape == (1,) and spec.base_bytes == 0
    # Convolution: 4 places x 4 channels x 3 weights x 2 + 32 of the head.
    assert Custom(make, {"module": "convolution"}).spec().forward_flops == 96 + 32


@pytest.mark.parametrize("module", sorted(MODULES))
def test_stacked_clients_equal_single_ones_and_the_plan(module: str) -> None:
    experiment = job(Custom(make, {"module": module}, partition=IID(5), batch_size=8))
    stacked = list(fw.stream(experiment))
    engine = dataclasses.replace(experiment.engine, max_clients=1)
    single = list(fw.stream(dataclasses.replace(experiment, engine=engine)))
    assert [r.train_loss for r in stacked] == pytest.approx([r.train_loss for r in single], rel=1e-4)
    assert stacked[-1].eval["loss"] < stacked[0].train_loss
    planned = [record for record, _ in rehearse(experiment.setting(), 3)]
    assert [(r.uplink_bits, r.round_s, r.energy_j) for r in planned] == [
        (r.uplink_bits, r.round_s, r.energy_j) for r in stacked
    ]


def test_one_round_equals_a_plain_loop() -> None:
    task = Custom(make, partition=IID(4), batch_size=100)
    experiment = dataclasses.replace(job(task), rounds=1, method=FedAvg(local_steps=3, local_optimizer=Sgd(lr=0.2)))
    learner, rows = task.build(0), table()
    results, sizes = [], []
    for client in range(4):
        mine = task.rows.index[learner.order[learner.offsets[client] : learner.offsets[client + 1]]]
        weight, bias = (learner.initial[name].clone().requires_grad_() for name in ("1.weight", "1.bias"))
        for _ in range(3):
            loss = (F.linear(rows["x"][mine].flatten(1), weight, bias) - rows["y"][mine]).square().mean()
            for value, grad in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
                value.data -= 0.2 * grad
        results.append((weight.detach(), bias.detach()))
        sizes.append(len(mine))
    share = torch.tensor(sizes) / sum(sizes)
    weight, bias = (sum(s * result[place] for s, result in zip(share, results, strict=True)) for place in (0, 1))
    held = task.rows.index[learner.eval_rows]
    expected = (F.linear(rows["x"][held].flatten(1), weight, bias) - rows["y"][held]).square().mean()
    assert next(iter(fw.stream(experiment))).eval["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_clients_of_their_own_and_labels() -> None:
    task = Custom(make_clients)
    assert task.samples(3).tolist() == [5 + client for client in range(12)]  # in their order, eleven after two
    assert len(task.build(0).eval_rows) == 9
    labelled = Custom(make, partition=Dirichlet(alpha=0.1, clients=4), label_field="kind")
    learner = labelled.build(0)
    assert learner.batch(np.array([0, -1]))["weight"].tolist() == [1.0, 0.0]
    assert learner.clients == 4


def test_data_sets_of_rows_and_metrics() -> None:
    task = Custom(make_pairs, partition=Dirichlet(alpha=100.0, clients=3))
    learner = task.build(0)
    assert learner.batch(np.array([0]))["x"].shape == (1, 6, 1)
    held = task.rows.index[learner.eval_rows]
    assert learner.evaluate()["target"] == pytest.approx(float(np.mean(held / ROWS)), rel=1e-5)
    assert list(fw.stream(job(task)))[-1].eval["loss"] >= 0


def test_initial_values_follow_the_seed_and_data_do_not() -> None:
    first, again, other = (Custom(make, partition=IID(4)).build(seed) for seed in (1, 1, 2))
    assert torch.equal(first.initial["1.weight"], again.initial["1.weight"])
    assert not torch.equal(first.initial["1.weight"], other.initial["1.weight"])


OWN = """
import torch
from torch import nn
from fedwave.tasks.custom import Problem

def make(scale=1.0):
    x = torch.rand(40, 3)
    loss = lambda output, batch: (output - batch["y"]).square().mean(1)
    return Problem(lambda: nn.Linear(3, 1), loss, {"x": x, "y": scale * x.sum(1, keepdim=True)})
"""


@pytest.mark.parametrize("factory", ["own_problem:make", "own_problem.py:make"])
def test_a_job_file_names_the_factory_and_a_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_problem", raising=False)
    monkeypatch.chdir("/")
    (tmp_path / "own_problem.py").write_text(OWN)
    (tmp_path / "job.toml").write_text(
        f'rounds = 4\n[task]\nname = "custom"\nfactory = "{factory}"\nbatch_size = 4\n[task.options]\nscale = 2.0\n'
        '[task.partition]\nname = "iid"\nclients = 4\n'
    )
    experiment = Experiment.load(tmp_path / "job.toml", ["task.options.scale=3.0"])
    assert experiment.task.options == {"scale": 3.0}
    assert config.build("task", config.dump(experiment.task)) == experiment.task
    whole = fw.run(experiment, tmp_path / "whole")
    simulation = fw.simulation.Simulation.start(experiment, tmp_path / "broken")  # type: ignore[attr-defined]
    records = simulation.stream()
    next(records), next(records)
    simulation.checkpoint()
    records.close()
    resumed = fw.resume(tmp_path / "broken")
    assert [r["train_loss"] for r in resumed.records] == [r["train_loss"] for r in whole.records]
    from safetensors.torch import load_file

    exported = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    nn.Linear(3, 1).load_state_dict(exported)


def make_wrong_loss() -> Problem:
    return Problem(MODULES["linear"], lambda output, batch: error(output, batch).mean(), table())


def make_normalised() -> Problem:
    return Problem(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4)), error, table())


def make_frozen() -> Problem:
    return Problem(lambda: MODULES["linear"]().requires_grad_(False), error, table())


def make_ragged() -> Problem:
    return Problem(MODULES["linear"], error, {"x": torch.rand(4, 6), "y": torch.rand(3, 1)})


def make_renamed() -> Problem:
    return Problem(MODULES["linear"], error, {"a": torch.rand(40, 6), "y": torch.rand(40, 1)})


def make_nothing() -> None:
    return None


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (make_wrong_loss, r"the loss must give one value for each row, \[n\]; for 2 rows it gave \(\)"),
        (make_normalised, r"2 \(BatchNorm1d\) mixes the rows of different clients .* use GroupNorm or LayerNorm"),
        (make_frozen, "no parameter of the model requires grad, so there is nothing to train"),
        (make_ragged, r"must hold arrays with one entry per row, as many each, got \{'x': 4, 'y': 3\}"),
        (make_renamed, r"the data have no 'x' to call the model with \(they have: a, y\)"),
        (make_nothing, r"must return a fedwave\.tasks\.custom\.Problem, got None"),
    ],
)
def test_refusals(factory: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        Custom(factory).spec()
    assert isinstance(caught.value, Refused) == (factory is make_normalised)
    assert "\n" not in str(caught.value)


def test_factories_that_cannot_be_named() -> None:
    with pytest.raises(BadInput, match="factory must be a function at the top level of a module"):
        Custom(lambda: make())
    with pytest.raises(BadInput, match=r"factory: 'nowhere:make' cannot be imported: ModuleNotFoundError"):
        Custom("nowhere:make")
    with pytest.raises(BadInput, match=r"factory: 'nowhere.py:make' cannot be imported: BadInput: there is no file"):
        config.build("task", {"name": "custom", "factory": "nowhere.py:make"})
    with pytest.raises(BadInput, match=r"factory: must be a function or 'my_pkg.my_file:function', got 3"):
        Custom(3)  # type: ignore[arg-type]


def test_a_frozen_batch_normalisation_is_taken() -> None:
    frozen = nn.BatchNorm1d(6).requires_grad_(False)
    problem = Problem(lambda: nn.Sequential(nn.Flatten(), frozen, nn.Linear(6, 1)), error, table())
    from fedwave.tasks.learners.custom import measure, read

    assert measure(problem, read(problem, "here", 0.2), "here").base_bytes == 4 * (4 * 6) + 8  # and a step counter


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"task": "toy"}, "task: must be a Task, got 'toy'; Experiment.parse takes names and tables"),
        ({"task": Toy(clients=0)}, "task.clients: input should be greater than or equal to 1, got 0"),
        ({"method": FedAvg(local_optimizer=Sgd(lr=-1.0))}, "method.local_optimizer.lr: input should be greater than 0"),
        ({"method": "fedprox"}, "method: must be a Method, got 'fedprox'"),
        ({"network": Ideal(latency_s="long")}, "network.latency_s: input should be a valid number, got 'long'"),  # type: ignore[arg-type]
        ({"transform": Quantize()}, "transform: must be a tuple of parts, got Quantize"),
        ({"transform": (Ideal(),)}, "transform.0: must be a Transform, got Ideal"),
        ({"rounds": "ten"}, "rounds: input should be a valid integer, got 'ten'"),
        ({"rounds": 0}, "rounds: input should be greater than or equal to 1, got 0"),
    ],
)
def test_experiments_made_in_python_are_checked(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        fw.Experiment(**{"task": Toy(), **parts})
    assert str(caught.value).startswith(message)
