"""A cell network at fidelity "system" and "link": what a round gets from Sionna, and what stays the same code."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fedwave import cli
from fedwave.core.types import STATUS
from fedwave.wireless.budget import LinkBudget
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.reference.cells import MAX_USERS
from fedwave.wireless.reference.direction import pattern
from fedwave.wireless.reference.rays import Rays
from fedwave.wireless.schedulers.proportional_fair import ProportionalFair
from fedwave.wireless.schedulers.round_robin import RoundRobin

from ..helpers import STATIC, deliver, work_of, world_of

sionna = pytest.importorskip("sionna", reason="needs the extra fedwave[sionna]")

BUDGET = LinkBudget(csi_delay_s=0.0)  # the reference knows the channel of the slot
CELL = Cell(scheduler=RoundRobin(), indoor_share=0.0, budget=BUDGET)
WORLD = world_of(CELL.place(6, STATIC))
IDS = np.array([4, 0, 2])


@pytest.mark.parametrize("fidelity", ["system", "link"])
def test_a_round_is_the_same_again_and_arrives(fidelity):
    cell = replace(CELL, fidelity=fidelity)
    one, again = (deliver(cell, WORLD, IDS, work_of(3, down=2e5, up=4e5)) for _ in range(2))
    assert (one.status == STATUS["delivered"]).all()
    np.testing.assert_array_equal(one.finish_s, again.finish_s)
    np.testing.assert_array_equal(one.radio_j, again.radio_j)
    np.testing.assert_allclose(one.up_sent_bits, 4e5)
    assert (one.uplink_s > 0.0).all() and (one.radio_j > 0.0).all() and np.isfinite(one.round_s)


def test_link_level_rates_are_those_of_the_tables_up_to_fading_and_retransmissions():
    # The tables count chase combining, the reference first transmissions only: a few percent less at a tenth of errors.
    # 400 looks at one channel each, 100 ms apart, leave about 3 % to chance; the payloads take seconds.
    work = work_of(3, down=2e7, up=2e7)
    table, link = (deliver(replace(CELL, fidelity=fidelity), WORLD, IDS, work) for fidelity in ("table", "link"))
    np.testing.assert_allclose(link.uplink_s, table.uplink_s, rtol=0.15)
    np.testing.assert_allclose(link.downlink_s, table.downlink_s, rtol=0.15)
    np.testing.assert_array_equal(link.sinr_db, table.sinr_db)  # large scale is fedwave's


def test_a_client_keeps_its_place_in_sionnas_channel_whatever_the_cohort():
    cell = replace(CELL, fidelity="system")
    work = work_of(3, down=0.0, up=1e5)
    all_three, other = (deliver(cell, WORLD, ids, work) for ids in (IDS, np.array([2, 5, 4])))
    assert all_three.sinr_db[0] == other.sinr_db[2] and all_three.sinr_db[2] == other.sinr_db[0]
    assert len(np.unique(all_three.sinr_db)) == 3


def test_rays_have_the_mean_power_of_the_link_that_they_belong_to():
    # The rays of a link are drawn anew in every piece: 30 pieces of Rayleigh-like fading over 18 MHz.
    from fedwave.wireless.reference.carrier import Carrier
    from fedwave.wireless.reference.system_channel import system_channel

    position = np.array([[120.0, 30.0], [60.0, -150.0], [-90.0, 40.0]])
    channel = system_channel("UMa", position, [[0.0, 0.0]], key=STATIC, antenna="omni", los=False, draws=64)
    rays = Rays(channel.drawn, np.arange(3), np.zeros(3, dtype=np.int64), channel.coupling_db[:, 0], np.full(3, 8.0))
    key, carrier = STATIC.fold("rays"), Carrier(51)
    pieces = [
        rays.gains(key, np.arange(3), carrier, first=first, slots=10, spacing=60, fidelity="system")
        for first in range(30)
    ]
    np.testing.assert_allclose(np.mean(pieces, axis=(0, 1, 2)), 1.0, atol=0.2)
    turned = rays.gains(key, np.array([2]), carrier, first=0, slots=10, spacing=60, fidelity="system")
    np.testing.assert_array_equal(turned[:, :, 0], pieces[0][:, :, 2])


def test_a_deadline_ends_the_slot_loop_and_late_clients_sent_a_part():
    cell = replace(CELL, fidelity="system", scheduler=ProportionalFair())
    whole = deliver(cell, WORLD, IDS, work_of(3, down=1e5, up=2e9), deadline_s=2.0)
    assert (whole.status == STATUS["deadline"]).all()
    assert ((whole.up_sent_bits > 0.0) & (whole.up_sent_bits < 2e9)).all() and whole.round_s == 2.0


def test_sites_of_a_cluster_are_served_cell_by_cell():
    cell = replace(CELL, fidelity="system", sites=7, sectors=3)
    world = world_of(cell.place(6, STATIC))
    done = deliver(cell, world, np.arange(6), work_of(6, down=1e5, up=1e5))
    assert len(np.unique(done.cell)) > 2 and (done.status == STATUS["delivered"]).mean() > 0.5


@pytest.mark.parametrize(("share", "letters"), [(0.25, "DDDSU"), (0.4, "DDSUU"), (0.75, "DUUUU"), (0.05, "DDDSU")])
def test_the_slot_pattern_is_the_nearest_to_the_uplinks_share(share, letters):
    assert pattern(share) == letters


def test_too_many_clients_are_refused_in_one_sentence():
    from fedwave.core.errors import BadInput

    world = world_of(CELL.place(MAX_USERS + 1, STATIC))
    for fidelity in ("system", "link"):
        with pytest.raises(BadInput, match=f'"{fidelity}" is for at most 1,000 clients, got 1,001'):
            deliver(replace(CELL, fidelity=fidelity), world, IDS)


JOB = """
rounds = 2
[task]
name = "images"
data = "digits"
partition = {{ name = "iid", clients = 4 }}
[method]
name = "fedavg"
local_steps = 2
[network]
name = "cell"
scheduler = "round_robin"
radius_m = 150
indoor_share = 0
fidelity = "{fidelity}"
"""


@pytest.mark.parametrize("fidelity", ["system", "link"])
def test_a_job_of_four_clients(tmp_path, monkeypatch, fidelity):
    (tmp_path / "job.toml").write_text(JOB.format(fidelity=fidelity))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fedwave", "run", "job.toml", "--out", "out"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "rounds.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["delivered"] > 0 and line["uplink_s"] > 0.0 for line in lines)
