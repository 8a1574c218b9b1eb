"""Sharing of resource blocks: conservation, closed forms, optimality against brute force and solvers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import lambertw

from fedwave.core.config import build
from fedwave.core.errors import BadInput, Infeasible, Refused
from fedwave.core.keys import Key
from fedwave.wireless import scheduler
from fedwave.wireless.schedulers.energy_optimal import EnergyOptimal, least_energy_shares
from fedwave.wireless.schedulers.equal_finish import EqualFinish
from fedwave.wireless.schedulers.fedcs import FedCS, least_marginal
from fedwave.wireless.schedulers.lyapunov import Lyapunov
from fedwave.wireless.schedulers.max_rate import MaxRate, concave_slopes
from fedwave.wireless.schedulers.proportional_fair import ProportionalFair
from fedwave.wireless.schedulers.random import Random
from fedwave.wireless.schedulers.round_robin import RoundRobin
from fedwave.wireless.sharing import min_max
from fedwave.wireless.sharing.rates import Rates

from .scheduler_helpers import HARMONIC, asked_of

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
    rates_of = Rates.usable(linear(10, 10))
    static = min_max.min_max_blocks(np.array([0.0, 5.0]), np.array([100.0, 10.0]), rates_of)[1]
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
    rates_of = Rates.usable(rates)
    weight = chosen.weights(ready, bits, rates_of, np.inf)
    finish = chosen.finish(ready, bits, rates)
    events = np.unique(np.concatenate([ready, finish]))
    sent = np.zeros(len(bits))
    for begin, end in zip(events[:-1], events[1:], strict=True):
        middle = 0.5 * (begin + end)
        active = (ready <= middle) & (middle < finish)
        if active.any():
            blocks = np.where(active, M * weight / weight[active].sum(), 0.0)
            assert blocks.sum() <= M * (1 + 1e-9)
            grown = [np.interp(b, np.arange(M + 1), row) for b, row in zip(blocks, rates_of.rows, strict=True)]
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
    rates_of = Rates.usable(rates)
    blocks, end = min_max.min_max_blocks(ready, bits, rates_of)
    assert blocks.sum() == pytest.approx(M, rel=1e-5)
    assert end == pytest.approx(finish.max(), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_equal_finish_ends_by_the_static_optimum(case):
    ready, bits, rates = case
    rates_of = Rates.usable(rates)
    blocks, end = min_max.min_max_blocks(ready, bits, rates_of)
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
    rates_of = Rates.usable(np.array([[2.0, 8.0, 9.0, 7.0]]))
    np.testing.assert_allclose(rates_of.rows, [[0.0, 4.0, 8.0, 9.0, 9.0]])
    concave = Rates.usable(np.array([[4.0, 7.0, 9.0, 10.0]]))
    np.testing.assert_allclose(concave.rows, [[0.0, 4.0, 7.0, 9.0, 10.0]])


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


# ---- two users and turns ---------------------------------------------------------------------------------------------


def test_round_robin_halves_the_carrier_for_two():
    """Two active of weight 1: 1/2 each; of 10 blocks that is 5, and 5 bit/s of 10: 100 bits take 20 s each."""
    share = RoundRobin().shares(np.ones((1, 2)), np.ones((1, 2), dtype=bool))
    np.testing.assert_array_equal(share, [[0.5, 0.5]])
    np.testing.assert_allclose(RoundRobin().finish(np.zeros(2), np.full(2, 100.0), linear(10, 10)), 20.0)


def test_turns_come_round():
    """With a share of 1/3 of 9 clients, three rounds serve everybody once, and the fourth begins anew."""
    chosen, rng = RoundRobin(share=1 / 3), np.random.default_rng(0)
    asked = asked_of(9, rng, cells=1, memory=chosen)
    turns = np.zeros((6, 9), dtype=bool)
    for turn in range(6):
        asked = replace(asked, round=turn)
        turns[turn] = chosen.admit(asked, Key(turn))
        asked = replace(asked, memory=chosen.remember(asked, turns[turn], turns[turn], np.zeros(9)))
    assert (turns.sum(axis=1) == 3).all()
    np.testing.assert_array_equal(turns[:3].sum(axis=0), 1)
    np.testing.assert_array_equal(turns[3:], turns[:3])


def test_random_is_uniform_over_clients_and_rounds():
    """Each is drawn with probability 1/4: over 4,000 rounds 1,000 times +- 5 standard deviations of 27."""
    chosen, rng = Random(share=0.25), np.random.default_rng(0)
    asked = asked_of(20, rng, cells=1)
    counts = sum(chosen.admit(asked, Key(r)).astype(int) for r in range(4000))
    assert counts.sum() == 4000 * 5
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


# ---- multi-user diversity --------------------------------------------------------------------------------------------


def fading_rates(*full_band_bps):
    """Rates in proportion to power and grant, Rayleigh fading: the best of n moments has H_n times the mean."""
    return Rates.usable(linear(*full_band_bps), gain=np.tile(HARMONIC, (len(full_band_bps), 1)))


def throughput(chosen, rates):
    """Rate of each client when all have something to send, ``[C]``."""
    count = len(rates.rows)
    weight = chosen.weights(np.zeros(count), np.ones(count), rates, np.inf)
    share = chosen.shares(weight[None], np.ones((1, count), dtype=bool))[0]
    rate = rates.at(np.arange(count), share * rates.blocks)
    return rate * rates.gain_among(np.arange(count), 1.0 / np.maximum(share, 1e-9)) if chosen.diversity else rate


def jain(x):
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    return x.sum() ** 2 / (len(x) * (x**2).sum())


def test_proportional_fair_gains_what_the_best_of_n_is_worth():
    """4 equal clients: E[max of 4 unit exponentials] = 1 + 1/2 + 1/3 + 1/4 = 25/12, so 100 bits of 10 bit/s each take
    4 x 100 / (10 x 25/12) = 19.2 s instead of 40 s."""
    rates = fading_rates(10, 10, 10, 10)
    for chosen in (ProportionalFair(), MaxRate()):
        np.testing.assert_allclose(chosen.finish(np.zeros(4), np.full(4, 100.0), rates), 19.2, rtol=1e-9)
    np.testing.assert_allclose(RoundRobin().finish(np.zeros(4), np.full(4, 100.0), rates), 40.0)


def test_one_client_gains_nothing():
    rates = fading_rates(10)
    np.testing.assert_allclose(ProportionalFair().finish(np.zeros(1), np.full(1, 100.0), rates), 10.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-10, 30), min_size=2, max_size=20), st.booleans())
def test_proportional_fair_lies_between_round_robin_and_max_rate(snr_db, limited):
    """In throughput. Max rate takes rates as linear between tabulated shares, which costs it a few percent."""
    snr = 10.0 ** (np.array(snr_db) / 10.0)
    gain = 1.0 + (HARMONIC - 1.0) * (1.0 / (1.0 + snr))[:, None]  # less to gain where the rate is logarithmic
    share = np.arange(1, M + 1) / M
    rates = Rates.usable(1e6 * share * np.log2(1.0 + snr[:, None] / (share if limited else 1.0)), gain=gain)
    even, fair, most = (throughput(chosen, rates) for chosen in (RoundRobin(), ProportionalFair(), MaxRate()))
    assert (fair >= even * (1.0 - 1e-12)).all()
    assert even.sum() <= fair.sum() * (1.0 + 1e-12)
    assert fair.sum() <= most.sum() * 1.04


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e3, 1e6), min_size=2, max_size=20))
def test_proportional_fair_is_fair(full_bps):
    """Rates in proportion to the grant, everybody fading alike: equal shares maximise the sum of log rates.

    For s gain(1/s) is concave and the same for all. And each has the same multiple of its own rate, Jain's index 1.
    """
    rates = fading_rates(*full_bps)
    fair, most = (throughput(chosen, rates) for chosen in (ProportionalFair(), MaxRate()))
    assert jain(fair / rates.full_bps) == pytest.approx(1.0)
    assert jain(most / rates.full_bps) <= 1.0 + 1e-12
    assert np.log(fair).sum() >= np.log(np.maximum(most, 1e-300)).sum() - 1e-9


def test_max_rate_against_slots():
    """Mean powers 4 and 1, rates in proportion, Rayleigh fading, 200,000 slots: the best of the moment sends.

    P(first is best) = 4 / (4 + 1), E[max] = 4 + 1 - 1 / (1/4 + 1) = 4.2.
    """
    power = np.array([4.0, 1.0]) * np.random.default_rng(0).exponential(1.0, (200_000, 2))
    slots = power.max(axis=1).mean()
    assert slots == pytest.approx(4.2, rel=0.01)
    assert throughput(MaxRate(), fading_rates(4.0, 1.0)).sum() == pytest.approx(4.2, rel=0.04)


def test_max_rate_starves_the_weak_and_fills_up_behind_the_power_limited():
    steady = Rates.usable(linear(10.0, 1.0))  # no fading: all blocks to the first, then to the second
    np.testing.assert_allclose(MaxRate().finish(np.zeros(2), np.array([100.0, 10.0]), steady), [10.0, 20.0])
    # the first can use 1/4 of the blocks at most: the second has the others meanwhile, 3/4 bit/s
    blocks = np.arange(1.0, 17.0)
    both = Rates.usable(np.stack([np.minimum(blocks, 4.0) * 2.5, blocks / 16.0]))
    finish = MaxRate().finish(np.zeros(2), np.array([100.0, 7.5]), both)
    np.testing.assert_allclose(finish, [10.0, 10.0], rtol=1e-6)


def test_concave_slopes():
    # the chord from 0 to 3 lies above the first points; by hand
    slopes = concave_slopes(np.array([[0.0, 1.0, 1.0, 6.0, 7.0]]), np.arange(5.0))
    np.testing.assert_allclose(slopes, [[2.0, 2.0, 2.0, 1.0]])


def test_proportional_fair_admits_the_best_moment_and_remembers_throughput():
    """Equal links, never asked: the largest fading is chosen. Served at rate R with window 10 its average is
    0.9 x mean + 0.1 R, that of the other 0.9 x mean."""
    chosen, rng = ProportionalFair(share=0.5), np.random.default_rng(0)
    asked = asked_of(
        2, rng, cells=1, memory=chosen, snr=np.full(2, 3.0), up_bps=np.full(2, 2e6), fading=np.array([0.2, 1.0 + 4.0])
    )
    admitted = chosen.admit(asked, Key(0))
    np.testing.assert_array_equal(admitted, [False, True])
    rate = 2e6 * np.log2(1.0 + 3.0 * 5.0) / np.log2(4.0)  # 4e6
    kept = chosen.remember(asked, admitted, admitted, np.zeros(2))["throughput_bps"]
    np.testing.assert_allclose(kept, [0.9 * 2e6, 0.9 * 2e6 + 0.1 * rate])
    # not heard or heard: it had its turn, or one that never is heard would be chosen ever again
    unheard = chosen.remember(asked, admitted, np.zeros(2, dtype=bool), np.zeros(2))["throughput_bps"]
    np.testing.assert_array_equal(unheard, kept)


def test_proportional_fair_serves_everybody_in_the_long_run():
    """Mean SINR from -10 to 20 dB: nobody has less than half of the mean number of turns."""
    chosen, rng = ProportionalFair(share=0.2), np.random.default_rng(0)
    snr = 10.0 ** np.linspace(-1.0, 2.0, 10)
    asked = asked_of(10, rng, cells=1, memory=chosen, snr=snr, up_bps=1e6 * np.log2(1.0 + snr))
    turns = np.zeros(10)
    for turn in range(500):
        asked = replace(asked, round=turn, fading=rng.exponential(1.0, 10))
        admitted = chosen.admit(asked, Key(0))
        asked = replace(asked, memory=chosen.remember(asked, admitted, admitted, np.zeros(10)))
        turns += admitted
    assert turns.min() > 0.5 * turns.mean()


# ---- deadlines -------------------------------------------------------------------------------------------------------


def test_equal_finish_is_min_max_by_perturbation():
    """Moving any share from one device to another makes the last end later."""
    rng = np.random.default_rng(0)
    bits, snr = rng.uniform(1e5, 1e6, 6), 10.0 ** rng.uniform(-1, 2, 6)
    shares, seconds = scheduler.equal_finish_shares(bits, snr, 1e6)
    for giver in range(6):
        for taker in range(6):
            if giver != taker:
                moved = shares.copy()
                moved[giver] -= 1e-3 * shares[giver]
                moved[taker] += 1e-3 * shares[giver]
                assert (bits / (1e6 * moved * np.log2(1.0 + snr / moved))).max() > seconds


def test_equal_finish_says_when_it_is_infeasible():
    # one device alone: 1e6 bits at 1e6 log2(1 + 3) = 2e6 bit/s take 0.5 s, whatever is given to it
    with pytest.raises(Infeasible, match=r"by 0.4 s: the smallest common finish time is 0.5 s"):
        scheduler.equal_finish_shares([1e6], [3.0], 1e6, deadline_s=0.4)
    assert scheduler.equal_finish_shares([1e6], [3.0], 1e6, deadline_s=0.6)[1] == pytest.approx(0.5)
    rates = Rates.usable(linear(10, 10))
    ready, bits = np.zeros(2), np.array([100.0, 50.0])

    def why(until_s, bits=bits):
        return min_max.shortfall(np.array([4, 7]), ready, bits, rates, until_s)

    assert why(15.0) == ""
    # by 12 s: 10 x 100 / (10 x 12) + 10 x 50 / (10 x 12) = 12.5 blocks
    assert "need 12.5 blocks to end by 12 s and there are 10" in why(12.0)
    assert "no share of the carrier is enough for 1 of 2 uploads: client 4 has 100 bits" in why(8.0)
    assert why(1.0, np.zeros(2)) == ""
    with pytest.raises(BadInput, match="bandwidth_hz"):
        scheduler.equal_finish_shares([1e6], [3.0], -1.0)


def test_tiny_transfers_have_finite_claims():
    blocks, end = min_max.min_max_blocks(np.array([20.0]), np.array([1e-12]), Rates.usable(linear(10)))
    assert np.isfinite(blocks).all() and end >= 20.0


def test_fedcs_needs_a_deadline():
    asked = asked_of(4, np.random.default_rng(0), deadline_s=np.inf)
    for chosen in (FedCS(), EnergyOptimal(circuit_w=0.0)):
        with pytest.raises(Refused, match="deadline_s"):
            chosen.admit(asked, Key(0))
    assert EnergyOptimal().admit(asked, Key(0)).all()


def test_fedcs_by_hand():
    """Uploads of 1, 2, 3, 4 s, ready at once, deadline 6.5 s: 1 + 2 + 3 = 6 fit. One ready only at 5 s comes last."""
    order = least_marginal(np.zeros(4), np.array([4.0, 2.0, 1.0, 3.0]), np.zeros(4), 6.5)
    assert order.tolist() == [2, 1, 3]
    # received after 0.5 s each: 0.5 + 1 = 1.5, then max(1.0, 1.5) + 2 = 3.5, then 6.5, then 10.5
    order = least_marginal(np.zeros(4), np.array([4.0, 2.0, 1.0, 3.0]), np.full(4, 0.5), 6.5)
    assert order.tolist() == [2, 1, 3]
    late = least_marginal(np.array([0.0, 0.0, 5.0, 0.0]), np.array([4.0, 2.0, 1.0, 3.0]), np.zeros(4), 6.5)
    assert late.tolist() == [1, 3, 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 3)), min_size=1, max_size=8), st.floats(0.5, 12))
def test_fedcs_admits_at_least_half_of_the_most(devices, until):
    """Against all subsets, each one after the other in the order in which they are ready: its shortest schedule.

    Always taking what ends first gets at least half of the largest number (Spieksma, On the approximability of an
    interval scheduling problem, J. Scheduling 2, 1999), and all of it where everybody is ready at once.
    """
    ready, send = np.array(devices).T
    most = {True: 0, False: 0}
    for together in most:
        start = np.zeros(len(send)) if together else ready
        for subset in itertools.product([False, True], repeat=len(send)):
            end = 0.0
            for k in np.argsort(start, kind="stable"):
                if subset[k]:
                    end = max(end, start[k]) + send[k]
            if end <= until:
                most[together] = max(most[together], sum(subset))
    chosen = len(least_marginal(ready, send, np.zeros(len(send)), until))
    assert most[False] / 2.0 <= chosen <= most[False]
    assert len(least_marginal(np.zeros(len(send)), send, np.zeros(len(send)), until)) == most[True]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000), st.floats(1.0, 30.0))
def test_fedcs_keeps_its_word(count, seed, until):
    """What it admits ends by the deadline, and when it said, whether or not the cell has other things in mind."""
    asked = asked_of(count, np.random.default_rng(seed), cells=1, deadline_s=until, down_bits=np.zeros(count))
    admitted = FedCS().admit(asked, Key(0))
    rates = Rates.usable(asked.up_bps[:, None] * np.arange(1, M + 1) / M)
    finish = FedCS().finish(np.where(admitted, asked.compute_s, np.inf), asked.up_bits, rates, until)
    assert (finish[admitted] <= until * (1.0 + 1e-9)).all()


# ---- energy ----------------------------------------------------------------------------------------------------------


def shannon(snr, less_db=0.0):
    """Rates at limited power over a fine grid of grants, 1 MHz."""
    share = np.arange(1, 513) / 512
    power = (np.asarray(snr) * 10.0 ** (-np.asarray(less_db) / 10.0))[:, None]
    return Rates.usable(1e6 * share * np.log2(1.0 + power / share))


def sent_j(chosen, ready, bits, snr, power_w, until):
    """Radiated energy of an allocation in which each sends at constant power from its start until ``until``."""
    less = chosen.backoff_db(ready, bits, snr, lambda db: shannon(snr, db), until, power_w)
    return less, power_w * 10.0 ** (-less / 10.0)


def test_one_upload_sends_for_the_time_of_lambert_w():
    """E(t) = t (a (e^x - 1) / eta + c), x = L ln 2 / (B t): dE/dt = 0 where x = 1 + W((c eta / a - 1) / e)."""
    bits, snr, power = np.array([1e6]), np.array([50.0]), np.array([0.1])
    chosen = EnergyOptimal(margin=0.0, circuit_w=0.2, pa_efficiency=0.4)
    x = 1.0 + lambertw((0.2 * 0.4 * snr / power - 1.0) / np.e).real
    seconds = bits * np.log(2.0) / (1e6 * x)
    less, _ = sent_j(chosen, np.zeros(1), bits, snr, power, np.inf)
    needed = np.expm1(x)  # SNR over the whole band
    np.testing.assert_allclose(less, 10.0 * np.log10(snr / needed), atol=0.05)
    finish = chosen.finish(np.zeros(1), bits, shannon(snr, less), np.inf)
    np.testing.assert_allclose(finish, seconds, rtol=0.01)


def test_equal_uploads_share_equally():
    shares = least_energy_shares(np.full(4, 0.3), np.full(4, 2.0), np.zeros(4))
    np.testing.assert_allclose(shares, 0.25, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_least_energy_shares_against_a_solver(count, seed):
    rng = np.random.default_rng(seed)
    nats, scale = rng.uniform(0.05, 3.0, count), 10.0 ** rng.uniform(-2, 2, count)
    least = rng.uniform(0.0, 0.8 / count, count)
    shares = least_energy_shares(nats, scale, least)
    assert shares.sum() == pytest.approx(1.0, abs=1e-9) and (shares >= least).all()

    def joules(s):
        return float((scale * s * np.expm1(nats / s)).sum())

    start = least + (1.0 - least.sum()) / count
    found = minimize(
        lambda s: np.log(joules(s)),
        start,
        method="SLSQP",
        bounds=[(max(low, each / 300.0), 1.0) for low, each in zip(least, nats, strict=True)],
        constraints={"type": "eq", "fun": lambda s: s.sum() - 1.0},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert joules(shares) <= joules(found.x) * (1.0 + 1e-6)
    if found.success:
        assert joules(shares) == pytest.approx(joules(found.x), rel=1e-3)


def test_energy_optimal_is_in_time_and_radiates_less():
    """The longer the deadline the less is radiated; and all are in time at the power that is left."""
    rng = np.random.default_rng(0)
    ready, bits = rng.uniform(0, 1, 8), rng.uniform(2e4, 2e5, 8)
    snr, power = 10.0 ** rng.uniform(0, 2, 8), rng.uniform(0.01, 0.2, 8)
    chosen, before = EnergyOptimal(margin=0.0, circuit_w=0.0), np.inf
    fastest = EqualFinish().finish(ready, bits, shannon(snr)).max()
    for until in (1.2 * fastest, 2.0 * fastest, 5.0 * fastest):
        less, watts = sent_j(chosen, ready, bits, snr, power, until)
        finish = chosen.finish(ready, bits, shannon(snr, less), until)
        assert (finish <= until * (1.0 + 1e-5)).all()
        joules = float((watts * (until - ready)).sum())
        assert joules < before and (less >= 0.0).all()
        before = joules
    full = float((power * (EqualFinish().finish(ready, bits, shannon(snr)) - ready)).sum())
    assert before < 0.5 * full


def test_energy_optimal_sends_at_once_where_circuits_dominate():
    """100 W of circuits against 0.1 W radiated: the earliest common end, at full power."""
    ready, bits, snr = np.zeros(3), np.full(3, 1e5), np.array([3.0, 10.0, 30.0])
    less, _ = sent_j(EnergyOptimal(circuit_w=100.0), ready, bits, snr, np.full(3, 0.1), 60.0)
    np.testing.assert_allclose(less, 0.0, atol=0.02)


def test_energy_optimal_without_hope_sends_at_full_power():
    less, _ = sent_j(EnergyOptimal(), np.zeros(2), np.full(2, 1e9), np.array([1.0, 2.0]), np.full(2, 0.1), 1.0)
    np.testing.assert_array_equal(less, 0.0)


# ---- long-term budgets -----------------------------------------------------------------------------------------------


def long_run(chosen, rounds, rng, count=10):
    """Energy spent ``[rounds, C]``, who took part, and the queues after each round."""
    spent, took, queues = np.zeros((rounds, count)), np.zeros((rounds, count), dtype=bool), np.zeros((rounds, count))
    asked = asked_of(count, rng, cells=1, memory=chosen)
    for turn in range(rounds):
        asked = replace(
            asked, round=turn, compute_j=rng.lognormal(2.0, 0.5, count), radio_j=rng.exponential(5.0, count)
        )
        took[turn] = chosen.admit(asked, Key(turn))
        spent[turn] = np.where(took[turn], asked.compute_j + asked.radio_j, 0.0)
        memory = chosen.remember(asked, took[turn], took[turn], spent[turn])
        queues[turn] = memory["debt_j"]
        asked = replace(asked, memory=memory)
    return spent, took, queues


def test_lyapunov_keeps_budgets_over_500_rounds():
    """Q_T >= sum_t (e_t - budget), so the mean energy exceeds the budget by Q_T / T at most; a round costs 13 J here.

    And the drift: with Q' = [Q + e - b]^+ it is (Q'^2 - Q^2) / 2 <= (e - b)^2 / 2 + Q (e - b) in every round.
    """
    chosen = Lyapunov(budget_j=5.0, v=200.0)
    spent, took, queues = long_run(chosen, 500, np.random.default_rng(0))
    assert (spent.mean(axis=0) <= 5.0 + queues[-1] / 500 + 1e-9).all()
    assert (spent.mean(axis=0) <= 5.0 * 1.1).all()
    assert took.mean() > 0.25  # and the budget is used
    before = np.vstack([np.zeros(10), queues[:-1]])
    excess = spent - 5.0
    assert ((queues**2 - before**2) / 2.0 <= excess**2 / 2.0 + before * excess + 1e-9).all()
    # a queue grows only by what is admitted, so V worth / least energy + the largest energy bounds it
    assert queues.max() <= 200.0 * 50.0 / spent[spent > 0.0].min() + spent.max()


def test_lyapunov_trades_debt_for_updates():
    runs = [long_run(Lyapunov(budget_j=5.0, v=v), 300, np.random.default_rng(0)) for v in (10.0, 1e3, 1e6)]
    updates = [took.sum() for _, took, _ in runs]
    debts = [queues[-1].mean() for *_, queues in runs]
    assert updates == sorted(updates) and debts == sorted(debts)
    assert runs[-1][1].all()  # V above any debt: everybody, always


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 10_000))
def test_lyapunov_minimises_drift_plus_penalty(count, seed):
    """Against all subsets: sum over those admitted of Q e - V samples / mean samples."""
    rng = np.random.default_rng(seed)
    chosen = Lyapunov(budget_j=1.0, v=100.0)
    memory = {"debt_j": rng.exponential(20.0, count), "round": np.full(count, 6.0)}
    asked = asked_of(count, rng, cells=1, round=7, memory=chosen, deadline_s=np.inf)
    asked = replace(asked, memory=memory)
    cost = memory["debt_j"] * (asked.compute_j + asked.radio_j) - 100.0 * asked.samples / asked.samples.mean()
    best = min(cost[np.array(subset)].sum() for subset in itertools.product([False, True], repeat=count))
    assert cost[chosen.admit(asked, Key(0))].sum() == pytest.approx(best, abs=1e-9)


def test_lyapunov_pays_back_the_rounds_in_between():
    """A debt of 12 J of round 3, a budget of 2 J: in round 8 it is 4 J, for four rounds passed; 4 + 5 - 2 = 7 J."""
    chosen = Lyapunov(budget_j=2.0)
    asked = asked_of(1, np.random.default_rng(0), round=8, memory=chosen)
    asked = replace(asked, memory={"debt_j": np.array([12.0]), "round": np.array([3.0])})
    kept = chosen.remember(asked, np.ones(1, dtype=bool), np.ones(1, dtype=bool), np.array([5.0]))
    assert kept["debt_j"] == pytest.approx(7.0)
