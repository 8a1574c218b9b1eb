"""A round in time on an ideal network, where every number follows by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedwave.core.config import build
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import STATUS
from fedwave.wireless.energy import Connection, RadioEnergy
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.networks.ideal import Ideal

from .helpers import compute_of, deliver, work_of, world_of

WORLD = world_of(np.zeros((100, 2)))
SLOW = Ideal(uplink_mbps=1.0, downlink_mbps=2.0, latency_s=0.25)  # 1 Mbit down: 0.5 s; 4 Mbit up: 4 s


def names(delivery):
    return [next(name for name, code in STATUS.items() if code == value) for value in delivery.status]


def test_free_and_instant_by_default():
    delivery = deliver(build("network", "ideal"), WORLD, [3, 1], compute=compute_of(2, seconds=[1.0, 2.0]))
    np.testing.assert_array_equal(delivery.finish_s, [1.0, 2.0])
    assert delivery.round_s == 2.0
    assert (delivery.radio_j == 0).all()
    assert delivery.heard.all()
    np.testing.assert_array_equal(delivery.coefficient, [[1.0], [1.0]])
    np.testing.assert_allclose(delivery.compute_j, [5.5, 10.0])  # 5 W while computing, 0.5 W while waiting 1 s


def test_parts_add_up():
    delivery = deliver(SLOW, WORLD, [0, 1], compute=compute_of(2, seconds=[1.0, 3.0]), server_s=2.0, server_j=9.0)
    np.testing.assert_allclose(delivery.downlink_s, 0.75)
    np.testing.assert_allclose(delivery.compute_s, [1.0, 3.0])
    np.testing.assert_allclose(delivery.uplink_s, 4.25)
    np.testing.assert_allclose(delivery.finish_s, [6.0, 8.0])
    assert (delivery.round_s, delivery.server_s, delivery.server_j) == (10.0, 2.0, 9.0)
    np.testing.assert_array_equal(delivery.up_sent_bits, 4e6)
    np.testing.assert_array_equal(delivery.down_sent_bits, 1e6)
    np.testing.assert_allclose(delivery.compute_j, [5 + 0.5 * 4, 15 + 0.5 * 2])
    assert delivery.airtime == pytest.approx(2 * 4.5)


def test_many_phases():
    work = work_of(1, phases=3)
    delivery = deliver(SLOW, WORLD, [0], work, compute_of(1, phases=3))
    assert delivery.finish_s[0] == pytest.approx(3 * (0.75 + 1.0 + 4.25))
    assert delivery.uplink_s[0] == pytest.approx(3 * 4.25)
    assert delivery.up_sent_bits[0] == 12e6


def test_no_bits_take_no_time():
    delivery = deliver(SLOW, WORLD, [0], work_of(1, down=0, up=0))
    assert (delivery.downlink_s[0], delivery.uplink_s[0], delivery.finish_s[0]) == (0.0, 0.0, 1.0)


def test_memory_and_battery_take_no_part():
    compute = compute_of(3, fits=[True, False, True], powered=[True, True, False])
    delivery = deliver(SLOW, WORLD, [0, 1, 2], compute=compute)
    assert names(delivery) == ["delivered", "memory", "battery"]
    for column in (delivery.up_sent_bits, delivery.down_sent_bits, delivery.radio_j, delivery.compute_j):
        np.testing.assert_array_equal(column[1:], 0.0)
    assert np.isnan(delivery.downlink_s[1:]).all()
    assert not delivery.trained[1:].any()
    assert delivery.round_s == pytest.approx(6.0)
    both = deliver(SLOW, WORLD, [0], compute=compute_of(1, fits=[False], powered=[False]))
    assert (names(both), both.round_s) == (["memory"], 0.0)


def test_deadline():
    # broadcast in at 0.75; sending starts at 0.75 + s + 0.25 and lasts 4 s; deadline 7 s
    compute = compute_of(4, seconds=[1.0, 4.0, 6.1, 20.0])
    delivery = deliver(SLOW, WORLD, [0, 1, 2, 3], compute=compute, deadline_s=7.0, server_s=1.0)
    assert names(delivery) == ["delivered", "deadline", "deadline", "deadline"]
    assert delivery.round_s == 8.0  # the server waits for the late ones until the deadline
    np.testing.assert_array_equal(delivery.finish_s, [6.0, np.inf, np.inf, np.inf])
    np.testing.assert_allclose(delivery.up_sent_bits, [4e6, 2e6, 0.0, 0.0])  # 2 of 4 s; still asking for a grant
    np.testing.assert_allclose(delivery.uplink_s, [4.25, 2.25, 0.15, np.nan])
    np.testing.assert_allclose(delivery.compute_s, [1.0, 4.0, 6.1, 6.25])
    # computing stops at the deadline; then a second of waiting for the server at 0.5 W
    np.testing.assert_allclose(delivery.compute_j, [5 + 0.5 * 2, 20.5, 31.0, 31.75])
    assert delivery.trained.tolist() == [True] * 4
    on_time = deliver(SLOW, WORLD, [0], deadline_s=6.0)
    assert (names(on_time), on_time.round_s) == (["delivered"], 6.0)


def test_late_broadcast_is_missed():
    delivery = deliver(SLOW, WORLD, [0], deadline_s=0.5)
    assert names(delivery) == ["missed_broadcast"]
    assert not delivery.got_broadcast.any()
    assert delivery.down_sent_bits[0] == pytest.approx(0.5e6)  # 0.25 of 0.5 s
    assert delivery.round_s == 0.5
    assert delivery.compute_j[0] == 0.0


def test_loss_is_keyed_by_round_and_client():
    network, ids = Ideal(loss=0.3), np.arange(100)
    delivery = deliver(network, WORLD, ids)
    assert set(names(delivery)) == {"delivered", "outage"}
    assert 0.15 < (~delivery.heard).mean() < 0.45
    assert np.isinf(delivery.finish_s[~delivery.heard]).all()
    np.testing.assert_array_equal(delivery.up_sent_bits, 4e6)  # sent, and lost
    part = deliver(network, WORLD, ids[::-7])
    np.testing.assert_array_equal(part.status, delivery.status[::-7])
    assert (deliver(network, WORLD, ids, key=Key(7).fold("round", 1)).status != delivery.status).any()


def links_of(down, up, energy=None, count=3):
    return Links(
        down=down,
        up=up,
        connection=Connection(setup_s=1.0, grant_s=0.5, inactivity_s=4.0),
        energy=energy or RadioEnergy(2.0, 3.0, 1e-6, 1e-7, 5.0, 0.1),
        sinr_db=np.full(count, 10.0),
        lost=np.zeros(count, dtype=bool),
    )


def test_nobody_pays_for_waiting_to_be_called():
    # called at 0, 3 and 20 s; then 1 s of connecting at 5 W, 1 s of receiving at 3 W; the deadline is 10 s
    links = replace(
        links_of(down=lambda start, bits: start + 1.0, up=lambda start, bits: start + 1.0),
        paged_s=np.array([0.0, 3.0, 20.0]),
    )
    work = work_of(3, down=1e6, up=0)
    delivery = run_round(work, compute_of(3, seconds=0.0), links, deadline_s=10.0)
    np.testing.assert_allclose(delivery.downlink_s[:2], [2.0, 5.0])
    np.testing.assert_allclose(delivery.access_s, [1.0, 4.0, 10.0])
    energy = links.energy
    spent = energy.setup_w * 1.0 + energy.receive_w * 1.0 + energy.downlink_j_per_bit * 1e6
    spent += float(energy.tail_j(np.inf, 4.0))
    np.testing.assert_allclose(delivery.radio_j, [spent, spent, 0.0])


def test_outage_does_not_hold_the_round_up():
    unreached = np.array([False, True, False])
    links = links_of(
        down=lambda start, bits: start + 1.0,
        up=lambda start, bits: np.where(unreached, np.inf, start + 2.0),
    )
    delivery = run_round(work_of(3), compute_of(3, seconds=[1.0, 9.0, 1.0]), links, deadline_s=60.0)
    assert names(delivery) == ["delivered", "outage", "delivered"]
    assert delivery.round_s == pytest.approx(1 + 1 + 1 + 0.5 + 2)
    assert delivery.up_sent_bits[1] == 0
    assert np.isnan(delivery.uplink_s[1])
    assert delivery.trained[1]
    links = links_of(down=lambda start, bits: np.where(unreached, np.inf, start + 1.0), up=links.up)
    delivery = run_round(work_of(3), compute_of(3), links)
    assert names(delivery) == ["delivered", "missed_broadcast", "delivered"]
    assert np.isnan(delivery.downlink_s[1])


def test_radio_energy_is_the_integral_of_power():
    links = links_of(down=lambda start, bits: start + 1.0, up=lambda start, bits: start + 2.0)
    delivery = run_round(work_of(3), compute_of(3, seconds=[1.0, 3.9, 6.0]), links)
    # set-up 1 s at 5 W; reception 1 s at 3 W, 1 Mbit at 0.1 uJ; sending 2 s at 2 W, 4 Mbit at 1 uJ; tail 4 s at 0.1 W
    common = 5 * 1 + (3 * 1 + 0.1) + (2 * 2 + 4) + 0.4
    # connected while computing for less than 4 s: 0.1 W, and a grant of 0.5 s; else asleep after 4 s, and set up again
    warm = np.array([0.1 * 1.0 + 0.1 * 0.5, 0.1 * 3.9 + 0.1 * 0.5])
    np.testing.assert_allclose(delivery.radio_j, [*(common + warm), common + 0.4 + 5 * 1])
    np.testing.assert_allclose(delivery.uplink_s, [2.5, 2.5, 3.0])


def test_infinite_compute_is_refused():
    with pytest.raises(BadInput, match="finite"):
        deliver(Ideal(), WORLD, [0], compute=compute_of(1, seconds=np.inf))


def radio_links(idle_s, up_s=1.0):
    """Set-up 0.1 s at 2 W, grant 0.01 s, tail 10 s at 1 W, sending at 3 W for ``up_s``; nothing per bit."""
    return Links(
        down=lambda start_s, bits: start_s,
        up=lambda start_s, bits: start_s + up_s,
        connection=Connection(0.1, 0.01, 10.0),
        energy=RadioEnergy(3.0, 3.0, 0.0, 0.0, 2.0, 1.0),
        sinr_db=np.zeros(1),
        lost=np.zeros(1, dtype=bool),
        idle_s=np.array([idle_s]),
    )


def test_tails_and_set_ups_are_not_charged_twice():
    """Two rounds, half a second apart, each 1 s of computing and 1 s of sending.

    First: set-up 0.2 J, sending 3 J, a whole tail of 10 J. The second starts 0.5 s after the first one's last bit and
    sends after another second: 1.5 s of the tail have run, 8.5 J of it are given back; a grant at tail power 0.01 J,
    sending 3 J, a whole tail. Together 0.2 + 3 + 1.5 + 0.01 + 3 + 10 = 17.71 J.
    """
    work, compute = work_of(1, down=0), compute_of(1, seconds=[1.0])
    first = run_round(work, compute, radio_links(np.inf))
    assert first.radio_j[0] == pytest.approx(13.2)
    assert first.radio_last_s[0] == pytest.approx(2.1)
    second = run_round(work, compute, radio_links(0.5))
    assert first.radio_j[0] + second.radio_j[0] == pytest.approx(17.71)


def test_a_radio_that_slept_pays_its_tail_and_a_set_up_again():
    work, compute = work_of(1, down=0), compute_of(1, seconds=[1.0])
    assert run_round(work, compute, radio_links(60.0)).radio_j[0] == pytest.approx(13.2)


def test_a_set_up_that_the_deadline_ends_has_no_tail():
    """1 s of computing, deadline 1.05 s: 0.05 s of set-up at 2 W and nothing else."""
    work, compute = work_of(1, down=0), compute_of(1, seconds=[1.0])
    delivery = run_round(work, compute, radio_links(np.inf), deadline_s=1.05)
    assert delivery.radio_j[0] == pytest.approx(0.1)
    assert delivery.radio_last_s[0] == -np.inf
