"""Token rows: templates, truncation, chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.tasks.tokens import Tokenizer, dialogue_rows, language_rows, text_rows
from fedwave.testing import tiny_llama


def test_dialogues_follow_the_chat_template_as_transformers_does(llama: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(llama)
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    tok = Tokenizer(llama)
    prompt, answer = tok.dialogue("Why?", "So.")
    assert prompt == theirs.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt + answer == theirs.apply_chat_template(turns, tokenize=False).rstrip("\n")
    assert answer == "So.<eos>"
    assert tok.encode([prompt], special=False)[0].tolist() == theirs(prompt, add_special_tokens=False)["input_ids"]
    assert tok.pad == theirs.pad_token_id


def test_without_a_template_prompt_and_response_are_two_lines(tmp_path: Path) -> None:
    tok = Tokenizer(tiny_llama(tmp_path / "plain", chat=False))
    assert tok.dialogue("Why?", "So.") == ("<bos>Why?\n", "So.<eos>")


def test_rows_whose_answer_is_cut_off_are_left_out(tmp_path: Path) -> None:
    tok = Tokenizer(tiny_llama(tmp_path / "plain", chat=False))
    # One token a byte: "<bos>" + n bytes + newline, then the answer and "<eos>".
    rows = dialogue_rows(tok, ["abc", "a" * 20, "abcdef"], ["xyz", "x", "xyz"], most=10)
    assert rows.document.tolist() == [0, 2]
    assert np.diff(rows.offsets).tolist() == [9, 10]  # 1 + 3 + 1 + 4; 1 + 6 + 1 + 4 cut to 10
    assert rows.first_target.tolist() == [5, 8]


def test_long_texts_become_chunks_or_are_cut(llama: Path) -> None:
    tok = Tokenizer(llama)
    rows = language_rows(tok, ["abcdefghij", "xyz", "q", "abcdefghi"], most=4, chunk=True)
    assert np.diff(rows.offsets).tolist() == [4, 4, 2, 3, 4, 4]  # a last chunk of one token has nothing to predict
    assert rows.document.tolist() == [0, 0, 0, 1, 3, 3]
    cut = language_rows(tok, ["abcdefghij", "xyz", "q"], most=4, chunk=False)
    assert np.diff(cut.offsets).tolist() == [4, 3] and cut.document.tolist() == [0, 1]
    assert np.diff(text_rows(tok, ["abcdefghij", "q"], most=4).offsets).tolist() == [4, 1]


def test_dropped_rows_are_counted_and_samples_agree(llama: Path, dialogues: Path) -> None:
    table = {
        "name": "causal-lm",
        "model": str(llama),
        "data": str(dialogues),
        "partition": {"name": "iid", "clients": 2},
    }
    # "<bos>user\nquestion N?<eos>\n<bos>assistant\n":
    # 1 + 5 + 11 + 1 + 1 + 1 + 10 = 30 tokens of prompt, 31 from N = 10.
    task = config.build("task", table | {"max_tokens": 31})
    learner = task.build(0)
    assert 0 < learner.dropped < 24
    assert task.samples(0).sum() == len(learner.order)
    with pytest.raises(BadInput, match="no row has anything to learn within max_tokens = 20"):
        config.build("task", table | {"max_tokens": 20}).samples(0)


def test_samples_without_the_model_count_rows(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedwave.models import sources

    def absent(name: str, *, fetch: bool = True) -> Path:
        raise BadInput(f"model {name!r} is not here")

    monkeypatch.setattr(sources, "resolve", absent)
    table = {"name": "causal-lm", "data": str(dialogues), "partition": {"name": "iid", "clients": 2}}
    task = config.build("task", table | {"eval_fraction": 0.25})
    assert task.samples(0).sum() == 18
    with pytest.raises(BadInput, match="is not here"):
        task.prepare()


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        Tokenizer(tmp_path)
