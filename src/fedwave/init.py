"""``fedwave init``: a job to start from, each common key with a line about it."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from string import Template

from fedwave.core.errors import BadInput, unknown
from fedwave.experiment import Experiment
from fedwave.results.files import disk, write_text
from fedwave.tasks.data import Table, read

TASKS = ("images", "toy", "text-classification", "causal-lm")
_BUILT_IN = {
    "images": '"digits"                  # 8 x 8 digits of scikit-learn; or an .npz file, a folder, a hub id',
    "text-classification": '"chatterbot"              # a .jsonl, .json, .csv or .parquet file, or a hub id',
    "causal-lm": '"chatterbot"              # a file of rows with prompt and response, or text; or a hub id',
}
_ROUNDS = {"images": 20, "toy": 20, "text-classification": 20, "causal-lm": 6}
_COHORT = {"images": 10, "toy": 10, "text-classification": 10, "causal-lm": 6}
_MOST_OWNERS = 200  # a column with more values than this is hardly one of clients


def write_job(folder: Path, *, task: str = "images", data: Path | None = None) -> Path:
    """Write ``folder/job.toml`` for ``task``, on ``data`` or a built-in set, and return its path.

    Raises
    ------
    BadInput : an unknown task, a job that is there already, data that cannot be read or lack what the task needs.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    path = folder / "job.toml"
    if path.exists():
        raise BadInput(f"{path} exists already; name another folder")
    text = job_text(task, data)
    Experiment.parse(tomllib.loads(text)).setting()  # a job that cannot work is not written
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return path


def job_text(task: str, data: Path | None = None) -> str:
    """The job as TOML with comments."""
    values = {"rounds": _ROUNDS[task], "cohort": _COHORT[task], **_data(task, data)}
    return "".join(Template(_piece(name)).substitute(values) for name in ("head", task, "tail"))


def _piece(name: str) -> str:
    return resources.files("fedwave").joinpath("jobs", "init", f"{name}.toml").read_text(encoding="utf-8")


def _data(task: str, data: Path | None) -> dict[str, str]:
    """What a template says about its data: where they are, and which column is what."""
    builtin = {"text_field": '"text"', "label_field": '"label"', "partition": _by("topic", "a client per topic")}
    if data is None:
        return {"data": _BUILT_IN.get(task, ""), **builtin}
    if task == "toy":
        raise BadInput("task toy makes its own data; --data is for images, text-classification and causal-lm")
    quoted = _quoted(str(data.resolve()))
    if task == "images":
        return {"data": quoted, **builtin}
    table = read(data)
    text, label = _columns(table) if task == "text-classification" else ("text", "label")
    return {
        "data": f"{quoted}   # columns: {', '.join(' '.join(name.split()) for name in table.columns)}",
        "text_field": _quoted(text),
        "label_field": _quoted(label),
        "partition": _owners(table),
    }


def _columns(table: Table) -> tuple[str, str]:
    """The columns of texts and of classes: those of these names, else the longest texts and the fewest values."""
    names = list(table.columns)
    if len(names) < 2:
        raise BadInput(f"{table.source} must have a column of texts and one of classes, it has: {', '.join(names)}")
    length = {name: sum(len(str(value)) for value in table.columns[name]) for name in names}
    text = "text" if "text" in names else max(names, key=lambda name: length[name])
    others = [name for name in names if name != text]
    return text, "label" if "label" in others else min(others, key=lambda name: _distinct(table, name))


def _owners(table: Table) -> str:
    """A partition: by the column that can best say who holds a row, at random where there is none."""
    named = [name for name in table.columns if name not in ("prompt", "response", "text")]
    usable = [
        name
        for name in named
        if 2 <= _distinct(table, name) <= min(_MOST_OWNERS, len(table) // 2) and all(table.columns[name])
    ]
    if usable:
        return _by(max(usable, key=lambda name: _distinct(table, name)), "a client per value")
    clients = max(2, min(10, len(table) // 4))
    return f'{{ name = "iid", clients = {clients} }}   # who holds which rows: dealt at random'


def _by(column: str, what: str) -> str:
    return f'{{ name = "column", column = {_quoted(column)} }}   # who holds which rows: {what}; also iid'


def _distinct(table: Table, name: str) -> int:
    return len({str(value) for value in table.columns[name]})


def _quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False)
