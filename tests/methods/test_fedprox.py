"""FedProx: the proximal term's gradient by hand."""

import numpy as np
import pytest

from .helpers import Bench, clients_data, descend

DATA = clients_data((1, 3, 4))


def test_gradient_by_hand():
    """Li et al., Eq. 2: the gradient gains mu (w - w_sent), which is zero at the first step and not at the others."""
    bench = Bench("fedprox", DATA, mu=2.0, local_steps=3)
    w = np.zeros(2)
    for turn in range(2):  # in the second round w_sent is not zero
        bench.round([0, 1, 2], round=turn)
        sent = w
        own = [
            descend(sent, data, steps=3, lr=0.1, correct=lambda v, g, sent=sent: g + 2.0 * (v - sent)) for data in DATA
        ]
        w = (own[0] + 3 * own[1] + 4 * own[2]) / 8
        assert bench.weight == pytest.approx(w, abs=1e-6)


def test_mu_zero_is_fedavg():
    both = [Bench(name, DATA, local_epochs=2, **extra) for name, extra in (("fedprox", {"mu": 0.0}), ("fedavg", {}))]
    for bench in both:
        bench.round([0, 1, 2])
        bench.round([0, 2], round=1)
    assert np.array_equal(both[0].weight, both[1].weight)


def test_large_mu_keeps_clients_near():
    """mu -> large: every client stays where it was sent but for its first step lr g."""
    bench = Bench("fedprox", DATA, mu=1.0, local_steps=50, local_optimizer={"name": "sgd", "lr": 0.01})
    free = Bench("fedprox", DATA, mu=0.0, local_steps=50, local_optimizer={"name": "sgd", "lr": 0.01})
    bench.round([0, 1, 2]), free.round([0, 1, 2])
    assert np.linalg.norm(bench.weight) < np.linalg.norm(free.weight)
