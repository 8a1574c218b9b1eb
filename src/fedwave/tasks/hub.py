"""Data sets of the Hugging Face hub, through the package ``datasets``: imported when such a set is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.tasks.task import Progress

_ID = re.compile(r"(?P<set>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?")


@dataclass(frozen=True)
class HubRows:
    """Rows of one split. ``rows[i]`` is a table of fields; ``features`` say which fields hold class indices."""

    source: str
    rows: Any
    features: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fields(self) -> list[str]:
        """Names of the fields."""
        return list(self.features)

    def column(self, field: str) -> list[Any]:
        """All values of ``field``; class indices become class names, and those of unlabelled rows (-1) ``None``."""
        values = [row.get(field) for row in self.rows] if isinstance(self.rows, list) else list(self.rows[field])
        names = getattr(self.features[field], "names", None)
        if not names:
            return values
        return [names[value] if value is not None and value >= 0 else None for value in values]


def is_id(data: str) -> bool:
    """Whether ``data`` has the form of a hub id: ``org/name`` or ``org/name:config``."""
    return _ID.fullmatch(data) is not None


def splits(
    data: str, *, train: str = "train", held: str | None = None, most: int = 0, progress: Progress | None = None
) -> tuple[HubRows, HubRows | None]:
    """Split ``train`` of a hub set, and split ``held``: by default ``test`` or ``validation``, where there is one.

    Parameters
    ----------
    most : the set is streamed and only its first so many rows are taken; 0: it is downloaded.
    progress : called with (rows read, rows in all) while rows are streamed.

    Raises
    ------
    BadInput : no ``datasets`` package, no such set or configuration, no such split.
    """
    match = _ID.fullmatch(data)
    assert match is not None
    found = _load(data, [name for name in match.group("set", "config") if name], streaming=most > 0)
    for name in (train, held):
        if name is not None and name not in found:
            raise BadInput(f"data {data!r} has no split {name!r} (it has: {', '.join(found)})")
    held = held or next((name for name in ("test", "validation") if name in found and name != train), None)
    parts = [None if name is None else _rows(f"{data} ({name})", found[name], most, progress) for name in (train, held)]
    assert parts[0] is not None
    return parts[0], parts[1]


def _load(data: str, names: list[str], *, streaming: bool) -> Mapping[str, Any]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput(
            f"data {data!r} is no local file, and reading it from the hub needs the package 'datasets': "
            f"install it, or save the set as .jsonl and name that file"
        ) from None
    try:
        return datasets.load_dataset(*names, streaming=True) if streaming else datasets.load_dataset(*names)
    except Exception as error:  # whatever the hub, the network or the set's own files come up with
        raise BadInput(
            f"data {data!r} cannot be loaded from the hub ({error}); save it as a file and name that"
        ) from error


def _rows(source: str, split: Any, most: int, progress: Progress | None) -> HubRows:
    if not most:
        return HubRows(source, split, split.features)
    rows: list[dict[str, Any]] = []
    for row in islice(split, most):
        rows.append(row)
        if progress is not None:
            progress(len(rows), most)
    if progress is not None:
        progress(most, most)
    if not rows:
        raise BadInput(f"data {source} holds no rows")
    return HubRows(source, rows, getattr(split, "features", None) or dict.fromkeys(rows[0]))
