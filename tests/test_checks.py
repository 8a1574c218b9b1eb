"""Published figures that the whole chain must reproduce: payload, link and time together."""

import pytest

from fedwave import planner
from fedwave.experiment import Experiment
from fedwave.federation.sync import rehearse

UPLINK_MBPS, DOWNLINK_MBPS = 31.27, 241.61  # 5G averages of 51 countries, 2022


def job(**task):
    return Experiment.parse(
        {
            "rounds": 1,
            "task": {"name": "causal-lm", "model": "tiny-llama-1.1b", **task},
            "network": {"name": "ideal", "uplink_mbps": UPLINK_MBPS, "downlink_mbps": DOWNLINK_MBPS},
            "sampler": {"name": "uniform", "cohort": 2},
            "fleet": {"mix": {"rtx-4090": 1.0}},
        }
    )


def upload_s(experiment):
    record, turn = next(rehearse(experiment.setting(), 1))
    assert set(turn.delivery.status) == {0}
    return record.uplink_s, turn.work.up_bits[0]


def test_lora_update_of_tinyllama_takes_2_3_seconds():
    """TS 22.261's model transfer question at real averages: 9,011,200 bytes at 31.27 Mbit/s are 2.305 s."""
    seconds, bits = upload_s(job(adapter={"name": "lora", "rank": 16, "alpha": 16, "targets": ["q_proj", "v_proj"]}))
    assert bits == 8 * 9_011_200
    assert seconds == pytest.approx(9_011_200 * 8 / 31.27e6, rel=1e-9)
    assert seconds == pytest.approx(2.3, abs=0.01)


@pytest.mark.parametrize(
    ("model", "rank", "size"), [("tiny-llama-1.1b", 16, 9_011_200), ("llama-3.2-3b", 8, 9_175_040)]
)
def test_lora_payloads_of_the_field(model, rank, size):
    """Query and value projections in float32: published sizes of an upload, in bytes."""
    adapter = {"name": "lora", "rank": rank, "targets": ["q_proj", "v_proj"]}
    found = planner.plan(job(model=model, adapter=adapter))
    assert found.uplink_bits_per_client == found.downlink_bits_per_client == 8 * size
    assert found.trainable_parameters == size // 4
    assert found.uplink_s == pytest.approx(8 * size / (UPLINK_MBPS * 1e6))


def test_lora_of_roberta_base_has_294_912_values():
    """12 layers x 2 projections x rank 8 x (768 + 768), beside the head of a classifier."""
    task = {"name": "text-classification", "model": "roberta-base", "data": "chatterbot", "text_field": "prompt",
            "label_field": "topic", "adapter": {"name": "lora", "rank": 8, "targets": ["query", "value"]}}  # fmt: skip
    experiment = Experiment.parse({"task": task, "fleet": {"mix": {"rtx-4090": 1.0}}})
    spec, found = experiment.setting().spec, planner.plan(experiment)
    head = sum(leaf.size for name, leaf in spec.trainable.items() if name.startswith("head."))
    assert found.trainable_parameters - head == 294_912
    assert found.uplink_bits_per_client == 32 * (294_912 + head)


def test_full_upload_of_tinyllama_in_fp16_takes_563_seconds():
    """1.1 B parameters in two bytes are 2.2 GB: 563 s. Full updates here are fp32, hence twice that."""
    experiment = job(adapter="full")
    plan = planner.plan(experiment)
    assert plan.model_parameters == pytest.approx(1.1e9, rel=0.001)
    assert plan.uplink_bits_per_client / 2 == pytest.approx(2.2e9 * 8, rel=0.001)
    assert plan.uplink_bits_per_client / 2 / (UPLINK_MBPS * 1e6) == pytest.approx(563, abs=1)


def test_138_megabytes_in_one_second_need_1_1_gigabit():
    """TS 22.261: a model of 138 MB within 1 s. 34.5 M float32 values are 138 MB; at 1.104 Gbit/s they take 1 s."""
    experiment = Experiment.parse(
        {
            "task": {"name": "toy", "dimension": 34_500_000, "clients": 1},
            "network": {"name": "ideal", "downlink_mbps": 1104},
            "sampler": {"name": "uniform", "cohort": 1},
        }
    )
    record, _ = next(rehearse(experiment.setting(), 1))
    assert record.downlink_s == pytest.approx(1.0, rel=1e-9)


def test_fedkseed_needs_less_than_18_kilobytes():
    experiment = job(adapter="full")
    table = experiment.to_table()
    table["method"] = {"name": "fedkseed", "local_optimizer": {"name": "sgd", "lr": 1e-6}, "local_steps": 1}
    plan = planner.plan(Experiment.parse(table))
    assert plan.uplink_bits_per_client == plan.downlink_bits_per_client == 8 * 16_384
