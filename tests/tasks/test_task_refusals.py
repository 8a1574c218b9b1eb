"""One sentence each for what goes wrong with a user's own model and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.testing import tiny_llama


def sentence(table: dict[str, Any]) -> str:
    """What is said when the task is asked for its shapes, its clients and its learner, in this order."""
    task = config.build("task", table)
    with pytest.raises(BadInput) as caught:
        _ = task.spec(), task.samples(0), task.prepare(), task.build(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lm(llama: Path, data: Path, **more: Any) -> dict[str, Any]:
    return {"name": "causal-lm", "model": str(llama), "data": str(data), "partition": "iid", **more}


def test_fields_that_a_file_lacks_and_those_it_has(llama: Path, bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a?", "answer": "b"}\n' * 4)
    said = sentence(lm(llama, path))
    assert said == f"{path} must have the fields prompt and response, or text; it has: answer, question"
    chosen = lm(llama, path, prompt_field="question", response_field="answer", partition={"name": "iid", "clients": 2})
    path.write_text("".join(f'{{"question": "a{i}?", "answer": "b"}}\n' for i in range(40)))
    assert config.build("task", chosen).samples(0).sum() == 36
    said = sentence({"name": "text-classification", "model": str(bert), "data": str(path), "text_field": "question"})
    assert said == f"{path}: unknown field 'label' (known: answer, question)"


def test_a_malformed_line_and_its_number(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"\n')
    assert sentence(lm(llama, path)).startswith(f"{path}, line 2 is not JSON")
    path.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": 7}\n')
    assert sentence(lm(llama, path)) == f"{path}, line 2: 'response' must be a non-empty string, got 7"


def test_a_client_without_data(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(10)))
    said = sentence(lm(llama, path, partition={"name": "iid", "clients": 12}))
    assert said == "partition iid: client 9 of 12 holds no data (9 rows in all)"


def test_an_adapter_target_that_the_model_lacks(llama: Path, labelled: Path) -> None:
    said = sentence(lm(llama, labelled, adapter={"name": "lora", "targets": ["query"]}))
    assert said.startswith("adapter target 'query' matches no linear layer of the model (it has: ")
    assert "q_proj" in said and "v_proj" in said


def test_a_model_that_cannot_be_had(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path))
    monkeypatch.setattr("fedwave.models.sources._hub_has", lambda hub: False)
    monkeypatch.setattr("fedwave.models.sources._hub_config", lambda hub: None)
    said = sentence(lm(Path("org/nothing"), labelled))
    assert said.startswith("model 'org/nothing' is not to be had here")
    for way in (
        "(1) it is no local folder",
        "(2) the cache has no",
        "(3) the Hugging Face hub",
        "(4) no Python package",
    ):
        assert way in said


def test_long_preparations_tell_how_far_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {i}", "label": "c{i % 2}"}}\n' for i in range(5000)))
    llama = tiny_llama(tmp_path / "llama")
    told: list[tuple[int, int]] = []
    task = config.build("task", lm(llama, path, eval_fraction=0.2, max_tokens=8))
    task.prepare(lambda done, total: told.append((done, total)))
    assert told == [(2048, 4000), (4000, 4000), (1000, 1000)]
    before = len(told)
    task.build(0, progress=lambda done, total: told.append((done, total)))
    assert len(told) == before  # tokenised once
