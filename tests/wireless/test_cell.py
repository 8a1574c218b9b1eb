"""The cell: statuses, independence of order and of other clients, and that its pieces agree."""

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
from fedwave.core.types import STATUS
from fedwave.wireless import power
from fedwave.wireless.budget import LinkBudget
from fedwave.wireless.cells.cell_round import CellRound
from fedwave.wireless.cells.coverage import Coverage
from fedwave.wireless.energy import Components, Drx, RadioEnergy
from fedwave.wireless.geometry.handover import Handover
from fedwave.wireless.geometry.mobility import StraightLine
from fedwave.wireless.geometry.placement import annulus
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.schedulers.energy_optimal import EnergyOptimal
from fedwave.wireless.schedulers.fedcs import FedCS
from fedwave.wireless.schedulers.round_robin import RoundRobin
from fedwave.wireless.short_term import short_term_factor
from fedwave.wireless.traffic import Flow, Traffic

from .helpers import ROUND, STATIC, cohort_of, compute_of, deliver, work_of, world_of

CELL = Cell()


def radio_of(cell, position, ids=None):
    """The links of clients at positions, at the background load."""
    coverage = Coverage(cell, STATIC)
    seen = coverage.look(np.asarray(position, dtype=float), np.arange(len(position)) if ids is None else ids)
    return coverage.radio(seen, seen.serving, np.full(len(position), 1.0), coverage.background)


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
    assert {"cell", "ideal", "trace"} <= {*registry.names("network")}
    assert {"equal_finish", "round_robin"} <= {*registry.names("scheduler")}
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


def test_links_depend_on_the_client_alone():
    position = WORLD.position_m
    everybody, some = radio_of(CELL, position), np.array([150, 3, 77])
    part = radio_of(CELL, position[some], some)
    np.testing.assert_array_equal(part.coupling_db, everybody.coupling_db[some])
    np.testing.assert_array_equal(part.up().rows, everybody.up().rows[some])


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
    coupling = loss - 8.0
    sent = power.uplink_power_dbm(coupling, blocks=np.ones(2), subcarrier_khz=30, budget=budget)
    np.testing.assert_allclose(sent, [-45.3897, 21.5], atol=1e-4)
    head = power.headroom_db(coupling, blocks=np.ones(2), subcarrier_khz=30, budget=budget)
    np.testing.assert_allclose(head, [21.5 + 45.3897, 21.5 - (-90 + 3.0103 + 0.8 * 142)], atol=1e-4)
    grants = np.arange(1.0, 52.0)
    sinr = power.uplink_snr_db(coupling[:, None], grants, subcarrier_khz=30, budget=budget)
    np.testing.assert_allclose(sinr[0], sinr[0, 0])  # enough power: the same density on every grant
    np.testing.assert_allclose(sinr[1], sinr[1, 0] - 10 * np.log10(np.arange(1, 52)))  # limited: spread out
    # 21.5 dBm - 150 dB + 20 dB of antennas, over -174 + 10 lg 360e3 + 5 dB
    assert sinr[1, 0] == pytest.approx(21.5 - 150 + 20 - (-174 + 55.563 + 5), abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(60, 170), st.floats(0, 30))
def test_rates_fall_with_loss(loss, more):
    one = replace(radio_of(CELL, [[100.0, 0.0]] * 2), coupling_db=np.array([loss, loss + more]))
    radio = replace(one, los=np.zeros(2, dtype=bool), delay_spread_s=np.full(2, 3e-7))
    for rates in (radio.down(), radio.up()):
        assert np.isfinite(rates.rows).all() and (rates.rows >= 0.0).all()
        assert (rates.rows[1] <= rates.rows[0] * (1 + 1e-9)).all()
        assert (np.diff(rates.rows, axis=1) >= -1e-6).all()


def test_cell_load_is_conserved():
    # everybody's bits over the round cannot exceed what the best client's rate carries on the whole band
    ids = np.arange(40)
    delivery = deliver(CELL, WORLD, ids, work_of(40, down=0, up=2e6))
    best = radio_of(CELL, WORLD.position_m[ids]).up_full_bps.max()
    assert delivery.up_sent_bits.sum() <= best * delivery.round_s * 1.5  # short transfers vary around their mean
    assert delivery.block_s.sum() <= delivery.carrier_block_s * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["UMa", "UMi", "RMa", "InH"]),
    st.sampled_from([(1, 1), (7, 3)]),
    st.lists(st.tuples(st.floats(0, 3e5), st.floats(-3e5, 3e5)), min_size=1, max_size=12),
    st.floats(0, 1e12),
    st.one_of(st.none(), st.floats(1e-3, 1e4)),
)
def test_nothing_but_numbers_leaves_the_layer(scenario, size, position, bits, deadline_s):
    cell = Cell(scenario=scenario, sites=size[0], sectors=size[1])
    count = len(position)
    delivery = deliver(cell, world_of(position), np.arange(count), work_of(count, up=bits), deadline_s=deadline_s)
    for name in ("radio_j", "compute_j", "up_sent_bits", "down_sent_bits", "sinr_db", "up_bps", "block_s", "access_s"):
        assert np.isfinite(getattr(delivery, name)).all(), name
    for value in (delivery.round_s, delivery.gnb_j, delivery.carrier_block_s, delivery.down_air_bits):
        assert np.isfinite(value) and value >= 0.0
    assert (delivery.up_sent_bits <= bits * (1 + 1e-9)).all()
    assert delivery.block_s.sum() <= delivery.carrier_block_s * (1 + 1e-6) + 1e-6
    assert not np.isnan(delivery.coefficient).any()


def test_a_moving_client_is_handed_over():
    cell = Cell(sites=7, sectors=3, mobility=StraightLine(60.0))
    world = world_of(cell.place(10, STATIC))
    delivery = deliver(cell, world, np.arange(10), work_of(10, up=2e8), deadline_s=600.0)
    assert delivery.handovers > 0
    after = world.after(cohort_of(np.arange(10)), delivery, 0.0)
    again = deliver(cell, after, np.arange(10), work_of(10), deadline_s=600.0)
    # straight on at 60 km/h for as long as the round took, on the torus of the cluster
    moved = cell.scene.layout.fold(again.position_m - delivery.position_m)
    way = cell.scene.layout.fold(np.array([[delivery.round_s * 60 / 3.6, 0.0]]))
    assert np.hypot(*moved.T).min() > 0.0 or np.hypot(*way.T) == 0.0


def test_short_transfers_vary_and_long_ones_do_not():
    radio = radio_of(CELL, np.tile([[150.0, 0.0]], (4000, 1)))
    radio = replace(radio, coupling_db=np.full(4000, 110.0), los=np.zeros(4000, dtype=bool))
    short = short_term_factor(radio, np.full(4000, 1e3), "up", np.arange(4000), STATIC)
    long = short_term_factor(radio, np.full(4000, 1e9), "up", np.arange(4000), STATIC)
    assert short.mean() == pytest.approx(1.0, abs=0.02)
    assert short.std() > 0.05
    assert long.std() < 0.02


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
    radio = radio_of(cell, cell.place(2_000, STATIC))
    assert (radio.down_full_bps > 0).mean() > 0.95
    assert (radio.up_full_bps > 0).mean() > 0.95


def test_load_is_interference_elsewhere():
    cell = Cell(sites=7, sectors=3)
    position = cell.place(100, STATIC)
    quiet = radio_of(replace(cell, budget=LinkBudget(neighbour_load=0.0)), position)
    busy = radio_of(replace(cell, budget=LinkBudget(neighbour_load=1.0)), position)
    np.testing.assert_allclose(quiet.down_iot_db, 0.0)
    assert (busy.down_iot_db > 0.0).all() and (busy.up_iot_db > 0.0).all()
    assert np.median(quiet.down_full_bps / busy.down_full_bps) > 1.1


def test_a_guest_leaves_what_guaranteed_traffic_needs():
    flows = (Flow(five_qi=1, users_per_cell=5, rate_kbps=24.0, packet_bytes=60.0),)
    plain, ids, work = Cell(), np.arange(10), work_of(10, up=4e6)
    guest = Cell(uplink_traffic=Traffic(flows=flows))
    alone, beside = (deliver(cell, WORLD, ids, work) for cell in (plain, guest))
    assert beside.round_s > alone.round_s
    assert beside.qos[0]["direction"] == "up" and beside.qos[0]["five_qi"] == 1
    assert beside.qos[0]["delay_s"] >= beside.qos[0]["delay_alone_s"]
    capped = deliver(Cell(uplink_traffic=Traffic(fl_cap=0.25)), WORLD, ids, work)
    assert capped.block_s.sum() <= 0.25 * capped.carrier_block_s * (1 + 1e-6)


def test_multicast_puts_less_on_the_air():
    ids, work = np.arange(50), work_of(50, down=8e6, up=1e3)
    one, many = (deliver(Cell(downlink=build("downlink", name)), WORLD, ids, work) for name in ("multicast", "unicast"))
    assert many.down_air_bits == pytest.approx(50 * 8e6)
    assert one.down_air_bits < many.down_air_bits
    np.testing.assert_allclose(one.down_sent_bits, many.down_sent_bits)


@pytest.mark.parametrize("name", ["unicast", "multicast", "rateless"])
def test_a_cap_on_the_downlink_holds_for_every_way_to_send(name):
    """A tenth of the carrier takes ten times as long, less what does not scale: connecting and backhaul."""
    ids, work = np.arange(20), work_of(20, down=1e8, up=0)
    whole, tenth = (
        deliver(Cell(downlink=build("downlink", name), downlink_traffic=Traffic(fl_cap=cap)), WORLD, ids, work)
        for cap in (1.0, 0.1)
    )
    assert tenth.downlink_s.max() == pytest.approx(10 * whole.downlink_s.max(), rel=0.1)
    assert tenth.gnb_j > whole.gnb_j
    assert tenth.down_air_bits == pytest.approx(whole.down_air_bits, rel=0.02)


def test_sectors_of_one_site_hear_the_other_sites_too():
    """The budget's margin, N (10^(m/10) - 1), on top of the own sectors': never less than the margin alone."""
    sectors = Cell(sectors=3)
    radio = radio_of(sectors, sectors.place(200, STATIC))
    assert (radio.up_iot_db >= sectors.budget.uplink_iot_db - 1e-9).all()
    assert (radio.down_iot_db >= sectors.budget.downlink_iot_db - 1e-9).all()
    assert radio.down_iot_db.max() > sectors.budget.downlink_iot_db + 1.0


def test_outdoor_users_of_rural_cells_sit_in_cars():
    """9 dB more on average (TR 38.901 7.4.3.2), and 4.5 dB of spread around it."""
    still = {"scenario": "RMa", "carrier_ghz": 0.7, "indoor_share": 0.0}
    outside, inside = (Cell(**still, in_car_share=share) for share in (0.0, 1.0))
    place = outside.place(400, STATIC)
    more = radio_of(inside, place).coupling_db - radio_of(outside, place).coupling_db
    assert more.mean() == pytest.approx(9.0, abs=1.0)
    assert Cell(scenario="RMa", carrier_ghz=0.7).scene.in_car_share == 1.0 and Cell().scene.in_car_share == 0.0


def test_base_delivery_is_apart():
    world = world_of(CELL.place(300, STATIC))
    base = CELL.deliver_base(world, 1e9, STATIC).to_dict()
    assert base["bits_on_air"] == pytest.approx(1e9 * 300 * (1 - base["unreached_share"]))
    assert base["seconds"] > 0 and base["joules_mean"] > 0
    assert all(np.isfinite(value) for value in base.values())


PARTS = Components(pa_efficiency=0.5, baseband_w=0.3, receive_w=0.0, setup_w=0.0, tail_w=0.0, drx=Drx(enabled=False))


def upload_of(cell, count=1, **kwargs):
    """Uploads alone: nothing is received, and all are ready at the same time."""
    work = work_of(count, down=0.0, up=1e7)
    return deliver(cell, WORLD, np.arange(count), work, compute_of(count, seconds=1.0), **kwargs)


def test_the_amplifier_is_on_for_the_uplinks_share_of_the_time():
    """A lone upload has the whole carrier for t seconds, of which 25 % are uplink: ``t (0.25 (P / eta + 0.3 W))``."""
    cell = Cell(energy=PARTS)
    done = upload_of(cell)
    dbm = radio_of(cell, WORLD.position_m[:1]).up_power_dbm(np.array([51.0]))[0]
    mean_w = 0.25 * (1e-3 * 10.0 ** (dbm / 10.0) / 0.5 + 0.3)
    assert done.radio_j[0] == pytest.approx(mean_w * done.airtime, rel=1e-6)
    work, compute = work_of(1, down=0.0, up=1e7), compute_of(1)
    asked = CellRound(cell, WORLD, cohort_of([0]), work, compute, ROUND, STATIC, None).asked
    assert asked.radio_j[0] == pytest.approx(mean_w * 1e7 / asked.up_bps[0], rel=1e-6)
    whole = upload_of(Cell(energy=RadioEnergy(2.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    assert whole.radio_j[0] == pytest.approx(2.0 * whole.airtime)


@pytest.mark.parametrize("cell", [Cell(scheduler=FedCS()), Cell(budget=LinkBudget(connected_per_cell=1))])
def test_who_waits_for_the_carrier_does_not_send(cell):
    """One after the other on all 51 blocks: each is on for its blocks x seconds / 51, at the power of 51 blocks."""
    done = upload_of(replace(cell, energy=PARTS), 6, deadline_s=600.0)
    assert done.heard.any()
    dbm = radio_of(cell, WORLD.position_m[:6]).up_power_dbm(np.full(6, 51.0))
    expected = 0.25 * (1e-3 * 10.0 ** (dbm / 10.0) / 0.5 + 0.3) * done.block_s / 51.0
    np.testing.assert_allclose(done.radio_j, np.where(done.heard, expected, 0.0), rtol=1e-6)
    assert done.block_s.sum() / 51.0 < 0.7 * done.airtime


def test_what_a_scheduler_hears_of_power_is_a_mean_over_time():
    """With a quarter of the time for the uplink the mean radiated power is a quarter, and so is the circuits'."""
    heard = []

    class Spy(RoundRobin):
        def backoff_db(self, ready_s, bits, snr, rates_at, until_s, power_w):
            heard.append(power_w)
            return np.zeros(len(bits))

    upload_of(Cell(scheduler=Spy()))
    dbm = radio_of(CELL, WORLD.position_m[:1]).up_power_dbm(np.array([51.0]))
    np.testing.assert_allclose(heard[0], 0.25 * 10.0 ** ((dbm - 30.0) / 10.0))
    assert EnergyOptimal().circuit_w == pytest.approx(float(Components().send_w(-np.inf, 0.25)))


def test_bits_of_a_lost_link_were_sent():
    """Who had blocks before its link was lost has sent bits, and pays for the time on the air."""
    rules = Handover(q_out_db=8.0, q_in_db=10.0, t310_s=0.0, t311_s=0.0)
    cell = Cell(sites=7, sectors=3, indoor_share=0.0, mobility=StraightLine(120.0), energy=PARTS, handover=rules)
    world = world_of(cell.place(20, STATIC))
    done = deliver(cell, world, np.arange(20), work_of(20, down=0.0, up=4e8), compute_of(20), deadline_s=200.0)
    lost = (done.status == STATUS["radio_link_failure"]) & (done.block_s > 0.0)
    assert lost.any()
    assert (done.up_sent_bits[lost] > 0.0).all() and (done.up_sent_bits[lost] < 4e8).all()
    assert (done.radio_j[lost] > 0.0).all() and (done.uplink_s[lost] > 0.0).all()
