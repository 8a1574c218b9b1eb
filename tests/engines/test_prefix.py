"""Training from kept activations equals training the whole model; what is kept depends on weights and samples alone."""

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from fedwave.core import config
from fedwave.core.errors import Refused
from fedwave.engines.wrapped.activations import Layout
from fedwave.engines.wrapped.layers import frozen_layers
from fedwave.engines.wrapped.prefix import PREFIX, PrefixLearner
from fedwave.models import sources
from fedwave.tasks.learner import Learner
from fedwave.testing import tiny_bert, tiny_llama, tiny_vit

sys.path.insert(0, str(Path(__file__).parents[1]))
from references.plain import train_alone

from .test_equality import largest_difference, sentences, stacked, write_jsonl

ROOM = 10**8


def tiny_gpt2(folder):
    """A random GPT-2 of 4 layers with the tokenizer of the tiny Llama."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
    GPT2LMHeadModel(GPT2Config(vocab_size=260, **shape)).save_pretrained(tiny_llama(folder))
    return folder


class Tuned(Learner):
    """Next-token loss of a tiny Llama under any PEFT configuration; every row has 6 tokens."""

    def __init__(self, folder, settings):
        self.model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), settings).eval()
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.leaf_paths, self.base_paths = {name: name for name in trained}, {}
        self.initial = {name: value.detach().clone() for name, value in trained.items()}
        self.spec, self.order, self.offsets = None, np.arange(6), np.array([0, 2, 6])
        self.public_rows, self.eval_rows = np.arange(0), np.arange(6, 8)

    def lengths(self, rows):
        return np.full(len(rows), 6)

    def batch(self, rows):
        return {"input_ids": 4 + (torch.as_tensor(rows)[:, None] * 7 + torch.arange(6) * 5) % 200}

    def row_losses(self, batch):
        logits = self.predict(batch)[:, -6:]
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].mT, batch["input_ids"][:, 1:], reduction="none")
        return losses.sum(1), torch.full((len(losses),), 5.0)

    def predict(self, batch):
        return self.model(**batch).logits

    def distance(self, predicted, target): ...

    def export(self, folder, params, base=None): ...


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    lines = sentences(41)
    plain = write_jsonl(folder / "plain.jsonl", [{"text": t, "label": f"c{i % 3}"} for i, t in enumerate(lines)])
    dialogue = write_jsonl(folder / "chat.jsonl", [{"prompt": t, "response": t[::-1]} for t in lines])
    llama = str(tiny_llama(folder / "llama", num_hidden_layers=4, tie_word_embeddings=False))
    bert = str(tiny_bert(folder / "bert", num_hidden_layers=4))
    gpt2 = str(tiny_gpt2(folder / "gpt2"))
    vit = str(tiny_vit(folder / "vit", num_hidden_layers=3))
    parts = {"name": "dirichlet", "alpha": 1.0, "clients": 5}
    language = {"name": "causal-lm", "max_tokens": 48, "data": dialogue, "partition": {"name": "iid", "clients": 5}}
    classes = {"name": "text-classification", "data": plain, "max_tokens": 32, "partition": parts}

    def lora(*targets):
        return {"name": "lora", "rank": 4, "alpha": 8, "targets": list(targets)}

    last = ["layers.2.self_attn.q_proj", "layers.3.mlp.gate_proj"]
    return {
        "llama": {**language, "model": llama, "adapter": lora(*last)},
        "gpt2": {**language, "model": gpt2, "adapter": lora("h.3.attn.c_attn", "h.3.mlp.c_fc")},
        "bert": {**classes, "model": bert,
                 "adapter": lora("layer.2.attention.self.query", "layer.3.attention.self.value")},
        "vit": {
            "name": "images", "model": vit, "partition": {"name": "iid", "clients": 40}, "batch_size": 4,
            "adapter": lora("layers.2.attention.q_proj"),
        },
        "minilm": {**classes, "model": "minilm",
                   "adapter": lora("layer.4.attention.self.query", "layer.5.attention.self.value")},
        "llama all": {**language, "model": llama, "adapter": lora("q_proj")},
        "llama last": {**language, "model": llama, "adapter": lora("layers.3.self_attn.q_proj")},
        "bert head": {**classes, "model": bert, "adapter": "head"},
    }  # fmt: skip


def build(task, seed=5):
    return config.build("task", {"batch_size": 4, **task}).build(seed=seed)


def gradients(learner, rows, scramble=True):
    """Gradients of the leaves on ``rows``, away from the initial zeros."""
    named = dict(learner.model.named_parameters())
    leaves = {name: named[path] for name, path in learner.leaf_paths.items()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in leaves.items():
            value.copy_(learner.initial[name] + 0.1 * torch.randn(value.shape, generator=generator))
    loss, weight = learner.row_losses(learner.batch(rows))
    found = torch.autograd.grad(loss.sum() / weight.sum(), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "vit", "minilm"])
def test_gradients(tasks, tmp_path, name):
    """Ragged rows and a padding row; at the first visit and from the file."""
    if name == "minilm" and not sources.is_cached("minilm"):
        pytest.skip("minilm is not in the cache")
    plain = build(tasks[name])
    cached = PrefixLearner(build(tasks[name]), tmp_path, budget_bytes=ROOM)
    rows = np.append(plain.order[:7], -1)
    expected = gradients(plain, rows)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    for _ in range(2):
        found = gradients(cached, rows)
        assert max(float((found[n] - g).abs().max() / g.abs().max().clamp(min=1)) for n, g in expected.items()) <= 1e-6
    half = PrefixLearner(build(tasks[name]), tmp_path, budget_bytes=ROOM, dtype="bfloat16")
    for leaf, g in gradients(half, rows).items():
        assert torch.cosine_similarity(g.flatten(), expected[leaf].flatten(), dim=0) > 0.999


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "vit"])
def test_stacked_equals_alone(tasks, tmp_path, name):
    """Clients stacked in threes over the cache, ragged data and steps, against the whole model for each alone."""
    learner = PrefixLearner(build(tasks[name]), tmp_path, budget_bytes=ROOM)
    plain, moved = build(tasks[name]), 0.0
    optimizer = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    for batches, found in stacked(learner, optimizer, [5, 3, 4, 2, 4], 4, k=3).values():
        alone = train_alone(plain, plain.model, batches, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
        assert largest_difference(found, alone) < 1e-5
        moved = max(moved, largest_difference(found, learner.initial))
    assert moved > 1e-4
    assert 0 < learner.kept.open.sum() < len(learner.kept.layout)  # rows held out wait for an evaluation


@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_evaluation(tasks, tmp_path, name):
    learner = PrefixLearner(build(tasks[name]), tmp_path, budget_bytes=ROOM)
    assert learner.evaluate() == pytest.approx(build(tasks[name]).evaluate(), abs=1e-5)


def test_prefix_runs_once(tasks, tmp_path):
    """Each layer of the prefix sees a row once, in this learner and in a later one on the same folder."""
    first = PrefixLearner(build(tasks["bert"]), tmp_path, budget_bytes=ROOM)
    everything = np.concatenate([first.order, first.public_rows, first.eval_rows])
    first.prefix(everything)
    assert first.kept.computed == len(first.kept.layout)
    seen = []
    later = PrefixLearner(build(tasks["bert"]), tmp_path, budget_bytes=ROOM)
    later._layers[0].register_forward_hook(lambda *_: seen.append(1))
    later.row_losses(later.batch(everything))
    later.evaluate()
    assert not seen and later.kept.computed == 0
    assert torch.equal(first.prefix(everything), later.prefix(everything))


def test_kept_values_do_not_depend_on_visits(tasks, tmp_path):
    one = PrefixLearner(build(tasks["gpt2"]), tmp_path / "one", budget_bytes=ROOM)
    other = PrefixLearner(build(tasks["gpt2"]), tmp_path / "other", budget_bytes=ROOM)
    rows = one.order
    for row in rows[::-1]:
        other.prefix(np.array([row, -1]))
    assert torch.equal(one.prefix(rows), other.prefix(rows))


def test_layers_are_put_back(tasks, tmp_path):
    learner = PrefixLearner(build(tasks["llama"]), tmp_path, budget_bytes=ROOM)
    before = dict(learner.model.named_modules())
    batch = learner.batch(learner.order[:2])
    with pytest.raises(KeyError):
        learner.row_losses({PREFIX: batch[PREFIX]})
    assert dict(learner.model.named_modules()) == before
    with pytest.raises(Refused, match="for a batch of"):
        learner.row_losses({**batch, PREFIX: batch[PREFIX][:, 1:]})


# ---- keys and damage -----------------------------------------------------------------------------------------------


def test_changed_base_changes_the_key(tasks, tmp_path):
    learner = PrefixLearner(build(tasks["llama"]), tmp_path, budget_bytes=ROOM)
    rows = learner.order[:3]
    before = learner.prefix(rows)
    with torch.no_grad():
        learner.model.get_parameter("model.layers.3.self_attn.v_proj.weight").add_(0.1)  # above the cut
    assert torch.equal(learner.prefix(rows), before) and len(list(tmp_path.iterdir())) == 1
    with torch.no_grad():
        learner.model.get_parameter("model.layers.0.self_attn.v_proj.weight").add_(0.1)
    changed = learner.prefix(rows)
    assert not torch.equal(changed, before) and len(list(tmp_path.iterdir())) == 2
    assert torch.allclose(changed, learner._until_cut(rows) * (changed != 0), atol=1e-6)


def test_damage_is_computed_again(tasks, tmp_path):
    learner = PrefixLearner(build(tasks["bert"]), tmp_path, budget_bytes=ROOM)
    good = learner.prefix(learner.order)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)
    again = PrefixLearner(build(tasks["bert"]), tmp_path, budget_bytes=ROOM)
    assert torch.equal(again.prefix(again.order), good) and again.kept.computed == 1


def test_changed_sample_is_computed_again(tasks, tmp_path):
    learner = PrefixLearner(build(tasks["bert"]), tmp_path, budget_bytes=ROOM)
    before = learner.prefix(learner.order)
    other = build(tasks["bert"])
    other._store._flat[0] += 1
    again = PrefixLearner(other, tmp_path, budget_bytes=ROOM)
    assert not torch.equal(again.prefix(other.order), before) and again.kept.computed == 1


def test_full_disk(tasks, tmp_path, monkeypatch):
    plain = build(tasks["bert"])
    learner = PrefixLearner(build(tasks["bert"]), tmp_path, budget_bytes=ROOM)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(UserWarning, match="No space left"):
        found = gradients(learner, plain.order[:6])
    assert largest_difference(found, gradients(plain, plain.order[:6])) <= 1e-6


# ---- budget --------------------------------------------------------------------------------------------------------


def test_budget(tasks, tmp_path):
    """What does not fit is computed at each visit, and said; nothing at all is refused."""
    plain = build(tasks["llama"])
    full = PrefixLearner(build(tasks["llama"]), tmp_path / "full", budget_bytes=ROOM)
    size = next((tmp_path / "full").iterdir()).stat().st_size
    with pytest.warns(UserWarning, match=r"\d+ of \d+ rows fit"):
        part = PrefixLearner(build(tasks["llama"]), tmp_path / "part", budget_bytes=size // 2)
    rows = np.append(plain.order[::3], -1)
    assert 0 < part.kept.ready(rows[:-1]).sum() < len(rows) - 1
    assert next((tmp_path / "part").iterdir()).stat().st_size <= size // 2
    assert largest_difference(gradients(part, rows), gradients(plain, rows)) <= 1e-5
    assert torch.allclose(part.prefix(rows), full.prefix(rows), atol=1e-5)
    with pytest.raises(Refused, match="does not hold the first block"):
        PrefixLearner(build(tasks["llama"]), tmp_path / "none", budget_bytes=100)


def test_oldest_files_make_room(tasks, tmp_path):
    PrefixLearner(build(tasks["llama"]), tmp_path, budget_bytes=ROOM)
    (old,) = tmp_path.iterdir()
    size = old.stat().st_size
    with pytest.warns(UserWarning, match="makes room"):
        PrefixLearner(build(tasks["gpt2"]), tmp_path, budget_bytes=int(1.5 * size))
    (left,) = tmp_path.iterdir()
    assert left != old


# ---- refusals ------------------------------------------------------------------------------------------------------


def refused(task, tmp_path, sentence, change=lambda learner: None):
    learner = build(task)
    change(learner)
    with pytest.raises(Refused, match=sentence):
        PrefixLearner(learner, tmp_path, budget_bytes=ROOM)


def test_refuses_trained_or_missing_layers(tasks, tmp_path):
    refused(tasks["llama all"], tmp_path, "the first layer is trained")
    refused(tasks["bert head"], tmp_path, "no list of layers")
    refused({"name": "toy"}, tmp_path, "no list of layers")


TUNED = {
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "embedding": lambda: peft.LoraConfig(target_modules=r".*(embed_tokens|layers\.3\.self_attn\.q_proj)"),
}


@pytest.mark.parametrize("kind", TUNED)
def test_refuses_what_is_trained_below(tasks, tmp_path, kind):
    with pytest.raises(Refused, match="something that is trained acts below"):
        PrefixLearner(Tuned(tasks["llama"]["model"], TUNED[kind]()), tmp_path, budget_bytes=ROOM)


@pytest.mark.parametrize("kind", ["dora", "ia3", "norm"])
def test_other_adapters_above_the_cut(tasks, tmp_path, kind):
    last = r".*layers\.3\.mlp\.(gate|down)_proj"
    settings = {
        "dora": lambda: peft.LoraConfig(target_modules=last, use_dora=True),
        "ia3": lambda: peft.IA3Config(target_modules=last, feedforward_modules=[]),
        "norm": lambda: peft.LoraConfig(target_modules=last, modules_to_save=["model.norm"]),
    }[kind]
    torch.manual_seed(3)
    plain = Tuned(tasks["llama"]["model"], settings())
    learner = PrefixLearner(copy.deepcopy(plain), tmp_path, budget_bytes=ROOM)
    assert learner.cut == 3
    assert largest_difference(gradients(learner, plain.order), gradients(plain, plain.order)) <= 1e-5


def test_refuses_dropout(tasks, tmp_path):
    refused(tasks["gpt2"], tmp_path, "drops values at random", lambda learner: learner.model.train())
    refused(
        tasks["gpt2"],
        tmp_path,
        "drawn anew",
        lambda learner: learner.model.transformer.h[0].attn.register_forward_hook(
            lambda _m, _i, output: (torch.nn.functional.dropout(output[0], 0.1), *output[1:])
        ),
    )


def test_refuses_augmentation(tasks, tmp_path):
    def augment(learner):
        batch = learner.batch
        learner.batch = lambda rows: {**batch(rows), "input_ids": torch.randint(4, 200, batch(rows)["input_ids"].shape)}

    refused(tasks["bert"], tmp_path, "drawn anew", augment)


def test_refuses_models_whose_upper_layers_look_deeper(tasks, tmp_path):
    def skip(learner):
        body, kept = learner.model.model, []
        body.embed_tokens.register_forward_hook(lambda *_: kept.clear())
        body.layers[0].register_forward_hook(lambda _m, _i, output: kept.append(output))
        body.layers[3].register_forward_hook(lambda _m, _i, output: output + (kept[0] if kept else 0.0))

    refused(tasks["llama"], tmp_path, "use more of them", skip)


# ---- layout --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=60), st.integers(1, 100))
def test_layout(rows, block_tokens):
    owner, tokens = (np.array(x) for x in zip(*rows, strict=True))
    names = np.random.default_rng(0).permutation(3 * len(rows))[: len(rows)]
    layout = Layout(names, owner, tokens, block_tokens=block_tokens)
    assert sorted(np.concatenate([layout.rows_of(b) for b in range(len(layout))])) == sorted(names)
    spans = np.concatenate([np.arange(layout.start[r], layout.start[r] + layout.tokens[r]) for r in layout.rows])
    assert np.array_equal(spans, np.arange(tokens.sum()))
    by_name = dict(zip(names.tolist(), zip(owner.tolist(), tokens.tolist(), strict=True), strict=True))
    for block in range(len(layout)):
        held = [by_name[r] for r in layout.rows_of(block).tolist()]
        assert len({o for o, _ in held}) == 1
        assert len(held) == 1 or len(held) * max(t for _, t in held) <= block_tokens
        assert (layout.block[layout.rows_of(block)] == block).all()
        span = layout.span(block)
        assert span.stop - span.start == sum(t for _, t in held)
    again = Layout(names[::-1], owner[::-1], tokens[::-1], block_tokens=block_tokens)
    assert len(again) == len(layout)
    assert again.digest() != Layout(names, owner, tokens + 1, block_tokens=block_tokens).digest()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_batch(tasks, tmp_path_factory, data):
    """Any rows in any order, some twice, some padding, under any budget."""
    plain = build(tasks["llama last"])
    rows = np.array(data.draw(st.lists(st.sampled_from([-1, *plain.order.tolist()]), min_size=1, max_size=9)))
    budget = data.draw(st.integers(10**5, 10**6))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rows fit its budget")
        learner = PrefixLearner(copy.deepcopy(plain), tmp_path_factory.mktemp("any"), budget_bytes=budget)
    if (rows >= 0).any():
        assert largest_difference(gradients(learner, rows), gradients(plain, rows)) <= 1e-5


def test_cut(tasks):
    assert frozen_layers(build(tasks["bert"])) == ("pooled.encoder.encoder.layer", 2)
    assert frozen_layers(build(tasks["gpt2"])) == ("transformer.h", 3)
