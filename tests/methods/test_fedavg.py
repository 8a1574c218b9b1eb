"""Federated averaging: weights, losses, packing, replies that are not finite."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave import simulation
from fedwave.core.types import Cohort, Leaf, Part
from fedwave.engines.cohort import Fold
from fedwave.experiment import Experiment

from .helpers import Bench, clients_data, descend

DATA = clients_data((1, 3, 4))


def test_weighted_mean():
    """w = sum n_k w_k / sum n_k with n = (1, 3, 4)."""
    bench = Bench("fedavg", DATA, local_steps=3, local_optimizer={"name": "sgd", "lr": 0.1})
    bench.round([0, 1, 2])
    own = [descend(np.zeros(2), data, steps=3, lr=0.1) for data in DATA]
    assert bench.weight == pytest.approx((1 * own[0] + 3 * own[1] + 4 * own[2]) / 8, abs=1e-6)


def test_weights_are_renormalised_over_who_was_heard():
    """Client 1 is lost: p = (1/5, 4/5)."""
    bench = Bench("fedavg", DATA, local_steps=2)
    replies = bench.round([0, 1, 2], lost=[1])
    own = [descend(np.zeros(2), data, steps=2, lr=0.1) for data in DATA]
    assert bench.weight == pytest.approx((own[0] + 4 * own[2]) / 5, abs=1e-6)
    assert replies.weight.tolist() == pytest.approx([0.2, 0.8])
    assert replies.position.tolist() == [0, 2]
    assert np.isnan(replies.loss[1])  # FedAvg keeps nothing on the client: one that will not be heard need not train


def test_equal_weights_and_server_rate():
    """w = w_0 + lr_s (mean_k w_k - w_0) with lr_s = 0.5, from a start that is not zero (the first round's result)."""
    bench = Bench("fedavg", DATA, local_steps=1, weighting="uniform", server_optimizer={"name": "sgd", "lr": 0.5})
    expected = np.zeros(2)
    for turn in range(2):
        bench.round([0, 1, 2], round=turn)
        mean = np.mean([descend(expected, data, steps=1, lr=0.1) for data in DATA], axis=0)
        expected = expected + 0.5 * (mean - expected)
        assert bench.weight == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_server_momentum(nesterov):
    """D = w - mean w_k; v <- m v + D; w <- w - lr v, or w - lr (D + m v) with Nesterov (DiLoCo's outer step)."""
    outer = {"name": "sgd", "lr": 0.7, "momentum": 0.9, "nesterov": nesterov}
    bench = Bench("fedavg", DATA, local_steps=2, weighting="uniform", server_optimizer=outer)
    w, v = np.zeros(2), np.zeros(2)
    for turn in range(3):
        bench.round([0, 1, 2], round=turn)
        drop = w - np.mean([descend(w, data, steps=2, lr=0.1) for data in DATA], axis=0)
        v = 0.9 * v + drop
        w = w - 0.7 * (drop + 0.9 * v if nesterov else v)
        assert bench.weight == pytest.approx(w, abs=1e-6)


def test_train_loss_is_the_mean_before_each_step():
    bench = Bench("fedavg", DATA, local_steps=2)
    loss = bench.round([0, 1, 2]).loss
    for k, (x, y) in enumerate(DATA):
        w = descend(np.zeros(2), (x, y), steps=1, lr=0.1)
        assert loss[k] == pytest.approx((np.mean(y**2) / 2 + np.mean((x @ w - y) ** 2) / 2) / 2, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    st.permutations(range(5)),
    st.lists(st.floats(0.5, 20), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
    st.integers(1, 5),
)
def test_folding_does_not_depend_on_the_order(order, weights, heard, group):
    """Any order of the clients and any grouping gives numpy's weighted mean, and gathered rows in cohort order."""
    values = np.random.default_rng(1).normal(size=(5, 3))
    zero = np.zeros(5, dtype=np.int64)
    cohort = Cohort(0, np.arange(5), np.array(weights), zero, zero, zero, zero + 2, zero, zero, zero)
    leaves = {"x": Leaf((3,))}
    fold = Fold({"a": Part(leaves), "b": Part(leaves, reduce="gather")}, 5)
    for start in range(0, 5, group):
        at = np.array(order[start : start + group])
        rows = {"x": torch.tensor(values[at], dtype=torch.float32)}
        fold.add(at, cohort, np.array(heard, dtype=float)[at], {"a": rows, "b": rows}, torch.zeros(len(at)))
    replies = fold.close(cohort)
    kept = np.flatnonzero(heard)
    assert replies.parts["a"]["x"].numpy() == pytest.approx(
        np.average(values[kept], axis=0, weights=np.array(weights)[kept]), abs=1e-6
    )
    assert replies.position.tolist() == kept.tolist()
    assert replies.parts["b"]["x"].numpy() == pytest.approx(values[kept], abs=1e-6)
    assert replies.weight == pytest.approx(np.array(weights)[kept] / np.array(weights)[kept].sum())


PACKED = {
    "fedavg": {}, "fedprox": {"mu": 0.5}, "median": {}, "scaffold": {}, "local": {},
    "fedkseed": {"pool": 16, "local_optimizer": {"name": "sgd", "lr": 0.01}}, "distill": {"samples": 5},
}  # fmt: skip


@pytest.mark.parametrize("method", sorted(PACKED))
def test_groups_of_any_size_give_the_same(method):
    """Two rounds with a lost client in groups of 1, 3 and all: server state, losses and client memory within 1e-6."""
    found = []
    for size in (1, 3, 0):
        bench = Bench(
            method, clients_data((1, 3, 4, 2, 7)), max_clients=size, public=5, local_epochs=3, **PACKED[method]
        )
        losses = [bench.round([0, 1, 2, 3, 4], lost=[turn], round=turn).loss for turn in range(2)]
        memory = [bench.store.get([k])[0] for k in range(5)]
        found.append((bench.state, losses, memory))
    for a, b in itertools.pairwise(found):
        for group in a[0]:
            for leaf, value in a[0][group].items():
                assert torch.allclose(value, b[0][group][leaf], rtol=0, atol=1e-6), (group, leaf)
        np.testing.assert_allclose(a[1], b[1], atol=1e-6)
        for mine, other in zip(a[2], b[2], strict=True):
            assert all(torch.allclose(mine[name], other[name], rtol=0, atol=1e-6) for name in mine)


# ---- replies that are not finite -------------------------------------------------------------------------------------


def poisoned(clients):
    data = clients_data((1, 3, 4))
    for k in clients:
        data[k][1][0] = np.nan
    return data


def test_a_reply_that_is_not_finite_is_left_out():
    """Client 1 says NaN: the others' weights are 1/5 and 4/5, and it is named."""
    bench = Bench("fedavg", poisoned([1]), local_steps=2)
    replies = bench.round([0, 1, 2])
    own = [descend(np.zeros(2), data, steps=2, lr=0.1) for data in DATA]
    assert bench.weight == pytest.approx((own[0] + 4 * own[2]) / 5, abs=1e-6)
    assert replies.dropped == [1]


@pytest.mark.parametrize(
    "transform", [{"name": "quantize", "bits": 8}, {"name": "top_k", "fraction": 0.5}, {"name": "clip", "norm": 1.0}]
)
def test_transforms_do_not_hide_it(transform):
    bench = Bench("fedavg", poisoned([1]), local_steps=2, transforms=[transform])
    assert bench.round([0, 1, 2]).dropped == [1]
    assert np.isfinite(bench.weight).all()


@pytest.mark.parametrize("method", ["scaffold", "distill", "local"])
def test_its_memory_stays(method):
    """A healthy round, then one in which client 1's data have gone bad: its memory is that of the first round."""
    settings = {"samples": 4} if method == "distill" else {}
    bench = Bench(method, clients_data((1, 3, 4)), public=4, local_steps=2, **settings)
    bench.round([0, 1, 2])
    before = [bench.memory(k)[0] for k in range(3)]
    bench.session.learner._targets._values[1] = torch.nan  # row 1 is the first of client 1
    assert bench.round([0, 1, 2], round=1).dropped == [1]
    assert np.array_equal(bench.memory(1)[0], before[1])
    assert not np.allclose(bench.memory(2)[0], before[2])
    assert np.isfinite(bench.weight).all()


def job(**rest):
    return {
        "seed": 3, "rounds": 2, "task": {"name": "toy", "clients": 4, "dimension": 3}, "network": {"name": "ideal"},
        "method": {"name": "fedavg", "local_steps": 2}, **rest,
    }  # fmt: skip


def test_the_record_names_it(monkeypatch):
    from fedwave.tasks.toy import Toy

    original = Toy.data

    def data(self, seed, *, public=0):
        found = original(self, seed, public=public)
        found.y[found.offsets[2] : found.offsets[3]] = np.nan
        return found

    monkeypatch.setattr(Toy, "optimum", lambda self, seed: np.zeros(3))
    monkeypatch.setattr(Toy, "data", data)
    record = next(iter(simulation.stream(Experiment.parse(job()))))
    assert record.lost == {"not_finite": [2]}
    assert (record.delivered, record.clients) == (3, 4)
    assert np.isfinite(record.train_loss)


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "median", "fedadam"])
def test_nobody_is_finite(method):
    """The state stays as it was."""
    bench = Bench(method, poisoned([0, 1, 2]), local_steps=1)
    before = bench.state
    replies = bench.round([0, 1, 2])
    assert len(replies) == 0
    assert sorted(replies.dropped) == [0, 1, 2]
    assert bench.state is before


def test_an_update_that_overflows_is_left_out():
    """A rate of 1e30 leads beyond float32 in two steps, and the mean loss with it."""
    table = job(method={"name": "fedavg", "local_steps": 4, "local_optimizer": {"name": "sgd", "lr": 1e30}})
    records = list(simulation.stream(Experiment.parse(table)))
    assert all(record.delivered == 0 and record.lost["not_finite"] == [0, 1, 2, 3] for record in records)
    assert records[0].eval is None or np.isfinite(records[0].eval["loss"])


def test_a_dropped_client_is_not_in_the_mean_loss():
    """An infinite train_loss is no JSON number."""
    table = job(method={"name": "fedavg", "local_steps": 2, "local_optimizer": {"name": "sgd", "lr": 1e30}})
    for record in simulation.stream(Experiment.parse(table)):
        assert record.train_loss is None or np.isfinite(record.train_loss)


def test_memory_that_is_not_finite_is_not_kept():
    """y = 1e18: the loss 1e36 is finite, the step 1e22 x 1e17 is not; a client without payload must not keep that."""
    data = clients_data((1, 3, 4))
    data[1] = (data[1][0], 1e18 * data[1][1])
    bench = Bench("local", data, local_steps=1, local_optimizer={"name": "sgd", "lr": 1e22})
    assert bench.round([0, 1, 2]).dropped == [1]
    assert not bench.memory(1)[1]


@pytest.mark.parametrize("case", ["scaffold", "error feedback"])
def test_quorum_not_met_leaves_the_clients_as_they_were(case):
    """Every round has at most 3 of 4 updates, the quorum is 4: no step, so clients must not think there was one.

    SCAFFOLD: c must stay the mean of the c_k (both zero). Error feedback: what was sent was not used, so the residuals
    are the whole updates (mean over the clients of |residual| as if everybody was lost).
    """
    method = {"name": "scaffold" if case == "scaffold" else "fedavg", "local_steps": 2}
    transform = [{"name": "top_k", "fraction": 0.34}] if case != "scaffold" else []

    def memory(loss):
        network, federation = {"name": "ideal", "loss": loss}, {"name": "sync", "quorum": 4}
        table = job(method=method, transform=transform, network=network, federation=federation)
        running = simulation.Simulation.start(Experiment.parse(table))
        assert all(record.delivered < 4 for record in running.stream())
        return running.store.get(np.arange(4))[0], running.state

    rows, state = memory(0.6)
    if case == "scaffold":
        assert torch.allclose(rows["method/weight"].mean(0), state["control"]["weight"], atol=1e-6)
    else:
        assert torch.allclose(rows["update/residual/weight"], memory(1.0)[0]["update/residual/weight"], atol=1e-6)
