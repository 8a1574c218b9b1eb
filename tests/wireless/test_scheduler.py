"""Sharing of resource blocks: conservation, min-max optimality, independence from order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.config import build
from fedwave.core.errors import BadInput
from fedwave.wireless import scheduler
from fedwave.wireless.schedulers.equal_finish import EqualFinish
from fedwave.wireless.schedulers.round_robin import RoundRobin

M = 10
BOTH = [RoundRobin(), EqualFinish()]


def linear(*full_band_bps):
    """Rates proportional to the grant."""
    return np.asarray(full_band_bps, dtype=float)[:, None] * np.arange(1, M + 1) / M


@st.composite
def cases(draw, same_start=False):
    count = draw(st.integers(1, 8))
    ready = np.array([draw(st.floats(0, 20)) for _ in range(count)])
    if same_start:
        ready[:] = ready[0]
    bits = np.array([draw(st.floats(1.0, 1e6)) for _ in range(count)])
    snr = np.array([draw(st.floats(0.01, 1e3)) for _ in range(count)])
    share = np.arange(1, M + 1) / M
    rates = 1e5 * share * np.log2(1 + snr[:, None] / share)  # power-limited: concave
    return ready, bits, rates


def test_round_robin_by_hand():
    # 100 bit at 10 bit/s alone from 0; a second, equal, from 5: both at 5 bit/s. First: 50 left at 5 -> 15.
    # Second: 50 left at 15, alone at 10 bit/s -> 20.
    finish = RoundRobin().finish(np.array([0.0, 5.0]), np.array([100.0, 100.0]), linear(10, 10))
    np.testing.assert_allclose(finish, [15.0, 20.0])


def test_round_robin_below_one_block():
    # 20 clients on 10 blocks: half a block each is every other slot of one block, 0.5 bit/s
    finish = RoundRobin().finish(np.zeros(20), np.full(20, 10.0), linear(*[10.0] * 20))
    np.testing.assert_allclose(finish, 20.0)


def test_equal_finish_by_hand():
    # linear rates: 100 bit at 10 bit/s and 100 bit at 30 bit/s from 0: all blocks busy, T = 10 + 10/3
    finish = EqualFinish().finish(np.zeros(2), np.array([100.0, 100.0]), linear(10, 30))
    np.testing.assert_allclose(finish, 40 / 3)


def test_equal_finish_uses_the_share_of_late_starters():
    # 10 s of work from 0, 1 s of work from 5: work-conserving, so everything is done at 11 (static shares: later)
    finish = EqualFinish().finish(np.array([0.0, 5.0]), np.array([100.0, 10.0]), linear(10, 10))
    assert finish.max() == pytest.approx(11.0)
    rows = scheduler.usable_rates(linear(10, 10))
    static = scheduler.min_max_blocks(np.array([0.0, 5.0]), np.array([100.0, 10.0]), rows)[1]
    assert 10 / static + 1 / (static - 5) == pytest.approx(1.0)  # constant shares that fill the band
    assert static > 11.0


@pytest.mark.parametrize("chosen", BOTH, ids=["round_robin", "equal_finish"])
def test_never_and_nothing(chosen):
    ready = np.array([np.inf, np.nan, 1.0, 2.0, 3.0])
    bits = np.array([5.0, 5.0, 5.0, 0.0, 5.0])
    rates = linear(10, 10, 0, 10, 10)
    # not starting, not starting, no rate with all blocks, nothing to send, alone with 10 bit/s
    np.testing.assert_allclose(chosen.finish(ready, bits, rates), [np.inf, np.inf, np.inf, 2.0, 3.5])
    assert np.isinf(chosen.finish(ready[:1], bits[:1], rates[:1])).all()


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from(BOTH), st.randoms(use_true_random=False))
def test_bits_are_conserved_and_order_does_not_matter(case, chosen, shuffle):
    ready, bits, rates = case
    finish = chosen.finish(ready, bits, rates)
    # no transfer is faster than alone on the whole band
    assert (finish >= ready + bits / rates[:, -1] - 1e-9 * finish).all()
    order = list(range(len(bits)))
    shuffle.shuffle(order)
    again = chosen.finish(ready[order], bits[order], rates[order])
    np.testing.assert_allclose(again, finish[order], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(BOTH))
def test_delivered_bits_equal_queued_bits(case, chosen):
    """Replay the shares between events: at most M blocks, and exactly the bits of everybody."""
    ready, bits, rates = case
    rows = scheduler.usable_rates(rates)
    weight = chosen.weights(ready, bits, rows, np.inf)
    finish = chosen.finish(ready, bits, rates)
    events = np.unique(np.concatenate([ready, finish]))
    sent = np.zeros(len(bits))
    for begin, end in zip(events[:-1], events[1:], strict=True):
        middle = 0.5 * (begin + end)
        active = (ready <= middle) & (middle < finish)
        if active.any():
            blocks = np.where(active, M * weight / weight[active].sum(), 0.0)
            assert blocks.sum() <= M * (1 + 1e-9)
            grown = [np.interp(b, np.arange(M + 1), row) for b, row in zip(blocks, rows, strict=True)]
            sent += (end - begin) * np.array(grown)
    np.testing.assert_allclose(sent, bits, rtol=1e-6, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(cases(same_start=True))
def test_equal_finish_is_min_max(case):
    ready, bits, rates = case
    finish = EqualFinish().finish(ready, bits, rates)
    np.testing.assert_allclose(finish, finish.max(), rtol=1e-6)
    assert finish.max() <= RoundRobin().finish(ready, bits, rates).max() * (1 + 1e-6)
    # feasible, and no earlier end is: the least blocks for T add up to the band, unless one is at its own limit
    rows = scheduler.usable_rates(rates)
    blocks, end = scheduler.min_max_blocks(ready, bits, rows)
    assert blocks.sum() == pytest.approx(M, rel=1e-5)
    assert end == pytest.approx(finish.max(), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_equal_finish_ends_by_the_static_optimum(case):
    ready, bits, rates = case
    rows = scheduler.usable_rates(rates)
    blocks, end = scheduler.min_max_blocks(ready, bits, rows)
    assert blocks.sum() <= M * (1 + 1e-6)
    assert EqualFinish().finish(ready, bits, rates).max() <= end * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(cases(same_start=True), st.floats(1.0, 10.0), st.sampled_from(BOTH))
def test_more_bits_end_no_earlier(case, factor, chosen):
    ready, bits, rates = case
    more = bits.copy()
    more[0] *= factor
    before, after = chosen.finish(ready, bits, rates), chosen.finish(ready, more, rates)
    assert after[0] >= before[0] * (1 - 1e-6)
    assert after.max() >= before.max() * (1 - 1e-6)


def test_usable_rates():
    # falls after 3 blocks: 3 are used. 1 block carries less than 2 blocks half of the time: 4 of 8
    rows = scheduler.usable_rates(np.array([[2.0, 8.0, 9.0, 7.0]]))
    np.testing.assert_allclose(rows, [[0.0, 4.0, 8.0, 9.0, 9.0]])
    concave = scheduler.usable_rates(np.array([[4.0, 7.0, 9.0, 10.0]]))
    np.testing.assert_allclose(concave, [[0.0, 4.0, 7.0, 9.0, 10.0]])


def test_flat_and_falling_rates():
    # a power-limited client whose rate stops growing at 2 blocks, and falls after: more blocks than 2 are not needed
    flat = np.array([4.0, 8.0] + [8.0] * 4 + [7.0] * 4)
    other = np.arange(1.0, M + 1)
    ready, bits = np.zeros(2), np.array([80.0, 80.0])
    finish = EqualFinish().finish(ready, bits, np.stack([flat, other]))
    np.testing.assert_allclose(finish, 10.0, rtol=1e-6)  # 2 blocks and 8 blocks
    alone = RoundRobin().finish(ready[:1], bits[:1], flat[None])
    np.testing.assert_allclose(alone, 10.0)


def test_equal_finish_shares_by_hand():
    # equal devices: halves, each at 2 x the density: rate = B/2 log2(1 + 2 x 1.5) = B
    shares, seconds = scheduler.equal_finish_shares([1e6, 1e6], [1.5, 1.5], 1e6)
    np.testing.assert_allclose(shares, 0.5, rtol=1e-9)
    assert seconds == pytest.approx(1.0, rel=1e-9)
    shares, seconds = scheduler.equal_finish_shares([1e6, 0.0], [3.0, 0.0], 1e6)
    np.testing.assert_allclose(shares, [1.0, 0.0])
    assert seconds == pytest.approx(0.5)  # log2(4) = 2
    shares, seconds = scheduler.equal_finish_shares([0.0, 0.0], [3.0, 0.0], 1e6)
    assert (shares.tolist(), seconds) == ([0.0, 0.0], 0.0)
    with pytest.raises(BadInput, match="device 1"):
        scheduler.equal_finish_shares([1.0, 1.0], [3.0, 0.0], 1e6)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(1e-4, 1e6)), min_size=1, max_size=20))
def test_equal_finish_shares(devices):
    bits, snr = np.array(devices).T
    shares, seconds = scheduler.equal_finish_shares(bits, snr, 20e6)
    assert shares.sum() == pytest.approx(1.0, rel=1e-6)
    rate = shares * 20e6 * np.log2(1 + snr / shares)
    np.testing.assert_allclose(bits / rate, seconds, rtol=1e-6)
    equal = bits / (20e6 / len(bits) * np.log2(1 + snr * len(bits)))
    assert seconds <= equal.max() * (1 + 1e-9)


def test_registered():
    assert isinstance(build("scheduler", "round_robin"), RoundRobin)
    assert isinstance(build("scheduler", {"name": "equal_finish"}), EqualFinish)


def test_equal_finish_keeps_as_many_as_can_meet_the_deadline() -> None:
    """Rates of 10 bit/s a block, 10 blocks, deadline 1 s: needs are 2, 3, 4 and 20 blocks.

    Together they would end at 2.9 s. By the deadline 2 + 3 + 4 = 9 of 10 blocks suffice for three, which then end
    together at 90 bits / 100 bit/s = 0.9 s; the fourth has the band from there: 0.9 + 200 / 100 = 2.9 s.
    """
    rates = np.tile(10.0 * np.arange(1, 11), (4, 1))
    bits = np.array([20.0, 30.0, 40.0, 200.0])
    free = EqualFinish().finish(np.zeros(4), bits, rates)
    np.testing.assert_allclose(free, 2.9, rtol=1e-6)
    held = EqualFinish().finish(np.zeros(4), bits, rates, until_s=1.0)
    np.testing.assert_allclose(held, [0.9, 0.9, 0.9, 2.9], rtol=1e-5)


def test_equal_finish_with_a_hopeless_deadline_still_ends() -> None:
    rates = np.tile(10.0 * np.arange(1, 11), (2, 1))
    finish = EqualFinish().finish(np.zeros(2), np.array([500.0, 300.0]), rates, until_s=1.0)
    np.testing.assert_allclose(finish.max(), 8.0, rtol=1e-5)
