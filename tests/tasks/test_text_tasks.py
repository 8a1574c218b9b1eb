"""Specs, adapters and refusals of the text tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.tasks.adapters import Lora


def lm(llama: Path, dialogues: Path, **more: Any) -> Any:
    table = {
        "name": "causal-lm",
        "model": str(llama),
        "data": str(dialogues),
        "partition": {"name": "column", "column": "who"},
    }
    return config.build("task", table | more)


def test_lora_spec_by_hand(llama: Path, dialogues: Path) -> None:
    # Width 32; query 32 -> 32, value 32 -> 2 heads x 8 = 16; two layers; rank 4:
    # leaves per layer 4 x 32 + 32 x 4 + 4 x 32 + 16 x 4 = 448, so 896 values.
    full, spec = (
        lm(llama, dialogues, adapter="full").spec(),
        lm(llama, dialogues, adapter={"name": "lora", "rank": 4}).spec(),
    )
    assert spec.trainable_parameters == 896 and spec.max_rank == 4 and spec.lora_scale == 4.0
    assert spec.model_parameters == full.model_parameters + 896 and spec.base_bytes == 4 * full.model_parameters
    assert spec.forward_flops == full.forward_flops + 2 * 64 * 896
    assert spec.backward_flops == full.forward_flops + 4 * 64 * 896 and full.backward_flops == 2 * full.forward_flops
    assert list(spec.bases.values()) == [(32, 32), (16, 32)] * 2
    half = lm(llama, dialogues, adapter={"name": "lora", "rank": 4}, dtype="bfloat16").spec()
    assert half.base_bytes == spec.base_bytes // 2 and half.activation_bytes < spec.activation_bytes


def test_ranks_by_device_share_one_scale(llama: Path, dialogues: Path) -> None:
    task = lm(llama, dialogues, adapter={"name": "lora", "rank": {"phone": 2, "board": 8}, "alpha": 16})
    assert task.ranks(("board", "phone"), np.array([1, 0, 1])).tolist() == [2, 8, 2]
    assert task.spec().max_rank == 8 and task.spec().lora_scale == 2.0  # alpha / largest rank
    with pytest.raises(BadInput, match=r"adapter\.rank has no entry for device 'laptop' \(it has: board, phone\)"):
        task.ranks(("board", "laptop"), np.array([0, 1]))
    assert lm(llama, dialogues, adapter="full").ranks(("board",), np.zeros(3, int)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, {}, {"phone": 0}, "eight"])
def test_bad_ranks(rank: Any) -> None:
    with pytest.raises(BadInput, match="rank: must be an integer >= 1"):
        config.build("adapter", {"name": "lora", "rank": rank})


def test_adapters_are_written_and_read_back() -> None:
    for adapter in (Lora(rank={"phone": 2}, targets=("q_proj",)), Lora()):
        assert config.build("adapter", config.dump(adapter)) == adapter


def test_targets_may_be_chosen(llama: Path, dialogues: Path) -> None:
    task = lm(
        llama, dialogues, adapter={"name": "lora", "rank": 2, "targets": ["gate_proj", "layers.0.self_attn.o_proj"]}
    )
    learner = task.build(0)
    assert list(learner.spec.bases) == [
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj",
        "model.layers.1.mlp.gate_proj",
    ]
    with pytest.raises(BadInput, match="query"):
        lm(llama, dialogues, adapter={"name": "lora", "targets": ["query"]}).spec()


def test_refusals(llama: Path, bert: Path, dialogues: Path, labelled: Path) -> None:
    with pytest.raises(BadInput, match="so adapter cannot be 'head'"):
        lm(llama, dialogues, adapter="head")
    with pytest.raises(BadInput, match="needs a causal language model"):
        lm(bert, dialogues).spec()
    with pytest.raises(BadInput, match="needs a text encoder"):
        config.build("task", {"name": "text-classification", "model": str(llama), "data": str(labelled)}).spec()
    with pytest.raises(BadInput, match="must have the fields prompt and response, or txt"):
        lm(llama, labelled, text_field="txt").samples(0)
    with pytest.raises(BadInput, match="unknown field 'label'"):
        config.build("task", {"name": "text-classification", "model": str(bert), "data": str(dialogues)}).samples(0)


def test_other_columns_serve_as_text_and_label(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("query,category\n" + "".join(f"text {i},{i % 3}\n" for i in range(30)))
    table = {"name": "text-classification", "model": str(bert), "data": str(path), "text_field": "query"}
    task = config.build(
        "task", table | {"label_field": "category", "partition": {"name": "column", "column": "category"}}
    )
    assert task.spec().output.shape == (3,) and len(task.samples(0)) == 3


def test_label_skew_of_dialogues_by_a_column(llama: Path, dialogues: Path) -> None:
    skewed = lm(llama, dialogues, label_field="who", partition={"name": "shards", "clients": 3, "shards_per_client": 1})
    assert skewed.samples(0).sum() == lm(llama, dialogues).samples(0).sum()


def test_defaults_classify_questions_by_topic() -> None:
    train, _ = config.build("task", "text-classification").tables()
    assert train.columns["text"] == train.columns["prompt"] and len(set(train.labels("label"))) == 21
