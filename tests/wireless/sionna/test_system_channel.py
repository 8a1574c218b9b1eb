"""Sionna's system level against the closed forms of ``channel`` and ``geometry.antenna``."""

from __future__ import annotations

import numpy as np
import pytest

from fedwave.core.keys import Key
from fedwave.wireless import channel
from fedwave.wireless.geometry import spreads
from fedwave.wireless.reference.system_channel import system_channel

sionna = pytest.importorskip("sionna", reason="needs the extra fedwave[sionna]")

KEY = Key(5)
HEIGHT_M = {"UMa": 25.0, "UMi": 10.0, "RMa": 35.0, "InH": 3.0}


def _positions(count, radius_m):
    draw = KEY.fold("positions").uniform(np.arange(count), 2)
    distance, angle = radius_m * np.sqrt(0.05 + 0.95 * draw[:, 0]), 2.0 * np.pi * draw[:, 1]
    return distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize("scenario", HEIGHT_M)
@pytest.mark.parametrize("los", [True, False])
def test_path_loss_is_that_of_the_tables(scenario, los):
    users = _positions(100, 60.0 if scenario == "InH" else 400.0)
    out = system_channel(scenario, users, [[0.0, 0.0]], key=KEY, h_bs_m=HEIGHT_M[scenario], los=los, draws=1)
    expected = channel.path_loss_db(scenario, los, np.hypot(*users.T), 3.5, HEIGHT_M[scenario], 1.5)
    assert (out.los == los).all()
    np.testing.assert_allclose(out.loss_db[:, 0] - out.shadow_db[:, 0], expected, atol=0.01)
    # 100 shadow fadings: the spread is known to 7 % (one standard deviation), less where users are neighbours.
    assert out.shadow_db.std() == pytest.approx(spreads.shadow_sigma_db(scenario, los), rel=0.3)


def test_coupling_is_antenna_gain_less_loss_in_the_main_lobe_and_more_beside_it():
    # A tilted sector, TR 38.901 Table 7.3-1. Without line of sight, rays leave at other angles than the direct one and
    # fill the pattern where it is weak: the direct angle's gain is too low there.
    users = _positions(200, 400.0)
    azimuth = np.degrees(np.arctan2(users[:, 1], users[:, 0]))
    depression = np.degrees(np.arctan2(23.5, np.hypot(*users.T)))
    sight, blocked = (
        system_channel("UMa", users, [[0.0, 0.0]], key=KEY, tilt_deg=6.0, los=los) for los in (True, False)
    )
    gain = 8.0 - np.minimum(12.0 * ((depression - 6.0) / 65.0) ** 2 + 12.0 * (azimuth / 65.0) ** 2, 30.0)
    front, beside = np.abs(azimuth) < 60.0, np.abs(azimuth) > 90.0
    for out in (sight, blocked):
        excess = out.coupling_db[:, 0] + out.loss_db[:, 0] - gain
        assert excess[front].mean() == pytest.approx(0.0, abs=0.6)
    assert excess[beside].mean() > 1.0


def test_cells_of_a_site_share_its_draws_and_wrap_around_moves_users():
    users = _positions(20, 200.0)
    options = {"key": KEY, "antenna": "omni", "draws": 1}
    out = system_channel("UMi", users, [[0.0, 0.0], [0.0, 0.0], [500.0, 0.0]], h_bs_m=10.0, **options)
    np.testing.assert_array_equal(out.loss_db[:, 0], out.loss_db[:, 1])
    assert (out.loss_db[:, 0] != out.loss_db[:, 2]).all()
    # The third site 500 m to the east, moved by a period of 500 m: where the first one is.
    offset = np.repeat(users[:, None, :], 3, axis=1)
    moved = system_channel(
        "UMi", users, [[0.0, 0.0], [0.0, 0.0], [500.0, 0.0]], h_bs_m=10.0, offset_m=offset, los=False, **options
    )
    mean = moved.loss_db - moved.shadow_db
    np.testing.assert_allclose(mean[:, 2], mean[:, 0], atol=1e-3)
    again = system_channel("UMi", users, [[0.0, 0.0], [0.0, 0.0], [500.0, 0.0]], h_bs_m=10.0, **options)
    np.testing.assert_array_equal(out.coupling_db, again.coupling_db)


def test_walls_below_6_ghz_are_the_single_frequency_model():
    # TR 38.901 Table 7.4.3-3: 20 dB + 0.5 dB/m, depth uniform over 25 m.
    users = _positions(100, 400.0)
    out = system_channel("UMa", users, [[0.0, 0.0]], key=KEY, indoor=True, draws=1)
    outdoors = channel.path_loss_db("UMa", out.los[:, 0], np.hypot(*users.T), 3.5, 25.0, 1.5)
    walls = out.loss_db[:, 0] - out.shadow_db[:, 0] - outdoors
    assert walls.min() >= 20.0 and walls.max() <= 32.6
