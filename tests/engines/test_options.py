"""Settings of the engine as jobs have them: half precision, the prefix cache, adapters in the last layers."""

import json
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch

import fedwave
from fedwave import simulation
from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.engines.wrapped import precision
from fedwave.engines.wrapped.precision import HalfLearner
from fedwave.experiment import Experiment
from fedwave.models import shapes
from fedwave.testing import tiny_bert, tiny_llama

LAYERS = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.choice(["cell", "link", "a", "reply"], rng.integers(2, 24))) for _ in range(60)]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": line, "label": f"c{i % 3}"}) + "\n" for i, line in enumerate(lines)))
    return {
        "text-classification": (tiny_bert(folder / "bert", num_hidden_layers=LAYERS), rows, ["query", "value"]),
        "causal-lm": (tiny_llama(folder / "llama", num_hidden_layers=LAYERS, chat=False), rows, ["q_proj", "v_proj"]),
    }


def job(models, name, *, last=1, engine=None, rounds=3, kind="lora"):
    model, rows, targets = models[name]
    adapter = {"name": kind, "targets": targets, "last_layers": last}
    return {
        "rounds": rounds,
        "eval_every": 1,
        "task": {"name": name, "model": str(model), "data": str(rows), "max_tokens": 32, "batch_size": 4,
                 "adapter": adapter, "partition": {"name": "iid", "clients": 5}},
        "method": {"name": "fedavg", "local_steps": 2, "local_optimizer": {"name": "sgd", "lr": 0.05}},
        "sampler": {"name": "uniform", "cohort": 4},
        "network": {"name": "ideal"},
        "engine": {"name": "cohort", **(engine or {})},
    }  # fmt: skip


def losses(table):
    return [record.eval["loss"] for record in fedwave.stream(Experiment.parse(table))]


# ---- the cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text-classification", "causal-lm"])
def test_a_job_from_kept_activations_is_the_same_job(models, name, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path))
    engine = {"prefix_bytes": 10**8}
    plain, cached = losses(job(models, name)), losses(job(models, name, engine=engine))
    np.testing.assert_allclose(cached, plain, rtol=1e-5)
    (kept,) = (tmp_path / "prefix").iterdir()
    written = kept.stat().st_mtime_ns, kept.read_bytes()
    assert losses(job(models, name, engine=engine)) == cached  # the next run finds it
    assert kept.read_bytes() == written[1]
    half = losses(job(models, name, engine=engine | {"prefix_dtype": "bfloat16"}))
    np.testing.assert_allclose(half, plain, rtol=1e-2)


def test_the_cache_with_nothing_frozen_is_refused(models, fedwave_, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path))
    import tomli_w

    Path("job.toml").write_text(tomli_w.dumps(job(models, "causal-lm", last=0, engine={"prefix_bytes": 10**8})))
    code, _, err = fedwave_("run", "job.toml")
    assert code == 2 and err.count("\n") == 1
    assert "prefix cache: the first layer is trained" in err


# ---- adapters in the last layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_only_the_last_layers_are_adapted(models, kind):
    table = job(models, "causal-lm", last=2, kind=kind)["task"]
    table["adapter"].pop("targets")
    learner = config.build("task", table).build(0)
    assert {shapes.layer_of(name) for name in learner.initial} == {2, 3}
    assert learner.spec.trainable.keys() == learner.initial.keys()


def test_more_layers_than_there_are(models):
    with pytest.raises(BadInput, match=r"adapter.last_layers: must be 1 to 4, the model's layers, got 5"):
        config.build("task", job(models, "causal-lm", last=5)["task"]).spec()


def test_nothing_flows_back_below_the_first_adapted_layer(models):
    """Of F forward, F_out in the output layer: all the way back is F, the last of 4 layers F_out + (F - F_out) / 4."""
    whole, last = (config.build("task", job(models, "causal-lm", last=n)["task"]) for n in (0, 1))
    arch = whole.pretrained.architecture
    own = [task.adapter.flops(32, task.pretrained.adapted.leaves) for task in (whole, last)]
    forward, out = whole.spec().forward_flops - own[0], 2.0 * 32 * arch.vocab * arch.hidden
    assert whole.spec().backward_flops == pytest.approx(forward + 2 * own[0])
    assert last.spec().forward_flops == pytest.approx(forward + own[1])
    assert last.spec().backward_flops == pytest.approx(out + (forward - out) / 4 + 2 * own[1])
    assert last.spec().activation_bytes < 0.5 * whole.spec().activation_bytes
    assert last.spec().inference_bytes == whole.spec().inference_bytes


# ---- half precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text-classification", "causal-lm"])
def test_half_precision_follows_the_whole_one(models, name):
    whole, half = losses(job(models, name)), losses(job(models, name, engine={"dtype": "bfloat16"}))
    assert half != whole
    np.testing.assert_allclose(half, whole, rtol=0.02)


def test_trained_values_stay_whole(models, tmp_path):
    run = fedwave.run(Experiment.parse(job(models, "causal-lm", engine={"dtype": "bfloat16"})), tmp_path / "run")
    assert {value.dtype for value in run.state["params"].values()} == {torch.float32}
    learner = config.build("task", job(models, "causal-lm")["task"]).build(0)
    HalfLearner(learner)
    kinds = {path: value.dtype for path, value in learner.model.named_parameters()}
    trained = set(learner.leaf_paths.values())
    assert all(kinds[path] == torch.float32 for path in trained)
    assert kinds["lm_head.weight"] == kinds["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert kinds["model.norm.weight"] == kinds["model.embed_tokens.weight"] == torch.float32


def test_predictions_are_whole_numbers_of_bytes(models):
    learner = HalfLearner(config.build("task", job(models, "text-classification")["task"]).build(0))
    assert learner.predict(learner.batch(np.arange(3))).dtype == torch.float32
    loss, _ = learner.row_losses(learner.batch(np.arange(3)))
    assert loss.dtype == torch.float32


def test_the_loss_is_taken_in_float32(models):
    """Of logits with 8 significant bits, the loss of float32: 256 steps between 1 and 2 would hide most training."""
    learner = HalfLearner(config.build("task", job(models, "text-classification")["task"]).build(0))
    batch = learner.batch(learner.order[:8])
    with torch.no_grad():
        logits, (loss, _) = learner.predict(batch), learner.row_losses(batch)
    expected = torch.nn.functional.cross_entropy(logits.float(), batch["label"], reduction="none")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["text-classification", "causal-lm"])
def test_all_weights_trained_in_half_precision_are_stacked(models, name):
    """Gradients differ by bfloat16's rounding, which the trial of a stack must grant though weights are float32."""
    table = job(models, name, engine={"dtype": "bfloat16", "max_clients": 3})
    table["task"]["adapter"] = {"name": "full"}
    experiment = Experiment.parse(table)
    session = simulation.build_session(experiment, experiment.setting())
    assert session.choice.slots == 3


def test_a_processor_without_it_says_so(models, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    with pytest.warns(UserWarning, match="no arithmetic in bfloat16"):
        HalfLearner(config.build("task", job(models, "text-classification")["task"]).build(0))


def test_both_together(models, tmp_path, monkeypatch):
    """Half precision below the cache: what is kept was made in half precision, and evaluation goes through both."""
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path))
    engine = {"prefix_bytes": 10**8, "prefix_dtype": "bfloat16", "dtype": "bfloat16"}
    half = losses(job(models, "text-classification", engine={"dtype": "bfloat16"}))
    np.testing.assert_allclose(losses(job(models, "text-classification", engine=engine)), half, rtol=5e-3)


def test_unknown_dtype(models):
    with pytest.raises(BadInput, match=r"engine\.dtype"):
        Experiment.parse(job(models, "causal-lm", engine={"dtype": "float16"}))


# ---- compiled layers -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, as it traces
def test_compiled_layers_give_the_same(models, monkeypatch):
    """Traced by torch's compiler but run as it is, because a C++ compiler takes a minute: the same, in few graphs."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compiled, backend="aot_eager"))
    plain = losses(job(models, "text-classification"))
    found = losses(job(models, "text-classification", engine={"compile": True}))
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 8 and not counters["graph_break"]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_as_many_variants_are_compiled_as_clients_ask_for(models, monkeypatch):
    """Stacked clients in ragged passes need more than torch's eight; beyond its limit layers would run as they are."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    table = job(models, "text-classification", last=4, rounds=4)
    table["engine"] |= {"compile": True, "max_clients": 3, "token_budget": 120}
    table["sampler"]["cohort"] = table["method"]["local_steps"] = 5
    table["task"]["partition"] = {"name": "dirichlet", "alpha": 0.5, "clients": 5}
    with torch._dynamo.config.patch(recompile_limit=8):
        losses(table)
    frames = counters["frames"]
    assert frames["ok"] == frames["total"] > 8


def test_a_machine_that_cannot_compile_says_so(models, monkeypatch):
    def broken(_graph, _inputs):
        raise RuntimeError("No working C++ compiler found")

    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=broken))
    with pytest.raises(BadInput, match=r"engine\.compile: .*No working C\+\+ compiler found.*engine\.compile=false"):
        losses(job(models, "text-classification", engine={"compile": True}))


def test_threads_beyond_all_measure(models):
    with pytest.raises(BadInput, match=r"engine\.threads: at most \d+ on a machine of \d+ CPUs, got 4000"):
        losses(job(models, "text-classification", engine={"threads": 4000}))
