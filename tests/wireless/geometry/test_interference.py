"""Interference sums against plain loops, and loads against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.wireless.geometry import interference as module
from fedwave.wireless.geometry.interference import (
    downlink_interference,
    over_thermal_db,
    settle_load,
    uplink_interference,
)

GAIN = np.array([[1e-9, 1e-12, 2e-12], [3e-11, 1e-10, 1e-13], [1e-12, 4e-12, 1e-8]], dtype=np.float32)
SERVING = np.array([0, 1, 2])


def test_downlink_by_hand():
    # client 0: 0.5 * 40 W * 1e-12 + 1 * 10 W * 2e-12 = 4e-11 W; client 1: 0.25 * 40 * 3e-11 + 10 * 1e-13 = 3.01e-10 W
    # client 2: 0.25 * 40 * 1e-12 + 0.5 * 40 * 4e-12 = 9e-11 W
    heard = downlink_interference(GAIN, SERVING, [0.25, 0.5, 1.0], [40.0, 40.0, 10.0])
    np.testing.assert_allclose(heard, [4e-11, 3.01e-10, 9e-11], rtol=1e-6)


def test_uplink_by_hand():
    # cell 0 hears client 1: 0.5 * 2e-8 * 3e-11 = 3e-19, and client 2: 1 * 1e-8 * 1e-12 = 1e-20 W/Hz
    # cell 1 hears client 0: 0.2 * 1e-8 * 1e-12 = 2e-21, client 2: 4e-20; cell 2: 0.2 * 2e-20 + 0.5 * 2e-21 = 5e-21
    heard = uplink_interference(GAIN, SERVING, [1e-8, 2e-8, 1e-8], [0.2, 0.5, 1.0], 3)
    np.testing.assert_allclose(heard, [3.1e-19, 4.2e-20, 5e-21], rtol=1e-6)


def test_weak_interference_beside_a_strong_signal_is_exact():
    # the signal is 140 dB above: a difference of sums would be rounding error in float32 and in float64 nearly so
    gain = np.array([[1.0, 1e-14]], dtype=np.float32)
    assert downlink_interference(gain, np.array([0]), 1.0, 1.0)[0] == pytest.approx(1e-14, rel=1e-6)
    assert uplink_interference(gain, np.array([0]), 1.0, 1.0, 2)[1] == pytest.approx(1e-14, rel=1e-6)


def test_a_single_cell_has_no_interference():
    gain, serving = np.full((5, 1), 0.3, dtype=np.float32), np.zeros(5, dtype=int)
    np.testing.assert_array_equal(downlink_interference(gain, serving, 1.0, 40.0), 0.0)
    np.testing.assert_array_equal(uplink_interference(gain, serving, 1e-8, 0.2, 1), 0.0)
    assert downlink_interference(gain[:0], serving[:0], 1.0, 40.0).shape == (0,)
    np.testing.assert_array_equal(uplink_interference(gain[:0], serving[:0], 1e-8, 0.2, 1), 0.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 6))
def test_both_equal_plain_loops(seed, clients, cells):
    rng = np.random.default_rng(seed)
    gain = (10.0 ** rng.uniform(-37.0, 0.0, (clients, cells))).astype(np.float32)
    serving, load, power = gain.argmax(axis=1), rng.uniform(0, 1, cells), rng.uniform(0, 100, cells)
    psd, share = 10.0 ** rng.uniform(-14.0, -7.0, clients), rng.uniform(0, 1, clients) / clients
    down, up = np.zeros(clients), np.zeros(cells)
    for k in range(clients):
        for b in range(cells):
            if b != serving[k]:
                down[k] += load[b] * power[b] * float(gain[k, b])
                up[b] += share[k] * psd[k] * float(gain[k, b])
    np.testing.assert_allclose(downlink_interference(gain, serving, load, power), down, rtol=2e-5, atol=1e-42)
    np.testing.assert_allclose(uplink_interference(gain, serving, psd, share, cells), up, rtol=2e-5, atol=1e-50)


def test_blocks_of_clients_add_up(monkeypatch):
    rng = np.random.default_rng(1)
    gain = rng.uniform(0, 1e-9, (1_000, 21)).astype(np.float32)
    serving, share = gain.argmax(axis=1), np.full(1_000, 1e-3)
    whole = downlink_interference(gain, serving, 0.5, 40.0), uplink_interference(gain, serving, 1e-9, share, 21)
    monkeypatch.setattr(module, "_ROWS", 7)
    np.testing.assert_allclose(downlink_interference(gain, serving, 0.5, 40.0), whole[0], rtol=1e-5)
    np.testing.assert_allclose(uplink_interference(gain, serving, 1e-9, share, 21), whole[1], rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 1.0))
def test_more_load_more_interference(seed, factor):
    rng = np.random.default_rng(seed)
    gain, load = rng.uniform(0, 1e-9, (20, 5)), rng.uniform(0, 1, 5)
    serving = gain.argmax(axis=1)
    less = downlink_interference(gain, serving, factor * load, 40.0)
    np.testing.assert_allclose(less, factor * downlink_interference(gain, serving, load, 40.0), rtol=1e-9)
    assert (downlink_interference(gain, serving, 1.0, 40.0) >= less * (1 - 1e-12)).all()


def test_over_thermal():
    # as much interference as noise: 3.01 dB; nine times as much: 10 dB; none: 0 dB
    np.testing.assert_allclose(over_thermal_db([1e-20, 9e-20, 0.0], 1e-20), [10 * np.log10(2), 10.0, 0.0], atol=1e-9)
    assert np.isfinite(over_thermal_db(1.7e308, 5e-324))
    assert over_thermal_db(1e-30, 1.0) == 0.0


def shannon(demand, signal, cross, noise=1.0):
    """Two cells with one client each: ``load_b = demand_b / log2(1 + S / (N + load_other I))``."""

    def load_of(load):
        return np.asarray(demand) / np.log2(1 + np.asarray(signal) / (noise + load[::-1] * np.asarray(cross)))

    return load_of


def test_two_cells_with_linear_capacity_in_closed_form():
    # capacity in the low-SNR limit S / (N + load I): load = a + B load with a = (0.2, 0.3), B = ((0, 0.4), (0.5, 0));
    # Cramer: load_0 = (0.2 + 0.4 * 0.3) / (1 - 0.2) = 0.4, load_1 = (0.3 + 0.5 * 0.2) / 0.8 = 0.5
    a, coupling = np.array([0.2, 0.3]), np.array([[0.0, 0.4], [0.5, 0.0]])
    settled = settle_load(lambda load: a + coupling @ load, 2, tolerance=1e-12)
    assert settled.converged and not settled.overloaded.any()
    np.testing.assert_allclose(settled.load, [0.4, 0.5], atol=1e-10)
    above = settle_load(lambda load: a + coupling @ load, 2, start=1.0, tolerance=1e-12)
    np.testing.assert_allclose(above.load, [0.4, 0.5], atol=1e-10)


def test_two_cells_with_shannon_capacity():
    # demands chosen such that loads of 0.3 and 0.8 are the fixed point
    target, signal, cross = np.array([0.3, 0.8]), np.array([20.0, 8.0]), np.array([4.0, 1.0])
    demand = target * np.log2(1 + signal / (1 + target[::-1] * cross))
    settled = settle_load(shannon(demand, signal, cross), 2, tolerance=1e-10)
    assert settled.converged and not settled.overloaded.any()
    np.testing.assert_allclose(settled.load, target, atol=1e-8)


def test_an_overloaded_cell_is_reported_and_sends_all_the_time():
    # cell 1 needs 3 blocks for each that it has; cell 0 then sees it at full load: 0.3 + 0.4 * 1
    settled = settle_load(lambda load: np.array([0.3 + 0.4 * load[1], 3.0]), 2)
    assert settled.converged and settled.overloaded.tolist() == [False, True]
    np.testing.assert_allclose(settled.load, [0.7, 1.0])
    # each would do alone, but not both: load = 0.6 + 0.8 load has the fixed point 3
    both = settle_load(lambda load: 0.6 + 0.8 * load[::-1], 2)
    assert both.converged and both.overloaded.all() and (both.load == 1.0).all()
    # no capacity at all
    none = settle_load(lambda load: np.array([np.inf, 0.1]), 2)
    assert none.overloaded.tolist() == [True, False] and none.load.tolist() == [1.0, 0.1]


def test_iterates_from_zero_rise_to_the_least_fixed_point():
    # load = load^2 + 0.16 has the fixed points 0.2 and 0.8
    seen = []

    def load_of(load):
        seen.append(load[0])
        return load**2 + 0.16

    settled = settle_load(load_of, 1, tolerance=1e-12)
    assert settled.load[0] == pytest.approx(0.2, abs=1e-9)
    assert (np.diff(seen) >= 0).all() and len(seen) == settled.iterations + 1


def test_too_few_iterations_are_admitted():
    settled = settle_load(lambda load: 0.01 + 0.98 * load, 3, max_iterations=5)
    assert not settled.converged and settled.iterations == 5


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.floats(0.0, 8.0), st.floats(0.0, 8.0)),
    st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)),
    st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 100.0)),
)
def test_settled_loads_are_bounded_monotone_and_independent_of_the_start(demand, signal, cross):
    load_of = shannon(demand, signal, cross)
    low, high = (settle_load(load_of, 2, start=start, tolerance=1e-12, max_iterations=20_000) for start in (0.0, 1.0))
    assert ((low.load >= 0.0) & (low.load <= 1.0)).all()
    np.testing.assert_allclose(low.load, high.load, atol=1e-5)
    if low.converged:
        np.testing.assert_allclose(low.load, np.minimum(load_of(low.load), 1.0), atol=1e-9)
    more = settle_load(shannon(np.array(demand) * 1.1, signal, cross), 2, tolerance=1e-12, max_iterations=20_000)
    assert (more.load >= low.load - 1e-9).all()


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        (lambda: downlink_interference(GAIN[0], SERVING, 1.0, 1.0), "gain"),
        (lambda: downlink_interference(GAIN * np.float32(np.nan), SERVING, 1.0, 1.0), "gain"),
        (lambda: downlink_interference(-GAIN, SERVING, 1.0, 1.0), "gain"),
        (lambda: downlink_interference(GAIN, SERVING + 1, 1.0, 1.0), "serving"),
        (lambda: downlink_interference(GAIN, SERVING[:2], 1.0, 1.0), "serving"),
        (lambda: downlink_interference(GAIN, SERVING, 1.1, 1.0), "load"),
        (lambda: downlink_interference(GAIN, SERVING, [0.1, 0.2], 1.0), "load"),
        (lambda: downlink_interference(GAIN, SERVING, 1.0, [1.0, -1.0, 1.0]), "power_w"),
        (lambda: uplink_interference(GAIN, SERVING, np.inf, 0.1, 3), "psd_w_hz"),
        (lambda: uplink_interference(GAIN, SERVING, 1e-8, 2.0, 3), "activity"),
        (lambda: uplink_interference(GAIN, np.array([1, 1, 1]), 1e-8, 0.5, 3), "one client per block"),
        (lambda: uplink_interference(GAIN, SERVING, 1e-8, 0.5, 4), "gain"),
        (lambda: over_thermal_db(-1.0, 1.0), "interference"),
        (lambda: over_thermal_db(1.0, 0.0), "noise"),
        (lambda: settle_load(lambda load: load, 0), "cells"),
        (lambda: settle_load(lambda load: load, 2, tolerance=0.0), "tolerance"),
        (lambda: settle_load(lambda load: load, 2, max_iterations=0), "max_iterations"),
        (lambda: settle_load(lambda load: load, 2, start=1.5), "start"),
        (lambda: settle_load(lambda load: load * np.nan, 2), "load_of"),
        (lambda: settle_load(lambda load: load - 1.0, 2), "load_of"),
        (lambda: settle_load(lambda load: load[:1], 2), "load_of"),
    ],
)
def test_bad_input_names_the_key(wrong, key):
    with pytest.raises(BadInput, match=key):
        wrong()
