"""Clipping to a ball, and which values the sparsifier keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.keys import Key
from fedwave.core.types import Leaf
from fedwave.transforms.clip import Clip
from fedwave.transforms.top_k import TopK


def test_clip_scales_the_whole_part_of_each_client():
    # Client 0: ||(3, 0, 4)|| = 5 -> factor 0.4; client 1: norm 1 < 2 stays; client 2: zero stays.
    values = {
        "a": torch.tensor([[[3.0], [0.0]], [[1.0], [0.0]], [[0.0], [0.0]]]),
        "b": torch.tensor([4.0, 0.0, 0.0]),
        "n": torch.tensor([7, 8, 9]),
    }
    clipped, side = Clip(2.0).encode(values, [Key(0)] * 3)
    assert side == {}
    torch.testing.assert_close(clipped["a"], torch.tensor([[[1.2], [0.0]], [[1.0], [0.0]], [[0.0], [0.0]]]))
    torch.testing.assert_close(clipped["b"], torch.tensor([1.6, 0.0, 0.0]))
    assert torch.equal(clipped["n"], values["n"])


def test_clip_half_precision_squares_do_not_overflow():
    # 300^2 = 90,000 exceeds float16's 65,504; the norm is 300 and the factor 1/300.
    clipped, _ = Clip(1.0).encode({"w": torch.tensor([[300.0, 0.0]], dtype=torch.float16)}, [Key(0)])
    assert clipped["w"].tolist() == [[1.0, 0.0]]


@settings(max_examples=60, deadline=None)
@given(
    x=st.lists(st.lists(st.integers(-3, 3), min_size=9, max_size=9), min_size=1, max_size=4),
    fraction=st.floats(0.01, 1.0),
)
def test_top_k_keeps_the_largest_and_the_first_of_equals(x, fraction):
    """The oracle sorts Python tuples (-magnitude, place); small integers make ties the rule."""
    k = max(1, round(fraction * 9))
    transform, leaves = TopK(fraction), {"w": Leaf((3, 3))}
    values = torch.tensor(x, dtype=torch.float32).reshape(-1, 3, 3)
    remaining, side = transform.encode({"w": values}, [Key(0)] * len(x))
    for row, places in zip(x, side["w/places"].tolist(), strict=True):
        assert places == sorted(sorted(range(9), key=lambda i: (-abs(row[i]), i))[:k])
    decoded = transform.decode(remaining, side, leaves)["w"].flatten(1)
    mask = torch.zeros(len(x), 9).scatter_(1, side["w/places"], 1.0)
    assert torch.equal(decoded, values.flatten(1) * mask)
    assert transform.shapes(leaves)[0]["w"].shape == (k,)


@pytest.mark.parametrize(("size", "width"), [(1, 0), (2, 1), (3, 2), (128, 7), (129, 8)])
def test_a_place_costs_the_logarithm_of_the_size(size, width):
    _, buffers = TopK(1.0).shapes({"w": Leaf((size,))})
    assert buffers["w/places"].width == width
