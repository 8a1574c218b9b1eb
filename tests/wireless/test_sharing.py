"""Transfers through a cell along a client's way: who comes first, how long it is on, what is left undone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.types import STATUS
from fedwave.wireless.energy import Components, Connection, RadioEnergy
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.schedulers.equal_finish import EqualFinish
from fedwave.wireless.schedulers.fedcs import FedCS
from fedwave.wireless.schedulers.max_rate import MaxRate
from fedwave.wireless.schedulers.proportional_fair import ProportionalFair
from fedwave.wireless.schedulers.round_robin import RoundRobin
from fedwave.wireless.sharing import fluid
from fedwave.wireless.sharing.passage import Moment, Passage
from fedwave.wireless.sharing.rates import USERS, Rates

from .helpers import compute_of, work_of

M = 10


def passage(count, scheduler=None, *, bps=10.0, fails_s=np.inf, **kwargs):
    """A cell of 10 blocks and ``bps`` that are worth as much each; the links of all fail at ``fails_s``."""
    rates = Rates.usable(np.full((count, 1), bps) * np.arange(1, M + 1) / M)

    def moment(now_s, start_s, bits):
        return Moment(rates, np.zeros(count, dtype=np.int64), np.ones(count), np.full(count, now_s >= fails_s))

    return Passage(count, scheduler or RoundRobin(), moment, np.array([float(M)]), **kwargs)


@pytest.mark.parametrize("step_s", [np.inf, 1.0, 0.3])
def test_first_come_first_served_with_and_without_steps(step_s):
    """Six uploads of 30 bit, two at a time, the last one first.

    The sixth has 10 bit/s to itself for 0.1 s and 5 bit/s from there: 0.1 + 29 / 5 = 5.9. By then the fifth has sent
    29 bit, and ends at 5.9 + 1 / 5 = 6.1. The carrier is always full, so the last ends at 6 x 30 / 10 = 18.
    """
    up = passage(6, step_s=step_s, connected=2)
    end = up(np.arange(5, -1, -1) / 10.0, np.full(6, 30.0))
    np.testing.assert_allclose(end, [18.0, 17.9, 12.1, 11.9, 6.1, 5.9])


@pytest.mark.parametrize("step_s", [np.inf, 7.0])
def test_waiting_for_the_carrier_is_no_sending(step_s):
    """One after the other, 100 bit at 10 bit/s: each is on for 10 s with all blocks, and waits for 0, 10 and 20 s.

    Sending costs 1 W and waiting 0.1 W: 10, 10 + 1 and 10 + 2 J over 10, 20 and 30 s.
    """
    up = passage(3, FedCS(), step_s=step_s)
    np.testing.assert_allclose(up(np.zeros(3), np.full(3, 100.0)), [10.0, 20.0, 30.0])
    np.testing.assert_allclose(up.used.on_s, 10.0)
    np.testing.assert_allclose(up.used.block_s, 100.0)
    blocks = []
    watts = up.used.mean_w(
        RadioEnergy(transmit_w=1.0, tail_w=0.1), lambda each: blocks.append(each) or np.zeros(3), 0.25
    )
    np.testing.assert_allclose(watts * np.array([10.0, 20.0, 30.0]), [10.0, 11.0, 12.0])
    np.testing.assert_allclose(blocks[0], M)


def test_less_than_a_block_is_one_for_part_of_the_time():
    """20 clients on 10 blocks: half a block each for 20 s, which is one block for 10 s."""
    up = passage(20)
    np.testing.assert_allclose(up(np.zeros(20), np.full(20, 10.0)), 20.0)
    np.testing.assert_allclose(up.used.on_s, 10.0)
    np.testing.assert_allclose(up.used.block_s, 10.0)


def test_each_call_has_its_own_mean_power():
    """Alone 10 s with 10 blocks, then two for 20 s with 5 blocks each: ``used`` is the latter, ``block_s`` all."""
    up = passage(2)
    up(np.array([0.0, np.inf]), np.array([100.0, 0.0]))
    up(np.full(2, 50.0), np.full(2, 100.0))
    np.testing.assert_allclose(up.used.block_s / up.used.on_s, 5.0)
    np.testing.assert_allclose(up.used.whole_s, 20.0)
    np.testing.assert_allclose(up.block_s, [200.0, 100.0])


def test_what_a_lost_link_has_cost():
    """Looks at 0.5, 1.5, 2.5 and 3.5 s, when the link is lost: 3 s at 10 bit/s of 100 bit; the other never began."""
    up = passage(2, step_s=1.0, fails_s=3.5)
    end = up(np.array([0.5, 8.0]), np.full(2, 100.0))
    assert np.isinf(end).all()
    np.testing.assert_allclose(up.stopped[0], [3.5, 8.0])
    np.testing.assert_allclose(up.stopped[1], [30.0, 0.0])
    np.testing.assert_allclose(up.used.whole_s, [3.0, 0.0])
    np.testing.assert_allclose(up.block_s, [30.0, 0.0])


def test_a_week_without_an_end_is_not_free():
    """10 bit/s for seven days of 86,400 s."""
    up = passage(1, step_s=86_400.0)
    assert np.isinf(up(np.zeros(1), np.array([1e9])))
    assert (up.stopped[0][0], up.stopped[1][0]) == (604_800.0, pytest.approx(6_048_000.0))
    assert up.used.on_s[0] == pytest.approx(604_800.0)


@pytest.mark.parametrize("deadline_s", [None, 4.0, 60.0])
def test_a_round_pays_for_an_upload_that_breaks_off(deadline_s):
    """Set-up 0.5 s at 2 W; from 1.5 s on 2 s of sending at 3 W and 1 uJ a bit, 20 bit; a tail of 10 s at 1 W."""
    up = passage(1, step_s=1.0, fails_s=3.5, until_s=np.inf if deadline_s is None else deadline_s)
    links = Links(
        down=lambda start_s, bits: start_s,
        up=up,
        connection=Connection(0.5, 0.0, 10.0),
        energy=RadioEnergy(3.0, 3.0, 1e-6, 0.0, 2.0, 1.0),
        sinr_db=np.zeros(1),
        lost=np.zeros(1, dtype=bool),
        idle_s=np.array([np.inf]),
        failed=lambda: up.failed,
        stopped=lambda: up.stopped,
    )
    done = run_round(work_of(1, down=0, up=100), compute_of(1), links, deadline_s=deadline_s)
    assert done.status[0] == STATUS["radio_link_failure"]
    assert done.up_sent_bits[0] == pytest.approx(20.0)
    assert done.airtime == pytest.approx(2.0)
    assert done.uplink_s[0] == pytest.approx(2.5)
    assert done.radio_j[0] == pytest.approx(0.5 * 2.0 + 2.0 * 3.0 + 20e-6 + 10.0)
    assert done.radio_last_s is not None and done.radio_last_s[0] == pytest.approx(3.5)


def test_tdd_sends_for_its_share_of_the_time():
    """0 dBm at eta 0.5 is 2 mW; a quarter of the time with 98 mW of baseband, else 20 mW: 25 + 15 = 40 mW."""
    energy = Components(pa_efficiency=0.5, baseband_w=0.098, tail_w=0.02)
    assert energy.send_w(0.0) == pytest.approx(0.1)
    assert energy.send_w(0.0, 0.25) == pytest.approx(0.040)
    assert RadioEnergy().send_w(0.0, 0.25) == RadioEnergy().send_w(0.0)  # measured per second of an upload


def random_queue(seed, count, cells, spread_s):
    """Transfers that are ready together, one by one, or never; some without bits, some without a link."""
    draw = np.random.default_rng(seed)
    ready_s = spread_s * draw.integers(0, 8, count) / 8.0
    ready_s[draw.random(count) < 0.05] = np.inf
    bits = np.where(draw.random(count) < 0.1, 0.0, 10.0 ** draw.uniform(0.0, 3.0, count))
    bps = np.where(draw.random(count) < 0.1, 0.0, draw.uniform(1.0, 100.0, count))
    curve = np.cumsum(np.sort(draw.random((count, 4)), axis=1)[:, ::-1], axis=1)
    gain = np.maximum.accumulate(draw.uniform(1.0, 2.0, (count, len(USERS))), axis=1)
    rates = Rates.usable(bps[:, None] * curve, np.array([1, 2, 6, M]), gain)
    return ready_s, bits, rates, draw.integers(0, cells, count)


@pytest.mark.parametrize("scheduler", [EqualFinish(), FedCS(), MaxRate(), ProportionalFair(), RoundRobin()])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    cells=st.integers(1, 3),
    spread_s=st.sampled_from([0.0, 1.0, 30.0]),
    window=st.sampled_from([(-np.inf, np.inf), (-np.inf, 2.0), (0.5, 40.0)]),
    until_s=st.sampled_from([5.0, 1e3]),
    connected=st.sampled_from([1, 3, 400]),
)
def test_cells_in_lockstep_are_cells_one_after_the_other(
    scheduler, seed, count, cells, spread_s, window, until_s, connected
):
    """Two codes for the same events; sums over other numbers of slots may differ in their last bits."""
    ready_s, bits, rates, cell = random_queue(seed, count, cells, spread_s)
    found = []
    for lanes in (np.inf, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fluid, "_LANES", lanes)
            progress = scheduler.serve(
                ready_s,
                bits,
                rates,
                cell=cell,
                blocks=np.array([M, 3.5, 0.0]),
                until_s=until_s,
                begin_s=window[0],
                horizon_s=window[1],
                connected=connected,
            )
            found.append(progress)
    for name in ("left_bits", "end_s", "block_s", "on_s"):
        one, other = (getattr(progress, name) for progress in found)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=name)
