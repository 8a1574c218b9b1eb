"""DoRA, IA3, prompt and prefix tuning as a user writes them: planned, trained, exported, equal to plain PEFT."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from fedwave import simulation
from fedwave.core import config
from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Message, Part
from fedwave.engines.cohort import CohortEngine
from fedwave.engines.stacked.batches import plan_rows
from fedwave.experiment import Experiment
from fedwave.methods.fedavg import FedAvg
from fedwave.results.memory_store import MemoryStore
from fedwave.testing import tiny_bert, tiny_llama, tiny_vit
from fedwave.transforms.chain import Chain

sys.path.insert(0, str(Path(__file__).parents[1]))
from methods.helpers import delivered
from references.plain import train_peft_model

KINDS = {
    "lora": {"name": "lora", "rank": 4},
    "dora": {"name": "dora", "rank": 4},
    "ia3": {"name": "ia3"},
    "prompt": {"name": "prompt", "tokens": 3},
    "prefix": {"name": "prefix", "tokens": 3},
}
LANGUAGE = [(model, kind) for model in ("llama", "gpt2") for kind in KINDS]
CASES = [*LANGUAGE, ("bert", "lora"), ("bert", "dora"), ("bert", "ia3"), ("bert", "prompt")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    llama, bert = tiny_llama(folder / "llama"), tiny_bert(folder / "bert")
    gpt2 = tiny_llama(folder / "gpt2")  # for its tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"vocab_size": 260, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}
        GPT2LMHeadModel(GPT2Config(**settings, initializer_range=0.2, pad_token_id=0)).save_pretrained(gpt2)
    words = ["the", "cell", "sends", "a", "reply", "when", "its", "link", "is", "weak"]
    rng = np.random.default_rng(3)
    lines = [" ".join(rng.choice(words, rng.integers(2, 6))) for _ in range(30)]
    chat, plain = folder / "chat.jsonl", folder / "plain.jsonl"
    chat.write_text("".join(json.dumps({"prompt": t, "response": t[::-1]}) + "\n" for t in lines))
    plain.write_text("".join(json.dumps({"text": t, "label": f"c{i % 3}"}) + "\n" for i, t in enumerate(lines)))
    part = {"name": "iid", "clients": 5}
    language = {"name": "causal-lm", "data": str(chat), "max_tokens": 64, "batch_size": 2, "partition": part}
    return {
        "llama": {**language, "model": str(llama)},
        "gpt2": {**language, "model": str(gpt2)},
        "bert": {"name": "text-classification", "model": str(bert), "data": str(plain), "max_tokens": 32,
                 "batch_size": 2, "partition": part, "normalize": False},
    }  # fmt: skip


def task_of(files, model, kind):
    return config.build("task", {**files[model], "adapter": KINDS[kind]})


def named_leaf(name):
    """A parameter of a ``PeftModel``, under the name that PEFT exports it by."""
    inside = name.removeprefix("base_model.model.").replace(".default", "")
    if inside.startswith("prompt_encoder"):
        return "prompt_embeddings"
    return inside.removesuffix(".weight") if inside.endswith("magnitude_vector.weight") else inside


def of_peft(folder, base):
    """PEFT's own reading of an exported folder, in eval mode with its adapter trainable."""
    virtual = "num_virtual_tokens" in (folder / "adapter_config.json").read_text()
    model = peft.PeftModel.from_pretrained(base, folder, is_trainable=not virtual).eval()
    for name, value in model.named_parameters():
        value.requires_grad_(value.requires_grad or name.startswith("prompt_encoder"))
    return model, {name: named_leaf(name) for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(("model", "kind"), CASES)
def test_the_plan_has_the_leaves_of_the_model(files, model, kind):
    task = task_of(files, model, kind)
    spec, learner = task.spec(), task.build(seed=1)
    assert {name: leaf.shape for name, leaf in spec.trainable.items()} == {
        name: tuple(value.shape) for name, value in learner.initial.items()
    }
    named = dict(learner.model.named_parameters())
    assert all(torch.equal(named[path], learner.initial[leaf]) for leaf, path in learner.leaf_paths.items())
    assert sum(value.requires_grad for value in named.values()) == len(spec.trainable)
    again = task_of(files, model, kind).build(seed=1)
    assert all(torch.equal(again.initial[name], value) for name, value in learner.initial.items())


@pytest.mark.parametrize(("model", "kind"), CASES)
def test_peft_loads_what_is_exported(files, tmp_path, model, kind):
    """Outputs of the trained leaves in our model and in PEFT's are the same."""
    learner = task_of(files, model, kind).build(seed=1)
    generator = torch.Generator().manual_seed(0)
    params = {n: v + 0.2 * torch.randn(v.shape, generator=generator) for n, v in learner.initial.items()}
    with torch.no_grad():
        for name, value in params.items():
            learner.model.get_parameter(learner.leaf_paths[name]).copy_(value)
    learner.export(tmp_path, params)
    batch = learner.batch(learner.order[:1])
    folder = files[model]["model"]
    with torch.no_grad():
        if model == "bert":
            plain, _ = of_peft(tmp_path, AutoModel.from_pretrained(folder, add_pooling_layer=False))
            hidden = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            own = hidden[:, -batch["input_ids"].shape[1] :].mean(1)  # a row of its own has no padding
            wanted = own @ params["head.weight"].T + params["head.bias"]
            torch.testing.assert_close(learner.predict(batch), wanted, atol=1e-5, rtol=1e-4)
        else:
            plain, _ = of_peft(tmp_path, AutoModelForCausalLM.from_pretrained(folder))
            loss, terms = learner.row_losses(batch)
            wanted = plain(**labelled(batch)).loss
            torch.testing.assert_close(loss[0] / terms[0], wanted, atol=1e-5, rtol=1e-4)


@dataclasses.dataclass(frozen=True)
class Gathered(FedAvg):
    """Federated averaging whose server gets each client's own update."""

    def uplink(self, spec):
        return {"update": Part(self.travelling(spec), reduce="gather")}


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(("model", "kind"), LANGUAGE)
def test_training_equals_plain_peft(files, tmp_path, model, kind, slots):
    """Clients of unequal steps on ragged rows, and PEFT's own models one after another."""
    learner = task_of(files, model, kind).build(seed=1)
    learner.export(tmp_path, learner.initial)
    plain, names = of_peft(tmp_path, AutoModelForCausalLM.from_pretrained(files[model]["model"]))
    method = Gathered(local_optimizer=config.build("optimizer", {"name": "sgd", "lr": 0.05}))
    engine = CohortEngine(token_budget=10**6, max_clients=slots)
    session = engine.start(method, learner, up=Chain(), batch_size=1)
    ids, steps, zero, key = np.arange(3), np.array([3, 1, 2]), np.zeros(3, dtype=np.int64), Key(7)
    held = np.diff(learner.offsets)[ids]
    cohort = Cohort(0, ids, np.ones(3), held, steps, held, zero + learner.spec.max_rank, zero, zero - 1, zero)
    message, store = Message(shared={"params": learner.initial}), MemoryStore(None, session.memory_leaves)
    update = session.run(message, store, cohort, delivered(ids), key).parts["update"]
    rows = plan_rows(learner.order, learner.offsets, ids=ids, steps=steps, batch_size=1, key=key)
    start = {name: learner.initial[leaf] for name, leaf in names.items()}
    for client in range(3):
        batches = [labelled(learner.batch(rows[t, client])) for t in range(steps[client])]
        alone = train_peft_model(plain, start, batches, lambda p: torch.optim.SGD(p, lr=0.05))
        for name, leaf in names.items():
            torch.testing.assert_close(start[name] + update[leaf][client], alone[name], atol=1e-5, rtol=0)
        assert any(not torch.equal(alone[name], start[name]) for name in names)


def labelled(batch):
    """One row as Hugging Face's causal language models take it."""
    labels = torch.full_like(batch["input_ids"], -100)
    where = batch["place"][batch["learned"]]
    labels[0, where] = batch["input_ids"][0, where]
    return {"input_ids": batch["input_ids"], "labels": labels}


@pytest.mark.parametrize(("model", "kind"), [("llama", kind) for kind in KINDS] + [("bert", "prompt"), ("bert", "ia3")])
def test_end_to_end(files, tmp_path, model, kind):
    """A job runs, sends what the plan says, learns, and leaves a PEFT folder."""
    job = Experiment.parse({
        "task": {**files[model], "adapter": KINDS[kind]}, "rounds": 2, "seed": 1, "network": "ideal",
        "method": {"name": "fedavg", "local_steps": 2, "local_optimizer": {"name": "sgd", "lr": 0.02}},
        "sampler": {"name": "uniform", "cohort": 3},
    })  # fmt: skip
    done = simulation.Simulation.start(job, tmp_path / "run")
    records = list(done.stream())
    values = sum(leaf.size for leaf in job.task.spec().trainable.values())
    assert records[0].uplink_bits == 3 * 32 * values
    assert (done.export() / "adapter_config.json").is_file()
    assert np.isfinite(records[-1].train_loss)


@pytest.mark.parametrize(
    ("task", "adapter", "sentence"),
    [
        ("bert", {"name": "prefix"}, "attention cache"),
        ("gpt2", {"name": "prompt", "tokens": 100}, "100 virtual tokens and max_tokens = 64 are more than the 128"),
        ("llama", {"name": "ia3", "targets": ["q_proj"], "feedforward": ["down_proj"]}, "'down_proj' is not among"),
        ("llama", {"name": "dora", "targets": ["nothing"]}, "matches no linear layer"),
    ],
)
def test_refusals(files, task, adapter, sentence):
    with pytest.raises(BadInput, match=sentence):
        config.build("task", {**files[task], "adapter": adapter}).spec()


def test_images_have_no_prompt(tmp_path):
    model = tiny_vit(tmp_path / "vit")
    with pytest.raises(Refused, match="images have none"):
        config.build("task", {"name": "images", "model": str(model), "adapter": "prompt"}).spec()


def test_flora_refuses_dora(files):
    with pytest.raises(Refused, match="dora scales"):
        config.build("method", "flora").check(task_of(files, "llama", "dora").spec())


def test_sizes_of_tinyllama():
    """TinyLlama 1.1B: d = 2048, 22 layers, keys and values of 256, feed-forward 5632."""

    def size(adapter):
        task = config.build("task", {"name": "causal-lm", "model": "tinyllama-1.1b-chat-v1.0", "adapter": adapter})
        return task.spec().trainable_parameters

    lora = size({"name": "lora", "rank": 8})
    assert size({"name": "dora", "rank": 8}) == lora + 22 * (2048 + 256)
    assert size("ia3") == 22 * (256 + 256 + 5632)
    assert size({"name": "prompt", "tokens": 20}) == 20 * 2048
    assert size({"name": "prefix", "tokens": 20}) == 20 * 22 * 2 * 256
