"""Cohorts cut into shards: who gets whom, what travels, and that the sum of the parts is the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave import simulation
from fedwave.core.keys import Key
from fedwave.core.types import AirNoise, Leaf, Message, Part
from fedwave.engines.cohort import CohortEngine
from fedwave.engines.fold import Fold
from fedwave.engines.ray_engine import RaySession
from fedwave.engines.workers.shards import Recipe, Trainer, pack, split, unpack
from fedwave.experiment import Experiment
from fedwave.testing import tiny_bert, tiny_llama

from ..methods.helpers import delivered
from ..wireless.helpers import cohort_of

# ---- who gets whom -------------------------------------------------------------------------------------------------


@given(steps=st.lists(st.integers(1, 50), min_size=1, max_size=40), workers=st.integers(1, 9), seed=st.integers(0, 99))
def test_shards_are_balanced_and_whole(steps, workers, seed):
    steps = np.array(steps)
    positions = np.flatnonzero(np.random.default_rng(seed).random(len(steps)) < 0.8)
    shards = split(positions, steps, workers)
    assert sorted(np.concatenate([[], *shards]).tolist()) == positions.tolist()
    assert len(shards) == min(workers, len(positions))
    assert all(len(shard) and (np.diff(shard) > 0).all() for shard in shards)
    if shards:  # the last client of the fullest shard came while that one had the least, which is at most the mean
        load = [steps[shard].sum() for shard in shards]
        assert max(load) <= steps[positions].sum() / len(shards) + steps[positions].max()


def test_longest_first():
    """Steps 5, 4, 3, 3, 3 on two workers: 5 | 4, then 5 | 4+3, 5+3 | 4+3, and the last to the 7."""
    assert [shard.tolist() for shard in split(np.arange(5), np.array([3, 5, 3, 4, 3]), 2)] == [[1, 2], [0, 3, 4]]


# ---- what travels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_tensors_travel_as_they_are(dtype):
    values = [torch.arange(6).reshape(2, 3).to(dtype), torch.ones(3, 2).to(dtype).T, torch.zeros(0, 4, dtype=dtype),
              torch.tensor(1, dtype=dtype), torch.ones(1, dtype=dtype).expand(5)]  # fmt: skip
    data, arrays = pack({"some": values, "key": Key(3)})
    assert len(data) < 2000  # the values themselves are beside it
    for array in arrays:
        array.setflags(write=False)  # as shared memory gives them back
    found = unpack((data, arrays))
    assert found["key"] == Key(3)
    for value, other in zip(values, found["some"], strict=True):
        assert value.dtype == other.dtype
        assert torch.equal(value, other)
    found["some"][0].zero_()  # its own


def test_a_delivery_of_some():
    whole = replace(delivered([3, 1, 4, 5], lost=[4]), remembered={"rate": np.arange(4.0)}, handovers=2)
    some = whole.take(np.array([2, 0]))
    assert some.heard.tolist() == [False, True]
    assert some.coefficient.tolist() == [[0.0], [1.0]]
    assert (some.remembered["rate"].tolist(), some.handovers, some.round_s) == ([2.0, 0.0], 2, 3.0)


# ---- folds ---------------------------------------------------------------------------------------------------------

SCHEMA = {"update": Part({"w": Leaf((3, 2))}), "own": Part({"v": Leaf((2,))}, reduce="gather")}


@settings(deadline=None, max_examples=40)
@given(clients=st.integers(1, 9), workers=st.integers(1, 4), blocks=st.sampled_from([1, 4]), seed=st.integers(0, 10**6))
def test_merged_folds_are_one_fold(clients, workers, blocks, seed):
    """Sums, gathered rows, weights, losses, who was dropped, and the normaliser of the noise."""
    rng = np.random.default_rng(seed)
    cohort = replace(cohort_of(range(clients)), weight=rng.uniform(0.5, 9.0, clients))
    parts = {n: {leaf: torch.randn(clients, *of.shape) for leaf, of in p.leaves.items()} for n, p in SCHEMA.items()}
    coefficient = rng.uniform(0.5, 1.0, (clients, blocks)) * (rng.random((clients, 1)) < 0.7)
    noise = AirNoise("gaussian", 2.0, np.ones(blocks))

    def add(fold, places, of, at):
        mine = {name: {leaf: x[at] for leaf, x in leaves.items()} for name, leaves in parts.items()}
        fold.add(places, of, coefficient[at], mine, torch.as_tensor(at / 7.0))

    whole, merged = (Fold(SCHEMA, clients, blocks, noise) for _ in range(2))
    add(whole, np.arange(clients), cohort, np.arange(clients))
    for shard in split(np.arange(clients), rng.integers(1, 9, clients), workers):
        part = Fold(SCHEMA, len(shard), blocks, noise)
        for place in rng.permutation(len(shard)):  # a worker may be done with them in any order
            add(part, np.array([place]), cohort.take(shard), shard[[place]])
        merged.merge(unpack(pack(part)), shard)
    wanted, found = (fold.close(cohort, Key(1)) for fold in (whole, merged))
    assert found.position.tolist() == wanted.position.tolist()
    np.testing.assert_array_equal(found.loss, wanted.loss)
    np.testing.assert_allclose(found.weight, wanted.weight, rtol=1e-12)
    assert merged.normaliser == pytest.approx(whole.normaliser, rel=1e-12)
    assert found.parts.keys() == wanted.parts.keys()
    for name, leaves in wanted.parts.items():
        for leaf, value in leaves.items():
            torch.testing.assert_close(found.parts[name][leaf], value, rtol=1e-6, atol=1e-7)


# ---- sessions ------------------------------------------------------------------------------------------------------


class Here:
    """The workers of a :class:`RaySession` without Ray: one after another, in this process."""

    def __init__(self, recipe, limit):
        self.limit, self.recipe = limit, recipe
        self.trainers = [Trainer(recipe) for _ in range(limit)]

    def train(self, told, base, jobs, round):
        for trainer, job in zip(self.trainers, jobs, strict=False):
            yield trainer.train(told, [pack(change) for change in base[trainer.applied :]], job())[0]


def sharded(experiment, workers):
    """A simulation of ``experiment`` whose clients train in shards."""
    whole = simulation.Simulation.start(experiment)
    setting, again = whole.setting, experiment.task.again(experiment.seed, public=experiment.method.public_samples)
    pool = Here(Recipe(experiment.engine, setting.method, setting.codec.up, setting.batch_size, again), workers)
    learner, choice = experiment.engine.ready(setting.method, again(), setting.batch_size)
    settings = {"up": setting.codec.up, "batch_size": setting.batch_size, "choice": choice}
    return replace(whole, session=RaySession(setting.method, learner, **settings, pool=pool))


def assert_same(state, other, rel=1e-6):
    assert state.keys() == other.keys()
    for name, value in state.items():
        if isinstance(value, dict):
            assert_same(value, other[name], rel)
        elif torch.is_tensor(value):
            torch.testing.assert_close(other[name], value, rtol=rel, atol=rel * float(value.abs().max()))
        else:
            assert str(other[name]) == str(value)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    data = folder / "rows.csv"
    lines = [f"cell {i} sends {'good' if i % 2 else 'weak'} {'reports ' * (i % 5)},c{i % 2}" for i in range(60)]
    data.write_text("text,label\n" + "\n".join(lines) + "\n")
    shared = {"data": str(data), "partition": {"name": "dirichlet", "alpha": 1.0, "clients": 7}, "max_tokens": 32,
              "adapter": {"name": "lora", "rank": 4, "alpha": 8}, "batch_size": 4}  # fmt: skip
    mixed = {"name": "lora", "rank": {"phone": 2, "jetson-orin-nano": 4}, "alpha": 8}
    bert = {"name": "text-classification", "model": str(tiny_bert(folder / "bert")), **shared}
    return {
        "toy": {"name": "toy", "clients": 9, "ragged": True, "dimension": 40},
        "mlp": {"name": "images", "data": "digits", "partition": {"name": "dirichlet", "clients": 9}},
        "llama": {"name": "causal-lm", "model": str(tiny_llama(folder / "llama")), **shared,
                  "partition": {"name": "iid", "clients": 7}},
        "bert": bert,
        "mixed": bert | {"adapter": mixed},
    }  # fmt: skip


SGD = {"local_optimizer": {"name": "sgd", "lr": 0.02}}
AIR = {"name": "cell", "uplink": {"name": "aircomp"}}
CASES = {
    "fedavg, llama with LoRA": ("llama", {"name": "fedavg"}, {}),
    "fedavg, whole network": ("mlp", {"name": "fedavg", "local_steps": 6}, {}),
    "scaffold remembers": ("toy", {"name": "scaffold", **SGD}, {"network": {"name": "ideal", "loss": 0.3}}),
    "error feedback": ("toy", {"name": "fedavg", **SGD}, {"transform": [{"name": "top_k", "fraction": 0.2}],
                                                         "network": {"name": "ideal", "loss": 0.3}}),
    "flora changes the base": ("mixed", {"name": "flora", "local_steps": 3}, {}),
    "median gathers": ("toy", {"name": "median", **SGD}, {}),
    "in the air": ("toy", {"name": "fedavg", **SGD}, {"network": AIR}),
    "fedkseed": ("toy", {"name": "fedkseed", "pool": 64, "local_steps": 3, **SGD}, {}),
    "distill": ("bert", {"name": "distill", "samples": 12, "server_steps": 3}, {}),
}  # fmt: skip


def job(task, method, **rest):
    table = {"seed": 3, "rounds": 3, "eval_every": 1, "task": task, "method": method,
             "sampler": {"name": "uniform", "cohort": 5}, "network": {"name": "ideal"},
             "fleet": {"mix": {"phone": 0.5, "jetson-orin-nano": 0.5}}}  # fmt: skip
    return Experiment.parse({**table, **rest})


@pytest.mark.parametrize("case", sorted(CASES))
def test_shards_train_what_the_cohort_trains(tasks, case):
    """One client at a time: then a client's update is the same to the bit in any company, and sums alone may differ."""
    task, method, rest = CASES[case]
    experiment = job(tasks[task], method, engine={"name": "cohort", "max_clients": 1}, **rest)
    whole, parts = simulation.Simulation.start(experiment), sharded(experiment, 3)
    wanted, found = (list(each.stream()) for each in (whole, parts))
    assert all(trainer._session is not None for trainer in parts.session.pool.trainers)
    for one, other in zip(wanted, found, strict=True):
        assert (one.delivered, one.lost) == (other.delivered, other.lost)
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-6)
        assert other.eval == pytest.approx(one.eval, rel=1e-6)
    assert_same(whole.state, parts.state)
    ids = np.arange(len(whole.setting.population))
    (rows, known), (others, others_known) = whole.store.get(ids), parts.store.get(ids)
    assert known.tolist() == others_known.tolist()
    assert_same(rows, others)


def test_a_worker_that_comes_late_gets_every_change_of_the_base(tasks):
    experiment = job(tasks["mixed"], {"name": "flora", "local_steps": 2}, rounds=4)
    whole, parts = simulation.Simulation.start(experiment), sharded(experiment, 2)
    pool = parts.session.pool
    for one, other in zip(whole.stream(), parts.stream(), strict=True):
        pool.trainers[one.round % 2] = Trainer(pool.recipe)
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-5)
    assert_same(whole.state, parts.state, 1e-5)


def test_replies_that_are_not_finite_are_named(tasks):
    """The toy diverges at such a rate; ids, not places in a shard, are what is dropped."""
    method = {"name": "fedavg", "local_steps": 60, "local_optimizer": {"name": "sgd", "lr": 1e4}}
    experiment = job(tasks["toy"], method, rounds=1)
    (one,), (other,) = list(simulation.stream(experiment)), list(sharded(experiment, 2).stream())
    assert one.lost["not_finite"]
    assert other.lost == one.lost


@settings(deadline=None, max_examples=25)
@given(ids=st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True), workers=st.integers(1, 4),
       seed=st.integers(0, 10**6), slots=st.integers(0, 3))  # fmt: skip
def test_any_cohort(ids, workers, seed, slots):
    """Random cohorts, steps, losses and workers on the toy, with client memory."""
    rng, n = np.random.default_rng(seed), len(ids)
    experiment = job({"name": "toy", "clients": 9, "ragged": True}, {"name": "scaffold", **SGD})
    experiment = replace(experiment, engine=CohortEngine(max_clients=slots))
    sims = simulation.Simulation.start(experiment), sharded(experiment, workers)
    cohort = replace(cohort_of(ids), steps=rng.integers(1, 9, n), weight=rng.uniform(1, 5, n))
    delivery = delivered(ids, lost=[client for client in ids if rng.random() < 0.3])
    replies = []
    for sim in sims:
        message: Message = sim.setting.method.broadcast(sim.setting.spec, sim.state, cohort)
        replies.append(sim.session.run(message, sim.store, cohort, delivery, Key(seed)))
    one, other = replies
    assert one.position.tolist() == other.position.tolist()
    np.testing.assert_allclose(other.loss, one.loss, rtol=1e-5)
    assert_same(one.parts, other.parts, 1e-5)
    assert_same(sims[0].store.get(ids)[0], sims[1].store.get(ids)[0], 1e-5)
