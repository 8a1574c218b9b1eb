"""Energy of radios: two models with one interface, tails with and without DRX, base stations by load."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.config import build, parse
from fedwave.core.errors import BadInput
from fedwave.core.registry import names
from fedwave.wireless.energy import FREE, Components, Connection, Drx, GnbEnergy, NbIotModem, RadioEnergy, WifiStation
from fedwave.wireless.flow import Links, run_round

from .helpers import compute_of, work_of

MODELS = ("whole_phone", "whole_phone_lte", "whole_phone_mmwave", "components", "nb-iot", "wifi", "leo_terminal")


def test_models_are_registered():
    assert set(names("energy")) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_complete(name):
    model = build("energy", name)
    assert model.rows()[0] == ("energy_model", model.model, "", "whole phone or components, never both")
    assert all(len(row) == 4 and row[3] for row in model.rows())
    numbers = [model.transmit_w, model.receive_w, model.uplink_j_per_bit, model.downlink_j_per_bit, model.setup_w]
    assert np.isfinite([*numbers, model.tail_w]).all() and min(numbers) >= 0.0
    assert model.send_w(np.array([0.0, 23.0])).shape == (2,)


def test_what_a_job_sets_is_the_jobs():
    sources = {row[0]: row[3] for row in build("energy", {"name": "leo_terminal", "receive_w": 75.0}).rows()}
    assert sources["receive_w"] == "job" and sources["transmit_w"].startswith("assumption")


def test_slopes_of_the_measured_models():
    # nJ/bit: LTE 76.7 up and 11.5 down, low-band 5G 32.2 and 11.5, millimetre wave 8.9 and 1.7.
    slopes = {name: build("energy", name) for name in MODELS[:3]}
    up = [1e9 * slopes[name].uplink_j_per_bit for name in ("whole_phone_lte", "whole_phone", "whole_phone_mmwave")]
    down = [1e9 * slopes[name].downlink_j_per_bit for name in ("whole_phone_lte", "whole_phone", "whole_phone_mmwave")]
    np.testing.assert_allclose([up, down], [[76.7, 32.2, 8.9], [11.5, 11.5, 1.7]])


def test_the_amplifier_is_counted_once():
    # Whole phone: the transmit power changes nothing. Components: nothing per bit.
    np.testing.assert_allclose(RadioEnergy().send_w([-10.0, 23.0]), 1.288)
    assert Components().uplink_j_per_bit == Components().downlink_j_per_bit == 0.0


def one_round(energy, *, bits=(0.0, 0.0), seconds=(2.0, 3.0), inactivity_s=10.0):
    """One client that connects in 0.5 s, receives and sends for ``seconds``, and computes for 1 s in between."""
    links = Links(
        down=lambda start_s, bits: start_s + seconds[0],
        up=lambda start_s, bits: start_s + seconds[1],
        connection=Connection(setup_s=0.5, grant_s=0.25, inactivity_s=inactivity_s),
        energy=energy,
        sinr_db=np.zeros(1),
        lost=np.zeros(1, dtype=bool),
    )
    return run_round(work_of(1, down=bits[0], up=bits[1]), compute_of(1, seconds=1.0), links)


watts = st.floats(0.0, 100.0)
slopes = st.floats(0.0, 1e-6)


@given(watts, watts, watts, watts, slopes, slopes, st.floats(0.25, 100.0))
def test_a_round_is_the_sum_of_its_terms(send_w, receive_w, setup_w, tail_w, up_slope, down_slope, inactivity_s):
    # Each state is charged once: set-up 0.5 s, 2 s of reception, the tail while computing (as long as it lasts), then
    # a grant of 0.25 s in the tail or a new set-up of 0.5 s, 3 s of sending, bits by their slope, a whole tail.
    energy = RadioEnergy(send_w, receive_w, up_slope, down_slope, setup_w, tail_w)
    delivery = one_round(energy, bits=(8e6, 4e6), inactivity_s=inactivity_s)
    asleep = inactivity_s < 1.0
    expected = [
        0.5 * setup_w, 2.0 * receive_w, 8e6 * down_slope,
        tail_w * min(1.0, inactivity_s), 0.5 * setup_w if asleep else 0.25 * tail_w,
        3.0 * send_w, 4e6 * up_slope, tail_w * inactivity_s,
    ]  # fmt: skip
    assert delivery.radio_j[0] == pytest.approx(sum(expected), rel=1e-9)


@given(st.floats(0.01, 1.0), watts, watts, st.floats(-30.0, 23.0))
def test_components_are_charged_by_time_alone(efficiency, baseband_w, receive_w, power_dbm):
    energy = Components(efficiency, baseband_w, receive_w, 0.0, 0.0, max_power_dbm=power_dbm, drx=Drx(enabled=False))
    few, many = (one_round(energy, bits=bits).radio_j[0] for bits in ((1.0, 1.0), (1e9, 1e9)))
    sending_w = 10.0 ** (power_dbm / 10.0 - 3.0) / efficiency + baseband_w
    assert few == many == pytest.approx(2.0 * receive_w + 3.0 * sending_w, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "bits_j", "tail_j", "least"),
    [
        # 16 kB are 128,000 bit, at 10 Mbit/s 12.8 ms. By slope alone they cost 128,000 x 32.2 nJ = 4.12 mJ, with the
        # intercept of 1.288 W over 12.8 ms (16.5 mJ) 20.6 mJ; 10 s of tail at 1.06 W cost 10.6 J, 514 times as much.
        ("whole_phone", 128e3 * 32.2e-9 + 0.0128 * 1.288, 10.6, 500.0),
        # LTE: 9.82 + 16.5 = 26.3 mJ, 403 times.
        ("whole_phone_lte", 128e3 * 76.7e-9 + 0.0128 * 1.288, 10.6, 400.0),
        # Components: 12.8 ms at 0.882 W = 11.3 mJ. DRX leaves 0.1 s x 126 mW and 9.9 s x 30.8 mW = 0.318 J: 28 times.
        ("components", 0.0128 * (10**2.3 * 1e-3 / 0.35 + 0.312), 0.1 * 0.126 + 9.9 * 0.0308375, 25.0),
    ],
)
def test_the_tail_of_16_kb_costs_hundreds_of_times_its_bits(name, bits_j, tail_j, least):
    energy = build("energy", name)
    delivery = one_round(energy, bits=(0.0, 128e3), seconds=(0.0, 0.0128))
    assert tail_j / bits_j > least
    assert delivery.radio_j[0] == pytest.approx(0.5 * energy.setup_w + bits_j + tail_j, rel=1e-9)


def test_components_have_the_ratios_of_tr_38_840():
    # Table 18: PDCCH 100, PDCCH + PDSCH 300, uplink 250 at 0 dBm and 700 at 23 dBm.
    model = Components()
    unit = model.tail_w / 100.0
    np.testing.assert_allclose(model.receive_w / unit, 300.0)
    np.testing.assert_allclose(model.send_w([0.0, 23.0]) / unit, [250.0, 700.0], rtol=2e-3)
    assert model.transmit_w == model.send_w(23.0)


def test_components_add_amplifier_and_baseband():
    # 20 dBm are 100 mW: 0.1 / 0.5 + 0.3 = 0.5 W.
    model = Components(pa_efficiency=0.5, baseband_w=0.3, max_power_dbm=20.0)
    np.testing.assert_allclose(model.transmit_w, 0.5)


def test_nb_iot_draws_545_mw_at_23_dbm():
    assert NbIotModem().transmit_w == pytest.approx(0.545, abs=1e-3)


def test_tail_without_drx_is_power_times_time():
    gaps = np.array([0.0, 1.0, 10.0, 11.0, np.inf])
    np.testing.assert_allclose(RadioEnergy().tail_j(gaps, 10.0), 1.060 * np.array([0.0, 1.0, 10.0, 10.0, 10.0]))
    np.testing.assert_array_equal(FREE.tail_j(gaps, 10.0), 0.0)
    off = build("energy", {"name": "components", "drx": {"enabled": False}})
    np.testing.assert_allclose(off.tail_j(gaps, 10.0), off.tail_w * np.minimum(gaps, 10.0))


def test_tail_with_drx_in_closed_form():
    # Listening 1 s at 2 W. Two short cycles of 0.5 s: (0.1 x 2 + 0.4 x 0.5 + 0.1) / 0.5 = 1 W for 1 s. Then long
    # cycles of 1 s: 0.1 x 2 + 0.9 x 0.5 + 0.1 = 0.75 W. At 0.5, 1.5, 4 s: 1, 2.5, 2 + 1 + 2 x 0.75 = 4.5 J; 5 s: end.
    drx = Drx(after_s=1.0, on_s=0.1, long_cycle_s=1.0, short_cycle_s=0.5, short_cycles=2, sleep_w=0.5, wake_j=0.1)
    model = RadioEnergy(tail_w=2.0, drx=drx)
    np.testing.assert_allclose(model.tail_j([0.5, 1.5, 4.0, 5.0, np.inf], 5.0), [1.0, 2.5, 4.5, 5.25, 5.25])


def test_drx_is_the_integral_of_a_cycle_by_cycle_trace():
    # Over whole cycles the mean power is exact: sum the states of 20 long cycles one by one.
    drx = Drx(after_s=0.1, on_s=0.01, long_cycle_s=0.2, sleep_w=0.02, wake_j=1e-3)
    states = [(0.1, 0.5), *[(0.01, 0.5), (0.19, 0.02)] * 20]
    expected = sum(seconds * watts for seconds, watts in states) + 20 * 1e-3
    assert Components(tail_w=0.5, drx=drx).tail_j(0.1 + 20 * 0.2, 100.0) == pytest.approx(expected)


@given(
    st.lists(st.floats(0.0, 100.0), min_size=2, max_size=6), st.floats(0.0, 30.0),
    st.floats(0.0, 3.0), st.integers(0, 5), st.floats(0.0, 1.0),
)  # fmt: skip
def test_tails_rise_with_the_gap_and_drx_saves(gaps, inactivity, after, cycles, sleep_w):
    drx = Drx(after_s=after, on_s=0.01, short_cycles=cycles, sleep_w=sleep_w, wake_j=0.0)
    gaps = np.sort(gaps)
    saved = RadioEnergy(tail_w=1.0, drx=drx).tail_j(gaps, inactivity)
    assert (np.diff(saved) >= -1e-12).all()
    assert (saved <= RadioEnergy(tail_w=1.0).tail_j(gaps, inactivity) + 1e-12).all()


def test_an_on_duration_must_fit_its_cycle():
    with pytest.raises(BadInput, match=r"on_s: 0\.2 s must not exceed a cycle"):
        Drx(on_s=0.2)
    with pytest.raises(BadInput, match=r"drx\.on_s: 0\.05 s must not exceed a cycle"):
        build("energy", {"name": "components", "drx": {"on_s": 0.05, "short_cycles": 1}})
    with pytest.raises(BadInput, match="pa_efficiency"):
        parse(WifiStation, {"pa_efficiency": 0.0})


def test_macro_site_of_auer_et_al():
    # Six transceivers: 6 x 130 = 780 W idle, 6 x (130 + 4.7 x 20) = 1,344 W at full load, 6 x 75 = 450 W asleep.
    site = GnbEnergy(transceivers=6)
    assert site.joules(1.0, 0.0) == pytest.approx(780.0)
    assert site.joules(1.0, 1.0) == pytest.approx(1344.0)
    assert GnbEnergy(transceivers=6, sleeps=True).joules(1.0, 0.0) == pytest.approx(450.0)
    # Three cells of two transceivers at half load for 10 s: 3 x 2 x (130 + 47) x 10.
    assert GnbEnergy().joules(10.0, 0.5, cells=3) == pytest.approx(10620.0)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5), st.floats(0.0, 1e4), st.booleans())
def test_cells_add_up(loads, seconds, sleeps):
    gnb = GnbEnergy(sleeps=sleeps)
    each = [gnb.joules(seconds, load) for load in loads]
    assert gnb.joules(seconds, loads, cells=len(loads)) == pytest.approx(sum(each))


@pytest.mark.parametrize(
    ("seconds", "load", "key"), [(1.0, 1.5, "load"), (1.0, np.nan, "load"), (-1.0, 0.5, "seconds")]
)
def test_gnb_refuses(seconds, load, key):
    with pytest.raises(BadInput, match=f"{key}: must be"):
        GnbEnergy().joules(seconds, load)
