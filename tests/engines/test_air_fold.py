"""The fold of sums in the air: blocks, one normaliser, noise; digital sums are its special case."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedwave.core.blocks import along, starts
from fedwave.core.keys import Key
from fedwave.core.noise import air_noise
from fedwave.core.types import AirNoise, Leaf, Part
from fedwave.engines.fold import Fold

from ..wireless.helpers import cohort_of

SCHEMA = {"update": Part({"w": Leaf((3, 5)), "b": Leaf((4,))}), "control": Part({"c": Leaf((2,))})}
VALUES = 21


def replies(clients, seed=0):
    rng = np.random.default_rng(seed)

    def some(leaf):
        return torch.as_tensor(rng.standard_normal((clients, *leaf.shape))).float()

    return {name: {leaf: some(of) for leaf, of in part.leaves.items()} for name, part in SCHEMA.items()}


def flat(parts):
    """``[..., values]`` in schema order."""
    leaves = [x for part in parts.values() for x in part.values()]
    return np.concatenate([x.flatten(1).numpy() for x in leaves], axis=1)


def folded(cohort, coefficient, parts, *, noise=None, groups=1, key=None):
    fold = Fold(SCHEMA, len(cohort), coefficient.shape[1], noise)
    for group in np.array_split(np.arange(len(cohort)), groups):
        mine = {name: {leaf: x[group] for leaf, x in leaves.items()} for name, leaves in parts.items()}
        fold.add(group, cohort, coefficient[group], mine, torch.zeros(len(group)))
    out = fold.close(cohort, key)
    return np.concatenate([x.reshape(-1).numpy() for leaves in out.parts.values() for x in leaves.values()]), fold


def weighed(weight):
    return replace(cohort_of(range(len(weight))), weight=np.array(weight, dtype=float))


def test_places():
    """Value j is on block j mod B, across leaves and parts: numbers 0-14, 15-18, 19-20."""
    assert list(starts(SCHEMA)) == [("update", "w", 0), ("update", "b", 15), ("control", "c", 19)]
    np.testing.assert_array_equal(along(np.array([0.0, 1.0, 2.0, 3.0]), 15, 4), [3, 0, 1, 2])
    np.testing.assert_array_equal(along(np.arange(30.0), 19, 2), [19, 20])


@pytest.mark.parametrize("blocks", [1, 4, 30])
def test_perfect_sums_are_digital_means(blocks):
    """All coefficients 1 and no noise: the weighted mean, whatever the blocks."""
    cohort, parts = weighed([1.0, 5.0, 2.0]), replies(3)
    silent = AirNoise("gaussian", 2.0, np.zeros(blocks))
    digital, _ = folded(cohort, np.ones((3, 1)), parts)
    for groups in (1, 3):
        air, _ = folded(cohort, np.ones((3, blocks)), parts, noise=silent, groups=groups, key=Key(1))
        np.testing.assert_allclose(air, digital, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(digital, np.average(flat(parts), axis=0, weights=[1, 5, 2]), rtol=1e-6, atol=1e-7)


def test_coefficients_block_by_block():
    """``sum_k c_kb w_k x_kj / sum_k c_kb w_k`` with b = j mod B; 0 where nobody is on the block."""
    cohort, parts, weight = weighed([1.0, 3.0]), replies(2), np.array([1.0, 3.0])
    coefficient = np.array([[1.0, 0.0, 0.5, 0.0], [0.8, 1.0, 0.5, 0.0]])
    found, _ = folded(cohort, coefficient, parts)
    block = np.arange(VALUES) % 4
    carried = (coefficient * weight[:, None]).sum(0)[block]
    wanted = (coefficient[:, block] * weight[:, None] * flat(parts)).sum(0)
    np.testing.assert_allclose(found, np.where(carried > 0, wanted / np.maximum(carried, 1e-9), 0.0), rtol=1e-5)
    assert (found[block == 3] == 0.0).all() and (found[block != 3] != 0.0).all()


def test_one_normaliser():
    """``nu = max_k w_k RMS(x_k)``, over all parts, whether or not a client is on every block."""
    cohort, parts = weighed([1.0, 3.0, 9.0]), replies(3)
    coefficient = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    _, fold = folded(cohort, coefficient, parts, noise=AirNoise("gaussian", 2.0, np.ones(2)), groups=2)
    rms = np.sqrt((flat(parts) ** 2).mean(axis=1))
    assert fold.normaliser == pytest.approx(max(1.0 * rms[0], 3.0 * rms[1]))


@pytest.mark.parametrize("law", ["gaussian", "alpha_stable"])
def test_noise_falls_with_the_weights(law):
    """What is added is ``nu noise_j / sum_k c_kb w_k``; noise does not depend on the grouping."""
    noise, key = AirNoise(law, 1.5, np.array([0.1, 0.3]), np.array([0.0, 0.2])), Key(3)
    parts = replies(4)
    coefficient = np.array([[1.0, 1.0]] * 3 + [[1.0, 0.0]])
    for scale in (1.0, 10.0):
        cohort = weighed([scale * w for w in (1.0, 2.0, 3.0, 4.0)])
        exact, _ = folded(cohort, coefficient, parts)
        noisy, fold = folded(cohort, coefficient, parts, noise=noise, groups=2, key=key)
        other, _ = folded(cohort, coefficient, parts, noise=noise, groups=4, key=key)
        np.testing.assert_allclose(noisy, other, rtol=1e-5, atol=1e-6)
        drawn = np.concatenate([
            air_noise(noise, SCHEMA[part].leaves[leaf].size, start, key.fold("noise", part, leaf))
            for part, leaf, start in starts(SCHEMA)
        ])  # fmt: skip
        carried = scale * np.array([10.0, 6.0])[np.arange(VALUES) % 2]
        np.testing.assert_allclose(noisy - exact, fold.normaliser * drawn / carried, rtol=1e-3, atol=1e-5)


def test_variance_of_the_noise():
    """``scale_b^2 + gaussian_b^2`` on block b (unit normaliser); divided by the square of what the block carried."""
    noise = AirNoise("gaussian", 2.0, np.array([1.0, 3.0]), np.array([2.0, 0.0]))
    drawn = air_noise(noise, 200_000, 1, Key(0))
    assert drawn[1::2].var() == pytest.approx(5.0, rel=0.02)  # the value numbered 1 is on block 1
    assert drawn[0::2].var() == pytest.approx(9.0, rel=0.02)
    schema = {"update": Part({"w": Leaf((100_000,))})}
    for weight in (1.0, 2.0):
        cohort = weighed([weight, weight, weight, weight])
        fold = Fold(schema, 4, 2, noise)
        fold.add(np.arange(4), cohort, np.ones((4, 2)), {"update": {"w": torch.ones(4, 100_000)}}, torch.zeros(4))
        out = fold.close(cohort, Key(1)).parts["update"]["w"].numpy()
        assert fold.normaliser == pytest.approx(weight)
        assert out[0::2].var() == pytest.approx(5.0 * weight**2 / (4 * weight) ** 2, rel=0.02)
        assert out[1::2].var() == pytest.approx(9.0 * weight**2 / (4 * weight) ** 2, rel=0.02)


def test_nothing_of_a_client_off_the_air():
    """Not even of one whose values are not finite."""
    cohort, parts = weighed([1.0, 2.0]), replies(2)
    parts["update"]["w"][1] = torch.nan
    found, fold = folded(cohort, np.array([[1.0, 1.0], [0.0, 0.0]]), parts, noise=AirNoise("gaussian", 2.0, np.ones(2)))
    assert np.isfinite(found).all() and np.isfinite(fold.normaliser)
