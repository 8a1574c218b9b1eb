"""Text to token rows without torch: the model folder's own tokenizer and chat template."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedwave.core.errors import BadInput
from fedwave.core.types import Ints


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

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Token ids of each text; ``special`` adds what the tokenizer puts around a text ([CLS], BOS)."""
        return [item.ids for item in self._fast.encode_batch(list(texts), add_special_tokens=special)]

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


def text_rows(tok: Tokenizer, texts: Sequence[str], *, most: int) -> TokenRows:
    """One row a text, special tokens included, cut to ``most`` tokens; nothing is predicted within them."""
    ids = [row[:most] for row in tok.encode(texts, special=True)]
    return _pack(ids, [0] * len(ids), range(len(ids)))


def language_rows(tok: Tokenizer, texts: Sequence[str], *, most: int, chunk: bool) -> TokenRows:
    """Rows to predict every token but the first of; long texts become several rows of ``most`` tokens with ``chunk``.

    Rows of a single token are left out: nothing can be predicted.
    """
    ids, document = [], []
    for number, row in enumerate(tok.encode(texts, special=True)):
        for start in range(0, len(row) if chunk else 1, most):
            if len(row[start : start + most]) > 1:
                ids.append(row[start : start + most])
                document.append(number)
    return _pack(ids, [1] * len(ids), document)


def dialogue_rows(tok: Tokenizer, prompts: Sequence[str], responses: Sequence[str], *, most: int) -> TokenRows:
    """One row a dialogue, cut to ``most`` tokens, whose response is to be predicted.

    Rows of which no token of the response survives the cut are left out.
    """
    pairs = [tok.dialogue(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    asked = tok.encode([pair[0] for pair in pairs], special=False)
    answered = tok.encode([pair[1] for pair in pairs], special=False)
    kept = [row for row in range(len(pairs)) if 0 < len(asked[row]) < most and answered[row]]
    return _pack([(asked[row] + answered[row])[:most] for row in kept], [len(asked[row]) for row in kept], kept)


def _pack(ids: list[list[int]], first_target: list[int], document: Sequence[int]) -> TokenRows:
    flat = np.fromiter((token for row in ids for token in row), dtype=np.int32)
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
