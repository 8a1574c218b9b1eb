"""What adds up over a job: base changes that pile up, batteries that run down, days, bits on the air."""

import numpy as np
import pytest

from fedwave.experiment import Experiment
from fedwave.federation.setting import booked, prepare
from fedwave.federation.sync import rehearse
from fedwave.planner import plan

from .test_plan import job

CAMERA = {
    "peak_flops": 8e9, "memory_bytes": 512e6, "memory_bandwidth_bytes_s": 3e9, "active_power_w": 2.5,
    "idle_power_w": 0.4, "battery_j": 200.0, "training_efficiency": 0.15,
}  # fmt: skip
SMALL = {
    "task": {"name": "images", "model": "mlp", "partition": {"name": "iid", "clients": 10}},
    "method": {"name": "fedavg", "local_steps": 4},
    "sampler": {"name": "uniform", "cohort": 10},
    "network": {"name": "cell"},
}


def all_rounds(experiment):
    return list(rehearse(experiment.setting(), experiment.rounds))


def test_batteries_that_run_down_before_the_end():
    """Played to its end the job is dead for most of it; so it is planned, from rounds spread over it."""
    camera = CAMERA | {"battery_j": 100.0}
    experiment = Experiment.parse(
        SMALL | {"rounds": 100, "fleet": {"mix": {"camera": 1.0}, "device": {"camera": camera}}}
    )
    found, played = plan(experiment), all_rounds(experiment)
    assert np.mean([record.delivered == 0 for record, _ in played]) > 0.5
    assert (found.verdict, found.binding) == ("unsuitable", "energy")
    assert any("no battery is charged" in one for one in found.assumptions)


def test_rounds_spread_over_a_job_see_its_batteries_run_down():
    """Of the same seed, every fifth round: what those between spend is what like ones spent, to 15 %."""
    camera = CAMERA | {"battery_j": 400.0}
    experiment = Experiment.parse(
        SMALL | {"rounds": 100, "fleet": {"mix": {"camera": 1.0}, "device": {"camera": camera}}}
    )
    played, spread = all_rounds(experiment), list(rehearse(experiment.setting(), range(2, 100, 5)))
    heard, there = (np.mean([record.delivered for record, _ in rounds]) for rounds in (spread, played))
    assert there < 8.0 and heard == pytest.approx(there, rel=0.2)
    spent, all_spent = (np.mean([record.energy_j for record, _ in rounds]) for rounds in (spread, played))
    assert spent == pytest.approx(all_spent, rel=0.15)


def test_base_changes_pile_up_to_the_end():
    """Who was away for long downloads a lot, and nobody has been away for long in the first rounds."""
    table = job() | {"rounds": 200, "method": {"name": "flora", "local_steps": 1}, "network": {"name": "ideal"}}
    table["sampler"] = {"name": "uniform", "cohort": 2}
    experiment = Experiment.parse(table)
    found, played = plan(experiment), all_rounds(experiment)
    bits = [turn.work.down_bits.mean() for _, turn in played]
    assert np.mean(bits[:20]) < 0.8 * np.mean(bits)  # the first rounds would not tell
    assert found.downlink_bits_per_client == pytest.approx(np.mean(bits), rel=0.1)


def test_rounds_between_those_that_are_looked_at_are_booked():
    """On an ideal link all are alike, so that booking a round leaves the world that playing it leaves."""
    table = job() | {"rounds": 9, "method": {"name": "flora", "local_steps": 1}, "network": {"name": "ideal"}}
    setting = Experiment.parse(table | {"fleet": {"mix": {"phone": 1.0}}}).setting()
    world = setting.world()
    turn = prepare(setting, world)
    after = booked(setting, world, turn)
    (_, second), *_ = list(rehearse(setting, [1]))
    played = list(rehearse(setting, 2))[1][1]
    np.testing.assert_array_equal(second.cohort.ids, played.cohort.ids)
    np.testing.assert_allclose(second.work.down_bits, played.work.down_bits)
    spent = world.battery_j[turn.cohort.ids] - after.battery_j[turn.cohort.ids]
    np.testing.assert_allclose(spent, (turn.delivery.radio_j + turn.delivery.compute_j).mean())
    assert after.clock_s == pytest.approx(turn.delivery.round_s)


def test_what_is_suitable_is_over_in_time():
    """A way to the cloud of 85 h a round: phones on mains would wait for nothing else."""
    slow = {"cloud": {"rate_mbps": 2e-6}}
    experiment = Experiment.parse(SMALL | {"rounds": 30, "server": slow, "fleet": {"mix": {"laptop": 1.0}}})
    found = plan(experiment)
    assert found.total_s > 30 * 86_400.0
    assert (found.verdict, found.binding) == ("unsuitable", "server")


@pytest.mark.parametrize("downlink", ["unicast", "multicast"])
def test_bits_in_all_are_those_on_the_air(downlink):
    """A broadcast is sent once, what is lost is counted as far as it was sent: as the ledger of a run does."""
    cell = {"name": "cell", "scenario": "UMa", "radius_m": 3000.0, "downlink": {"name": downlink}}
    experiment = Experiment.parse(SMALL | {"rounds": 5, "network": cell})
    found, played = plan(experiment, rounds=5), all_rounds(experiment)
    assert found.delivered_share < 1.0
    assert found.total_bits == pytest.approx(sum(record.uplink_bits + record.downlink_bits for record, _ in played))


def test_nobody_in_the_cohort_is_not_nobody_at_all():
    """A seed whose first cohort is out of reach says nothing about memory."""
    cell = {"name": "cell", "scenario": "UMa", "radius_m": 1500.0}
    lone = SMALL | {"rounds": 10, "network": cell, "sampler": {"name": "uniform", "cohort": 1}}
    for seed in range(6):
        found = plan(Experiment.parse(lone | {"seed": seed}))
        assert found.delivered_share > 0.0
        assert not any("no device that was met" in one for one in found.assumptions)


def test_a_job_of_more_rounds_than_are_gone_through():
    """No client has more than one battery to spend, however many rounds the job has."""
    camera = CAMERA | {"battery_j": 2_000.0}
    fleet = {"mix": {"camera": 1.0}, "device": {"camera": camera}}
    found = plan(Experiment.parse(SMALL | {"rounds": 6_000, "fleet": fleet}))
    assert found.verdict == "unsuitable"
    assert found.total_energy_j < 1.2 * 10 * 2_000.0
    assert any("as if 1,500 rounds were all" in one for one in found.assumptions)


def test_a_deadline_does_not_turn_joules_negative():
    """Training that is cut off has not spent what all of it would have, so it is not all that may be off."""
    task = job()["task"] | {"model": "llama-3.2-1b", "dtype": "bfloat16", "max_tokens": 256}
    found = plan(Experiment.parse(job() | {"task": task, "federation": {"deadline_s": 20.0}}))
    assert found.delivered_share < 1.0
    spread = found.ranges["energy_j_per_client"]
    assert 0.0 < spread.low <= spread.p5 <= spread.p95 <= spread.high
