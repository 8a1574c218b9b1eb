"""Trees of tensors: leafwise arithmetic, reductions that keep the client axis."""

import pytest
import torch

from fedwave.core import tree

A = {"w": torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), "b": torch.tensor([[1.0], [2.0]])}  # two clients
B = {"w": torch.ones(2, 1, 2), "b": torch.ones(2, 1)}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_leafwise():
    assert same(tree.sub(A, B), {"w": A["w"] - 1, "b": A["b"] - 1})
    assert same(tree.add(A, B, scale=0.5), {"w": A["w"] + 0.5, "b": A["b"] + 0.5})
    assert same(tree.map(lambda x, y, z: x + y * z, A, B, A), {"w": 2 * A["w"], "b": 2 * A["b"]})


def test_reductions_per_client():
    # client 0: 1 + 2 + 1; client 1: 3 + 4 + 2. Squared distance to ones: 0 + 1 + 0; 4 + 9 + 1.
    assert tree.dot(A, B).tolist() == [4.0, 9.0]
    assert tree.sqdist(A, B).tolist() == [1.0, 14.0]


def test_client_axis():
    scaled = tree.scale_rows(A, torch.tensor([2.0, 0.0]))
    assert scaled["w"].tolist() == [[[2.0, 4.0]], [[0.0, 0.0]]]
    assert scaled["b"].tolist() == [[2.0], [0.0]]
    wide = tree.expand({"w": torch.tensor([1.0, 2.0])}, 3)
    assert wide["w"].shape == (3, 2)
    assert wide["w"].stride(0) == 0  # a view
    assert same(tree.take(A, torch.tensor([1])), {"w": A["w"][1:], "b": A["b"][1:]})


def test_select_keeps_the_order_asked_for():
    assert list(tree.select(A, ["b", "w"])) == ["b", "w"]
    with pytest.raises(KeyError):
        tree.select(A, ["x"])
