"""Static attributes of users: shares, distributions, one stream per id."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless.geometry.drop import drop
from fedwave.wireless.geometry.scene import Scene
from fedwave.wireless.geometry.topology import Layout

IDS = np.arange(70_000)  # more than one block
RURAL = Scene("RMa", 0.7, Layout(inter_site_distance_m=1_732.0), h_bs_m=35.0, indoor_share=0.5, in_car_share=1.0)


def test_urban_users():
    users = drop(Scene(), IDS, Key(1))
    assert users.indoor.mean() == pytest.approx(0.8, abs=0.01)
    assert not users.in_car.any()
    inside = users.indoor
    # the smaller of two draws from U(0, 25): mean 25/3, at most 25
    assert users.depth_m[inside].mean() == pytest.approx(25 / 3, abs=0.1)
    assert users.depth_m.max() <= 25.0
    assert (users.depth_m[~inside] == 0).all() and (users.penetration_db[~inside] == 0).all()
    # low loss at 3.5 GHz, glass 2.7 dB, concrete 19 dB, and 0.5 dB/m
    wall = 5 - 10 * np.log10(0.3 * 10**-0.27 + 0.7 * 10**-1.9)
    rest = users.penetration_db - 0.5 * users.depth_m
    assert rest[inside].mean() == pytest.approx(wall, abs=0.08)
    assert rest[inside].std() == pytest.approx(4.4, abs=0.06)
    assert (users.height_m == 1.5).all()


def test_mixed_walls():
    users = drop(Scene(o2i_high_share=0.25, indoor_share=1.0), IDS, Key(1))
    low = 5 - 10 * np.log10(0.3 * 10**-0.27 + 0.7 * 10**-1.9)
    high = 5 - 10 * np.log10(0.7 * 10**-2.405 + 0.3 * 10**-1.9)
    rest = users.penetration_db - 0.5 * users.depth_m
    assert rest.mean() == pytest.approx(0.75 * low + 0.25 * high, abs=0.12)


def test_floors():
    users = drop(Scene(floors=True), IDS, Key(2))
    storey = (users.height_m - 1.5) / 3 + 1
    assert (users.height_m[~users.indoor] == 1.5).all()
    # n_fl | N_fl uniform, N_fl uniform in 4..8: P(n = 1) = mean(1/N), P(n = 8) = 1/5 * 1/8
    share = np.bincount(np.rint(storey[users.indoor]).astype(int), minlength=9) / users.indoor.sum()
    expected = [0.0] + [np.mean([(n <= count) / count for count in range(4, 9)]) for n in range(1, 9)]
    np.testing.assert_allclose(share, expected, atol=0.008)
    assert users.height_m.max() == 22.5


def test_cars():
    users = drop(RURAL, IDS, Key(3))
    assert (users.in_car == ~users.indoor).all()
    assert users.penetration_db[users.in_car].mean() == pytest.approx(9.0, abs=0.12)
    assert users.penetration_db[users.in_car].std() == pytest.approx(5.0, abs=0.1)
    assert users.depth_m.max() <= 10.0


@pytest.mark.parametrize("scene", [Scene(floors=True, o2i_high_share=0.5), RURAL], ids=["UMa", "RMa"])
def test_a_user_depends_on_its_id_alone(scene):
    everybody, some = drop(scene, IDS, Key(4)), np.array([69_999, 5, 65_536])
    part = drop(scene, some, Key(4))
    for name, values in vars(part).items():
        np.testing.assert_array_equal(values, getattr(everybody, name)[some], err_msg=name)
    assert len(drop(scene, np.zeros(0, dtype=int), Key(4)).indoor) == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scenario": "Uma"}, "unknown scenario 'Uma'"),
        ({"carrier_ghz": 200.0}, "carrier_ghz: 200 is outside 0.5 to 100, for which TR 38.901 gives the UMa formulas"),
        ({"indoor_share": 1.2}, "indoor_share: must be between 0 and 1"),
        ({"h_ut_m": 0.0}, "h_ut_m: 0 is outside 1.5 to 22.5"),
        ({"h_bs_m": 0.0}, "h_bs_m: must be positive"),
        (
            {"layout": Layout(inter_site_distance_m=9_000.0)},
            "puts users up to 5196 m from their site, the UMa formulas",
        ),
        ({"office": "closed"}, "office: must be 'mixed' or 'open'"),
        ({"scenario": "InH"}, "indoor_share: InH users share the site's building"),
        ({"scenario": "RMa", "o2i_high_share": 0.1}, "o2i_high_share: RMa has low-loss walls only"),
        ({"scenario": "RMa", "floors": True}, "floors: RMa users are on the ground"),
    ],
)
def test_scenes_that_are_refused(change, sentence):
    with pytest.raises(BadInput, match=sentence):
        replace(Scene(), **change)
