"""Layouts: sites, hexagons, wrap-around by lattice reduction against a search over the copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless.geometry.topology import SITES, Layout


@pytest.mark.parametrize("sites", SITES)
def test_sites_are_a_hexagonal_grid(sites):
    layout = Layout(sites=sites, inter_site_distance_m=500.0)
    assert (layout.site_m.shape, layout.cells) == ((sites, 2), 3 * sites)
    between = np.hypot(*np.moveaxis(layout.site_m[:, None] - layout.site_m, -1, 0))
    if sites > 1:
        assert between[between > 1e-9].min() == pytest.approx(500.0)
        # a cluster of r rings has 3 r (3 r + 1) pairs of neighbours
        assert (np.abs(between - 500.0) < 1e-6).sum() / 2 == 3 * layout.rings * (3 * layout.rings + 1)
    assert np.hypot(*layout.site_m.T).max() == pytest.approx(500.0 * layout.rings)
    assert Layout(sectors=3).boresight_deg == (30.0, 150.0, 270.0)


@pytest.mark.parametrize("sites", SITES)
def test_copies_tile_the_plane(sites):
    # The cluster's sites and those of its copies are the site grid, each point once: moved by the translations, no
    # site falls on another, and the area of the lattice cell is that of the sites' hexagons.
    layout = Layout(sites=sites, inter_site_distance_m=1.0)
    area = abs(np.linalg.det(layout.wrap_m))
    assert area == pytest.approx(sites * 3**0.5 / 2)
    grid = layout.wrap_m @ np.linalg.inv(np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]]))
    np.testing.assert_allclose(grid, np.rint(grid), atol=1e-9)
    difference = (layout.site_m[:, None] - layout.site_m).reshape(-1, 2) @ np.linalg.inv(layout.wrap_m)
    whole = (np.abs(difference - np.rint(difference)) < 1e-9).all(axis=1)
    assert whole.sum() == sites


@given(st.sampled_from(SITES), st.floats(-4_000, 4_000), st.floats(-4_000, 4_000))
@settings(max_examples=200)
def test_wrap_around_finds_the_nearest_copy(sites, x, y):
    layout = Layout(sites=sites)
    steps = np.arange(-12, 13)
    copies = (steps[:, None, None] * layout.wrap_m[0] + steps[None, :, None] * layout.wrap_m[1]).reshape(-1, 2)
    expected = np.hypot(*np.moveaxis(np.array([x, y]) - layout.site_m[:, None] - copies, -1, 0)).min(axis=1)
    moved = layout.displacement_m(np.array([[x, y]]))[0]
    np.testing.assert_allclose(np.hypot(*moved.T), expected, atol=1e-6)
    # what was taken off is a whole number of translations
    taken = (np.array([x, y]) - layout.site_m - moved) @ np.linalg.inv(layout.wrap_m)
    np.testing.assert_allclose(taken, np.rint(taken), atol=1e-6)


def test_without_wrap_around_distances_are_plain():
    layout = Layout(sites=7, wrap_around=False)
    position = np.array([[3_000.0, 100.0]])
    np.testing.assert_allclose(layout.displacement_m(position)[0], position - layout.site_m)
    assert layout.fold(position) is position
    inside = Layout(sites=7).fold(position)
    assert np.hypot(*inside[0]) < 7**0.5 * 500 / 3**0.5


def test_wrapped_sites_are_alike():
    # On the torus every site has six neighbours: a user on top of any site sees the same distances.
    layout = Layout(sites=19)
    distance = np.sort(np.hypot(*np.moveaxis(layout.displacement_m(layout.site_m), -1, 0)), axis=1)
    np.testing.assert_allclose(distance, np.tile(distance[0], (19, 1)), atol=1e-6)
    np.testing.assert_allclose(distance[0, 1:7], 500.0)


@pytest.mark.parametrize("sites", [1, 19])
def test_placement_is_uniform_over_the_hexagons(sites):
    layout, ids = Layout(sites=sites), np.arange(40_000)
    position = layout.place(ids, Key(3), min_distance_m=35.0)
    distance = np.hypot(*np.moveaxis(position[:, None] - layout.site_m, -1, 0))
    assert distance.min() >= 35.0
    assert distance.min(axis=1).max() <= layout.cell_radius_m + 1e-9
    # each site gets its share; 4 standard deviations of a binomial share
    share = np.bincount(distance.argmin(axis=1), minlength=sites) / len(ids)
    assert np.abs(share - 1 / sites).max() < 4 * (1 / sites / len(ids)) ** 0.5
    # uniform by area without the disk r0: E r^2 = (A 5 a^2 / 12 - pi r0^4 / 2) / (A - pi r0^2), with side a and
    # A = 3 sqrt(3) a^2 / 2
    a, r0 = layout.cell_radius_m, 35.0
    area = 1.5 * 3**0.5 * a**2
    expected = (area * 5 * a**2 / 12 - np.pi * r0**4 / 2) / (area - np.pi * r0**2)
    assert (distance.min(axis=1) ** 2).mean() == pytest.approx(expected, rel=0.015)
    offset = position - layout.site_m[distance.argmin(axis=1)]
    assert np.abs(offset.mean(axis=0)).max() < 4  # standard deviation 0.65 m an axis


def test_placement_depends_on_the_id_alone():
    layout, some = Layout(), np.array([77, 3, 150_000])
    everybody = layout.place(np.arange(200), Key(1), min_distance_m=200.0)
    np.testing.assert_array_equal(layout.place(some[:2], Key(1), min_distance_m=200.0), everybody[some[:2]])
    assert np.isfinite(layout.place(some, Key(1), min_distance_m=249.0)).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Layout(sites=3), r"sites: 3 is not a hexagonal cluster, choose one of \(1, 7, 19, 37\)"),
        (lambda: Layout(sectors=6), "sectors: 6 per site is not modelled"),
        (lambda: Layout(inter_site_distance_m=0.0), "inter_site_distance_m: must be positive"),
        (
            lambda: Layout().place(np.arange(2), Key(0), min_distance_m=250.0),
            "must be below half the inter-site distance",
        ),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(BadInput, match=sentence):
        call()
