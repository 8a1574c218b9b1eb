"""TR 38.901 against ns-3's test vectors and its own tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.wireless import channel
from fedwave.wireless.geometry import spreads

# ns-3, three-gpp-propagation-loss-model test suite: 5 GHz, h_UT 1.5 m, ground distance, dB.
NS3 = [
    ("UMa", True, 25.0, [10, 100, 1_000, 5_000], [72.9380, 86.2362, 109.7252, 137.6794]),
    ("UMa", False, 25.0, [10, 100, 1_000, 5_000], [82.5131, 106.1356, 144.7641, 172.0753]),
    ("RMa", True, 35.0, [10, 100, 1_000, 10_000], [77.3784, 87.2965, 108.5577, 140.3896]),
]


@pytest.mark.parametrize(("scenario", "los", "h_bs", "distance", "expected"), NS3)
def test_path_loss_agrees_with_ns3(scenario, los, h_bs, distance, expected):
    loss = channel.path_loss_db(scenario, los, distance, 5.0, h_bs, 1.5)
    np.testing.assert_allclose(loss, expected, atol=0.05)


def test_umi_and_inh_by_hand():
    # UMi, 30 GHz, d3D = 50 m (40 m on the ground, 30 m of height): 32.4 + 21 lg 50 + 20 lg 30 = 97.6203
    assert channel.path_loss_db("UMi", True, 40.0, 30.0, 31.5, 1.5) == pytest.approx(97.6203, abs=1e-3)
    # NLoS: 35.3 lg 50 + 22.4 + 21.3 lg 30 = 113.8367
    assert channel.path_loss_db("UMi", False, 40.0, 30.0, 31.5, 1.5) == pytest.approx(113.8367, abs=1e-3)
    # InH, 1 GHz, d3D = 10 m: LoS 32.4 + 17.3 = 49.7; NLoS max(49.7, 38.3 + 17.3) = 55.6
    np.testing.assert_allclose(channel.path_loss_db("InH", [True, False], 10.0, 1.0, 1.5, 1.5), [49.7, 55.6])


@pytest.mark.parametrize("scenario", ["UMa", "UMi", "RMa"])
def test_path_loss_is_continuous_at_the_breakpoint(scenario):
    h_bs = {"UMa": 25.0, "UMi": 10.0, "RMa": 35.0}[scenario]
    point = float(channel.breakpoint_m(scenario, 3.5, h_bs, 1.5))
    near, far = channel.path_loss_db(scenario, True, [point, point * (1 + 1e-9)], 3.5, h_bs, 1.5)
    # RMa's breakpoint is a 2D distance put into a formula of the 3D one: a step of a few millidecibels is in the table
    assert far == pytest.approx(near, abs=0.01)


@given(st.sampled_from(channel.SCENARIOS), st.floats(10, 5_000), st.floats(1.0, 2.0), st.floats(0.5, 30.0))
def test_path_loss_grows_with_distance_and_blockage(scenario, distance, factor, carrier):
    def loss(los, d):
        return float(channel.path_loss_db(scenario, los, d, carrier, 25.0, 1.5))

    for los in (True, False):
        assert loss(los, distance * factor) >= loss(los, distance) - 0.01
    assert loss(False, distance) >= loss(True, distance)


def test_los_probability():
    d = 100.0
    # TR 38.901 Table 7.4.2-1 by hand
    assert channel.los_probability("UMa", d) == pytest.approx(0.18 + np.exp(-100 / 63) * 0.82)
    assert channel.los_probability("UMi", d) == pytest.approx(0.18 + np.exp(-100 / 36) * 0.82)
    assert channel.los_probability("RMa", d) == pytest.approx(np.exp(-0.09))
    assert channel.los_probability("InH", d) == pytest.approx(0.32 * np.exp(-93.5 / 32.6))
    np.testing.assert_array_equal(channel.los_probability("UMa", [0.0, 18.0]), [1.0, 1.0])
    # C'(23 m) = 1: the factor at 100 m is 1 + 5/4 e^(-2/3); 13 m and below: none
    tall = channel.los_probability("UMa", d, 23.0) / channel.los_probability("UMa", d, 13.0)
    assert tall == pytest.approx(1 + 1.25 * np.exp(-2 / 3))


@pytest.mark.parametrize("scenario", channel.SCENARIOS)
def test_los_probability_is_one(scenario):
    p = channel.los_probability(scenario, np.linspace(0, 5_000, 2_000), 1.5)
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) <= 1e-12).all()


def test_penetration_by_hand():
    # 3.5 GHz: glass 2.7 dB, concrete 19 dB, reflective glass 24.05 dB
    low = 5 - 10 * np.log10(0.3 * 10**-0.27 + 0.7 * 10**-1.9)
    high = 5 - 10 * np.log10(0.7 * 10**-2.405 + 0.3 * 10**-1.9)
    assert channel.o2i_penetration_db("low", 3.5) == pytest.approx(low)
    assert channel.o2i_penetration_db("high", 3.5) == pytest.approx(high)
    assert (spreads.o2i_sigma_db("low"), spreads.o2i_sigma_db("high")) == (4.4, 6.5)


def test_shadow_fading():
    table = {"UMa": (4, 6), "UMi": (4, 7.82), "RMa": (4, 8), "InH": (3, 8.03)}
    for scenario, sigma in table.items():
        np.testing.assert_array_equal(spreads.shadow_sigma_db(scenario, [True, False]), sigma)
    far = spreads.shadow_sigma_db("RMa", [True, True, False], distance_2d_m=[10, 9_999, 9_999], breakpoint_m=100.0)
    np.testing.assert_array_equal(far, [4, 6, 8])


def test_path_loss_on_top_of_a_site_is_finite():
    # same place, same height: 1 m of direct distance, 28 + 20 lg 3.5 = 38.88 dB
    assert channel.path_loss_db("UMa", True, 0.0, 3.5, 25.0, 25.0) == pytest.approx(38.881, abs=1e-3)
    for scenario in channel.SCENARIOS:
        assert np.isfinite(channel.path_loss_db(scenario, [True, False], 0.0, 3.5, 1.0, 1.0)).all()


def test_environment_height_by_hand():
    # 22.5 m of height at 100 m: C = 1.25 e^(-2/3) (9.5/10)^1.5 = 0.59424, so 1 m up to u = 1 / (1 + C) = 0.62726;
    # above, 12, 15, 18, 21 m in quarters of what is left
    ground = 1 / (1 + 1.25 * np.exp(-2 / 3) * 0.95**1.5)
    u = [ground - 1e-6, *(ground + (1 - ground) * np.array([0.01, 0.26, 0.51, 0.76, 0.99999]))]
    np.testing.assert_array_equal(channel.environment_height_m(100.0, 22.5, u), [1, 12, 15, 18, 21, 21])
    # 13.5 m: 12 m is the only other height; below 13 m and within 18 m of the site it is 1 m
    np.testing.assert_array_equal(channel.environment_height_m(100.0, [13.5, 12.9, 1.5], 0.9999), [12, 1, 1])
    assert channel.environment_height_m(18.0, 22.5, 0.9999) == 1.0


def test_environment_height_moves_the_breakpoint():
    # h_E = 12: 4 (25 - 12)(16.5 - 12) 3.5e9 / 3e8 = 2,730 m; h_E = 1: 17,360 m
    np.testing.assert_allclose(channel.breakpoint_m("UMa", 3.5, 25.0, 16.5, [12.0, 1.0]), [2_730.0, 17_360.0])
    low, high = channel.path_loss_db("UMa", True, 4_000.0, 3.5, 25.0, 16.5, [1.0, 12.0])
    # past the breakpoint the slope is 40 instead of 22: 18 lg(d3 / d') with d'^2 = 2730^2 + 8.5^2
    assert high - low == pytest.approx(18 * np.log10(np.hypot(4_000, 8.5) / np.hypot(2_730, 8.5)), abs=1e-6)


def test_open_office():
    # TR 38.901 Table 7.4.2-1, open office
    p = channel.los_probability("InH", [0.0, 5.0, 40.0, 49.0, 100.0], office="open")
    np.testing.assert_allclose(p, [1, 1, np.exp(-35 / 70.8), np.exp(-44 / 70.8), 0.54 * np.exp(-51 / 211.7)])
    assert (p >= channel.los_probability("InH", [0.0, 5.0, 40.0, 49.0, 100.0])).all()
    with pytest.raises(BadInput, match=r"unknown office 'closed' \(known: mixed, open\)"):
        channel.los_probability("InH", 10.0, office="closed")


def test_float32_stays_float32():
    for scenario in channel.SCENARIOS:
        distance = np.linspace(10, 900, 50, dtype=np.float32)
        p = channel.los_probability(scenario, distance, np.full(50, 20.0, dtype=np.float32))
        assert p.dtype == np.float32
        np.testing.assert_allclose(p, channel.los_probability(scenario, distance.astype(float), 20.0), rtol=1e-5)


def test_statistics_tables():
    # TR 38.901 Table 7.5-6 (shadow fading) and Table 7.6.3.1-2 (line-of-sight state)
    expected = {"UMa": (37, 50, 7), "UMi": (10, 13, 7), "RMa": (37, 120, 120), "InH": (10, 6, 6)}
    for scenario, distances in expected.items():
        assert tuple(spreads.shadow_correlation_m(scenario, state) for state in spreads.LINK_STATES) == distances
    assert [spreads.los_correlation_m(scenario) for scenario in channel.SCENARIOS] == [50, 50, 60, 10]
    assert [spreads.indoor_shadow_sigma_db(scenario) for scenario in channel.SCENARIOS] == [7, 7, 8, 0]
    with pytest.raises(BadInput, match="unknown link state 'los'"):
        spreads.shadow_correlation_m("UMa", "los")


def test_delay_spread():
    # UMa at 3.5 GHz counts as 6 GHz: 10^(-6.955 - 0.0963 lg 6) = 93.3 ns, 10^(-6.28 - 0.204 lg 6) = 364 ns
    np.testing.assert_allclose(spreads.delay_spread_s("UMa", [True, False], 3.5), [93.33e-9, 364.1e-9], rtol=1e-3)
    # UMi at 28 GHz: 10^(-7.14 - 0.24 lg 29) = 32.3 ns; behind walls 10^-6.62 = 240 ns whatever the way outside
    assert spreads.delay_spread_s("UMi", True, 28.0) == pytest.approx(32.28e-9, rel=1e-3)
    np.testing.assert_allclose(spreads.delay_spread_s("UMi", [True, False], 28.0, indoor=True), 239.9e-9, rtol=1e-3)
    assert spreads.delay_spread_s("RMa", False, 0.7) == pytest.approx(10**-7.43)
    assert spreads.delay_spread_s("InH", True, 1.0) == pytest.approx(10 ** (-7.692 - 0.01 * np.log10(7.0)))


def test_ranges():
    channel.check_range("UMa", distance_m=[10, 5_000], carrier_ghz=3.5, h_bs_m=25, h_ut_m=22.5)
    channel.check_range("InH", distance_m=150.0, h_bs_m=99.0)
    for scenario, quantity, sentence in (
        (
            "UMa",
            {"distance_m": [100, 5_001]},
            "distance_m: 5001 is outside 10 to 5000, for which TR 38.901 gives the UMa",
        ),
        ("UMi", {"h_bs_m": 12.0}, "h_bs_m: 12 is outside 10, for"),
        ("RMa", {"carrier_ghz": 39.0}, "carrier_ghz: 39 is outside 0.5 to 30"),
        ("RMa", {"h_ut_m": float("nan")}, "h_ut_m: nan is outside 1 to 10"),
        ("InH", {"distance_m": 0.5}, "distance_m: 0.5 is outside 1 to 150"),
    ):
        with pytest.raises(BadInput, match=sentence):
            channel.check_range(scenario, **quantity)


def test_unknown_names_are_bad_input():
    for call in (
        lambda: channel.path_loss_db("Uma", True, 100, 3.5, 25, 1.5),
        lambda: channel.los_probability("urban", 100),
        lambda: spreads.shadow_sigma_db("urban", True),
        lambda: channel.breakpoint_m("urban", 3.5, 25, 1.5),
    ):
        with pytest.raises(BadInput, match=r"unknown scenario .* UMa"):
            call()
    for call in (lambda: channel.o2i_penetration_db("medium", 3.5), lambda: spreads.o2i_sigma_db("medium")):
        with pytest.raises(BadInput, match=r"unknown penetration model 'medium' \(known: high, low\)"):
            call()
