"""Correlated maps: distribution, autocorrelation, what sites share."""

from __future__ import annotations

import numpy as np
import pytest

from fedwave.core.keys import Key
from fedwave.wireless.geometry.shadowing import normal_map, side_for, uniform_map

SEEDS = range(12)
CORRELATION_M, EXTENT_M = 50.0, 2_600.0


def autocorrelation(distance_m, seeds=SEEDS, pairs=60_000):
    """Mean product of the map at two points so far apart, in random places and directions, averaged over seeds."""
    rng, products = np.random.default_rng(0), []
    for seed in seeds:
        field = normal_map(Key(seed), CORRELATION_M, EXTENT_M)
        here, angle = rng.random((pairs, 2)) * field.period_m, 2 * np.pi * rng.random(pairs)
        there = here + distance_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        products.append((field.values[field.index(here)] * field.values[field.index(there)]).mean())
    return np.mean(products)


@pytest.mark.parametrize("multiple", [0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_autocorrelation_is_exponential(multiple):
    assert autocorrelation(multiple * CORRELATION_M) == pytest.approx(np.exp(-multiple), abs=0.03)


def test_autocorrelation_has_no_preferred_direction():
    field = normal_map(Key(5), CORRELATION_M, EXTENT_M)
    grid = field.values.reshape(field.side, field.side)
    along, across = ((grid * np.roll(grid, 4, axis=axis)).mean() for axis in (0, 1))
    assert along == pytest.approx(across, abs=0.06)  # one realisation


def test_distribution():
    for seed in SEEDS:
        field = normal_map(Key(seed), CORRELATION_M, EXTENT_M)
        assert field.values.dtype == np.float32
        assert field.values.mean() == pytest.approx(0.0, abs=1e-4)
        assert field.values.var() == pytest.approx(1.0, abs=1e-4)
    # normal: the share below one standard deviation, Phi(-1)
    share = np.mean([(normal_map(Key(seed), CORRELATION_M, EXTENT_M).values < -1).mean() for seed in SEEDS])
    assert share == pytest.approx(0.1587, abs=0.01)


def test_uniform_map_is_uniform_and_follows_the_normal_one():
    field, normal = (draw(Key(1), CORRELATION_M, EXTENT_M) for draw in (uniform_map, normal_map))
    assert ((field.values > 0) & (field.values < 1)).all()
    np.testing.assert_allclose(np.quantile(field.values, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    order = np.argsort(normal.values)
    assert (np.diff(field.values[order]) >= -1e-6).all()


def test_sites_read_places_far_apart():
    # Offsets on the torus are at least 9 correlation distances apart: exp(-9) is 1e-4.
    for seed in SEEDS:
        field = normal_map(Key(seed), CORRELATION_M, EXTENT_M)
        offset = field.offsets(Key(seed), 37)
        x, y = offset // field.side, offset % field.side
        away = [np.minimum(d, field.side - d) for d in (np.abs(v[:, None] - v) for v in (x, y))]
        distance = np.hypot(*away)[np.triu_indices(37, 1)] * field.step_m
        assert distance.min() > 8 * CORRELATION_M


def test_a_shift_keeps_neighbours_neighbours():
    # Across the seam of a shifted map, neighbours stay within one diagonal step: correlation exp(-sqrt(2)/4) = 0.70.
    field = normal_map(Key(2), CORRELATION_M, EXTENT_M)
    y = np.arange(0.0, field.period_m, field.step_m) + 1.0
    here = np.stack([np.full_like(y, 1.0), y], axis=1)
    read = field.values[(field.index(here) + 12_345) & (len(field.values) - 1)]
    assert np.abs(read - np.roll(read, 1)).max() < 5 * (2 * (1 - 0.70)) ** 0.5


def test_periodic_and_sized():
    field = normal_map(Key(1), CORRELATION_M, EXTENT_M)
    point = np.array([[10.0, -30.0], [-4_000.0, 7.0]])
    np.testing.assert_array_equal(field.index(point), field.index(point + field.period_m))
    assert field.period_m >= EXTENT_M
    assert [side_for(*pair) for pair in ((50, 100), (50, 2_600), (7, 2_600), (10, 1_000))] == [256, 256, 1_024, 512]
    assert not field.values.flags.writeable
