"""Stochastic quantisation: unbiased, with QSGD's variance bound."""

from __future__ import annotations

import pytest
import torch

from fedwave.core.keys import Key
from fedwave.core.types import Leaf
from fedwave.transforms.quantize import Quantize

DRAWS = 4000


def many_draws(transform: Quantize, x: torch.Tensor) -> torch.Tensor:
    """``[DRAWS, d]``: the same vector quantised with independent keys."""
    values = {"w": x.expand(DRAWS, -1)}
    remaining, side = transform.encode(values, [Key(7).fold(i) for i in range(DRAWS)])
    return transform.decode(remaining, side, {"w": Leaf((len(x),))})["w"].double()


@pytest.mark.parametrize("scale", ["max", "l2"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_unbiased_and_within_the_variance_bound(bits, scale):
    transform = Quantize(bits, scale=scale)
    x = torch.randn(40, generator=torch.Generator().manual_seed(bits))
    draws = many_draws(transform, x)
    s, d, norm2 = transform.levels, len(x), float(x.double().square().sum())
    reach = float(x.abs().max() if scale == "max" else x.norm())
    # One draw lies within one level of its mean, so its standard deviation is at most half a level (reach / s).
    # Five standard errors of the mean of DRAWS draws: false alarm below 40 * 6e-7.
    assert (draws.mean(0) - x.double()).abs().max() < 5 * reach / (2 * s) / DRAWS**0.5
    error = float((draws - x.double()).square().sum(1).mean())
    assert error <= min(d / s**2, d**0.5 / s) * norm2  # QSGD, Lemma 3.1
    assert error <= d * reach**2 / (4 * s**2) * 1.001
    # Exactly, the expected error is sum of (reach / s)^2 p (1 - p) with p the fraction of a level.
    p = (x.double().abs() / reach * s) % 1
    expected = float(((reach / s) ** 2 * p * (1 - p)).sum())
    assert error == pytest.approx(expected, rel=0.05)


def test_values_on_a_level_are_exact():
    # bits 4: s = 7 and scale 7, so integers are levels.
    x = torch.arange(-7.0, 8.0)
    assert torch.equal(many_draws(Quantize(4), x), x.double().expand(DRAWS, -1))


def test_zeros_stay_zero_and_scalars_are_kept():
    transform = Quantize(2)
    values = {"z": torch.zeros(2, 3), "x": torch.tensor([-2.5, 4.0]), "n": torch.tensor([1 << 40, 5])}
    remaining, side = transform.encode(values, [Key(0), Key(1)])
    assert list(remaining) == ["n"]
    decoded = transform.decode(remaining, side, {"z": Leaf((3,)), "x": Leaf(()), "n": Leaf((), "int64")})
    for name, value in values.items():
        assert torch.equal(decoded[name], value)


def test_largest_float32_survives():
    x = torch.tensor([[torch.finfo(torch.float32).max, -1.0]])
    remaining, side = Quantize(8).encode({"w": x}, [Key(0)])
    assert Quantize(8).decode(remaining, side, {"w": Leaf((2,))})["w"][0, 0] == x[0, 0]
