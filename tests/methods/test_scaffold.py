"""SCAFFOLD, option II, against numpy."""

import numpy as np
import pytest

from fedwave.core import config
from fedwave.core.errors import Refused
from fedwave.tasks.toy import Toy

from .helpers import Bench, clients_data, descend

DATA = clients_data((1, 3, 4))


def reference(rounds, *, steps, lr, server_lr):
    """Karimireddy et al., Algorithm 1: ``rounds`` lists (who trained, who of them was heard); yields x, c, c_k."""
    x, c, own = np.zeros(2), np.zeros(2), np.zeros((3, 2))
    for ids, heard in rounds:
        y = {k: descend(x, DATA[k], steps=steps, lr=lr, correct=lambda w, g, k=k, c=c: g - own[k] + c) for k in ids}
        new = {k: own[k] - c + (x - y[k]) / (steps * lr) for k in heard}
        step = np.mean([y[k] - x for k in heard], axis=0)
        change = np.mean([new[k] - own[k] for k in heard], axis=0)
        x, c = x + server_lr * step, c + len(heard) / 3 * change
        for k in heard:
            own[k] = new[k]
        yield x, c, own.copy()


@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_three_rounds_by_hand(server_lr):
    """Two of three clients a round; in the last one client 0 trains and is not heard."""
    rounds = [([0, 1], [0, 1]), ([1, 2], [1, 2]), ([0, 2], [2])]
    bench = Bench("scaffold", DATA, local_steps=3, server_optimizer={"name": "sgd", "lr": server_lr})
    wanted = reference(rounds, steps=3, lr=0.1, server_lr=server_lr)
    for turn, ((ids, heard), (x, c, own)) in enumerate(zip(rounds, wanted, strict=True)):
        bench.round(ids, lost=set(ids) - set(heard), round=turn)
        assert bench.weight == pytest.approx(x, abs=1e-5)
        control = bench.state["control"]["weight"].numpy()[0]
        assert control == pytest.approx(c, abs=1e-5)
        for k in range(3):
            assert bench.memory(k)[0] == pytest.approx(own[k], abs=1e-5)
        assert control == pytest.approx(np.mean([bench.memory(k)[0] for k in range(3)], axis=0), abs=1e-6)


def test_new_control_is_the_mean_gradient():
    """Option II: c_k+ is the mean gradient along the path, here of one step: the gradient at the model sent."""
    from .helpers import gradient

    bench = Bench("scaffold", DATA, local_steps=1)
    bench.round([0, 1, 2])
    for k in range(3):
        assert bench.memory(k)[0] == pytest.approx(gradient(np.zeros(2), *DATA[k]), abs=1e-5)


def test_unequal_steps():
    """With epochs, clients make different numbers of steps; each divides by its own."""
    data = clients_data((1, 70, 130))  # 1, 2 and 3 batches an epoch
    bench = Bench("scaffold", data, local_epochs=1, local_optimizer={"name": "sgd", "lr": 0.05})
    bench.round([0, 1, 2])
    control = bench.state["control"]["weight"].numpy()[0]
    assert control == pytest.approx(np.mean([bench.memory(k)[0] for k in range(3)], axis=0), abs=1e-6)
    steps = np.array([1, 2, 3])
    mean = (
        sum(-0.05 * s * bench.memory(k)[0] for k, s in enumerate(steps)) / 3
    )  # y_k - x = -lr steps c_k+ from zero controls
    assert bench.weight == pytest.approx(mean, abs=1e-6)


def test_drift_is_corrected():
    """Many local steps on different optima: FedAvg stays away from the joint optimum, SCAFFOLD reaches it."""
    data = [(x, y + 3 * k) for k, (x, y) in enumerate(clients_data((6, 6, 6), seed=4))]
    x, y = np.concatenate([x for x, _ in data]), np.concatenate([y for _, y in data])
    optimum = np.linalg.lstsq(x, y, rcond=None)[0]
    distance = {}
    for name in ("fedavg", "scaffold"):
        bench = Bench(name, data, local_steps=10, local_optimizer={"name": "sgd", "lr": 0.1})
        for turn in range(150):
            bench.round([0, 1, 2], round=turn)
        distance[name] = np.linalg.norm(bench.weight - optimum)
    assert distance["scaffold"] < 1e-3
    assert distance["fedavg"] > 0.05


def test_refusals():
    spec = Toy().spec()
    for settings in (
        {"local_optimizer": {"name": "adamw"}}, {"local_optimizer": {"name": "sgd", "momentum": 0.9}},
        {"clip_norm": 1.0}, {"weighting": "samples"},
    ):  # fmt: skip
        with pytest.raises(Refused, match="scaffold"):
            config.build("method", {"name": "scaffold", **settings}).check(spec)
