"""The large-scale pass against a plain double-precision evaluation of its parts, and its statistics and invariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless import channel
from fedwave.wireless.geometry.antenna import Antenna
from fedwave.wireless.geometry.drop import drop
from fedwave.wireless.geometry.largescale import couple, line_of_sight
from fedwave.wireless.geometry.scene import Scene
from fedwave.wireless.geometry.topology import Layout

OMNI = Antenna("omni", 0.0)
SCENES = {
    "UMa": Scene(o2i_high_share=0.3, antenna=Antenna(tilt_deg=8.0)),
    "UMa floors": Scene(floors=True),
    "UMi floors": Scene("UMi", 3.5, Layout(7, 3, 200.0), h_bs_m=10.0, min_distance_m=10.0, floors=True),
    "UMi 28 GHz plain": Scene("UMi", 28.0, Layout(7, 3, 200.0, wrap_around=False), h_bs_m=10.0, min_distance_m=10.0),
    "RMa": Scene("RMa", 0.7, Layout(19, 3, 5_000.0), h_bs_m=35.0, indoor_share=0.5, in_car_share=0.8),
    "InH": Scene("InH", 4.0, Layout(7, 1, 20.0), OMNI, 3.0, 1.0, 0.0, indoor_share=0.0),
    "InH open": Scene("InH", 4.0, Layout(1, 3, 20.0), h_bs_m=3.0, h_ut_m=1.0, min_distance_m=0.0, indoor_share=0.0,
                      office="open"),
}  # fmt: skip


def users_of(scene, count, key=0):
    ids = np.arange(count)
    return ids, scene.layout.place(ids, Key(key), min_distance_m=scene.min_distance_m)


def coupling_db(scene, position, ids, key, h_e_m=1.0):
    """``[C, cells]`` in dB without shadow fading, double precision, from the public pieces."""
    users, los = drop(scene, ids, key), line_of_sight(scene, position, ids, key)
    moved = scene.layout.displacement_m(position)
    distance = np.hypot(moved[..., 0], moved[..., 1])
    if scene.scenario != "InH":
        distance = np.maximum(distance, 10.0)
    height = users.height_m.astype(float)[:, None]
    loss = channel.path_loss_db(scene.scenario, los, distance, scene.carrier_ghz, scene.h_bs_m, height, h_e_m)
    loss = loss + users.penetration_db[:, None]
    azimuth = np.degrees(np.arctan2(moved[..., 1], moved[..., 0]))[..., None] - scene.layout.boresight_deg
    depression = np.degrees(np.arctan2(scene.h_bs_m - height, distance))[..., None]
    return (scene.antenna.gain_db(azimuth, depression) - loss[..., None]).reshape(len(ids), -1)


@pytest.mark.parametrize("name", SCENES)
def test_equals_the_sum_of_its_parts(name):
    scene, key = replace(SCENES[name], shadowing=False), Key(11)
    ids, position = users_of(scene, 3_000)
    state = couple(scene, position, ids, key)
    got = 10 * np.log10(state.gain.astype(float))
    # users above 13 m draw an environment height a link: it must be one of note 1's
    heights = [1.0, *np.arange(12.0, 22.0, 3.0)] if name == "UMa floors" else [1.0]
    off = np.stack([np.abs(got - coupling_db(scene, position, ids, key, h)) for h in heights])
    off[1:, state.height_m < 13.0] = np.inf
    assert off.min(axis=0).max() < 0.002

    best = state.gain.argmax(axis=1)
    np.testing.assert_array_equal(state.serving, best)
    np.testing.assert_allclose(state.loss_db, -got.max(axis=1), atol=1e-4)
    site = best // scene.layout.sectors
    rows = np.arange(len(ids))
    np.testing.assert_array_equal(state.los, line_of_sight(scene, position, ids, key)[rows, site])
    distance = np.hypot(*np.moveaxis(scene.layout.displacement_m(position), -1, 0))[rows, site]
    np.testing.assert_allclose(state.distance_m, distance, atol=0.01)
    np.testing.assert_array_equal(state.height_m, drop(scene, ids, key).height_m)


@pytest.mark.parametrize("name", SCENES)
def test_a_client_does_not_depend_on_the_cohort(name):
    scene, key = SCENES[name], Key(2)
    ids, position = users_of(scene, 9_000)  # more than two blocks
    everybody = couple(scene, position, ids, key)
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 33, 500):
        some = rng.permutation(len(ids))[:count]
        part = couple(scene, position[some], ids[some], key)
        for field, values in vars(part).items():
            np.testing.assert_array_equal(values, getattr(everybody, field)[some], err_msg=f"{field}, {count} clients")
    assert (couple(scene, position, ids, Key(3)).gain != everybody.gain).any()


coordinate = st.one_of(st.sampled_from([0.0, 500.0, -250.0, 1e-30, 1e9, -1e300]), st.floats(-1e4, 1e4))


@given(st.sampled_from(sorted(SCENES)), st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_any_position_gives_a_gain(name, points):
    scene = SCENES[name]
    ids = np.arange(len(points))
    state = couple(scene, np.array(points), ids, Key(1))
    assert state.gain.shape == (len(points), scene.layout.cells)
    assert state.gain.dtype == np.float32
    assert ((state.gain > 0) & (state.gain <= 1)).all()
    assert np.isfinite(state.loss_db).all() and np.isfinite(state.distance_m).all() and (state.distance_m >= 0).all()


@pytest.mark.parametrize("name", SCENES)
def test_on_top_of_a_site(name):
    scene = SCENES[name]
    state = couple(scene, scene.layout.site_m, np.arange(scene.layout.sites), Key(1))
    assert ((state.gain > 0) & (state.gain <= 1)).all() and np.isfinite(state.loss_db).all()
    assert state.los.all()


def test_line_of_sight_share_follows_the_probability():
    # One site, users outdoors on rings; the states are correlated over 50 m, so many maps.
    scene = Scene(layout=Layout(1, 1, wrap_around=False), antenna=OMNI, indoor_share=0.0, shadowing=False)
    angle, distance = np.linspace(0, 2 * np.pi, 60, endpoint=False), np.array([50.0, 100.0, 250.0])
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    position, ids = (distance[:, None, None] * ring).reshape(-1, 2), np.arange(180)
    states = [line_of_sight(scene, position, ids, Key(seed)).reshape(3, 60) for seed in range(80)]
    np.testing.assert_allclose(np.mean(states, axis=(0, 2)), channel.los_probability("UMa", distance), atol=0.05)


def test_walls_shorten_the_way_outside():
    # 20 m from the site, at least 2 m deep in a building: 18 m or less outside, always in sight.
    scene = Scene(layout=Layout(sites=1), indoor_share=1.0)
    ids = np.flatnonzero(drop(scene, np.arange(500), Key(1)).depth_m > 2.0)
    assert line_of_sight(scene, np.tile([20.0, 0.0], (len(ids), 1)), ids, Key(1)).all()


def shadow_db(scene, position, ids, key):
    """What shadow fading adds to the loss, ``[C, cells]``."""
    plain = couple(replace(scene, shadowing=False), position, ids, key)
    return 10 * np.log10(plain.gain.astype(float) / couple(scene, position, ids, key).gain)


def test_shadow_fading_by_state():
    scene = Scene(layout=Layout(inter_site_distance_m=500.0))
    ids, position = users_of(scene, 2_000)
    values, sights = [], []
    for seed in range(4):
        values.append(shadow_db(scene, position, ids, Key(seed))[:, ::3])
        sights.append(line_of_sight(scene, position, ids, Key(seed)))
        inside = drop(scene, ids, Key(seed)).indoor[:, None] | np.zeros_like(sights[-1])
        if seed == 0:  # a site's three sectors share it
            sectors = shadow_db(scene, position, ids, Key(0)).reshape(len(ids), -1, 3)
            np.testing.assert_allclose(sectors, sectors[..., :1] + np.zeros(3), atol=2e-4)
        sights[-1] = np.where(inside, 2, sights[-1])
    values, sights = np.concatenate(values), np.concatenate(sights)
    # TR 38.901 Tables 7.4.1-1 and 7.5-6: NLoS 6, LoS 4, O2I 7 dB, zero mean
    for state, sigma in ((0, 6.0), (1, 4.0), (2, 7.0)):
        assert values[sights == state].std() == pytest.approx(sigma, rel=0.06)
        assert values[sights == state].mean() == pytest.approx(0.0, abs=0.5)
    # different sites: uncorrelated
    correlation = np.corrcoef(values[(sights == 2).all(axis=1)].T)
    assert np.abs(correlation[np.triu_indices(19, 1)]).mean() < 0.05


def test_shadow_fading_is_correlated_in_space():
    # Indoors (UMa): exp(-d / 7 m), at pairs of places so far apart.
    scene, ids = Scene(indoor_share=1.0), np.arange(20_000)
    position = scene.layout.place(ids, Key(5), min_distance_m=35.0)
    here = shadow_db(scene, position, ids, Key(1))[:, ::3]
    for distance in (3.5, 7.0, 14.0):
        there = shadow_db(scene, position + np.array([distance, 0.0]), ids, Key(1))[:, ::3]
        assert (here * there).mean() / 49.0 == pytest.approx(np.exp(-distance / 7.0), abs=0.03)


def test_rural_shadow_fading_is_wider_past_the_breakpoint():
    # 0.7 GHz: 2 pi 35 1.5 0.7e9 / 3e8 = 770 m
    scene = replace(SCENES["RMa"], indoor_share=0.0, layout=Layout(7, 3, 1_732.0))
    ids, position = users_of(scene, 4_000)
    values = np.concatenate([shadow_db(scene, position, ids, Key(seed))[:, ::3] for seed in range(2)])
    sight = np.concatenate([line_of_sight(scene, position, ids, Key(seed)) for seed in range(2)])
    distance = np.tile(np.hypot(*np.moveaxis(scene.layout.displacement_m(position), -1, 0)), (2, 1))
    for near, sigma in ((True, 4.0), (False, 6.0)):
        assert values[sight & ((distance <= 770) == near)].std() == pytest.approx(sigma, rel=0.06)


def test_moving_a_little_changes_little():
    # A step of 10 cm: the same grid point for nearly all, so the same state; path loss by its slope only.
    scene = Scene(indoor_share=0.0)
    ids, position = users_of(scene, 4_000)
    here, there = couple(scene, position, ids, Key(1)), couple(scene, position + np.array([0.1, 0.0]), ids, Key(1))
    assert (here.los == there.los).mean() > 0.99
    assert np.median(np.abs(here.loss_db - there.loss_db)) < 0.02


def test_nobody_and_nonsense():
    empty = couple(Scene(), np.zeros((0, 2)), np.zeros(0, dtype=int), Key(1))
    assert empty.gain.shape == (0, 57)
    for position in (np.zeros((3, 3)), np.zeros((2, 2)), np.full((3, 2), np.nan)):
        with pytest.raises(BadInput, match="position_m: must be 3 finite pairs of metres"):
            couple(Scene(), position, np.arange(3), Key(1))
