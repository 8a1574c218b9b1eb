"""Short transfers: their own draw of the fading, of mean 1 and fading away with their length."""

from __future__ import annotations

import numpy as np
import pytest

from fedwave.core.keys import Key
from fedwave.wireless.budget import LinkBudget
from fedwave.wireless.phy.goodput import coherence_time_s
from fedwave.wireless.radio import Carrier, Radio
from fedwave.wireless.short_term import short_term_factor

KEY = Key(5)


def radio_of(count, *, los=False, speed_m_s=1.0, prbs=24, coupling_db=115.0):
    def each(value):
        return np.full(count, value)

    return Radio(
        Carrier(3.5, prbs, 30),
        LinkBudget(),
        gnb_power_dbm=46.0,
        coupling_db=each(coupling_db),
        cell=each(0),
        los=each(los),
        delay_spread_s=each(100e-9),
        speed_m_s=each(speed_m_s),
        down_iot_db=each(0.0),
        up_iot_db=each(0.0),
        q_out_db=-8.0,
    )


def factor(radio, bits, *, direction="up", key=KEY):
    ids = np.arange(len(radio.cell))
    return short_term_factor(radio, np.broadcast_to(np.asarray(bits, dtype=float), ids.shape), direction, ids, key)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_mean_is_one(direction):
    """A lognormal exp(s z - s^2/2); the standard error of 200,000 draws of it with s < 1 is below 0.004."""
    got = factor(radio_of(200_000), 1e4, direction=direction)
    assert (got > 0.0).all() and got.std() > 0.02
    assert got.mean() == pytest.approx(1.0, abs=0.015)


def test_long_transfers_see_the_mean():
    """The variance of the logarithm falls like 1 / (1 + n) with n coherence times."""
    radio = radio_of(20_000)
    full = radio.full_bps("up")[0]
    coherence = coherence_time_s(1.0, 3.5e9)
    one, hundred = (np.log(factor(radio, full * coherence * n)).var() for n in (1.0, 199.0))
    assert one / hundred == pytest.approx(100.0, rel=0.15)
    np.testing.assert_allclose(factor(radio, 1e15), 1.0, atol=1e-3)


def test_line_of_sight_a_wide_band_and_speed_steady_a_transfer():
    spread = factor(radio_of(5_000), 1e5).std()
    assert factor(radio_of(5_000, los=True), 1e5).std() < 0.5 * spread
    assert factor(radio_of(5_000, prbs=273), 1e5).std() < spread
    assert factor(radio_of(5_000, speed_m_s=30.0), 1e5).std() < spread


def test_at_rest_a_transfer_keeps_the_state_that_it_found():
    got = factor(radio_of(5_000, speed_m_s=0.0), 1e12)
    assert np.isfinite(got).all() and got.std() > 0.05


def test_a_function_of_key_and_client():
    radio = radio_of(100)
    np.testing.assert_array_equal(factor(radio, 1e5), factor(radio, 1e5))
    assert (factor(radio, 1e5, key=Key(6)) != factor(radio, 1e5)).all()
    some = np.arange(40, 60)
    part = short_term_factor(radio.take(some), np.full(20, 1e5), "up", some, KEY)
    np.testing.assert_array_equal(part, factor(radio, 1e5)[some])


def test_nothing_to_send_or_no_link():
    np.testing.assert_array_equal(factor(radio_of(5), 0.0), 1.0)
    lost = factor(radio_of(5, coupling_db=400.0), 1e5)
    assert np.isfinite(lost).all() and (lost > 0.0).all()
