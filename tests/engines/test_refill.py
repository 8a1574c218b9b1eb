"""Slots that are taken over: every client ends where it ends alone, whatever the slots, the budget and the steps."""

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import config
from fedwave.core.errors import Refused
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Message, Part
from fedwave.engines.cohort import CohortEngine
from fedwave.engines.stacked.batches import plan_rows
from fedwave.methods.method import Method
from fedwave.results.memory_store import MemoryStore
from fedwave.testing import tiny_bert
from fedwave.transforms.chain import Chain

sys.path.insert(0, str(Path(__file__).parents[1]))
from methods.helpers import delivered
from references.plain import train_alone

LOCAL = {
    "sgd": ({"name": "sgd", "lr": 0.05, "momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "adamw": (
        {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "eps": 1e-6},
        lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01, eps=1e-6),
    ),
}
KEY = Key(3)


@dataclass(frozen=True)
class Gathered(Method):
    """Averaging whose server sees each client's own update."""

    def uplink(self, spec):
        return {"update": Part(self.travelling(spec), reduce="gather")}


def cohort_of(learner, ids, steps):
    held, zero = np.diff(learner.offsets)[ids], np.zeros(len(ids), dtype=np.int64)
    rank = zero + learner.spec.max_rank
    return Cohort(0, ids, np.ones(len(ids)), held, np.array(steps), held, rank, zero, zero - 1, zero)


def trained(make, optimizer, ids, steps, size, **engine):
    """Each client's leaves after its steps, ``[C, ...]``, and the number of passes that the engine made."""
    learner, passes = make(), []
    method = Gathered(local_optimizer=config.build("optimizer", LOCAL[optimizer][0]))
    session = CohortEngine(**engine).start(method, learner, up=Chain(), batch_size=size)
    batch = learner.batch
    learner.batch = lambda rows: passes.append(rows) or batch(rows)
    message, cohort = Message(shared={"params": learner.initial}), cohort_of(learner, ids, steps)
    replies = session.run(message, MemoryStore(None, {}), cohort, delivered(ids), KEY)
    assert replies.position.tolist() == list(range(len(ids)))
    assert np.isfinite(replies.loss).all()
    return {n: learner.initial[n] + x for n, x in replies.parts["update"].items()}, passes


def alone(make, optimizer, ids, steps, size):
    """The same by a plain loop."""
    learner = make()
    rows = plan_rows(learner.order, learner.offsets, ids=ids, steps=np.array(steps), batch_size=size, key=KEY)
    batches = [[rows[t, c][rows[t, c] >= 0] for t in range(steps[c])] for c in range(len(ids))]
    plain = copy.deepcopy(learner.model)
    return [train_alone(learner, plain, own, LOCAL[optimizer][1]) for own in batches]


def assert_same(together, apart):
    for client, leaves in enumerate(apart):
        for name, value in leaves.items():
            torch.testing.assert_close(together[name][client], value, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Makes learners of ragged texts over a tiny encoder with LoRA."""
    folder = tmp_path_factory.mktemp("refill")
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.choice(["cell", "link", "a", "reply"], rng.integers(1, 24))) for _ in range(60)]
    data = folder / "rows.csv"
    data.write_text("text,label\n" + "".join(f"{line},c{i % 3}\n" for i, line in enumerate(lines)))
    task = config.build("task", {
        "name": "text-classification", "model": str(tiny_bert(folder / "bert")), "data": str(data), "max_tokens": 32,
        "partition": {"name": "dirichlet", "alpha": 1.0, "clients": 7}, "batch_size": 4,
        "adapter": {"name": "lora", "rank": 4, "alpha": 8, "targets": ["query", "value"]},
    })  # fmt: skip
    return lambda: task.build(seed=5)


def toy():
    return config.build("task", {"name": "toy", "clients": 9, "ragged": True}).build(seed=2)


@settings(deadline=None, max_examples=60)
@given(
    ids=st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True),
    seed=st.integers(0, 10**6), slots=st.integers(1, 5), size=st.integers(1, 7), budget=st.integers(1, 60),
    optimizer=st.sampled_from(sorted(LOCAL)),
)  # fmt: skip
def test_any_cohort(ids, seed, slots, size, budget, optimizer):
    """Random clients, steps, slots, batch sizes and budgets on the toy."""
    ids, steps = np.array(ids), np.random.default_rng(seed).integers(1, 9, len(ids)).tolist()
    together, _ = trained(toy, optimizer, ids, steps, size, max_clients=slots, token_budget=budget)
    assert_same(together, alone(toy, optimizer, ids, steps, size))


@pytest.mark.parametrize("optimizer", sorted(LOCAL))
@pytest.mark.parametrize(("slots", "budget"), [(3, 10**6), (7, 48), (2, 32), (1, 64)])
def test_ragged_texts(texts, slots, budget, optimizer):
    """Passes of like length and slots that are taken over, on an encoder; one by one keeps to the budget too."""
    ids, steps = np.arange(7), [5, 1, 4, 2, 6, 1, 3]
    together, passes = trained(texts, optimizer, ids, steps, 4, max_clients=slots, token_budget=budget)
    assert_same(together, alone(texts, optimizer, ids, steps, 4))
    assert len(passes) > max(steps) or budget > 1000


@pytest.mark.parametrize(("own_step", "wanted"), [(False, 9), (True, 12)])
def test_finished_clients_make_room(own_step, wanted):
    """Steps 9, 1 x 6 in 2 slots: 9 steps in all, but 9 + 1 + 1 + 1 where groups wait for their longest."""
    calls = []

    class Seen(Gathered):
        def objective(self, clients, losses):
            calls.append(clients.ids.tolist())
            return losses

    class Stepping(Seen):
        def step(self, clients, rows):
            return super().step(clients, rows)

    learner, ids = toy(), np.arange(7)
    method = Stepping() if own_step else Seen()
    session = CohortEngine(max_clients=2).start(method, learner, up=Chain(), batch_size=4)
    message, cohort = Message(shared={"params": learner.initial}), cohort_of(learner, ids, [9, 1, 1, 1, 1, 1, 1])
    session.run(message, MemoryStore(None, {}), cohort, delivered(ids), KEY)
    assert len(calls) == wanted
    assert sorted(client for call in calls for client in call) == [0] * 9 + [1, 2, 3, 4, 5, 6]


@dataclass(frozen=True)
class Counting(Gathered):
    """Asks for the step at hand in a hook other than step."""

    def correct(self, clients, grads):
        assert clients.at >= 0
        return grads


def test_one_step_number_needs_a_step_of_its_own(texts):
    """With slots that are taken over clients are at different steps; who needs one number overrides ``step``."""
    learner = texts()
    session = CohortEngine(max_clients=2).start(Counting(), learner, up=Chain(), batch_size=4)
    message = Message(shared={"params": learner.initial})
    ids = np.arange(4)
    cohort = cohort_of(learner, ids, [5, 1, 1, 1])
    with pytest.raises(Refused, match="override step"):
        session.run(message, MemoryStore(None, {}), cohort, delivered(ids), KEY)

    class Stepping(Counting):
        def step(self, clients, rows):
            return super().step(clients, rows)

    session.method = Stepping()
    assert len(session.run(message, MemoryStore(None, {}), cohort, delivered(ids), KEY)) == 4


@dataclass(frozen=True)
class Remembering(Gathered):
    """Keeps tensors of its own for a round: the sum of the losses that each client saw, and who it was."""

    def begin(self, clients):
        super().begin(clients)
        clients.scratch["seen"] = clients.steps.new_zeros(len(clients.ids))
        clients.scratch["id"] = torch.as_tensor(clients.ids)

    def correct(self, clients, grads):
        assert clients.scratch["id"].tolist() == clients.ids.tolist()
        clients.scratch["seen"] = clients.scratch["seen"] + 1
        return grads

    def reply(self, clients):
        assert clients.scratch["seen"].tolist() == clients.steps.tolist()
        return super().reply(clients)


@pytest.mark.parametrize("slots", [1, 2, 3, 9])
def test_a_methods_own_tensors_move_with_their_clients(slots):
    learner = toy()
    session = CohortEngine(max_clients=slots).start(Remembering(), learner, up=Chain(), batch_size=4)
    ids = np.array([8, 1, 5, 0, 3, 2])
    cohort = cohort_of(learner, ids, [2, 7, 1, 3, 3, 5])
    message = Message(shared={"params": learner.initial})
    assert len(session.run(message, MemoryStore(None, {}), cohort, delivered(ids), KEY)) == 6
