"""Reference values with real weights and data, where they are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.models import sources

pytestmark = pytest.mark.slow


def need_model(name: str) -> None:
    try:
        sources.resolve(name, fetch=False)
    except BadInput:
        pytest.skip(f"model {name} is not on this machine: fedwave models get {name}")


def need_data(name: str) -> Path:
    root = os.environ.get("FEDWAVE_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(root) / name
    if not path.exists():
        pytest.skip(f"data {name} is not here: set FEDWAVE_DATA to the folder that holds it")
    return path


def test_untrained_smollm2_on_held_out_dialogues() -> None:
    # 3.474 nats a token, measured in bf16 on 204 held-out pairs of an equally deduplicated split of the corpus.
    need_model("smollm2-135m")
    task = config.build("task", {"name": "causal-lm", "dtype": "bfloat16"})
    learner = task.build(0)
    assert task.spec().trainable_parameters == 460_800  # r = 8 on query and value of 30 layers
    assert learner.evaluate()["loss"] == pytest.approx(3.474, abs=0.05)


def test_head_on_frozen_minilm_reaches_logistic_regression() -> None:
    # Logistic regression on the same features (mean pooling, unit length) of Banking77 reaches 93.1 %.
    need_model("minilm")
    folder = need_data("banking77")
    table = {"name": "text-classification", "data": str(folder / "train.csv"), "eval_data": str(folder / "test.csv")}
    learner = config.build("task", table | {"label_field": "category", "adapter": "head"}).build(0)
    assert len(learner.order) == 10_003 and len(learner.eval_rows) == 3_080
    optimizer = torch.optim.LBFGS(learner.model.parameters(), max_iter=60, line_search_fn="strong_wolfe")
    batch = learner.batch(learner.order)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        squares = sum(value.square().sum() for value in learner.model.parameters())
        loss = learner.row_losses(batch)[0].mean() + 0.05 * squares / len(learner.order)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert learner.evaluate()["accuracy"] == pytest.approx(0.931, abs=0.01)
