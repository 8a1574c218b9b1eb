"""Text to token rows without torch: the model folder's own tokenizer and chat template."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedwave.core.errors import BadInput
from fedwave.core.types import Ints
from fedwave.tasks.task import Progress

_BATCH = 2048


class TokenRows(NamedTuple):
    """Token rows end to end: row i is ``flat[offsets[i]:offsets[i + 1]]``.

    ``first_target [n]`` is the first position of a row whose token is to be predicted (0 where nothing is);
    ``document [n]`` the row of the table that it came from.
    """

    flat: NDArray[np.int32]
    offsets: Ints
    first_target: Ints
    document: Ints

    def __len__(self) -> int:
        return len(self.document)


class Tokenizer:
    """The fast tokenizer and chat template of a model folder.

    Read with the ``tokenizers`` library itself, because ``transformers`` would bring torch into planning.

    Raises
    ------
    BadInput : the folder has no ``tokenizer.json``.
    """

    def __init__(self, folder: Path) -> None:
        import tokenizers

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise BadInput(f"model folder {str(folder)!r} has no tokenizer.json")
        self._folder = folder
        self._fast = tokenizers.Tokenizer.from_file(str(path))
        self._fast.no_padding()
        self._fast.no_truncation()
        config = folder / "tokenizer_config.json"
        self._config: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}

    @property
    def pad(self) -> int:
        """Id of the padding token (any token serves where the model has none: padding is masked)."""
        return self._fast.token_to_id(self._special("pad_token") or self._special("eos_token")) or 0

    def encode(self, texts: Sequence[str], *, special: bool) -> list[NDArray[np.int32]]:
        """Token ids of each text; ``special`` adds what the tokenizer puts around a text ([CLS], BOS)."""
        items = self._fast.encode_batch(list(texts), add_special_tokens=special)
        return [np.asarray(item.ids, dtype=np.int32) for item in items]

    def dialogue(self, prompt: str, response: str) -> tuple[str, str]:
        """What the model reads, and what it is to answer, up to its end-of-turn token.

        In the chat template's form; without a template, the prompt and the response on two lines.
        """
        if self._template is None:
            return f"{self._special('bos_token')}{prompt}\n", f"{response}{self._special('eos_token')}"
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        asked = self._template(messages=turns[:1], add_generation_prompt=True)
        whole = self._template(messages=turns, add_generation_prompt=False)
        if not whole.startswith(asked):  # a template that writes the last turn otherwise than the ones before it
            return asked, f"{response}{self._special('eos_token')}"
        return asked, whole[len(asked) :].rstrip("\n")  # a model stops at its end-of-turn token, before the newline

    def _special(self, name: str) -> str:
        value = self._config.get(name) or ""
        return value["content"] if isinstance(value, dict) else value

    @cached_property
    def _template(self) -> Any:
        """``render(messages=..., add_generation_prompt=...)`` as ``transformers`` does, ``None`` without template."""
        file = self._folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else self._config.get("chat_template")
        if isinstance(source, list):  # several named templates
            source = next((item["template"] for item in source if item["name"] == "default"), None)
        if not source:
            return None
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise BadInput(f"the chat template in {str(self._folder)!r} refuses a dialogue of two turns: {message}")

        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        env.globals["raise_exception"] = refuse
        env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)  # marks the answer for transformers only
        render = env.from_string(plain).render
        return lambda **turns: render(
            bos_token=self._special("bos_token"), eos_token=self._special("eos_token"), **turns
        )


def _batches(rows: int, progress: Progress | None) -> Iterator[slice]:
    """Slices of a few thousand rows; ``progress`` is called with (rows done, rows in all) after each."""
    for start in range(0, rows, _BATCH):
        yield slice(start, start + _BATCH)
        if progress is not None:
            progress(min(start + _BATCH, rows), rows)


def text_rows(tok: Tokenizer, texts: Sequence[str], *, most: int, progress: Progress | None = None) -> TokenRows:
    """One row a text, special tokens included, cut to ``most`` tokens; nothing is predicted within them."""
    ids = [row[:most] for part in _batches(len(texts), progress) for row in tok.encode(texts[part], special=True)]
    return _pack(ids, [0] * len(ids), range(len(ids)))


def language_rows(
    tok: Tokenizer, texts: Sequence[str], *, most: int, chunk: bool, progress: Progress | None = None
) -> TokenRows:
    """Rows to predict every token but the first of; long texts become several rows of ``most`` tokens with ``chunk``.

    Rows of a single token are left out: nothing can be predicted.
    """
    ids, document = [], []
    for part in _batches(len(texts), progress):
        for number, row in enumerate(tok.encode(texts[part], special=True), part.start):
            for start in range(0, len(row) if chunk else 1, most):
                if len(row[start : start + most]) > 1:
                    ids.append(row[start : start + most])
                    document.append(number)
    return _pack(ids, [1] * len(ids), document)


def dialogue_rows(
    tok: Tokenizer, prompts: Sequence[str], responses: Sequence[str], *, most: int, progress: Progress | None = None
) -> TokenRows:
    """One row a dialogue, cut to ``most`` tokens, whose response is to be predicted.

    Rows of which no token of the response survives the cut are left out.
    """
    ids, first, kept = [], [], []
    for part in _batches(len(prompts), progress):
        pairs = [tok.dialogue(*pair) for pair in zip(prompts[part], responses[part], strict=True)]
        asked, answered = (tok.encode([pair[half] for pair in pairs], special=False) for half in (0, 1))
        for row, (question, answer) in enumerate(zip(asked, answered, strict=True), part.start):
            if 0 < len(question) < most and len(answer):
                ids.append(np.concatenate([question, answer])[:most])
                first.append(len(question))
                kept.append(row)
    return _pack(ids, first, kept)


def _pack(ids: list[NDArray[np.int32]], first_target: list[int], document: Sequence[int]) -> TokenRows:
    flat = np.concatenate([np.zeros(0, dtype=np.int32), *ids])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    return TokenRows(flat, offsets, np.asarray(first_target, np.int64), np.asarray(document, np.int64))


def join(first: TokenRows, second: TokenRows) -> TokenRows:
    """The rows of both, those of ``second`` after those of ``first`` (``document`` counts within each)."""
    return TokenRows(
        np.concatenate([first.flat, second.flat]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        np.concatenate([first.first_target, second.first_target]),
        np.concatenate([first.document, second.document]),
    )
