"""Where rows come from: local files, built-in sets, the Hugging Face hub. Torch-free.

A :class:`Table` holds plain Python columns; which of them a task needs is the task's business.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.config import Fraction, Index
from fedwave.core.errors import BadInput, unknown
from fedwave.core.keys import Key
from fedwave.core.types import Ints
from fedwave.tasks import hub
from fedwave.tasks.task import Progress

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

    def first(self, most: int) -> Table:
        """The first ``most`` rows; all with 0."""
        return self.take(range(most)) if 0 < most < len(self) else self

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


@dataclass(frozen=True)
class Source:
    """Fields of every task that reads data.

    Parameters
    ----------
    data : where the rows are; see the task.
    eval_data : held-out rows; by default the set's own, else ``eval_fraction`` of the rows.
    eval_fraction : part of the rows that is held out where nothing else is.
    eval_samples : most held-out rows to use, 0 for all.
    stream_rows : read only the first so many rows of each part and never load the others; 0: all.
    train_split, eval_split : split names of a hub set; by default the held-out rows are ``test``, else ``validation``.
    """

    data: str = "chatterbot"
    eval_data: str | None = None
    eval_fraction: Fraction = 0.1
    eval_samples: Index = 0
    stream_rows: Index = 0
    train_split: str = "train"
    eval_split: str | None = None

    def hub_rows(self, data: str, progress: Progress | None = None) -> tuple[hub.HubRows, hub.HubRows | None]:
        """Training and held-out rows of a hub set."""
        return hub.splits(data, train=self.train_split, held=self.eval_split, most=self.stream_rows, progress=progress)


def load(source: Source, data: str, progress: Progress | None = None) -> tuple[Table, Table | None]:
    """Training rows of ``data`` and its own held-out rows, where the set comes with some.

    ``data`` is ``"chatterbot"``, a local .jsonl, .json, .csv or .parquet file, or a hub id ``"org/name"``, with the
    name of a configuration behind a colon where the set has several.
    """
    path = Path(data).expanduser()
    if path.suffix in _READERS or path.exists():
        return read(path, source.stream_rows), None
    if data == "chatterbot":
        from fedwave.tasks.chatterbot import tables

        train, held = tables()
        return train.first(source.stream_rows), held.first(source.stream_rows)
    if hub.is_id(data):
        rows, own = source.hub_rows(data, progress)
        return _table(rows), None if own is None else _table(own)
    raise BadInput(
        f"data {data!r} is neither a file, nor a built-in set (chatterbot), nor a hub id such as 'org/name'; "
        f"files end in {', '.join(sorted(_READERS))}"
    )


def split(source: Source, group: Callable[[Table], list[str]], progress: Progress | None = None) -> tuple[Table, Table]:
    """Training and held-out rows.

    Held out is, in this order: ``eval_data`` (of a hub set its held-out split, where it has one), the set's own
    held-out part, ``eval_fraction`` of the rows by :func:`hold_out`. ``eval_samples`` keeps a fixed subset of them.
    """
    train, test = load(source, source.data, progress)
    if source.eval_data is not None:
        rows, own = load(source, source.eval_data, progress)
        test = rows if own is None or source.eval_data == "chatterbot" else own
    if test is None:
        kept, held = hold_out(group(train), source.eval_fraction)
        if not len(kept) or not len(held):
            raise BadInput(
                f"{train.source}: {len(train)} rows cannot be divided into training and held-out rows with "
                f"eval_fraction = {source.eval_fraction}; name an eval_data file"
            )
        train, test = train.take(kept), train.take(held)
    return train, test.take(subset(len(test), source.eval_samples))


def subset(rows: int, most: int) -> Ints:
    """At most ``most`` of the rows (0: all), ascending: the same ones whatever the job's seed."""
    everyone = np.arange(rows)
    if not 0 < most < rows:
        return everyone
    return np.sort(np.argsort(HELD_OUT.fold("subset").bits(everyone, 1)[:, 0])[:most])


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


def read(path: Path, most: int = 0) -> Table:
    """A local file, or its first ``most`` rows, as a :class:`Table`.

    Raises :class:`BadInput` naming the file and the line at fault.
    """
    if not path.is_file():
        raise BadInput(f"data file {str(path)!r} does not exist")
    if path.suffix not in _READERS:
        raise BadInput(f"data file {str(path)!r} must end in {', '.join(sorted(_READERS))}")
    try:
        numbered = list(islice(_READERS[path.suffix](path), most or None))
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not numbered:
        raise BadInput(f"{path} holds no rows")
    fields = list(dict.fromkeys(name for _, row in numbered for name in row))
    columns = {name: [row.get(name) for _, row in numbered] for name in fields}
    return Table(str(path), columns, [place for place, _ in numbered])


Rows = Iterable[tuple[str, dict[str, Any]]]
"""Where each row stands, and its fields; read as it is asked for."""


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}, line {number} is not JSON: {error.msg} at column {error.colno}") from None
            if not isinstance(row, dict):
                raise BadInput(f"{path}, line {number} must be an object of fields, got {line.strip()[:40]!r}")
            yield f"line {number}", row


def _json(path: Path) -> Rows:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {error.lineno} is not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path} must be a list of objects of fields")
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row or None in row.values():
                fields = len(reader.fieldnames or ())
                raise BadInput(f"{path}, line {reader.line_num} does not have the {fields} fields of the header")
            yield f"line {reader.line_num}", row


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(
            f"reading {path} needs the package 'pyarrow': pip install 'fedwave[parquet]', or save it as .jsonl"
        ) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except pyarrow.ArrowInvalid as error:
        raise BadInput(f"{path} is not a parquet file: {error}") from None


_READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}


def _table(rows: hub.HubRows) -> Table:
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    return Table(rows.source, {field: rows.column(field) for field in rows.fields}, places)
