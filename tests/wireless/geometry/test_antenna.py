"""The element pattern of TR 38.901 Table 7.3-1, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.wireless.geometry.antenna import Antenna


def test_element_by_hand():
    element = Antenna()
    # 12 (32.5/65)^2 = 3 dB at half the beamwidth, in either cut and their sum
    np.testing.assert_allclose(element.gain_db([0, 32.5, -32.5, 0, 32.5], [0, 0, 0, 32.5, 32.5]), [8, 5, 5, 5, 2])
    # 12 (65/65)^2 = 12 dB; behind, at most 30 dB whatever the elevation
    np.testing.assert_allclose(element.gain_db([65, 180, 180, 540, 355], [0, 0, 80, 0, 0]),
                               [-4, -22, -22, -22, 8 - 12 / 169])  # fmt: skip


def test_tilt_shifts_the_vertical_cut():
    tilted = Antenna(tilt_deg=10.0)
    depression = np.linspace(-60, 80, 15)
    np.testing.assert_allclose(tilted.gain_db(20.0, depression + 10.0), Antenna().gain_db(20.0, depression))
    assert tilted.gain_db(0.0, 10.0) == 8.0


@given(st.floats(-720, 720), st.floats(-90, 90), st.floats(-20, 20))
def test_gain_is_bounded_and_even(azimuth, depression, tilt):
    antenna = Antenna(tilt_deg=tilt)
    gain = antenna.gain_db(azimuth, depression)
    assert -22.0 <= gain <= 8.0
    assert antenna.gain_db(-azimuth, depression) == pytest.approx(gain, abs=1e-9)
    assert antenna.gain_db(azimuth + 360.0, depression) == pytest.approx(gain, abs=1e-9)


def test_omni_and_refusals():
    np.testing.assert_array_equal(Antenna("omni", 2.0).gain_db([0, 90, 180], 45.0), [2, 2, 2])
    for wrong, sentence in (
        ({"pattern": "dipole"}, "unknown antenna pattern 'dipole'"),
        ({"tilt_deg": 100.0}, "tilt_deg: must be between -90 and 90"),
        ({"gain_dbi": float("nan")}, "gain_dbi: must be a finite number"),
    ):
        with pytest.raises(BadInput, match=sentence):
            Antenna(**wrong)
