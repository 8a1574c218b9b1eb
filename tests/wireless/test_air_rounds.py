"""Sums in the air through the cell, the run and the command: time, energy, ledger, resume, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave import simulation
from fedwave.core.errors import Refused
from fedwave.core.types import STATUS
from fedwave.experiment import Experiment
from fedwave.wireless.energy import Components
from fedwave.wireless.geometry.mobility import StraightLine
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.traffic import Traffic
from fedwave.wireless.uplinks.air_radio import air_grid
from fedwave.wireless.uplinks.aircomp import AirComp

from ..test_refusals import refused
from .helpers import STATIC, compute_of, deliver, work_of, world_of

AIR = {"name": "aircomp", "policy": "truncated"}
CELL = Cell(scenario="UMi", uplink=AirComp())
WORLD = world_of(CELL.place(60, STATIC))
JOB = {
    "seed": 3, "rounds": 4, "eval_every": 2, "task": {"name": "images", "partition": {"name": "iid", "clients": 12}},
    "method": {"name": "fedavg", "local_steps": 3}, "sampler": {"name": "uniform", "cohort": 5},
    "network": {"name": "cell", "scenario": "UMi", "uplink": AIR},
}  # fmt: skip


def sum_of(network, count=10, *, values=20_000.0, seconds=1.0, deadline_s=None, world=WORLD):
    """A round of ``count`` clients that send ``values`` real values each."""
    work = replace(work_of(count, up=32 * values), up_values=np.full(count, values))
    return deliver(network, world, np.arange(count), work, compute_of(count, seconds=seconds), deadline_s=deadline_s)


# ---- a round -------------------------------------------------------------------------------------------------------


def test_a_round():
    """All end together, after the slowest; the time is that of the sum; only control bits are sent."""
    seconds = np.linspace(1.0, 3.0, 10)
    done = sum_of(CELL, seconds=seconds)
    assert done.heard.all()
    assert np.ptp(done.finish_s) == pytest.approx(0.0, abs=1e-9)
    grid = air_grid(CELL, 51.0, 3.0 / 3.6)
    time = CELL.uplink.time(20_000, 10, grid)
    ready = done.downlink_s + done.compute_s + CELL.budget.grant_s + CELL.budget.backhaul_s
    assert done.finish_s[0] == pytest.approx(ready.max() + time.seconds(1))
    assert done.coefficient.shape == (10, 12)
    np.testing.assert_allclose(done.up_symbols, 10_000 * (done.coefficient > 0.0).mean(axis=1))
    np.testing.assert_allclose(done.up_sent_bits, time.control_bits(1))
    assert done.airtime == pytest.approx(done.downlink_s.sum() - done.access_s.sum() + 10 * time.seconds(1), rel=0.2)
    assert done.block_s.sum() == pytest.approx(51 * time.seconds(1))


def test_digital_rounds_are_none_the_wiser():
    done = sum_of(replace(CELL, uplink=Cell().uplink))
    assert done.noise is None and done.up_symbols is None
    assert done.coefficient.shape == (10, 1)


def test_energy_follows_the_power():
    """Components charge ``P_tx / eta`` for what inversion really sends, in the 25 % of the time that are uplink.

    Strong clients send less than the most.
    """
    asleep = replace(Components().drx, sleep_w=0.0, wake_j=0.0)
    free = Components(baseband_w=0.0, receive_w=0.0, setup_w=0.0, tail_w=0.0, drx=asleep)
    done = sum_of(replace(CELL, energy=free))
    time_s = CELL.uplink.time(20_000, 10, air_grid(CELL, 51.0, 3.0 / 3.6)).seconds(1)
    most_j = 0.25 * 1e-3 * 10.0**2.15 / 0.35 * time_s  # 23 dBm less 1.5 dB of power reduction
    assert (done.radio_j > 0.0).all()
    assert (done.radio_j <= most_j * (1.0 + 1e-9)).all()
    assert done.radio_j.min() < 0.1 * most_j


def test_the_deadline_leaves_the_late_behind():
    """The sum is at the last moment that meets the deadline; who is not ready then is late, the others are heard."""
    seconds = np.where(np.arange(10) == 4, 60.0, 1.0)
    done = sum_of(CELL, seconds=seconds, deadline_s=10.0)
    assert done.status[4] == STATUS["deadline"]
    assert done.heard.sum() == 9
    assert done.round_s == pytest.approx(10.0)
    assert (done.finish_s[done.heard] <= 10.0 + 1e-9).all()
    assert (done.coefficient[4] == 0.0).all()


def test_a_long_sum_sees_new_fading():
    """A million values last several coherence periods, each with 12 blocks of its own."""
    done = sum_of(CELL, values=1e6)
    periods = CELL.uplink.time(1e6, 10, air_grid(CELL, 51.0, 3.0 / 3.6)).periods
    assert periods > 5
    assert done.coefficient.shape == (10, 12 * periods)
    assert len(np.unique(done.noise.scale)) == 12 * periods


def test_cells_sum_apart_and_add_their_noise():
    cell = replace(CELL, sites=7)
    world = world_of(cell.place(40, STATIC))
    done = sum_of(cell, 40, world=world)
    assert len(np.unique(done.cell)) > 3
    assert done.heard.sum() > 20
    assert np.isfinite(done.noise.scale).all()


def test_moving_clients():
    """A faster channel must be measured more often, until it cannot."""
    rested = sum_of(CELL)
    moving = sum_of(replace(CELL, mobility=StraightLine(speed_kmh=20.0)))
    assert moving.heard.any()
    assert moving.coefficient.shape[1] > rested.coefficient.shape[1]
    with pytest.raises(Refused, match="take slower clients or fewer"):
        sum_of(replace(CELL, mobility=StraightLine(speed_kmh=120.0)))


def test_background_traffic_takes_blocks():
    """Half of the carrier: twice the symbols."""
    whole, half = (sum_of(replace(CELL, uplink_traffic=Traffic(fl_cap=cap)), values=2e5) for cap in (1.0, 0.5))
    spent = [float(done.finish_s[0] - (done.downlink_s + done.compute_s).max()) for done in (whole, half)]
    assert 1.5 < spent[1] / spent[0] < 2.5
    with pytest.raises(Refused, match="0 are free for the sum"):
        sum_of(replace(CELL, uplink_traffic=Traffic(fl_cap=0.0)))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["zero_forcing", "truncated", "optimal"]),
    st.lists(st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)), min_size=1, max_size=8),
    st.floats(0.0, 3e5),
    st.one_of(st.none(), st.floats(0.01, 5.0)),
    st.floats(-30.0, 30.0),
)
def test_nothing_but_numbers_leaves_the_layer(policy, position, values, deadline_s, least_snr_db):
    uplink = AirComp(policy=policy, least_snr_db=least_snr_db, interference="alpha_stable", interference_scale=1.0)
    cell, world = replace(CELL, uplink=uplink), world_of(np.array(position))
    done = sum_of(cell, len(position), values=float(int(values)), deadline_s=deadline_s, world=world)
    for name in ("coefficient", "radio_j", "compute_j", "up_sent_bits", "up_symbols", "block_s", "round_s", "airtime"):
        assert np.isfinite(getattr(done, name)).all(), name
    assert np.isfinite(done.noise.scale).all()
    assert (done.coefficient >= 0.0).all() and (done.coefficient <= 1.0 + 1e-12).all()
    assert (done.coefficient[~done.heard] == 0.0).all()
    assert (done.radio_j >= 0.0).all() and (done.up_symbols >= 0.0).all() and done.airtime >= -1e-9


# ---- a run ---------------------------------------------------------------------------------------------------------


def losses(job):
    return [record.eval["loss"] for record in simulation.stream(Experiment.parse(job)) if record.eval]


def with_uplink(**uplink):
    return JOB | {"network": JOB["network"] | {"uplink": AIR | uplink}}


def test_a_perfect_sum_learns_what_a_digital_round_learns():
    """No noise to speak of (40 dBm more than anybody has), nobody silent, perfect channels: the digital mean."""
    ideal = with_uplink(policy="zero_forcing", csi_error=0.0, phase_error_rad=0.0)
    ideal["network"] = ideal["network"] | {"budget": {"ue_p_cmax_dbm": 250.0}}
    digital = JOB | {"network": {"name": "cell", "scenario": "UMi"}}
    assert losses(ideal) == pytest.approx(losses(digital), rel=1e-6)


def test_truncated_sums_stop_at_an_error_floor():
    """Clients differ, so their updates and with them the noise do not vanish; digital means go on to the optimum.

    On a quadratic the digital loss is settled after 50 rounds; in the air it stays above, later as much as sooner.
    """
    toy = {
        "seed": 0, "rounds": 200, "eval_every": 5, "task": {"name": "toy", "clients": 10},
        "method": {"name": "fedavg", "local_steps": 5, "local_optimizer": {"name": "sgd", "lr": 0.05}},
        "sampler": {"name": "uniform", "cohort": 10}, "network": JOB["network"],
    }  # fmt: skip
    digital = np.array(losses(toy | {"network": {"name": "cell", "scenario": "UMi"}}))[10:]
    above = np.array(losses(toy))[10:] - digital.mean()
    assert np.ptp(digital) < 0.05 * above.mean()
    assert above[15:].mean() > 0.3 * above[:15].mean()


def test_a_run_and_its_record(tmp_path):
    run = simulation.run(Experiment.parse(JOB), tmp_path / "r")
    rows = [json.loads(line) for line in (tmp_path / "r" / "rounds.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert row["delivered"] == 5
        assert row["uplink_bits"] == 5 * (12 * 8 + 32)
        assert 0.7 * 5 * 4805 < row["uplink_symbols"] <= 5 * 4805  # 9,610 values, two a symbol, some blocks silent
    assert np.isfinite(run.final["loss"]) and run.final["loss"] < run.initial["loss"]


def test_packing_does_not_matter_and_resume_is_exact(tmp_path):
    """Bit for bit after an interrupt; up to rounding whatever the engine packs."""
    whole = simulation.run(Experiment.parse(JOB), tmp_path / "whole")
    played = simulation.stream(Experiment.parse(JOB), tmp_path / "cut")
    next(played), next(played)
    played.close()
    resumed = simulation.resume(tmp_path / "cut")
    lines = [(tmp_path / name / "rounds.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    kept = [[{k: v for k, v in json.loads(line).items() if k != "wall_s"} for line in text] for text in lines]
    assert kept[0] == kept[1]
    assert resumed.final == whole.final
    assert losses(JOB | {"engine": {"name": "cohort", "max_clients": 2}}) == pytest.approx(losses(JOB), rel=1e-4)


# ---- what is refused -----------------------------------------------------------------------------------------------


def told(fedwave_, *overrides, **tables):
    """The one sentence with which ``fedwave run`` refuses the job with these changes."""
    Path("air.toml").write_text(tomli_w.dumps(JOB | tables))
    first = refused(fedwave_("run", "air.toml", *overrides, "--out", "r"))
    assert not Path("r").exists()
    assert fedwave_("plan", "air.toml", *overrides) == (2, "", first)
    return first


def test_methods_that_need_each_reply(fedwave_):
    sentence = told(fedwave_, method={"name": "median", "local_steps": 3})
    assert "'aircomp' gives the server a sum, and method 'median' needs each client's own update" in sentence
    assert "network.uplink = 'digital'" in sentence


@pytest.mark.parametrize("transform", [{"name": "quantize", "bits": 8}, {"name": "top_k", "fraction": 0.1}])
def test_transforms_that_send_codes(fedwave_, transform):
    sentence = told(fedwave_, transform=[{"name": "clip", "norm": 1.0}, transform])
    assert f"transform {transform['name']!r} sends codes that do not add up; leave it out" in sentence


def test_downlink_transforms_and_clips_are_welcome(fedwave_):
    transform = [{"name": "clip", "norm": 1.0}, {"name": "quantize", "bits": 8, "direction": "down"}]
    Path("air.toml").write_text(tomli_w.dumps(JOB | {"transform": transform}))
    assert fedwave_("run", "air.toml")[0] == 0


@pytest.mark.parametrize("network", ["ideal", "trace", "wifi", "leo", "nb-iot"])
def test_networks_without_channels(fedwave_, network):
    table = {"name": network, "uplink": AIR} | ({"file": "none.csv"} if network == "trace" else {})
    assert f"network.uplink: unknown key 'uplink' of {network}" in told(fedwave_, network=table)


def test_more_than_the_carrier_can_carry(fedwave_):
    many = {"task": JOB["task"] | {"partition": {"name": "iid", "clients": 400}}}
    sentence = told(fedwave_, "sampler.cohort=400", **many)
    assert "network.uplink: to measure 400 channels takes" in sentence and "take fewer clients" in sentence
    assert "network.uplink.blocks: 700 blocks need as many subcarriers" in told(fedwave_, "network.uplink.blocks=700")


def test_powers_that_do_not_exist(fedwave_):
    sentence = told(fedwave_, "network.uplink.policy=optimal", "network.uplink.power_rule=average")
    assert "network.uplink.power_rule: 'average' needs policy = 'truncated', got policy = 'optimal'" in sentence


def test_a_network_is_no_way_around_it():
    """Also where a round is put together by hand."""
    with pytest.raises(Refused, match="needs each client's own reply"):
        deliver(CELL, WORLD, np.arange(3))
    two = replace(work_of(3, phases=2), up_values=np.full(3, 10.0))
    with pytest.raises(Refused, match="several turns"):
        deliver(CELL, WORLD, np.arange(3), two)
