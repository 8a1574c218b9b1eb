"""What a plan states beyond means: ranges, seeds, what a catalogue leaves open."""

import dataclasses

import numpy as np
import pytest

from fedwave.experiment import Experiment
from fedwave.federation.sync import rehearse
from fedwave.planner import plan
from fedwave.planner.ranges import _quantiles
from fedwave.planner.rehearsed import rehearsed
from fedwave.planner.unsure import FACTOR, left_open

DEVICE = """
[device.board]
what = "a board"
peak_flops = {{ value = 1e9, unit = "FLOP/s", source = "page", basis = "{speed}" }}
memory_bytes = {{ value = 1e9, unit = "byte", source = "page", basis = "vendor" }}
memory_bandwidth_bytes_s = {{ value = 1e12, unit = "byte/s", source = "page", basis = "vendor" }}
active_power_w = {{ value = 5, unit = "W", source = "page", basis = "{power}" }}
"""


def toy(**changes):
    table = {
        "rounds": 8,
        "task": {"name": "toy", "clients": 12, "dimension": 1000, "samples_per_client": 32, "ragged": True},
        "network": {"name": "ideal", "uplink_mbps": 1.0}, "fleet": {"mix": {"board": 1.0}},
        "sampler": {"cohort": 4}, "server": {"device": "nvidia-l4"},
    }  # fmt: skip
    return Experiment.parse(table | changes)


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """``catalogue(speed, power)``: a board whose peak and power have these bases."""

    def write(speed, power):
        file = tmp_path / f"{speed}-{power}.toml"
        file.write_text(DEVICE.format(speed=speed, power=power))
        monkeypatch.setenv("FEDWAVE_CATALOGUE", str(file))

    return write


@pytest.mark.parametrize(
    ("speed", "power", "seconds", "joules"),
    [
        ("vendor", "measured", 1.0, 1.0),
        ("computed", "measured", FACTOR, FACTOR),
        ("vendor", "secondary", 1.0, FACTOR),
        ("secondary", "computed", FACTOR, FACTOR**2),
    ],
)
def test_what_a_catalogue_leaves_open_widens_what_is_stated(catalogue, speed, power, seconds, joules):
    """Every client computes rows x 4,000 FLOP at 2e8 FLOP/s and 5 W; on an ideal network joules are that alone, so the
    stated range is p5 over and p95 times the factor. The plan names device and number.
    """
    catalogue(speed, power)
    found = plan(toy())
    one = found.ranges["energy_j_per_client"]
    assert one.low == pytest.approx(one.p5 / joules) and one.high == pytest.approx(one.p95 * joules)
    one = found.ranges["compute_s"]
    assert one.low == pytest.approx(one.p5 / seconds) and one.high == pytest.approx(one.p95 * seconds)
    board = found.devices["board"]
    assert (board.seconds_factor, board.joules_factor) == (seconds, pytest.approx(joules))
    said = [text for text in found.assumptions if text.startswith("board:")]
    assert len(said) == (joules > 1.0)
    assert all(("peak_flops = 1e+09 FLOP/s" in text) == (seconds > 1.0) for text in said)
    assert all(("active_power_w = 5 W" in text) == (power in ("secondary", "computed")) for text in said)


def test_the_round_is_widened_by_what_computes_in_it(catalogue):
    """Equal rows: every round takes 0.032 s of upload (32,000 bits at 1 Mbit/s), 32 x 4,000 / 2e8 = 0.64 ms of
    computing per epoch and the server's part. Off by a quarter, computing takes 0.8 or 0.512 ms.
    """
    catalogue("computed", "vendor")
    job = toy(task={"name": "toy", "clients": 12, "dimension": 1000, "samples_per_client": 32})
    found = plan(job)
    compute_s, server_s = 32 * 4_000 / 2e8, found.server_s
    assert found.round_s == pytest.approx(0.032 + compute_s + server_s)
    one = found.ranges["round_s"]
    assert one.p5 == one.p95 == pytest.approx(found.round_s)
    assert one.high == pytest.approx(found.round_s + 0.25 * (compute_s + server_s))
    assert one.low == pytest.approx(found.round_s - 0.2 * (compute_s + server_s))
    late = plan(dataclasses.replace(job, federation=dataclasses.replace(job.federation, deadline_s=0.0327)))
    assert late.ranges["round_s"].high == pytest.approx(0.0327 + 1.25 * server_s)


def test_a_users_own_device_is_taken_at_its_word():
    """A ``[fleet.device]`` of the job's is not the catalogue's, whatever it is called."""
    from fedwave.devices import catalogue

    phone = catalogue.lookup("phone")
    assert left_open("phone", phone).seconds == FACTOR
    assert left_open("phone", dataclasses.replace(phone, peak_flops=2 * phone.peak_flops)).seconds == 1.0
    assert left_open("my own", phone).sentence == ""


def test_quantiles_hold_nine_of_ten_more():
    """Of n values in order, one more falls below the k-th with probability k / (n + 1): of 19, p5 is the least."""
    assert _quantiles(np.arange(1.0, 20.0)) == (1.0, 19.0)
    assert _quantiles(np.arange(1.0, 40.0)) == (2.0, 38.0)


def test_several_seeds_are_rehearsed(catalogue):
    """The own seed first; means are over all of them; with ``rounds`` it is alone."""
    catalogue("vendor", "vendor")
    job = toy()
    setting = job.setting()
    found = rehearsed(job, setting, None)
    own = [record.to_dict() for record, _ in rehearse(setting, 2)]
    assert [record.to_dict() for record, _ in found.rounds[:2]] == own
    assert found.takes_place and len(found.rounds) == 2 * found.seeds
    samples = {tuple(turn.cohort.samples) for _, turn in found.rounds}
    assert len(samples) > found.seeds  # other data in every seed
    first = [record.round for record, _ in found.rounds].count(0)
    assert first == pytest.approx(len(found.rounds) / job.rounds, abs=1)
    assert plan(job).round_s == pytest.approx(np.mean([record.round_s for record, _ in found.rounds]))
    means = [np.mean([r.round_s for r, _ in found.rounds[2 * k : 2 * k + 2]]) for k in range(found.seeds)]
    error = np.std(means, ddof=1) / found.seeds**0.5
    assert plan(job).round_s_error == pytest.approx(error / np.mean(means))
    alone = plan(job, rounds=3)
    assert (alone.seeds, alone.rehearsed, alone.round_s_error) == (1, 3, 0.0)
    assert plan(job) == plan(job)


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({}, 2),
        ({"network": "wifi-6"}, 8),  # rounds of 50 ms, and radios that stay awake for 200 ms
        ({"network": {"name": "5g-umi", "scheduler": "lyapunov"}, "federation": {"deadline_s": 100.0}}, 8),
    ],
)
def test_where_rounds_depend_on_those_before_all_are_rehearsed(catalogue, changes, rounds):
    catalogue("vendor", "vendor")
    found = plan(toy(**changes))
    assert found.rehearsed == rounds * found.seeds


def test_low_batteries_make_rounds_depend_on_those_before():
    """A client computes 32 x 4,000 / 2e8 s x 5 W = 3.2 mJ in each of 8 x 4 / 12 rounds: 8.5 mJ, and 8 are too few."""
    numbers = {"peak_flops": 1e9, "memory_bytes": 1e9, "memory_bandwidth_bytes_s": 1e12, "active_power_w": 5.0}
    task = {"name": "toy", "clients": 12, "dimension": 1000, "samples_per_client": 32}
    for battery_j, rounds in ((0.008, 8), (0.009, 2)):
        fleet = {"mix": {"own": 1.0}, "device": {"own": numbers | {"battery_j": battery_j}}}
        found = plan(toy(task=task, fleet=fleet))
        assert found.rehearsed == rounds * found.seeds
