"""The cell: statuses, independence of order and of other clients, and that its pieces agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import registry
from fedwave.core.config import build, dump
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import STATUS
from fedwave.wireless import power
from fedwave.wireless.budget import LinkBudget
from fedwave.wireless.geometry.placement import annulus
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.schedulers.round_robin import RoundRobin

from .helpers import STATIC, cohort_of, compute_of, deliver, work_of, world_of

CELL = Cell()
OUTDOOR = Cell(indoor_share=0.0)
WORLD = world_of(CELL.place(200, STATIC))


def test_job_table():
    cell = build(
        "network",
        {
            "name": "cell",
            "scenario": "UMi",
            "carrier_ghz": 3.5,
            "bandwidth_mhz": 40,
            "scheduler": {"name": "round_robin"},
            "uplink": {"name": "digital"},
            "budget": {"p0_dbm": -80},
        },
    )
    assert (cell.prbs, cell.scheduler, cell.budget.p0_dbm) == (106, RoundRobin(), -80.0)
    assert build("network", dump(cell)) == cell
    assert registry.names("network")[:2] == ["cell", "ideal"]
    assert registry.names("scheduler") == ["equal_finish", "round_robin"]
    assert "digital" in registry.names("uplink")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"bandwidth_mhz": 17}, "17 MHz has no 30 kHz grid"),
        ({"scenario": "Uma"}, "scenario"),
        ({"radius_m": 20}, "must exceed min_distance_m, 35 m"),
        ({"budget": {"p0": -80}}, "unknown key 'p0'"),
        ({"budget": {"tdd_uplink_share": 1.0}}, "downlink"),
        ({"scheduler": "fair"}, "unknown scheduler 'fair'"),
    ],
)
def test_bad_tables(table, sentence):
    with pytest.raises(BadInput, match=sentence):
        build("network", {"name": "cell", **table})


def test_placement_is_uniform_by_area():
    position = CELL.place(20_000, Key(1))
    distance = np.hypot(*position.T)
    radius = 500 / 3**0.5
    assert distance.min() >= 35
    assert distance.max() <= radius
    # uniform by area: the mean of r^2 is the mean of the squared limits, and no direction is preferred
    assert (distance**2).mean() == pytest.approx((35**2 + radius**2) / 2, rel=0.02)
    assert np.abs(position.mean(0)).max() < 5
    np.testing.assert_array_equal(annulus(10, Key(1), radius_m=radius, min_distance_m=35), position[:10])


def test_large_scale_depends_on_the_client_alone():
    everybody = CELL.coupling(WORLD, cohort_of(np.arange(200)), STATIC)
    some = np.array([150, 3, 77])
    part = CELL.coupling(WORLD, cohort_of(some), STATIC)
    np.testing.assert_array_equal(part.loss_db, everybody.loss_db[some])
    np.testing.assert_array_equal(part.los, everybody.los[some])
    assert (CELL.coupling(WORLD, cohort_of(some), Key(1)).loss_db != part.loss_db).any()


def test_large_scale_statistics():
    # everybody at 100 m, h_UT 1.5 m, 3.5 GHz: shares and moments of TR 38.901
    world = world_of(np.tile([100.0, 0.0], (20_000, 1)))
    state = CELL.coupling(world, cohort_of(np.arange(20_000)), STATIC)
    assert state.los.mean() == pytest.approx(0.18 + np.exp(-100 / 63) * 0.82, abs=0.01)
    assert state.indoor.mean() == pytest.approx(0.8, abs=0.01)
    outside = state.loss_db[~state.indoor & ~state.los]
    assert outside.std() == pytest.approx(6.0, abs=0.25)
    inside = state.loss_db[state.indoor & ~state.los]
    # 0.5 dB/m times the mean of the smaller of two uniform depths, 25/3 m, and the wall
    wall = 5 - 10 * np.log10(0.3 * 10**-0.27 + 0.7 * 10**-1.9)
    assert inside.mean() - outside.mean() == pytest.approx(wall + 0.5 * 25 / 3, abs=0.4)
    assert inside.std() == pytest.approx((6.0**2 + 4.4**2 + 0.25 * 25**2 / 18) ** 0.5, abs=0.25)


def test_delivery_does_not_depend_on_the_order():
    ids = np.arange(0, 200, 17)
    compute = compute_of(len(ids), seconds=np.linspace(1, 5, len(ids)))
    for cell in (CELL, Cell(scheduler=RoundRobin())):
        delivery = deliver(cell, WORLD, ids, compute=compute, deadline_s=15.0)
        order = np.random.default_rng(0).permutation(len(ids))
        shuffled = compute_of(len(ids), seconds=compute.seconds[0, order])
        again = deliver(cell, WORLD, ids[order], compute=shuffled, deadline_s=15.0)
        np.testing.assert_array_equal(again.status, delivery.status[order])
        for name in ("finish_s", "radio_j", "compute_j", "up_sent_bits", "sinr_db", "uplink_s"):
            np.testing.assert_allclose(getattr(again, name), getattr(delivery, name)[order], rtol=1e-9, err_msg=name)
        assert again.round_s == pytest.approx(delivery.round_s)


def test_statuses():
    position = np.array([[60.0, 0], [60.0, 50], [50_000.0, 0], [60.0, -50], [55.0, 0]])
    compute = compute_of(
        5, seconds=[1, 1, 1, 500, 1], fits=[True, False, True, True, True], powered=[True] * 4 + [False]
    )
    delivery = deliver(OUTDOOR, world_of(position), np.arange(5), compute=compute, deadline_s=100.0)
    names = ["delivered", "memory", "missed_broadcast", "deadline", "battery"]
    assert delivery.status.tolist() == [STATUS[name] for name in names]
    assert delivery.round_s == 100.0
    assert delivery.radio_j[2] > 0  # it tried to connect


def test_uplink_outage_comes_before_downlink_outage():
    # a phone limited to -60 dBm hears the broadcast and is not heard
    weak = Cell(indoor_share=0.0, budget=LinkBudget(ue_p_cmax_dbm=-60.0))
    delivery = deliver(weak, world_of([[250.0, 0.0]]), [0])
    assert delivery.status.tolist() == [STATUS["outage"]]
    assert delivery.up_sent_bits[0] == 0
    assert delivery.got_broadcast.all()


def test_equal_finish_is_faster_than_round_robin():
    ids = np.arange(0, 200, 10)
    work = work_of(len(ids), down=0, up=4e6)
    same, fair = (deliver(c, WORLD, ids, work) for c in (Cell(), Cell(scheduler=RoundRobin())))
    assert same.heard.all()
    assert same.round_s < 0.95 * fair.round_s


def test_power_control():
    budget = LinkBudget()
    loss = np.array([60.0, 150.0])
    # near: -90 + 10 lg 2 + 0.8 (60 - 8) = -45.39 dBm for one block of 30 kHz; far: 23 - 1.5 dBm
    sent = power.uplink_power_dbm(loss, prbs=np.ones(2), subcarrier_khz=30, budget=budget)
    np.testing.assert_allclose(sent, [-45.3897, 21.5], atol=1e-4)
    sinr = power.uplink_sinr_db(loss, prbs=51, subcarrier_khz=30, budget=budget)
    np.testing.assert_allclose(sinr[0], sinr[0, 0])  # enough power: the same density on every grant
    np.testing.assert_allclose(sinr[1], sinr[1, 0] - 10 * np.log10(np.arange(1, 52)))  # limited: spread out
    # 21.5 dBm - 150 dB + 20 dB of antennas, over -174 + 10 lg 360e3 + 5 + 5 dB
    assert sinr[1, 0] == pytest.approx(21.5 - 150 + 20 - (-174 + 55.563 + 10), abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(60, 170), st.floats(0, 30))
def test_rates_fall_with_loss(loss, more):
    down, up, sinr_db = CELL.rates(np.array([loss, loss + more]))
    assert down.shape == up.shape == sinr_db.shape == (2, 51)
    assert (down[1] <= down[0]).all()
    assert (up[1] <= up[0] * 1.002).all()  # MCS 17 of the 64QAM table carries 0.2 % less than 16
    assert (sinr_db[1] <= sinr_db[0]).all()


def test_cell_load_is_conserved():
    # everybody's bits over the round cannot exceed what the best client's rate carries on the whole band
    ids = np.arange(40)
    delivery = deliver(CELL, WORLD, ids, work_of(40, down=0, up=2e6))
    _, up, _ = CELL.rates(CELL.coupling(WORLD, cohort_of(ids), STATIC).loss_db)
    assert delivery.up_sent_bits.sum() <= up.max() * delivery.round_s


def test_explain_prints_one_table():
    rows = Cell(radius_m=300.0).explain()
    names = [name for name, *_ in rows]
    assert len(names) == len(set(names))
    assert {
        "gnb_power_dbm",
        "array_gain_db",
        "p0_dbm",
        "ue_p_cmax_dbm",
        "uplink_iot_db",
        "tdd_uplink_share",
        "tail_w",
    } <= {*names}
    assert all(source for *_, source in rows)
    assert ("radius_m", 300.0, "m", "job") in rows


@pytest.mark.parametrize("scenario", ["UMa", "UMi", "RMa", "InH"])
def test_most_clients_connect(scenario):
    cell = Cell(scenario=scenario)
    world = world_of(cell.place(2_000, STATIC))
    down, up, _ = cell.rates(cell.coupling(world, cohort_of(np.arange(2_000)), STATIC).loss_db)
    assert (down.max(1) > 0).mean() > 0.95
    assert (up.max(1) > 0).mean() > 0.95
