"""What saves time in a step changes nothing: products on their side, passes without a search, rows kept once."""

from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from fedwave.engines import heap
from fedwave.engines.fold import finite
from fedwave.engines.stacked import batches
from fedwave.engines.stacked.table import Table
from fedwave.engines.stacked.twins import ClientLinear


class Clients:
    """As much of a stack as a twin asks for."""

    def __init__(self, k):
        self.k, self.rows = k, 1

    def spread(self, x, layer):
        return x


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("d_in", "d_out", "rows"), [(6, 5, 3), (32, 4, 2), (4, 32, 9), (16, 2, 40)])
def test_linear_twin_equals_autograd(d_in, d_out, rows, bias, autocast):
    generator = torch.Generator().manual_seed(0)
    k = 3
    twin = ClientLinear(nn.Linear(d_in, d_out, bias=bias), Clients(k))  # type: ignore[arg-type]
    x = torch.randn(k * rows, d_in, generator=generator, requires_grad=True)
    weight = torch.randn(k, d_out, d_in, generator=generator, requires_grad=True)
    shift = torch.randn(k, d_out, generator=generator, requires_grad=True) if bias else None
    twin.weight, twin.bias = weight, shift
    toward = torch.randn(k * rows, d_out, generator=generator)
    wanted = torch.einsum("kbi,koi->kbo", x.view(k, rows, d_in), weight).flatten(0, 1)
    wanted = wanted if shift is None else wanted + shift.repeat_interleave(rows, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = twin(x)
    assert found.dtype == (torch.bfloat16 if autocast else torch.float32)
    leaves = [leaf for leaf in (x, weight, shift) if leaf is not None]
    grads = torch.autograd.grad((found.float() * toward).sum(), leaves)
    close = {"atol": 0.3, "rtol": 0.05} if autocast else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(found.float(), wanted, **close)
    for grad, other in zip(grads, torch.autograd.grad((wanted * toward).sum(), leaves), strict=True):
        assert grad.is_contiguous()
        torch.testing.assert_close(grad, other, **close)


def test_steps_without_a_search_are_cut_as_with_one():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2_000):
        k, b = rng.integers(1, 6, 2)
        count = rng.integers(rng.integers(0, 2), b + 1, k)
        rows = np.where(np.arange(b) < count[:, None], rng.integers(0, 99, (k, b)), -1)
        lengths = np.where(rows >= 0, rng.integers(1, 4, (k, b) if rng.random() < 0.2 else None), 1)
        costs = batches.Costs(int(rng.integers(4, 60)), float(rng.choice([0, 5])), float(rng.choice([0, 0.3, 1, 30])))
        if not count.any():
            continue
        found = batches.cut_passes(rows, lengths, costs)
        hits += batches._whole(rows, lengths, costs) is not None
        with mock.patch.object(batches, "_whole", return_value=None):
            wanted = batches.cut_passes(rows, lengths, costs)
        for one, other in zip(found, wanted, strict=True):
            assert np.array_equal(one.place, other.place)
            assert (one.slots is None) == (other.slots is None)
            assert one.slots is None or np.array_equal(one.slots, other.slots)
    assert hits > 300


def test_equal_rows_are_kept_once_until_they_differ():
    table, row = Table(4, torch.device("cpu")), torch.arange(3.0)
    table.look(0, 4)
    table.put("sent", {"w": row.expand(4, 3)}, once=True)
    assert table.get("sent")["w"].stride(0) == 0
    table.move(np.array([0]), np.array([2]))
    table.put("sent", {"w": row.clone().expand(4, 3)}, once=True)
    assert table.get("sent")["w"].stride(0) == 0
    table.look(1, 3)
    table.put("sent", {"w": (row + 1).expand(2, 3)}, once=True)
    table.look(0, 4)
    assert torch.equal(table.get("sent")["w"], row + torch.tensor([[0.0], [1.0], [1.0], [0.0]]))
    row += 9
    assert table.get("sent")["w"].max() == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_who_is_not_finite(bad):
    values = {"a": torch.ones(4, 3), "b": torch.ones(4, 2, 2)}
    loss = torch.ones(4, dtype=torch.float64)
    assert finite(loss, {"update": values}).tolist() == [True] * 4
    values["b"][1, 0, 1] = bad
    loss[3] = bad
    assert finite(loss, {"update": values}).tolist() == [True, False, True, False]


def test_values_whose_sum_overflows_are_finite():
    assert finite(torch.ones(2), {"update": {"a": torch.full((2, 9), 3e38)}}).all()


def test_a_users_own_heap_settings_stand(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with mock.patch.object(heap.ctypes, "CDLL") as library:
        heap.keep_freed()
    library.assert_not_called()
