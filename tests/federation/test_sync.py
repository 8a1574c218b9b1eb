"""The round's accounting: critical path, base changes that were missed, quorum, the server's cost."""

import dataclasses

import numpy as np
import pytest

from fedwave.core.errors import BadInput
from fedwave.core.types import World
from fedwave.devices import catalogue
from fedwave.experiment import Experiment
from fedwave.federation.server import Server
from fedwave.federation.setting import _missed, prepare
from fedwave.federation.sync import _critical_path, rehearse

TABLE = {
    "task": {"name": "toy", "clients": 8, "dimension": 4}, "sampler": {"cohort": 3}, "rounds": 5,
    "network": {"name": "ideal", "uplink_mbps": 1.0, "downlink_mbps": 2.0, "latency_s": 0.5},
}  # fmt: skip


def test_ideal_round_by_hand():
    """4 float32 values are 128 bits: 64 us down at 2 Mbit/s and 128 us up at 1 Mbit/s, each after 0.5 s."""
    record, turn = next(rehearse(Experiment.parse(TABLE).setting(), 1))
    assert (record.uplink_bits, record.downlink_bits, record.clients, record.delivered) == (3 * 128, 3 * 128, 3, 3)
    assert record.downlink_s == pytest.approx(0.5 + 64e-6, rel=1e-12)
    assert record.uplink_s == pytest.approx(0.5 + 128e-6, rel=1e-9)
    assert record.round_s == pytest.approx(record.downlink_s + record.compute_s + record.uplink_s + record.server_s)
    assert record.energy_j == pytest.approx(record.energy_compute_j + record.energy_radio_j + record.energy_server_j)
    # Waiting for the others is charged at idle power on top of the computing.
    waiting_j = (turn.delivery.compute_j - turn.compute.joules.sum(0)).sum()
    assert 0 <= waiting_j < 1e-3 * turn.compute.joules.sum()
    assert record.energy_compute_j == pytest.approx(turn.compute.joules.sum() + waiting_j, rel=1e-12)


def test_critical_path_is_that_of_the_last_client_and_ends_with_the_round():
    _, turn = next(rehearse(Experiment.parse(TABLE).setting(), 1))
    delivery = dataclasses.replace(
        turn.delivery, downlink_s=np.array([1.0, 2.0, np.nan]), compute_s=np.array([1.0, 3.0, np.nan]),
        uplink_s=np.array([1.0, 4.0, np.nan]), round_s=9.5, server_s=0.5,
    )  # fmt: skip
    assert _critical_path(delivery) == (2.0, 3.0, 4.0)
    # A deadline after 4 s (and 0.5 s of server) cuts the computation at 2 of 3 s; nothing is left for the upload.
    assert _critical_path(dataclasses.replace(delivery, round_s=4.5)) == (2.0, 2.0, 0.0)
    nobody = np.full(3, np.nan)
    # Nobody finished the download: that is what the 9 s were spent on.
    assert _critical_path(dataclasses.replace(delivery, downlink_s=nobody, compute_s=nobody, uplink_s=nobody)) == (
        9.0,
        0.0,
        0.0,
    )


def test_missed_base_changes():
    """Changes of rounds 0, 1, 2 are 10, 20, 40 bits; who heard round r's broadcast lacks those from r on."""
    turn = prepare(Experiment.parse(TABLE).setting(), Experiment.parse(TABLE).setting().world())
    world = World(round=3, clock_s=0.0, battery_j=np.zeros(8), position_m=np.zeros((8, 2)),
                  last_round=np.full(8, -1), base_bits=np.array([10.0, 20.0, 40.0]))  # fmt: skip
    cohort = dataclasses.replace(turn.cohort, last_round=np.array([-1, 1, 2]))
    assert _missed(world, cohort).tolist() == [70.0, 60.0, 40.0]


def test_the_world_moves_on():
    setting = Experiment.parse(TABLE).setting()
    records = [record for record, _ in rehearse(setting, 5)]
    assert [record.round for record in records] == [0, 1, 2, 3, 4]
    assert [record.sim_time_s for record in records] == pytest.approx(np.cumsum([record.round_s for record in records]))


def test_server_cost_is_a_roofline():
    """FLOPs over what is reached of the peak, or two bytes a FLOP over the bandwidth, whichever is longer."""
    device = catalogue.lookup("nvidia-l4")
    seconds, joules = Server().cost(1e12)
    compute_s = 1e12 / (device.training_efficiency * device.peak_flops)
    assert seconds == pytest.approx(max(compute_s, 2e12 / device.memory_bandwidth_bytes_s))
    assert joules == pytest.approx(seconds * device.active_power_w)
    with pytest.raises(BadInput, match="unknown device 'nvidia-l5'; did you mean 'nvidia-l4'"):
        Server(device="nvidia-l5").cost(1.0)


def test_radio_power_stays_below_what_the_radio_draws():
    """All ten clients in every one of 60 short rounds: mean radio power cannot exceed the model's largest intercept
    (1.288 W) by more than the slope per bit and the one tail that is still to run at the end.
    """
    from fedwave.experiment import Experiment
    from fedwave.federation.sync import rehearse

    experiment = Experiment.parse({
        "rounds": 60, "task": {"name": "toy", "clients": 10}, "network": {"name": "cell"},
        "sampler": {"name": "uniform", "cohort": 10}, "fleet": {"mix": {"phone": 1.0}},
    })  # fmt: skip
    records = [record for record, _ in rehearse(experiment.setting(), 60)]
    seconds, joules = records[-1].sim_time_s, sum(r.energy_radio_j for r in records) / 10
    bits = sum(r.uplink_bits + r.downlink_bits for r in records) / 10
    tail = 1.06 * 10
    assert joules <= 1.288 * seconds + 32.2e-9 * bits + tail
    assert joules >= 1.06 * seconds  # awake throughout
