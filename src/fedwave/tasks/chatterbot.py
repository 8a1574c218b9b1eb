"""The built-in dialogues: the English topics of the package ``chatterbot-corpus`` (BSD licence), without its repeats.

The corpus repeats itself (one topic holds over a thousand pairs of ten questions), so a naive split measures memory.
Pairs equal up to case and punctuation are kept once, and all pairs of one normalised question are held out together.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from fedwave.core.errors import BadInput
from fedwave.tasks.data import Table, hold_out, normalised

EVAL_FRACTION = 1 / 6


@lru_cache(maxsize=1)
def tables() -> tuple[Table, Table]:
    """Training and held-out pairs; the split never changes. Columns: see :func:`pairs`."""
    table = pairs()
    train, held = hold_out([normalised(prompt) for prompt in table.columns["prompt"]], EVAL_FRACTION)
    return table.take(train), table.take(held)


def pairs() -> Table:
    """Every distinct (question, answer) of the English topics, in the order of topic and file.

    A dialogue of n turns gives n - 1 pairs: each turn with the one that answers it. ``text`` and ``label`` repeat
    ``prompt`` and ``topic``, so that the set also serves to classify questions by topic.
    """
    columns: dict[str, list[str]] = {"prompt": [], "response": [], "topic": []}
    places: list[str] = []
    seen: set[tuple[str, str]] = set()
    for path in sorted(_folder().glob("*.yml")):
        for number, turns in enumerate(_dialogues(path), 1):
            for prompt, response in zip(turns, turns[1:], strict=False):
                pair = (normalised(prompt), normalised(response))
                if pair in seen or not all(pair):
                    continue
                seen.add(pair)
                places.append(f"{path.name}, dialogue {number}")
                for name, value in zip(columns, (prompt, response, path.stem), strict=True):
                    columns[name].append(value)
    return Table("chatterbot", {**columns, "text": columns["prompt"], "label": columns["topic"]}, places)


def _folder() -> Path:
    found = importlib.util.find_spec("chatterbot_corpus")
    if found is None or not found.submodule_search_locations:
        raise BadInput("data 'chatterbot' needs the package 'chatterbot-corpus': install it, or name a data file")
    return Path(found.submodule_search_locations[0]) / "data" / "english"


def _dialogues(path: Path) -> list[list[str]]:
    import yaml

    content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [[str(turn).strip() for turn in turns] for turns in content["conversations"]]
