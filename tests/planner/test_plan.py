"""What a plan says of a job, against what is known of it."""

import json
import math

import pytest

from fedwave.experiment import Experiment
from fedwave.planner import plan
from fedwave.planner.constraints import Yardsticks
from fedwave.planner.show import lines

LORA = {"name": "lora", "rank": 8, "targets": ["q_proj", "v_proj"]}


def job(**changes):
    return {
        "rounds": 10,
        "task": {"name": "causal-lm", "model": "smollm2-135m", "data": "chatterbot", "adapter": LORA, "batch_size": 4,
                 "max_tokens": 64},
        "method": {"name": "fedavg", "local_steps": 3, "local_optimizer": "adamw"},
        "sampler": {"name": "uniform", "cohort": 6},
        "fleet": {"mix": {"phone": 1.0}},
    } | changes  # fmt: skip


def walk(value):
    if isinstance(value, dict):
        for one in value.values():
            yield from walk(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from walk(one)
    else:
        yield value


def test_memory_part_by_part():
    """134,515,008 frozen weights in float32, 460,800 trained: their gradients once, AdamW's moments twice."""
    found = plan(Experiment.parse(job())).devices["phone"]
    trained = 30 * 8 * ((576 + 576) + (576 + 192))
    assert found.memory_bytes["weights"] == 4.0 * (134_515_008 + trained)
    assert found.memory_bytes["gradients"] == 4.0 * trained
    assert found.memory_bytes["optimizer"] == 8.0 * trained
    assert found.peak_memory_bytes == sum(found.memory_bytes.values())
    assert found.storage_bytes == 4.0 * (134_515_008 + trained)


def test_totals():
    found = plan(Experiment.parse(job()))
    assert found.delivered_share == 1.0 and found.total_bits == pytest.approx(
        (found.uplink_bits_per_client + found.downlink_bits_per_client) * 6 * 10
    )
    assert found.rounds_per_day == pytest.approx(86_400 / found.round_s)
    assert found.total_s == pytest.approx(10 * found.round_s)
    phone = found.devices["phone"]
    assert phone.battery_share == pytest.approx((phone.charged_j + phone.radio_j) / phone.battery_j)
    assert phone.charged_j >= phone.compute_j * (1.0 - 1e-9)
    # A client is in 6 of 21 rounds.
    assert found.battery_cycles == pytest.approx(phone.battery_share * 10 * 6 / 21)
    assert phone.tokens_per_j == pytest.approx(3 * 4 * 64 / phone.compute_j, rel=0.2)  # last batches may be smaller
    parts = found.downlink_s + found.compute_s + found.uplink_s + found.server_s
    assert parts == pytest.approx(found.round_s, rel=0.05)
    talk = found.downlink_s + found.uplink_s
    assert found.granularity == pytest.approx(found.compute_s / talk)


def test_everything_in_json_is_finite():
    table = plan(Experiment.parse(job())).to_dict()
    assert all(math.isfinite(value) for value in walk(table) if isinstance(value, float))
    assert json.loads(json.dumps(table))["devices"]["phone"]["fits"] is True
    assert 0.0 < table["air"]["share"] <= 1.0 and table["air"]["left_share"] == 1.0 - table["air"]["share"]


@pytest.mark.parametrize(
    ("yardsticks", "changes", "verdict", "binding"),
    [
        (Yardsticks(), {}, "suitable", None),
        (Yardsticks(battery_share=1e-5), {}, "conditional", "energy"),
        (Yardsticks(airtime_share=1e-3), {}, "conditional", "airtime"),
        (Yardsticks(days=1e-4), {}, "unsuitable", None),
        (
            Yardsticks(),
            {"fleet": {"mix": {"phone-mid": 1.0}}, "task": {"model": "llama-3.1-8b"}},
            "unsuitable",
            "memory",
        ),
    ],
)
def test_verdicts_of_jobs(yardsticks, changes, verdict, binding):
    table = job()
    table = table | changes | {"task": table["task"] | changes.get("task", {})}
    found = plan(Experiment.parse(table), yardsticks=yardsticks)
    assert found.verdict == verdict
    assert binding in (None, found.binding)
    first, *rest = lines(found)
    assert first.startswith(f"verdict: {verdict}; binding: {found.binding}")
    assert ("BROKEN" in "".join(rest)) == any(one.margin < 1 for one in found.constraints)


@pytest.mark.parametrize(
    ("fleet", "words"),
    [
        ({"mix": {"phone": 1.0}}, "(at 20% of peak, assumed)"),
        ({"mix": {"own": 1.0}, "device": {"own": {"training_efficiency": 0.15}}}, "(at 15% of peak)"),
        ({"mix": {"own": 1.0}, "device": {"own": {}}}, "(at 20% of peak, the default)"),
        ({"mix": {"phone": 1.0}, "device": {"phone": {"training_efficiency": 0.35}}}, "(at 35% of peak)"),
    ],
)
def test_the_share_of_the_peak_is_assumed_only_where_it_is_the_catalogues(fleet, words):
    rest = {"peak_flops": 1e12, "memory_bytes": 8e9, "memory_bandwidth_bytes_s": 2e10, "active_power_w": 5.0}
    own = {name: rest | given for name, given in fleet.get("device", {}).items()}
    found = plan(Experiment.parse(job(fleet=fleet | {"device": own})), rounds=1)
    assert words in "\n".join(lines(found))
