"""Unicast, multicast and rateless downlinks against closed forms, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, nbinom

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.wireless.base_delivery import one_after_another
from fedwave.wireless.downlinks.downlink import Listeners, split_common
from fedwave.wireless.downlinks.multicast import Multicast, worst_user_capacity
from fedwave.wireless.downlinks.rateless import (
    Rateless,
    best_fixed_rate,
    blocks_until,
    reception_probability,
)
from fedwave.wireless.downlinks.unicast import Unicast

DOWNLINKS = [Unicast(), Multicast(), Multicast(0.95), Multicast(0.5), Rateless(), Rateless(coverage="auto")]


def listeners_of(full, cast=None, *, cell=None, sinr=None, symbol_hz=1e6):
    full = np.asarray(full, dtype=float)
    count = len(full)
    return Listeners(
        cell=np.zeros(count, dtype=np.int64) if cell is None else np.asarray(cell),
        full_rate_bps=full,
        cast_rate_bps=full if cast is None else np.asarray(cast, dtype=float),
        sinr=np.full(count, 10.0) if sinr is None else np.asarray(sinr, dtype=float),
        symbol_hz=symbol_hz,
    )


def send(downlink, listeners, *, shared=1e6, own=0.0, start=0.0):
    count = len(listeners)
    start, shared, own = (np.broadcast_to(np.asarray(x, dtype=float), count).copy() for x in (start, shared, own))
    return downlink.finish(start, shared, own, listeners, one_after_another(listeners))


# ---- worst-user capacity ---------------------------------------------------------------------------------------------


def test_worst_user_capacity_at_10_db():
    got = worst_user_capacity(10.0, [1, 10, 100, 1000])
    np.testing.assert_allclose(got, [2.9065, 0.8603, 0.1321, 0.01429], rtol=5e-4)


def test_worst_user_capacity_is_the_mean_over_the_smallest_gain():
    gains = np.random.default_rng(0).exponential(size=(400_000, 5)).min(axis=1)
    assert worst_user_capacity(3.0, 5) == pytest.approx(np.log2(1 + 3 * gains).mean(), rel=5e-3)


def test_a_fixed_rate_does_not_fall_with_the_number_of_users():
    # 10 dB: R = W(10) / ln 2 = 1.7455 / 0.6931 = 2.518, p = exp(-(5.7285 - 1) / 10) = 0.6232, R p = 1.569 bit/s/Hz.
    rate = float(best_fixed_rate(10.0))
    assert rate == pytest.approx(2.5183, rel=1e-4)
    assert rate * reception_probability(rate, 10.0) == pytest.approx(1.5694, rel=1e-3)
    lossless = Rateless(overhead=0.0, block_s=1e-4)
    for users in (1, 10, 1000):
        many = send(lossless, listeners_of(np.full(users, 1e6)), shared=1e9)
        # goodput in bit/s/Hz: below R p by the tail alone
        assert 1e9 / many.airtime_s[0] / 1e6 == pytest.approx(1.5694, rel=2e-3)
    assert worst_user_capacity(10.0, 1000) < 1.5694 / 100


# ---- unicast ---------------------------------------------------------------------------------------------------------


def test_unicast_sends_a_copy_to_each():
    got = send(Unicast(), listeners_of([1e6, 2e6]), shared=1e6, own=1e6, start=1.0)
    np.testing.assert_allclose(got.end_s, [3.0, 4.0])  # 2 Mbit at 1 Mbit/s, then 2 Mbit at 2 Mbit/s
    np.testing.assert_allclose(got.airtime_s, [3.0])
    np.testing.assert_allclose(got.sent_bits, [4e6])
    np.testing.assert_array_equal(got.listen_s, 0.0)


# ---- multicast -------------------------------------------------------------------------------------------------------


def test_multicast_at_the_rate_of_the_weakest():
    got = send(Multicast(1.0), listeners_of([1e6, 4e6, 2e6]), shared=2e6)
    np.testing.assert_allclose(got.end_s, 2.0)
    np.testing.assert_allclose(got.airtime_s, [2.0])
    np.testing.assert_allclose(got.sent_bits, [2e6])


def test_quantile_and_repair():
    # Ten listeners of 1 ... 10 Mbit/s; 80 % coverage leaves floor(0.2 x 10) = 2 out, so the rate is 3 Mbit/s:
    # 1 s for all of 3 Mbit, then 3 Mbit at 1 and at 2 Mbit/s: 3 s and 1.5 s.
    rates = np.arange(1, 11) * 1e6
    got = send(Multicast(0.8), listeners_of(rates), shared=3e6)
    np.testing.assert_allclose(got.end_s, [4.0, 5.5, *[1.0] * 8])
    np.testing.assert_allclose(got.airtime_s, [5.5])
    np.testing.assert_allclose(got.sent_bits, [9e6])
    np.testing.assert_allclose(got.unicast_bits, [3e6, 3e6, *[0.0] * 8])


def test_own_parts_follow_the_transmission_and_it_waits_for_the_last_covered():
    got = send(Multicast(1.0), listeners_of([1e6, 1e6, 1e6]), shared=1e6, own=[0.0, 2e6, 0.0], start=[0.0, 0.5, 4.0])
    np.testing.assert_allclose(got.end_s, [5.0, 7.0, 5.0])


def test_who_takes_no_part_is_not_waited_for():
    listeners = listeners_of([1e6, 1e3, 0.0, 1e6])
    got = send(Multicast(1.0), listeners, shared=1e6, start=[0.0, np.inf, 9.0, 1.0])
    np.testing.assert_allclose(got.end_s, [2.0, np.inf, np.inf, 2.0])
    np.testing.assert_allclose(got.airtime_s, [1.0])


def test_cells_are_apart():
    listeners = listeners_of([1e6, 2e6, 4e6], cell=[1, 0, 0])
    got = send(Multicast(1.0), listeners, shared=4e6, start=[3.0, 0.0, 1.0])
    np.testing.assert_allclose(got.end_s, [7.0, 3.0, 3.0])
    np.testing.assert_allclose(got.airtime_s, [2.0, 4.0])


rates = st.floats(1e3, 1e9)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(rates, rates, st.integers(0, 2)), min_size=1, max_size=12))
def test_auto_is_the_best_threshold(rows):
    full, cast, cell = (np.array(column) for column in zip(*rows, strict=True))
    got = send(Multicast(), listeners_of(full, cast, cell=cell))
    for each in np.unique(cell):
        f, c = full[cell == each], cast[cell == each]
        times = [(1e6 / f).sum()] + [1e6 / t + (1e6 / f[c < t]).sum() for t in c]  # nobody, or each rate as threshold
        assert got.airtime_s[each] == pytest.approx(min(times), rel=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(rates, st.integers(0, 2)), min_size=1, max_size=30), st.floats(0.05, 1.0))
def test_at_least_the_quantile_is_covered(rows, coverage):
    full, cell = (np.array(column) for column in zip(*rows, strict=True))
    got = send(Multicast(coverage), listeners_of(full, cell=cell))
    for each in np.unique(cell):
        assert (got.listen_s[cell == each] > 0).mean() >= coverage - 1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(0.0), rates),
            st.one_of(st.just(0.0), rates),
            st.floats(0.0, 1e5),
            st.integers(0, 2),
            st.one_of(st.just(np.inf), st.floats(0.0, 10.0)),
            st.sampled_from([0.0, 1e6]),
            st.floats(0.0, 1e7),
        ),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from(DOWNLINKS),
)
def test_every_downlink(rows, downlink):
    full, cast, sinr, cell, start, shared, own = (np.array(column) for column in zip(*rows, strict=True))
    listeners = listeners_of(full, cast, cell=cell, sinr=sinr)
    got = downlink.finish(start, shared, own, listeners, one_after_another(listeners))
    wanted = np.isfinite(start) & (shared + own > 0)
    # Whoever has a link gets everything, nobody else gets anything, nothing arrives before it is wanted.
    np.testing.assert_array_equal(np.isfinite(got.end_s)[wanted], (full > 0)[wanted])
    assert (got.end_s >= start).all()
    arrived = got.unicast_bits + np.where(got.listen_s > 0, shared, 0.0)
    np.testing.assert_allclose(arrived, np.where(np.isfinite(got.end_s), shared + own, 0.0), rtol=1e-9)
    for value in (got.airtime_s, got.sent_bits, got.listen_s, got.received_bits, got.unicast_bits):
        assert np.isfinite(value).all() and (value >= 0).all()
    # A cell is on the air at least as long as its longest listener listens.
    for each in np.unique(cell):
        assert got.airtime_s[each] >= got.listen_s[cell == each].max() * (1 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(rates, st.integers(0, 2)), min_size=2, max_size=12), st.randoms(), st.sampled_from(DOWNLINKS))
def test_order_does_not_matter(rows, random, downlink):
    full, cell = (np.array(column) for column in zip(*rows, strict=True))
    order = np.array(random.sample(range(len(full)), len(full)))
    one = send(downlink, listeners_of(full, cell=cell, sinr=full / 1e5))
    other = send(downlink, listeners_of(full[order], cell=cell[order], sinr=full[order] / 1e5))
    np.testing.assert_allclose(other.airtime_s, one.airtime_s, rtol=1e-9)
    np.testing.assert_allclose(other.listen_s, one.listen_s[order], rtol=1e-9)


# ---- rateless --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sinr", [0.01, 0.5, 10.0, 300.0])
def test_the_best_fixed_rate(sinr):
    grid = np.geomspace(1e-4, 12, 200_000)
    best = grid[np.argmax(grid * reception_probability(grid, sinr))]
    assert best_fixed_rate(sinr) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("blocks", [0.5, 5.0, 50.0, 5000.0])
@pytest.mark.parametrize("sinr", [0.3, 10.0, 100.0, 1e4])
def test_the_chosen_rate_finishes_first(blocks, sinr):
    downlink = Rateless()
    best = min(float(best_fixed_rate(sinr)), downlink.max_efficiency)
    bits = blocks * best * 1e6 * downlink.block_s
    grid = np.minimum(np.linspace(0.2, 1.6, 2000) * best, downlink.max_efficiency)
    searched = downlink.seconds(bits, grid, np.full(2000, sinr), 1e6).min()
    chosen = downlink.efficiency(bits, np.array([sinr]), 1e6)
    assert downlink.seconds(bits, chosen, np.array([sinr]), 1e6)[0] <= (1.01 if blocks > 1 else 1.03) * searched
    if blocks == 5000.0:  # without much of a tail it is W(g) / ln 2
        assert chosen[0] == pytest.approx(best, rel=0.05)


@pytest.mark.parametrize(
    ("needed", "p", "tolerance"), [(1, 0.5, 0.35), (5, 0.4, 0.1), (30, 0.6, 0.03), (1000, 0.62, 0.002)]
)
def test_blocks_against_the_negative_binomial(needed, p, tolerance):
    exact = needed + nbinom.ppf(0.999, needed, p)  # trials until the needed-th success
    got = blocks_until(np.array([float(needed)]), np.array([p]), 0.999)[0]
    assert got == pytest.approx(exact, rel=tolerance)
    assert binom.sf(needed - 1, np.ceil(got * (1 + tolerance)), p) >= 0.998


def test_sure_blocks_take_no_more_than_needed():
    np.testing.assert_allclose(blocks_until(np.array([0.25, 7.0]), np.array([1.0, 1.0]), 0.999), [0.25, 7.0])


def test_rateless_by_simulation():
    # 60 blocks wanted at 10 and 20 dB, fading drawn afresh for every block; by then 99 % should have them.
    downlink, sinr = Rateless(overhead=0.0, confidence=0.99), np.array([10.0, 100.0])
    rate = np.full(2, best_fixed_rate(10.0))
    seconds = downlink.seconds(60 * rate[0] * 1e6 * downlink.block_s, rate, sinr, 1e6)
    blocks = np.ceil(seconds / downlink.block_s - 1e-9).astype(int)
    for g, count in zip(sinr, blocks, strict=True):
        gains = np.random.default_rng(3).exponential(size=(20_000, count))
        done = (np.log2(1 + g * gains) >= rate[0]).sum(axis=1) >= 60
        assert 0.985 <= done.mean() <= 0.998


def test_the_stronger_are_done_earlier():
    downlink = Rateless()
    got = send(downlink, listeners_of([1e6, 1e6], sinr=[10.0, 100.0]), shared=3e6)
    assert got.end_s[1] < got.end_s[0] == pytest.approx(got.airtime_s[0])
    rate = downlink.efficiency(3e6, np.array([10.0]), 1e6)[0]
    assert got.sent_bits[0] == pytest.approx(got.airtime_s[0] * rate * 1e6)
    np.testing.assert_allclose(got.received_bits, 3e6 * 1.02)


def test_rateless_coverage():
    listeners = listeners_of(np.full(10, 1e6), sinr=[1e-3, *[30.0] * 9])
    all_of_them = send(Rateless(), listeners)
    most = send(Rateless(coverage=0.9), listeners)
    best = send(Rateless(coverage="auto"), listeners)
    assert most.airtime_s[0] < all_of_them.airtime_s[0] / 10
    assert best.airtime_s[0] == pytest.approx(most.airtime_s[0])
    assert most.unicast_bits[0] == 1e6 and (most.unicast_bits[1:] == 0).all()


# ---- shared and own --------------------------------------------------------------------------------------------------


def test_what_is_common():
    start = np.array([0.0, 0.0, np.inf, 0.0])
    shared, own = split_common(start, np.array([5.0, 8.0, 2.0, 0.0]))
    np.testing.assert_array_equal(shared, [5, 5, 0, 0])
    np.testing.assert_array_equal(own, [0, 3, 0, 0])
    shared, own = split_common(np.full(2, np.inf), np.ones(2))
    np.testing.assert_array_equal(shared + own, 0.0)


def test_as_a_transfer():
    listeners = listeners_of([1e6, 1e6])
    transfer = Multicast(1.0).transfer(listeners, one_after_another(listeners))
    np.testing.assert_allclose(transfer(np.zeros(2), np.array([1e6, 3e6])), [1.0, 3.0])


# ---- input -----------------------------------------------------------------------------------------------------------


def test_from_a_table():
    assert config.parse(Multicast, {"coverage": 0.9}) == Multicast(0.9)
    assert config.parse(Multicast, {}).coverage == "auto"
    assert config.dump(Rateless())["confidence"] == 0.999
    for table in ({"coverage": 0.0}, {"coverage": "most"}, {"coverage": 1.5}):
        with pytest.raises(BadInput, match="coverage"):
            config.parse(Multicast, table)
    with pytest.raises(BadInput, match="confidence"):
        Rateless(confidence=1.0)


def test_bad_input():
    with pytest.raises(BadInput, match="full_rate_bps"):
        listeners_of([-1.0])
    with pytest.raises(BadInput, match="sinr"):
        listeners_of([1.0], sinr=[np.nan])
    with pytest.raises(BadInput, match="one entry per listener"):
        listeners_of([1.0, 1.0], cast=[1.0])
    with pytest.raises(BadInput, match="same for all"):
        send(Multicast(), listeners_of([1.0, 1.0]), shared=[1.0, 2.0])
    with pytest.raises(BadInput, match="client 1"):
        send(Unicast(), listeners_of([1.0, 1.0]), own=[0.0, -1.0])
    for snr, users in ((0.0, 1), (1.0, 0), (np.inf, 1)):
        with pytest.raises(BadInput):
            worst_user_capacity(snr, users)
    assert all(downlink.csi for downlink in DOWNLINKS)
