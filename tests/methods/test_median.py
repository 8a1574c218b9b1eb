"""Coordinate-wise median."""

import numpy as np
import pytest
import torch

from fedwave.core import config
from fedwave.core.types import Replies
from fedwave.tasks.toy import Toy

from .helpers import Bench, clients_data, descend

DATA = clients_data((1, 3, 4, 2))


@pytest.mark.parametrize("ids", [[0, 1, 2], [0, 1, 2, 3], [2]])
def test_median_of_updates(ids):
    """Unweighted; the mean of the middle two for an even number; a single client is its own median."""
    bench = Bench("median", DATA, local_steps=2)
    bench.round(ids)
    own = np.stack([descend(np.zeros(2), DATA[k], steps=2, lr=0.1) for k in ids])
    assert bench.weight == pytest.approx(np.median(own, axis=0), abs=1e-6)


def test_one_arbitrary_update_does_not_matter():
    """Of three honest updates and a lie the median lies within the honest ones."""
    lie = [(x.copy(), y.copy()) for x, y in DATA]
    lie[1] = (lie[1][0], 1e6 + lie[1][1])
    bench = Bench("median", lie, local_steps=1)
    bench.round([0, 1, 2, 3])
    honest = np.stack([descend(np.zeros(2), DATA[k], steps=1, lr=0.1) for k in (0, 2, 3)])
    assert (bench.weight >= honest.min(0) - 1e-6).all()
    assert (bench.weight <= honest.max(0) + 1e-6).all()


def test_more_than_2_to_the_24_values():
    """3 updates of 6 million values each, constant 1, 2 and 5."""
    method = config.build("method", "median")
    spec = Toy(dimension=6_000_000).spec()
    update = torch.tensor([1.0, 5.0, 2.0])[:, None, None].expand(3, 1, 6_000_000)
    state = method.init(spec, {"weight": torch.zeros(1, 6_000_000)}, None, None)
    replies = Replies({"update": {"weight": update}}, np.ones(3) / 3, np.arange(3), np.zeros(3, dtype=int), np.zeros(3))
    moved = method.server_update(spec, state, replies, None, None)["params"]["weight"]
    assert (moved.min().item(), moved.max().item()) == (2.0, 2.0)
