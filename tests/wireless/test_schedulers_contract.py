"""What every scheduler owes: finite numbers, no block twice, all bits, nobody stalled, only the key's luck."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import registry
from fedwave.core.config import build, dump
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.sharing.rates import USERS, Rates
from fedwave.wireless.traffic import Traffic

from .helpers import STATIC, compute_of, deliver, work_of, world_of
from .scheduler_helpers import HARMONIC, asked_of

M = 16
NAMES = registry.names("scheduler")
ALL = [build("scheduler", name) for name in NAMES]
every = pytest.mark.parametrize("scheduler", ALL, ids=NAMES)


def rates_of(snr, limited=True, gain=None):
    """Shannon rates over M blocks of 100 kHz, of limited power or of limited power density."""
    share = np.arange(1, M + 1) / M
    snr = np.asarray(snr, dtype=float)[:, None]
    rate = 1e5 * M * share * np.log2(1.0 + snr / (share if limited else 1.0))
    return Rates.usable(rate, gain=np.ones((len(snr), len(USERS))) if gain is None else gain)


@st.composite
def transfers(draw):
    count = draw(st.integers(1, 10))
    ready = np.array([draw(st.one_of(st.floats(0, 20), st.sampled_from([np.inf, np.nan]))) for _ in range(count)])
    bits = np.array([draw(st.one_of(st.just(0.0), st.floats(1.0, 1e7))) for _ in range(count)])
    snr = np.array([draw(st.one_of(st.just(0.0), st.floats(1e-3, 1e3))) for _ in range(count)])
    cell = np.array([draw(st.integers(0, 1)) for _ in range(count)])
    until = draw(st.one_of(st.just(np.inf), st.floats(0.01, 40.0)))
    return ready, bits, snr, cell, until


@settings(max_examples=150, deadline=None)
@given(transfers(), st.sampled_from(ALL), st.booleans(), st.floats(1.0, M))
def test_everything_ends_and_no_block_is_given_twice(case, scheduler, limited, free):
    ready, bits, snr, cell, until = case
    rates = rates_of(snr, limited, np.tile(HARMONIC, (len(snr), 1)))
    blocks = np.array([M, free])
    done = scheduler.serve(ready, bits, rates, cell=cell, blocks=blocks, until_s=until)
    can = np.isfinite(ready) & ((snr > 0.0) | (bits == 0.0))
    assert np.isfinite(done.end_s[can]).all() and np.isinf(done.end_s[~can]).all()
    assert (done.end_s[can] >= ready[can]).all()
    np.testing.assert_array_equal(done.end_s[can & (bits == 0.0)], ready[can & (bits == 0.0)])
    assert (done.left_bits[can] == 0.0).all() and np.isfinite(done.left_bits).all()
    assert np.isfinite(done.block_s).all() and (done.block_s >= 0.0).all()
    for each in (0, 1):
        own = can & (cell == each) & (bits > 0.0)
        if own.any():
            span = done.end_s[own].max() - ready[own].min()
            assert done.block_s[own].sum() <= blocks[each] * span * (1.0 + 1e-6)


@settings(max_examples=100, deadline=None)
@given(transfers(), st.sampled_from(ALL), st.floats(0.1, 10.0))
def test_what_is_sent_by_a_horizon_and_what_is_left_add_up(case, scheduler, horizon):
    """Bits left are between none and all, are fewer later on, and nobody is faster than alone at its best moments."""
    ready, bits, snr, cell, until = case
    rates = rates_of(snr, gain=np.tile(HARMONIC, (len(snr), 1)))
    left = [
        scheduler.serve(ready, bits, rates, cell=cell, blocks=np.array([M, M]), until_s=until, horizon_s=at).left_bits
        for at in (horizon, 2.0 * horizon)
    ]
    assert (left[0] <= bits).all() and (left[1] >= -1e-6 * bits).all()
    assert (left[1] <= left[0] + 1e-6 * bits).all()
    window = np.clip(horizon - np.where(np.isfinite(ready), ready, np.inf), 0.0, None)
    assert (bits - left[0] <= rates.full_bps * HARMONIC[-1] * window * (1.0 + 1e-6) + 1e-6 * bits).all()


@every
def test_shares_are_shares(scheduler):
    """Nothing to those that are not active, nothing negative, and the whole carrier where rates grow with the grant."""
    rng = np.random.default_rng(0)
    rates = rates_of(10.0 ** rng.uniform(-1, 2, 12))
    weight = scheduler.weights(rng.uniform(0, 2, 12), rng.uniform(1e4, 1e6, 12), rates, 10.0)
    active = rng.uniform(size=(40, 12)) < 0.4
    claims = np.where(active.reshape(active.shape + (1,) * (weight.ndim - 1)), weight[None], 0.0)
    share = scheduler.shares(claims, active)
    assert share.shape == active.shape
    assert (share >= 0.0).all() and (share[~active] == 0.0).all()
    np.testing.assert_allclose(share.sum(axis=1), active.any(axis=1), rtol=1e-9, atol=1e-12)


@every
def test_an_unreachable_client_stalls_nobody(scheduler):
    rng = np.random.default_rng(1)
    snr, bits, ready = 10.0 ** rng.uniform(-1, 2, 6), rng.uniform(1e5, 1e6, 6), rng.uniform(0, 1, 6)
    alone = scheduler.finish(ready, bits, rates_of(snr), 50.0)
    snr, bits, ready = np.insert(snr, 2, 0.0), np.insert(bits, 2, 1e6), np.insert(ready, 2, 0.0)
    beside = scheduler.finish(ready, bits, rates_of(snr), 50.0)
    assert np.isinf(beside[2])
    np.testing.assert_allclose(np.delete(beside, 2), alone, rtol=1e-9)


@every
@pytest.mark.parametrize("limited", [True, False])
def test_a_crowd_carries_at_least_as_much_as_one(scheduler, limited):
    """n equal transfers together are through no later than one with n times the bits: sharing loses no capacity."""
    for count in (2, 5, 30):
        rates = rates_of(np.full(count, 3.0), limited, np.tile(HARMONIC, (count, 1)))
        together = scheduler.finish(np.zeros(count), np.full(count, 1e5), rates)
        alone = count * 1e5 / rates.full_bps[0]
        assert together.max() <= alone * (1.0 + 1e-9)


@every
def test_one_more_client_does_not_end_the_round_earlier(scheduler):
    rng = np.random.default_rng(2)
    snr, bits = 10.0 ** rng.uniform(-1, 2, 9), rng.uniform(1e5, 1e6, 9)
    rates = rates_of(snr)
    ends = [scheduler.finish(np.zeros(n), bits[:n], rates.take(np.arange(n))).max() for n in range(1, 10)]
    assert (np.diff(ends) >= -1e-9 * np.array(ends[1:])).all()


@every
def test_the_key_alone_decides(scheduler):
    rng = np.random.default_rng(3)
    asked = asked_of(60, rng, memory=scheduler)
    first = scheduler.admit(asked, Key(1))
    np.testing.assert_array_equal(first, scheduler.admit(asked, Key(1)))
    order = rng.permutation(60)
    moved = replace(
        asked,
        memory={name: value[order] for name, value in asked.memory.items()},
        **{
            name: getattr(asked, name)[order]
            for name in asked.__dataclass_fields__
            if isinstance(getattr(asked, name), np.ndarray)
        },
    )
    np.testing.assert_array_equal(scheduler.admit(moved, Key(1)), first[order])
    assert first.dtype == bool and first.any()


@every
def test_what_is_remembered_is_finite_and_named_before(scheduler):
    rng = np.random.default_rng(4)
    asked = asked_of(20, rng, memory=scheduler, up_bps=np.where(np.arange(20) % 3, 1e6, 0.0))
    for turn in range(5):
        admitted = scheduler.admit(replace(asked, round=turn), Key(turn))
        kept = scheduler.remember(
            replace(asked, round=turn), admitted, admitted & (rng.uniform(size=20) < 0.7), rng.exponential(9.0, 20)
        )
        assert set(kept) == set(scheduler.initial)
        assert all(value.shape == (20,) and np.isfinite(value).all() for value in kept.values())
        asked = replace(asked, memory=kept)


@every
def test_backoff_is_finite_and_not_negative(scheduler):
    rng = np.random.default_rng(5)
    snr = 10.0 ** rng.uniform(-2, 3, 8)
    for until in (0.01, 5.0, np.inf):
        less = scheduler.backoff_db(
            rng.uniform(0, 1, 8),
            rng.uniform(1e3, 1e6, 8),
            snr,
            lambda db: rates_of(snr * 10.0 ** (-db / 10.0)),
            until,
            rng.uniform(1e-3, 0.2, 8),
        )
        assert less.shape == (8,) and np.isfinite(less).all() and (less >= 0.0).all()


@every
@pytest.mark.parametrize("deadline_s", [8.0, 60.0])
def test_a_round_in_a_cell(scheduler, deadline_s):
    """Numbers and nothing else leave the cell, and no update counts that came after the deadline."""
    cell = Cell(scheduler=scheduler)
    world = world_of(np.vstack([cell.place(30, STATIC), [[60_000.0, 0.0]]]))
    compute = compute_of(31, seconds=np.linspace(0.2, 6.0, 31))
    done = deliver(cell, world, np.arange(31), work_of(31, up=8e5), compute, deadline_s=deadline_s)
    assert done.heard.any() and not done.heard[-1]
    assert (done.finish_s[done.heard] <= deadline_s).all()
    for name in ("radio_j", "compute_j", "up_sent_bits", "down_sent_bits", "block_s", "access_s", "up_bps"):
        assert np.isfinite(getattr(done, name)).all(), name
    assert done.block_s.sum() <= done.carrier_block_s * (1.0 + 1e-6)
    np.testing.assert_allclose(done.up_sent_bits[done.heard], 8e5)
    assert {f"scheduler.{name}" for name in scheduler.initial} <= set(done.remembered)


def test_diversity_shortens_a_round_in_a_cell():
    """The same clients, fading and keys: proportional fair is no slower than round robin, and max rate carries most."""
    world, seconds = world_of(Cell().place(40, STATIC)), {}
    for name in ("round_robin", "proportional_fair", "max_rate"):
        done = deliver(Cell(scheduler=build("scheduler", name)), world, np.arange(40), work_of(40, down=0.0, up=2e6))
        seconds[name] = done.round_s, float(done.block_s.sum())
    assert seconds["proportional_fair"][0] < seconds["round_robin"][0]
    assert seconds["max_rate"][1] < seconds["round_robin"][1]  # blocks x seconds that the same bits take


@pytest.mark.parametrize("cap", [1.0, 0.25])
def test_energy_optimal_in_a_cell_is_in_time_and_softer(cap):
    """Radiated energy alone: it waits for the deadline, also on a part of the carrier, and misses it by nothing."""
    cell = Cell(scheduler=build("scheduler", {"name": "energy_optimal", "circuit_w": 0.0}))
    cell = replace(cell, uplink_traffic=Traffic(fl_cap=cap))
    world = world_of(cell.place(20, STATIC))
    done = deliver(cell, world, np.arange(20), work_of(20, down=0.0, up=1e6), deadline_s=40.0)
    plain = deliver(
        replace(cell, scheduler=build("scheduler", "equal_finish")),
        world, np.arange(20), work_of(20, down=0.0, up=1e6), deadline_s=40.0,
    )  # fmt: skip
    assert done.heard.sum() == plain.heard.sum()
    assert plain.round_s < done.round_s <= 40.0


@every
def test_tables(scheduler):
    table = {"name": scheduler.registered_name, **dump(scheduler)}
    assert build("scheduler", table) == scheduler
    assert scheduler.cite and type(scheduler).__doc__


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"name": "random", "share": 0.0}, "share"),
        ({"name": "round_robin", "share": 1.5}, "share"),
        ({"name": "proportional_fair", "window": 1.0}, "window"),
        ({"name": "energy_optimal", "margin": 1.0}, "margin"),
        ({"name": "energy_optimal", "pa_efficiency": 0.0}, "pa_efficiency"),
        ({"name": "lyapunov", "budget_j": -1.0}, "budget_j"),
        ({"name": "lyapunov", "v": float("nan")}, "v"),
        ({"name": "fedcs", "deadline_s": 3.0}, "deadline_s"),
        ("fair", "unknown scheduler"),
    ],
)
def test_bad_tables(table, sentence):
    with pytest.raises(BadInput, match=sentence):
        build("scheduler", table)


def test_the_names_that_jobs_use():
    assert {
        "random", "round_robin", "proportional_fair", "max_rate", "equal_finish", "fedcs", "energy_optimal", "lyapunov"
    } <= set(NAMES)  # fmt: skip
