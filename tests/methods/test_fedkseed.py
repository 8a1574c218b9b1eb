"""FedKSeed: scalars that say everything."""

import numpy as np
import pytest

from fedwave.core import config
from fedwave.core.errors import Refused
from fedwave.methods.fedkseed import direction
from fedwave.tasks.toy import Toy

from .helpers import KEY, Bench, clients_data, gradient

DATA = clients_data((1, 3, 4))


def bench(**settings):
    return Bench(
        "fedkseed", DATA, **{"pool": 8, "local_steps": 5, "local_optimizer": {"name": "sgd", "lr": 0.05}, **settings}
    )


def z_of(seed, like):
    return direction(seed, like)["weight"].numpy()[0].astype(float)


def seeds_of(client, steps, pool, round=0):
    """The seeds that a client draws: uniform from the pool, a function of (round, step, client)."""
    return [int(KEY.fold("round", round).fold("seed", t).uniform([client])[0, 0] * pool) for t in range(steps)]


def by_hand(w, data, seeds, like, *, lr, eps, pool):
    """(w, accumulators). On a quadratic (L(w + eps z) - L(w - eps z)) / 2 eps = g . z exactly."""
    total = np.zeros(pool)
    for seed in seeds:
        z = z_of(seed, like)
        slope = gradient(w, *data) @ z
        w, total[seed] = w - lr * slope * z, total[seed] + lr * slope
    return w, total


def test_a_round_by_hand():
    """a <- a + sum p_k a_k with p = n_k / n; w = w_0 - sum_s a_s z_s. eps = 0.05 keeps float32 differences clean."""
    run = bench(eps=0.05)
    like, a = run.session.initial, np.zeros(8)
    for turn in range(2):
        run.round([0, 1, 2], round=turn)
        start = np.zeros(2) - sum(a[s] * z_of(s, like) for s in range(8))
        own = [by_hand(start, DATA[k], seeds_of(k, 5, 8, turn), like, lr=0.05, eps=0.05, pool=8)[1] for k in range(3)]
        a = a + (own[0] + 3 * own[1] + 4 * own[2]) / 8
        assert run.state["scalars"]["accumulated"].numpy() == pytest.approx(a, abs=1e-5)
        assert run.weight == pytest.approx(-sum(a[s] * z_of(s, like) for s in range(8)), abs=1e-5)


def test_scalars_rebuild_the_clients_own_parameters():
    """A cohort of one: the server rebuilds where the client ended, to the rounding of w +- eps z."""
    run, ended = bench(local_steps=40), {}
    reply = type(run.method).reply

    def watch(self, clients):
        ended["params"] = clients.params["weight"][0].detach().numpy()[0].copy()
        return reply(self, clients)

    type(run.method).reply = watch
    try:
        run.round([2])
    finally:
        type(run.method).reply = reply
    assert np.linalg.norm(ended["params"]) > 0.01
    assert run.weight == pytest.approx(ended["params"], abs=1e-5)


def test_lost_clients_leave_no_trace():
    """Client 1 lost: only 0 and 2 count, 1/5 and 4/5."""
    run = bench(eps=0.05)
    run.round([0, 1, 2], lost=[1])
    like = run.session.initial
    own = [by_hand(np.zeros(2), DATA[k], seeds_of(k, 5, 8), like, lr=0.05, eps=0.05, pool=8)[1] for k in range(3)]
    assert run.state["scalars"]["accumulated"].numpy() == pytest.approx((own[0] + 4 * own[2]) / 5, abs=1e-5)


def test_traffic_is_16_384_bytes_each_way():
    """4096 float32 scalars, whatever the model."""
    method = config.build("method", "fedkseed")
    for dimension in (10, 10**7):
        spec = Toy(dimension=dimension).spec()
        for schema in (method.uplink(spec), method.downlink(spec)):
            assert sum(leaf.bits for part in schema.values() for leaf in part.leaves.values()) == 8 * 16_384


def test_directions_are_standard_normal_and_differ():
    z = np.concatenate(
        [direction(s, {"a": np.zeros((50, 50)), "b": np.zeros(10)})["a"].numpy().ravel() for s in range(20)]
    )
    assert abs(z.mean()) < 0.02  # 50,000 draws: standard error 0.0045
    assert abs(z.std() - 1) < 0.02
    both = [direction(s, {"a": np.zeros(1000)})["a"].numpy() for s in (1, 2)]
    assert abs(np.corrcoef(both)[0, 1]) < 0.15


def test_refusals():
    spec = Toy().spec()
    for settings in (
        {"local_optimizer": {"name": "adamw"}}, {"local_optimizer": {"name": "sgd", "momentum": 0.5}},
        {"server_optimizer": {"name": "adam"}}, {"clip_norm": 1.0},
    ):  # fmt: skip
        with pytest.raises(Refused, match="fedkseed"):
            config.build("method", {"name": "fedkseed", **settings}).check(spec)
