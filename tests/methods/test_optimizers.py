"""Server rules by hand: FedAdam and FedYogi, two steps."""

import numpy as np
import pytest
import torch

from fedwave.core import config
from fedwave.core.errors import BadInput, Refused
from fedwave.tasks.toy import Toy

from .helpers import Bench, clients_data, descend

DATA = clients_data((1, 3, 4))


@pytest.mark.parametrize("method", ["fedadam", "fedyogi"])
def test_two_rounds_by_hand(method):
    """Reddi et al., Algorithm 2: D = mean w_k - w; m <- .9 m + .1 D.

    Adam v <- .99 v + .01 D^2, Yogi v <- v - .01 D^2 sign(v - D^2);
    w <- w + lr m / (sqrt v + tau) with m_{-1} = 0 and v_{-1} = tau^2; no bias correction.
    """
    rule = {"name": method[3:], "lr": 0.2, "beta1": 0.9, "beta2": 0.99, "eps": 0.01}
    bench = Bench(method, DATA, local_steps=2, weighting="uniform", server_optimizer=rule)
    w, m, v = np.zeros(2), np.zeros(2), np.full(2, 0.01**2)
    signs = set()
    for turn in range(4):
        bench.round([0, 1, 2], round=turn)
        delta = np.mean([descend(w, data, steps=2, lr=0.1) for data in DATA], axis=0) - w
        m = 0.9 * m + 0.1 * delta
        signs |= set(np.sign(v - delta**2))
        v = 0.99 * v + 0.01 * delta**2 if method == "fedadam" else v - 0.01 * delta**2 * np.sign(v - delta**2)
        w = w + 0.2 * m / (np.sqrt(v) + 0.01)
        assert bench.weight == pytest.approx(w, abs=1e-6)
    assert bench.state["server.exp_avg_sq"]["weight"].numpy()[0] == pytest.approx(v, rel=1e-4)
    assert len(signs) == 2  # both directions of Yogi's rule were taken


def test_yogi_and_adam_agree_where_v_is_the_square():
    """v = D^2 is a fixed point of both rules; from v > D^2 Yogi falls by (1 - b2) D^2, Adam by (1 - b2)(v - D^2)."""
    for name in ("adam", "yogi"):
        rule = config.build("optimizer", {"name": name})
        square = torch.tensor([4.0, 9.0])
        assert rule.second(square, torch.tensor([2.0, 1.0])).tolist() == pytest.approx(
            [4.0, 9 - 0.01 * (8.0 if name == "adam" else 1.0)]
        )


def test_refusals():
    spec = Toy().spec()
    for settings, word in [
        ({"local_optimizer": {"name": "adam"}}, "adamw"),
        ({"server_optimizer": {"name": "sgd", "nesterov": True}}, "nesterov"),
        ({"local_steps": 1, "local_epochs": 1}, "exclude"),
    ]:
        with pytest.raises(Refused, match=word):
            config.build("method", {"name": "fedavg", **settings}).check(spec)
    with pytest.raises(BadInput, match="beta1"):  # 1 - beta1^t is a divisor
        config.build("optimizer", {"name": "adamw", "beta1": 1.0})
