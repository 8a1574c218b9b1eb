"""Federated distillation, and clients that keep their own model."""

import numpy as np
import pytest

from fedwave.core import config
from fedwave.core.errors import Refused
from fedwave.core.types import Spec

from .helpers import Bench, clients_data, descend

DATA = clients_data((1, 3, 4))


def bench(**settings):
    return Bench("distill", DATA, public=6, **{"samples": 6, "digest_steps": 2, "local_steps": 3, **settings})


def follow(w, public, consensus, steps, lr):
    """Descent on ``mean (x w - consensus)^2 / 2`` over the public rows: the toy's distillation loss."""
    return descend(w, (public, consensus), steps=steps, lr=lr)


def test_two_rounds_by_hand():
    """Digest (whole public set at every step), train, say; consensus = sum p_k outputs_k; the server follows it.

    Client 0 is lost in round 0: p = (3/7, 4/7), and it goes on from its own model in round 1 all the same.
    """
    run = bench()
    x, own, server = run.public, np.zeros((3, 2)), np.zeros(2)
    consensus = np.zeros(6)  # what the initial model says
    for turn, lost in enumerate(([0], [])):
        replies = run.round([0, 1, 2], lost=lost, round=turn)
        for k in range(3):
            own[k] = descend(follow(own[k], x, consensus, 2, 0.1), DATA[k], steps=3, lr=0.1)
            assert run.memory(k)[0] == pytest.approx(own[k], abs=1e-5)
        heard = [k for k in range(3) if k not in lost]
        consensus = np.average([x @ own[k] for k in heard], axis=0, weights=[len(DATA[k][1]) for k in heard])
        assert replies.parts["outputs"]["outputs"].numpy()[:, 0] == pytest.approx(consensus, abs=1e-5)
        before, server = server, follow(server, x, consensus, 20, 0.1)
        assert run.weight == pytest.approx(server, abs=1e-5)
        assert np.linalg.norm(x @ server - consensus) < np.linalg.norm(x @ before - consensus)


def test_a_client_first_chosen_later_starts_from_the_initial_model():
    run = bench(digest_steps=0)
    run.round([0, 1])
    run.round([2], round=1)
    assert run.memory(2)[0] == pytest.approx(descend(np.zeros(2), DATA[2], steps=3, lr=0.1), abs=1e-6)


def test_outputs_travel_not_parameters():
    """samples x output values of 4 bytes each way."""
    method = config.build("method", {"name": "distill", "samples": 100})
    from fedwave.tasks.toy import Toy

    spec = Toy(dimension=5000).spec()
    for schema in (method.uplink(spec), method.downlink(spec)):
        assert sum(leaf.bits for part in schema.values() for leaf in part.leaves.values()) == 100 * 32


def test_refuses_tasks_without_fixed_outputs():
    spec = Spec({}, 1, 1, 1.0, 1.0, 1.0)
    with pytest.raises(Refused, match="causal-lm"):
        config.build("method", "distill").check(spec)


def test_local_clients_go_on_alone():
    """No communication: 2 + 2 steps in two rounds are 4 steps, heard or not; the server stays put."""
    run = Bench("local", DATA, local_steps=2)
    run.round([0, 1], lost=[1])
    run.round([0, 1, 2], round=1)
    for k, steps in enumerate((4, 4, 2)):
        assert run.memory(k)[0] == pytest.approx(descend(np.zeros(2), DATA[k], steps=steps, lr=0.1), abs=1e-6)
    assert run.weight.tolist() == [0.0, 0.0]


def test_error_feedback_is_not_for_outputs():
    """top_k sends a fifth of the outputs; what waits for its turn must not grow into a multiple of itself."""
    data = clients_data((20, 30, 40))
    run = Bench(
        "distill",
        data,
        public=20,
        samples=20,
        digest_steps=0,
        local_steps=5,
        transforms=[{"name": "top_k", "fraction": 0.2}],
    )
    for turn in range(12):
        said = run.round([0, 1, 2], round=turn).parts["outputs"]["outputs"].abs().max()
        largest = max(np.abs(run.public @ run.memory(k)[0]).max() for k in range(3))
        assert said <= 1.01 * largest
