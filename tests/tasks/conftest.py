"""Tiny models and data files shared by the task tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedwave.core import config
from fedwave.tasks.task import Task
from fedwave.testing import tiny_bert, tiny_llama, tiny_vit


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 dialogues of three speakers with answers of unequal length."""
    rows = [
        {"prompt": f"question {i}?", "response": "yes " * (1 + i % 5) + str(i), "who": f"c{i % 3}"} for i in range(24)
    ]
    return write_jsonl(tmp_path_factory.mktemp("data") / "dialogues.jsonl", rows)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 texts of three classes."""
    words = ("alpha", "beta", "gamma")
    rows = [{"text": f"{words[i % 3]} " * (1 + i % 4) + str(i), "label": words[i % 3]} for i in range(36)]
    return write_jsonl(tmp_path_factory.mktemp("data") / "labelled.jsonl", rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


CASES = (
    "toy",
    "images",
    "images-head",
    "images-cnn",
    "images-cnn-head",
    "vit-lora",
    "vit-head",
    "vit-full",
    "lm-lora",
    "lm-text",
    "lm-full",
    "lm-bf16",
    "class-lora",
    "class-head",
    "class-full",
)


@pytest.fixture(params=CASES)
def task(request: pytest.FixtureRequest, llama: Path, bert: Path, vit: Path, dialogues: Path, labelled: Path) -> Task:
    """Every task in every form, small."""
    return make(request.param, llama, bert, vit, dialogues, labelled)


def make(case: str, llama: Path, bert: Path, vit: Path, dialogues: Path, labelled: Path) -> Task:
    image = {"name": "images", "model": str(vit), "partition": {"name": "iid", "clients": 4}, "eval_samples": 60}
    lora = {"name": "lora", "rank": 4}
    lm = {"name": "causal-lm", "model": str(llama), "data": str(dialogues), "max_tokens": 80, "eval_fraction": 0.25}
    lm["partition"] = {"name": "column", "column": "who"}
    text = {"name": "text-classification", "model": str(bert), "data": str(labelled), "eval_fraction": 0.25}
    text["partition"] = {"name": "iid", "clients": 4}
    tables: dict[str, dict[str, Any]] = {
        "toy": {"name": "toy", "clients": 4, "ragged": True, "samples_per_client": 6},
        "images": {"name": "images", "hidden": [16], "partition": {"name": "shards", "clients": 10}},
        "images-head": {"name": "images", "hidden": [16, 8], "adapter": "head"},
        "images-cnn": {"name": "images", "model": "cnn", "hidden": [8, 12], "eval_samples": 60},
        "images-cnn-head": {"name": "images", "model": "cnn", "hidden": [8], "image_size": 6, "adapter": "head"},
        "vit-lora": image | {"adapter": lora, "pooling": "mean"},
        "vit-head": image | {"adapter": "head"},
        "vit-full": image | {"adapter": "full", "image_size": 12},
        "lm-lora": lm | {"adapter": {"name": "lora", "rank": 4}},
        "lm-text": lm | {"data": str(labelled), "partition": {"name": "column", "column": "label"}, "max_tokens": 8},
        "lm-full": lm | {"adapter": "full"},
        "lm-bf16": lm | {"dtype": "bfloat16"},
        "class-lora": text | {"adapter": {"name": "lora", "rank": {"phone": 2, "board": 4}}},
        "class-head": text | {"adapter": "head", "pooling": "cls", "normalize": False},
        "class-full": text | {"adapter": "full"},
    }
    return config.build("task", tables[case])
