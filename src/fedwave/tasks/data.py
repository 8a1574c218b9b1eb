"""Where rows come from: local files, built-in sets, the Hugging Face hub. Torch-free.

A :class:`Table` holds plain Python columns; which of them a task needs is the task's business.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput, unknown
from fedwave.core.keys import Key
from fedwave.core.types import Ints

HELD_OUT = Key(0).fold("held-out")
"""Fixed, so that every seed of a job is evaluated on the same rows."""


@dataclass(frozen=True)
class Table:
    """Rows of a data set: ``columns`` of equal length, and where each row stands in ``source``, for error messages."""

    source: str
    columns: dict[str, list[Any]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Iterable[int]) -> Table:
        """The given rows, in that order."""
        rows = list(rows)
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(self.source, columns, [self.places[row] for row in rows])

    def strings(self, field: str) -> list[str]:
        """Column ``field``. Raises :class:`BadInput` where it is absent, or names the first row that is no text."""
        for row, value in enumerate(self._column(field)):
            if not isinstance(value, str) or not value.strip():
                raise BadInput(
                    f"{self.source}, {self.places[row]}: {field!r} must be a non-empty string, got {value!r}"
                )
        return self.columns[field]

    def labels(self, field: str) -> list[str]:
        """Column ``field`` as class names: strings or integers. Raises :class:`BadInput` naming the first bad row."""
        for row, value in enumerate(self._column(field)):
            if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
                raise BadInput(
                    f"{self.source}, {self.places[row]}: {field!r} must be a string or integer, got {value!r}"
                )
        return [str(value) for value in self.columns[field]]

    def _column(self, field: str) -> list[Any]:
        if field not in self.columns:
            raise BadInput(f"{self.source}: {unknown('field', field, self.columns)}")
        return self.columns[field]


def load(data: str) -> tuple[Table, Table | None]:
    """Training rows of ``data`` and its own held-out rows, where the set comes with some.

    ``data`` is ``"chatterbot"``, a local .jsonl, .json, .csv or .parquet file, or a hub id ``"org/name"``.
    """
    path = Path(data).expanduser()
    if path.suffix in _READERS or path.exists():
        return read(path), None
    if data == "chatterbot":
        from fedwave.tasks.chatterbot import tables

        return tables()
    if re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        return hub(data)
    raise BadInput(
        f"data {data!r} is neither a file, nor a built-in set (chatterbot), nor a hub id such as 'org/name'; "
        f"files end in {', '.join(sorted(_READERS))}"
    )


def split(
    data: str, eval_data: str | None, *, fraction: float, group: Callable[[Table], list[str]], most: int = 0
) -> tuple[Table, Table]:
    """Training and held-out rows.

    Held out is, in this order: the file ``eval_data``, the set's own held-out part, ``fraction`` of the rows by
    :func:`hold_out`. ``most`` > 0 keeps a fixed subset of at most that many of them.
    """
    train, test = load(data)
    if eval_data is not None:
        test = load(eval_data)[0]
    if test is None:
        kept, held = hold_out(group(train), fraction)
        if not len(kept) or not len(held):
            raise BadInput(
                f"{train.source}: {len(train)} rows cannot be divided into training and held-out rows with "
                f"eval_fraction = {fraction}; name an eval_data file"
            )
        train, test = train.take(kept), train.take(held)
    if 0 < most < len(test):
        test = test.take(np.sort(np.argsort(HELD_OUT.fold("subset").bits(np.arange(len(test)), 1)[:, 0])[:most]))
    return train, test


def hold_out(groups: list[str], fraction: float) -> tuple[Ints, Ints]:
    """Rows to train on and rows to hold out: about ``fraction`` of them, whole groups, so that none is on both sides.

    Groups are taken in the order of a keyed hash of their name until the fraction is reached.
    """
    names = sorted(set(groups), key=lambda name: HELD_OUT.fold(name).value)
    size: dict[str, int] = {}
    for name in groups:
        size[name] = size.get(name, 0) + 1
    before = np.concatenate([[0], np.cumsum([size[name] for name in names])[:-1]])
    held = {name for name, start in zip(names, before, strict=True) if start < fraction * len(groups)}
    out = np.asarray([name in held for name in groups], dtype=bool)
    return np.flatnonzero(~out), np.flatnonzero(out)


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces: equal for texts that differ in case or punctuation alone."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read(path: Path) -> Table:
    """A local file as a :class:`Table`. Raises :class:`BadInput` naming the file and the line at fault."""
    if not path.is_file():
        raise BadInput(f"data file {str(path)!r} does not exist")
    if path.suffix not in _READERS:
        raise BadInput(f"data file {str(path)!r} must end in {', '.join(sorted(_READERS))}")
    try:
        rows, places = _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not rows:
        raise BadInput(f"{path} holds no rows")
    fields = list(dict.fromkeys(name for row in rows for name in row))
    return Table(str(path), {name: [row.get(name) for row in rows] for name in fields}, places)


Rows = tuple[list[dict[str, Any]], list[str]]


def _jsonl(path: Path) -> Rows:
    rows, places = [], []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}, line {number} is not JSON: {error.msg} at column {error.colno}") from None
            if not isinstance(row, dict):
                raise BadInput(f"{path}, line {number} must be an object of fields, got {line.strip()[:40]!r}")
            rows.append(row)
            places.append(f"line {number}")
    return rows, places


def _json(path: Path) -> Rows:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {error.lineno} is not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path} must be a list of objects of fields")
    return rows, [f"row {number}" for number in range(1, len(rows) + 1)]


def _csv(path: Path) -> Rows:
    rows, places = [], []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row or None in row.values():
                fields = len(reader.fieldnames or ())
                raise BadInput(f"{path}, line {reader.line_num} does not have the {fields} fields of the header")
            rows.append(row)
            places.append(f"line {reader.line_num}")
    return rows, places


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise BadInput(f"{path} is not a parquet file: {error}") from None
    return rows, [f"row {number}" for number in range(1, len(rows) + 1)]


_READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}


def hub(name: str) -> tuple[Table, Table | None]:
    """Splits ``train`` and, where there is one, ``test`` or ``validation`` of a hub data set."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput(
            f"data {name!r} is no local file, and reading it from the hub needs the package 'datasets': "
            f"install it, or save the set as .jsonl and name that file"
        ) from None
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:
        raise BadInput(
            f"data {name!r} cannot be loaded from the hub ({error}); save it as .jsonl and name that file"
        ) from error
    if "train" not in splits:
        raise BadInput(f"data {name!r} has no split 'train' (it has: {', '.join(splits)})")
    held = next((splits[part] for part in ("test", "validation") if part in splits), None)
    return _hub_table(f"{name} (train)", splits["train"]), held and _hub_table(f"{name} (held out)", held)


def _hub_table(source: str, rows: Any) -> Table:
    columns = {}
    for field, feature in rows.features.items():
        values, names = list(rows[field]), getattr(feature, "names", None)
        columns[field] = [names[value] for value in values] if names else values  # class index -> class name
    return Table(source, columns, [f"row {number}" for number in range(1, len(rows) + 1)])
