"""The radio in the report: its numbers against ones derived by hand."""

import json

import numpy as np
import pytest

from fedwave.core.errors import BadInput
from fedwave.results.client_log import LOG_STATUSES
from fedwave.results.report import causes, detail, radio, totals
from fedwave.results.report.page import REASONS, render
from fedwave.results.report.runs import _base

from .radio_logs import flow, line, log, network, rows

# ---- causes --------------------------------------------------------------------------------------------------------


def named(table, statuses=LOG_STATUSES):
    codes, names = causes.causes(table, statuses)
    return [names[code] for code in codes]


def test_the_largest_part_is_the_cause_of_being_late():
    """Parts of a late client as access, compute, rate = down + up - access.

    Client 0: 4, 3, (2 + 4) - 4 = 2 -> access. 1: 1, 5, (2 + 3) - 1 = 4 -> compute. 2: 1, 5, (3 + 4) - 1 = 6 -> rate.
    3: access and compute tie at 2, rate (2 + 1) - 2 = 1 -> access, the first. The others keep their status.
    """
    entries = [(0, k, "deadline") for k in range(4)] + [(0, 4, "outage"), (0, 5, "delivered"), (0, 6, "access")]
    table = rows(
        *entries, access_s=[4, 1, 1, 2, 9, 9, 9], compute_s=[3, 5, 5, 2, 1, 1, np.nan],
        downlink_s=[2, 2, 3, 2, 1, 1, np.nan], uplink_s=[4, 3, 4, 1, 1, 1, np.nan],
    )  # fmt: skip
    assert named(table) == [
        "deadline_access", "deadline_compute", "deadline_rate", "deadline_access", "outage", "delivered", "access",
    ]  # fmt: skip


def test_unknown_parts_count_as_nothing():
    """No access in the log: all of 3 + 4 is rate. No upload: compute 2 against a download of 1. Nothing: as it was.

    An infinite upload is the longest.
    """
    late = [(0, k, "deadline") for k in range(4)]
    table = rows(
        *late, access_s=np.nan, downlink_s=[3, 1, np.nan, 1], compute_s=[5, 2, np.nan, 9],
        uplink_s=[4, np.nan, np.nan, np.inf],
    )  # fmt: skip
    assert named(table) == ["deadline_rate", "deadline_compute", "deadline", "deadline_rate"]
    assert named(rows()) == []


def test_causes_read_the_codes_of_their_own_log():
    """Version 1 had no "access", so its code 9 is "not_finite" and not today's 9."""
    old = tuple(name for name in LOG_STATUSES if name != "access")
    table = rows((0, 0, "delivered"))
    table["status"] = 9
    assert named(table, old) == ["not_finite"]


def lossy():
    """Rounds 0 and 1 with three turns each: late by rate twice, late by compute once, one in outage."""
    entries = [
        (0, 0, "deadline"), (0, 1, "deadline"), (0, 2, "delivered"),
        (1, 0, "deadline"), (1, 1, "outage"), (1, 3, "delivered"),
    ]  # fmt: skip
    table = rows(*entries, compute_s=[1, 5, 1, 1, 1, 1], downlink_s=1.0, uplink_s=2.0, access_s=0.5)
    return log([line(0, delivered=1, lost={"deadline": [0, 1]}), line(1, lost={"deadline": [0], "outage": [1]})], table)


def test_causes_by_round_and_by_device():
    """Clients 0 and 2 are phones, 1 and 3 laptops."""
    run = lossy()
    assert detail.by_round(run)["lost"] == {
        "deadline_rate": [1, 1], "deadline_compute": [1, 0], "outage": [0, 1],
    }  # fmt: skip
    table = causes.by_device(run)
    assert table["causes"] == ["deadline_rate", "outage", "deadline_compute"]
    assert table["rows"] == [
        {"name": "phone", "turns": 3, "lost": [2, 0, 0]}, {"name": "laptop", "turns": 3, "lost": [0, 1, 1]},
        {"name": "all devices", "turns": 6, "lost": [2, 1, 1]},
    ]  # fmt: skip


def test_bins_hold_all_losses():
    """500 rounds in bins of 3: each loses one update, so the bins sum to 500 and begin with 3."""
    table = rows(*[(n, 0, "outage") for n in range(500)])
    run = log([line(n, clients=1, delivered=0, lost={"outage": [0]}) for n in range(500)], table)
    found = detail.by_round(run)["lost"]["outage"]
    assert (found[0], sum(found), len(found)) == (3, 500, 167)


def test_without_a_whole_client_log_reasons_serve():
    run = log([line(0, lost={"deadline": [0, 1]})], rows((0, 0, "deadline")))
    assert detail.by_round(run)["lost"] == {"deadline": [2.0]}


def test_every_cause_has_a_meaning():
    assert set(REASONS) == {*LOG_STATUSES, *causes.LATE} - {"delivered"}


# ---- distributions, blocks, energy ---------------------------------------------------------------------------------


def test_percentiles_are_steps_of_the_empirical_distribution():
    """1 to 20: F(x) = x / 20, so the 5th percentile is 1, the 50th 10, the 95th 19. Two of 20 rates are 0."""
    table = rows(*[(0, k, "delivered") for k in range(20)], sinr_db=np.arange(20, 0, -1.0))
    table["up_bps"] = np.maximum(np.arange(-1.0, 19.0), 0.0)
    found = radio.distributions(log([line(0)], table))
    both, phone, laptop = found["sinr_db"]
    assert both["x"] == list(range(1, 21))
    assert both["share"] == pytest.approx(np.arange(1, 21) / 20)
    assert both["marks"] == [1.0, 10.0, 19.0]
    assert (phone["name"], phone["turns"], laptop["name"]) == ("phone", 10, "laptop")
    assert phone["marks"] == [2.0, 10.0, 20.0]  # 2, 4, ..., 20: ranks 1, 5 and 10
    assert found["up_bps"][0]["none"] == pytest.approx(0.1)
    assert radio.percentiles(log([line(0)], table))[0] == {
        "name": "all devices", "turns": 20, "sinr_db": [1.0, 10.0, 19.0], "up_bps": [0.0, 8.0, 17.0], "none": 0.1,
    }  # fmt: skip


def test_what_was_not_measured_is_left_out():
    table = rows((0, 0, "delivered"), (0, 2, "outage"), sinr_db=[np.nan, -np.inf], up_bps=[np.nan, np.nan])
    run = log([line(0)], table)
    assert radio.distributions(run) == {"sinr_db": [], "up_bps": []}
    assert radio.percentiles(run) == []


def test_long_distributions_are_thinned_exactly():
    """Of 10,000 values 200 ranks stay, the ends among them, each with its own share; marks come from all."""
    count = 10_000
    table = rows(*[(0, 0, "delivered")] * count, sinr_db=np.arange(1.0, count + 1))
    (curve,) = radio.distributions(log([line(0)], table))["sinr_db"]
    assert len(curve["x"]) == 200
    assert (curve["x"][0], curve["x"][-1]) == (1.0, count)
    assert curve["share"] == pytest.approx(np.array(curve["x"]) / count)
    assert curve["marks"] == [500.0, 5000.0, 9500.0]


def test_blocks_are_summed_by_cell():
    entries = [(0, k, "delivered") for k in range(4)]
    table = rows(*entries, cell=[2, 5, 2, -1], block_s=[1.5, 4.0, np.nan, 9.0], sinr_db=[3.0, np.nan, 5.0, 1.0])
    found = radio.blocks(log([line(0)], table))
    assert (found["cell"], found["block_s"], found["turns"]) == ([2, 5], [1.5, 4.0], [2, 1])
    assert found["sinr"][0] == 4.0
    assert np.isnan(found["sinr"][1])
    assert radio.blocks(log([line(0)], table[[0, 2, 3]])) == {"cell": []}  # one cell only


def test_block_use_and_base_stations_by_round():
    """Four rounds of which the third has no cells, the others use 10, 30 and 50 %; base stations 5 J a round."""
    uses = [{"prb_use": 0.1}, {"prb_use": 0.3}, {}, {"prb_use": 0.5}]
    run = log([line(n, energy_gnb_j=5.0, handovers=n, **use) for n, use in enumerate(uses)])
    table = detail.by_round(run)
    assert table["prb"][:2] == [0.1, 0.3]
    assert np.isnan(table["prb"][2])
    assert table["gnb"] == [5.0, 10.0, 15.0, 20.0]
    whole = totals(run)
    assert (whole["energy_gnb_j"], whole["energy_j"], whole["handovers"]) == (20.0, 12.0, 6)
    assert detail.by_round(log([line(0)]))["prb"] == []


def test_analog_symbols_are_sums_by_bin():
    """201 rounds make bins of 2; every second round sends 3 symbols in the air: 3 a bin, 300 in all."""
    run = log([line(n, uplink_symbols=3.0 if n % 2 else None) for n in range(201)])
    assert detail.by_round(run)["symbols"][:3] == [3.0, 3.0, 3.0]
    assert totals(run)["uplink_symbols"] == 300.0
    assert "300 analog symbols up" in render([run])
    assert detail.by_round(log([line(0)]))["symbols"] == []


def test_means_of_a_bin_leave_out_rounds_without_cells():
    """201 rounds make bins of 2; in the first one round has no share, in the second they are 0.2 and 0.4."""
    uses = [0.1, None, 0.2, 0.4, *[0.0] * 197]
    table = detail.by_round(log([line(n, prb_use=use) for n, use in enumerate(uses)]))
    assert table["prb"][:2] == pytest.approx([0.1, 0.3])


def test_map_takes_the_last_cell_and_means():
    entries = [(0, 1, "delivered"), (1, 1, "outage"), (1, 2, "outage")]
    table = rows(*entries, cell=[3, 4, 5], sinr_db=[2.0, 4.0, np.nan])
    found = radio.cell(log([line(0), line(1)], table))
    assert (found["id"], found["cell"], found["lost"], found["called"]) == ([1, 2], [4, 5], [1, 1], [2, 1])
    assert found["sinr"][0] == 3.0
    assert np.isnan(found["sinr"][1])  # never measured: no colour rather than 0 dB


# ---- layout --------------------------------------------------------------------------------------------------------


def test_borders_of_a_cluster():
    """Inter-site distance 600 m: hexagons of radius 346.4 m with a corner at 30 degrees, (300, 173.2).

    Boresights at 30, 150 and 270 degrees part the hexagon at 90, 210 and 330: the first edge ends at (0, 346.4).
    """
    found = radio.layout(log(network=network(7)))
    assert (len(found["sites"]), found["sectors"]) == (7, 3)
    assert (found["x"][0], found["y"][0]) == (300.0, 173.2)
    assert found["x"][7] is None
    assert len(found["x"]) == 7 * 8 + 7 * 3 * 3  # seven corners and a break; two ends and a break
    assert (found["x"][56:59], found["y"][56:59]) == ([0.0, 0.0, None], [0.0, 346.4, None])


def test_a_single_site_has_sectors_to_its_radius():
    found = radio.layout(log(network=network(1)), 250.0)
    assert (found["x"][:3], found["y"][:3]) == ([0.0, 0.0, None], [0.0, 250.0, None])
    assert len(found["x"]) == 9
    assert radio.layout(log(network=network(1, sectors=1)), 250.0)["x"] == []


def test_networks_without_a_layout_have_one_site():
    assert radio.layout(log()) == {"sites": [[0.0, 0.0]], "sectors": 1, "x": [], "y": []}


def test_the_map_of_a_cluster_that_repeats_has_everybody_in_a_hexagon():
    """Seven sites 600 m apart repeat by 3 a + 2 b - a = 2 a + b = (1500, 519.6): a client 100 m beyond a copy of the
    middle is drawn 100 m beyond the middle, one beside a site stays. Without wrap-around both stay.
    """
    table = rows((0, 0, "delivered"), (0, 1, "delivered"), x_m=[1600.0, 590.0], y_m=[519.6, 10.0])
    found = radio.cell(log([line(0)], table, network=network(7)))
    assert (found["x"], found["y"]) == ([100.0, 590.0], [pytest.approx(0.0, abs=0.1), 10.0])
    found = radio.cell(log([line(0)], table, network={**network(7), "wrap_around": False}))
    assert found["x"] == [1600.0, 590.0]


def test_large_populations_are_sampled():
    count = 100_000
    table = rows(*[(0, 0, "delivered")] * count, id=np.arange(count), sinr_db=1.0, cell=np.arange(count) % 21)
    found = radio.cell(log([line(0)], table))
    assert (len(found["id"]), found["left_out"], found["id"][-1]) == (3000, 97_000, count - 1)


# ---- other users, base model ---------------------------------------------------------------------------------------


def test_what_others_pay_is_a_mean_over_rounds():
    """Delays of 30 and 50 ms are 40 on average; a round in overload has none; the target is met in one of three."""
    records = [
        line(0, qos=[flow(), flow(direction="down")]),
        line(1, qos=[flow(delay_s=0.05, ok=False, late=0.05)]),
        line(2, qos=[flow(delay_s=None, ok=False, late=1.0, throughput_bps=0.0)]),
        line(3),
    ]
    up, down = radio.qos(log(records))
    assert (up["direction"], up["five_qi"], up["rounds"]) == ("up", 9, 3)
    assert up["delay_s"] == pytest.approx(0.04)
    assert up["delay_alone_s"] == pytest.approx(0.01)
    assert up["overload"] == pytest.approx(1 / 3)
    assert (up["ok_alone"], up["ok"]) == (1.0, pytest.approx(1 / 3))
    assert up["late"] == pytest.approx((0.01 + 0.05 + 1.0) / 3)
    assert up["throughput_bps"] == pytest.approx(4e6 / 3)
    assert down["rounds"] == 1
    assert radio.qos(log([line(0)])) == []


def test_two_flows_of_one_class_stay_apart():
    found = radio.qos(log([line(n, qos=[flow(load=0.1), flow(load=0.3)]) for n in range(2)]))
    assert [row["load"] for row in found] == pytest.approx([0.1, 0.3])


def test_delivery_of_the_base_is_read(tmp_path):
    path = tmp_path / "base_delivery.json"
    assert _base(path) == {}
    path.write_text(json.dumps({"seconds": 90.0, "bits": 8e9, "bits_on_air": None}))
    found = _base(path)
    assert (found["seconds"], found["bits"]) == (90.0, 8e9)
    assert np.isnan([found["bits_on_air"], found["joules_mean"]]).all()
    path.write_text("[1]")
    with pytest.raises(BadInput, match=r"base_delivery\.json is damaged: it is not a table of numbers"):
        _base(path)
