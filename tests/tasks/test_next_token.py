"""Cross-entropy in chunks equals cross-entropy at once, and no chunk is larger than it may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedwave.core import config
from fedwave.tasks.learners import next_token
from fedwave.tasks.learners.language import LanguageLearner
from fedwave.tasks.learners.next_token import cross_entropy

VOCAB, WIDTH = 50, 6


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("shape", [(13,), (3, 7)])
def test_chunks_equal_the_whole(monkeypatch: pytest.MonkeyPatch, trained: bool, shape: tuple[int, ...]) -> None:
    if len(shape) > 1 and not trained:
        pytest.skip("rows stay apart only under an output layer that is trained")
    torch.manual_seed(0)
    layer, seen = nn.Linear(WIDTH, VOCAB).requires_grad_(trained), []

    def score(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.numel() // WIDTH * VOCAB)
        return layer(hidden)

    wanted, factor = torch.randint(VOCAB, shape), torch.rand(shape)
    hidden = torch.randn(*shape, WIDTH, requires_grad=True)
    leaves = [hidden, *layer.parameters()] if trained else [hidden]
    whole = F.cross_entropy(layer(hidden).flatten(0, -2), wanted.flatten(), reduction="none").view(shape)
    expected = torch.autograd.grad((whole * factor).sum(), leaves)
    monkeypatch.setattr(next_token, "CHUNK", 4 * VOCAB)
    found = cross_entropy(score, hidden, wanted, vocab=VOCAB, trained=trained)
    torch.testing.assert_close(found, whole)
    for one, other in zip(torch.autograd.grad((found * factor).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(score, hidden, wanted, vocab=VOCAB, trained=trained), whole)
    assert max(seen) <= 4 * VOCAB and len(seen) > 4


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_learner_has_the_same_losses_and_gradients(
    llama: Path, dialogues: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    learner = learner_of(llama, dialogues, adapter)
    leaves = [learner.model.get_parameter(path) for path in learner.leaf_paths.values()]
    batch, found = learner.batch(np.array([0, 3, 1])), []
    for chunk in (next_token.CHUNK, 3 * 7 * 260):
        monkeypatch.setattr(next_token, "CHUNK", chunk)
        losses, terms = learner.row_losses(batch)
        found.append((losses, terms, *torch.autograd.grad((losses / terms).sum(), leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_an_output_that_is_not_understood_is_left_to_the_model(
    llama: Path, dialogues: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = learner_of(llama, dialogues, "lora")
    expected = plain.row_losses(plain.batch(np.arange(3)))[0]
    whole = LanguageLearner._score
    monkeypatch.setattr(
        LanguageLearner, "_score", lambda self, hidden: whole(self, hidden) * (1 if self._opaque else 2)
    )
    odd = learner_of(llama, dialogues, "lora")
    assert odd._opaque and not plain._opaque
    torch.testing.assert_close(odd.row_losses(odd.batch(np.arange(3)))[0], expected)


def learner_of(llama: Path, dialogues: Path, adapter: str) -> LanguageLearner:
    table = {"name": "causal-lm", "model": str(llama), "data": str(dialogues), "max_tokens": 80, "adapter": adapter}
    return config.build("task", table | {"partition": {"name": "iid", "clients": 2}}).build(0)
