"""The learner contract, over every task in every form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.tasks.task import Task


def test_trainable_leaves_equal_the_spec(task: Task) -> None:
    learner = task.build(3)
    assert learner.spec == task.spec()
    parameters = dict(learner.model.named_parameters())
    leaves = {
        name: (tuple(parameters[path].shape), parameters[path].dtype) for name, path in learner.leaf_paths.items()
    }
    assert list(leaves.items()) == [(n, (leaf.shape, torch.float32)) for n, leaf in task.spec().trainable.items()]
    trainable = {path for path, value in parameters.items() if value.requires_grad}
    assert trainable == set(learner.leaf_paths.values())
    for name, (out, into) in learner.spec.bases.items():
        assert parameters[learner.base_paths[name]].shape == (out, into)
    assert learner.base_paths.keys() == learner.spec.bases.keys()
    assert not learner.model.training


def test_model_size_counts_what_is_in_the_model(task: Task) -> None:
    learner, spec = task.build(0), task.spec()
    assert spec.trainable_parameters == sum(value.numel() for value in learner.initial.values())
    if not isinstance(learner.model, torch.nn.Linear):  # a cached head has let its encoder go
        assert spec.model_parameters == sum(value.numel() for value in learner.model.parameters())
        frozen = [p for p in learner.model.parameters() if not p.requires_grad]
        assert spec.base_bytes == sum(value.numel() * value.element_size() for value in frozen)


def test_initial_values_follow_the_seed_and_are_in_the_model(task: Task) -> None:
    first, again = task.build(3), task.build(3)
    parameters = dict(first.model.named_parameters())
    for name, value in first.initial.items():
        assert torch.equal(value, again.initial[name])
        assert torch.equal(value, parameters[first.leaf_paths[name]].detach())


def test_building_leaves_the_callers_generator_alone(task: Task) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    task.build(0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("public", [0, 3])
def test_clients_and_public_rows_are_disjoint_and_complete(task: Task, public: int) -> None:
    learner = task.build(1, public=public)
    assert np.array_equal(np.diff(learner.offsets), task.samples(1, public=public))
    assert len(learner.public_rows) == public and learner.clients == len(task.samples(1))
    everyone = np.concatenate([learner.order, learner.public_rows])
    assert np.array_equal(np.sort(everyone), np.arange(len(everyone)))
    if task.registered_name != "toy":  # type: ignore[attr-defined]  # the toy is evaluated on its own pooled data
        assert learner.eval_rows.min() == len(everyone)


def test_padding_rows_weigh_nothing_and_change_nothing(task: Task) -> None:
    learner = task.build(0)
    with torch.no_grad():
        for name, value in learner.model.named_parameters():
            if name in learner.leaf_paths.values():
                value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    rows = np.array([2, -1, 0, 5, -1])
    loss, weight = learner.row_losses(learner.batch(rows))
    assert loss.shape == weight.shape == (5,) and loss.requires_grad
    assert loss[[1, 4]].tolist() == weight[[1, 4]].tolist() == [0.0, 0.0]
    tolerance = 0.03 if getattr(task, "dtype", "") == "bfloat16" else 1e-5
    for place in (0, 2, 3):
        alone, count = learner.row_losses(learner.batch(rows[place : place + 1]))
        assert count.item() == weight[place].item() > 0
        torch.testing.assert_close(loss[place], alone[0], rtol=tolerance, atol=tolerance)
    assert learner.row_losses(learner.batch(np.array([-1])))[0].tolist() == [0.0]
    loss.sum().backward()
    for name, path in learner.leaf_paths.items():
        grad = learner.model.get_parameter(path).grad
        assert grad is None or bool(torch.isfinite(grad).all()), name


def test_evaluation_is_the_mean_over_held_out_terms(task: Task) -> None:
    learner = task.build(0)
    sums = [0.0, 0.0]
    with torch.no_grad():
        for row in learner.eval_rows[:400]:
            loss, weight = learner.row_losses(learner.batch(np.array([row])))
            sums = [sums[0] + loss.item(), sums[1] + weight.item()]
    tolerance = 0.03 if getattr(task, "dtype", "") == "bfloat16" else 1e-4
    assert learner.evaluate()["loss"] == pytest.approx(sums[0] / sums[1], rel=tolerance)


def test_predictions_and_distance(task: Task) -> None:
    learner, output = task.build(0), task.spec().output
    batch = learner.batch(np.arange(4))
    if output is None:
        with pytest.raises(BadInput, match="logits"):
            learner.predict(batch)
        return
    predicted = learner.predict(batch)
    assert predicted.shape == (4, *output.shape)
    assert torch.allclose(learner.distance(predicted, predicted), torch.zeros(4), atol=1e-6)
    assert bool(
        (learner.distance(predicted, predicted + torch.arange(predicted.numel()).view_as(predicted)) >= 0).all()
    )


def test_class_distance_is_the_kl_divergence(labelled: Path, bert: Path) -> None:
    table = {"name": "text-classification", "model": str(bert), "data": str(labelled), "adapter": "head"}
    learner = config.build("task", table).build(0)
    # KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 log(3/2) + 1/4 log(1/2)
    target, predicted = torch.log(torch.tensor([[0.75, 0.25]])), torch.zeros(1, 2)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert learner.distance(predicted, target).item() == pytest.approx(expected, rel=1e-5)


def test_untrained_classifier_has_the_loss_of_a_guess(labelled: Path, bert: Path) -> None:
    table = {"name": "text-classification", "model": str(bert), "data": str(labelled)}
    assert config.build("task", table).build(0).evaluate()["loss"] == pytest.approx(np.log(3), rel=1e-6)


def test_cached_features_give_the_head_that_the_whole_model_has(labelled: Path, bert: Path) -> None:
    table = {"name": "text-classification", "model": str(bert), "data": str(labelled)}
    seen: list[tuple[int, int]] = []
    head = config.build("task", table | {"adapter": "head"}).build(0, progress=lambda done, of: seen.append((done, of)))
    whole = config.build("task", table).build(0)  # LoRA's B is zero, so the encoder is the pretrained one
    weight = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.model.get_parameter("weight").copy_(weight)
        whole.model.get_parameter("head.weight").copy_(weight)
    rows = np.arange(6)
    torch.testing.assert_close(head.predict(head.batch(rows)), whole.predict(whole.batch(rows)))
    assert seen[-1] == (36, 36)
    assert not any("encoder" in name for name, _ in head.model.named_parameters())


def test_language_loss_is_that_of_transformers(llama: Path, dialogues: Path) -> None:
    table = {"name": "causal-lm", "model": str(llama), "data": str(dialogues), "max_tokens": 80}
    task = config.build("task", table | {"partition": {"name": "column", "column": "who"}})
    learner = task.build(0)
    for row in (0, 4):
        batch = learner.batch(np.array([row]))
        loss, weight = learner.row_losses(batch)
        labels = torch.full_like(batch["input_ids"], -100)
        labels.scatter_(1, batch["place"], batch["input_ids"].gather(1, batch["place"]))
        theirs = learner.model(input_ids=batch["input_ids"], labels=labels).loss
        torch.testing.assert_close(loss[0] / weight[0], theirs)


@pytest.mark.parametrize("setting", ["final_logit_softcapping", "logits_scaling", "logit_scale"])
def test_families_with_scaled_logits_get_their_own(tmp_path: Path, dialogues: Path, setting: str) -> None:
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
    )

    from fedwave.testing import tiny_llama

    folder = tiny_llama(tmp_path / "model")
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    sizes |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    classes = {
        "final_logit_softcapping": (Gemma2ForCausalLM, Gemma2Config),
        "logits_scaling": (GraniteForCausalLM, GraniteConfig),
        "logit_scale": (CohereForCausalLM, CohereConfig),
    }
    model, settings = classes[setting]
    model(settings(**sizes, initializer_range=0.2, **{setting: 0.5})).save_pretrained(folder)
    table = {"name": "causal-lm", "model": str(folder), "data": str(dialogues), "max_tokens": 80}
    learner = config.build("task", table | {"partition": {"name": "iid", "clients": 2}}).build(0)
    assert not learner._opaque
    batch = learner.batch(np.array([1]))
    logits = learner.model(input_ids=batch["input_ids"]).logits
    before, wanted = batch["place"][0] - 1, batch["input_ids"][0, batch["place"][0]]
    expected = F.cross_entropy(logits[0, before], wanted, reduction="sum")
    torch.testing.assert_close(learner.row_losses(batch)[0][0], expected)


def test_planning_imports_no_torch(llama: Path, bert: Path, vit: Path, dialogues: Path, labelled: Path) -> None:
    code = f"""
import sys
from fedwave.core import config, registry
for name in registry.names("task"):
    if name != "custom":  # its factory is the user's own module
        config.build("task", name)
lm = {{"name": "causal-lm", "model": {str(llama)!r}, "data": {str(dialogues)!r}, "partition": "iid"}}
text = {{"name": "text-classification", "model": {str(bert)!r}, "data": {str(labelled)!r}}}
image = {{"name": "images", "model": {str(vit)!r}, "adapter": "lora"}}
for table in (lm, text, image, {{"name": "images"}}, {{"name": "images", "model": "cnn"}}, {{"name": "toy"}}):
    task = config.build("task", table)
    task.spec(), task.samples(0)
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
