"""Reading rows: formats, messages that name file, line and field, and held-out rows without leakage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.tasks import chatterbot
from fedwave.tasks.data import Source, hold_out, load, normalised, read, split

ROWS = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]


def test_formats_agree(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "rows.csv").write_text("text,label\none,a\ntwo,b\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    for ending in ("jsonl", "json", "csv", "parquet"):
        table, held = load(Source(), str(tmp_path / f"rows.{ending}"))
        assert table.columns == {"text": ["one", "two"], "label": ["a", "b"]} and held is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", '{"text": "a"}\n{"text": \n', r"bad\.jsonl, line 2 is not JSON"),
        ("bad.jsonl", '{"text": "a"}\n\n[1]\n', r"bad\.jsonl, line 3 must be an object of fields, got '\[1\]'"),
        ("bad.json", '{"text": "a"}', r"bad\.json must be a list of objects"),
        ("bad.json", "[\n{,}]", r"bad\.json, line 2 is not JSON"),
        ("bad.csv", "text,label\na,b\nc\n", r"bad\.csv, line 3 does not have the 2 fields"),
        ("bad.csv", "text,label\na,b,c\n", r"bad\.csv, line 2 does not have the 2 fields"),
        ("bad.parquet", "text", r"bad\.parquet is not a parquet file"),
        ("bad.txt", "text", r"bad\.txt' must end in \.csv, \.json, \.jsonl, \.parquet"),
        ("empty.jsonl", "\n", r"empty\.jsonl holds no rows"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        read(tmp_path / name)


def test_bytes_that_are_no_text_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"text,label\ncaf\xe9,a\n")
    with pytest.raises(BadInput, match=r"latin\.csv is not UTF-8"):
        read(tmp_path / "latin.csv")


def test_bad_fields_are_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "x"}\n\n{"text": 3, "label": null}\n')
    table = read(tmp_path / "rows.jsonl")
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 3: 'text' must be a non-empty string, got 3"):
        table.strings("text")
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 3: 'label' must be a string or integer, got None"):
        table.labels("label")
    with pytest.raises(BadInput, match=r"rows\.jsonl: unknown field 'txet'; did you mean 'text'"):
        table.strings("txet")


def test_missing_files_and_unknown_names() -> None:
    with pytest.raises(BadInput, match=r"data file 'nowhere\.jsonl' does not exist"):
        load(Source(), "nowhere.jsonl")
    with pytest.raises(BadInput, match="data 'chaterbot' is neither a file, nor a built-in set"):
        load(Source(), "chaterbot")


def test_hub_without_datasets_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"needs the package 'datasets': install it, or save the set as \.jsonl"):
        load(Source(), "org/name")


class Rows(dict[str, list[Any]]):
    """A split as ``datasets`` gives it, downloaded: columns by name, ``[i]`` a row, and features."""

    features = {"text": object(), "label": SimpleNamespace(names=["no", "yes"])}

    def __len__(self) -> int:
        return len(self["text"])


class Streamed:
    """A split as ``datasets`` streams it: an iterator of rows that counts how far it was read."""

    def __init__(self, features: dict[str, Any] | None) -> None:
        self.features, self.read = features, 0

    def __iter__(self) -> Any:
        while True:
            self.read += 1
            yield {"text": f"row {self.read}", "label": self.read % 2}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A fake ``datasets``: what ``load_dataset`` was called with, and the splits that it gives."""
    fake, seen = ModuleType("datasets"), {"calls": [], "splits": {}, "streams": {}}

    def load_dataset(*names: str, **options: Any) -> Any:
        seen["calls"].append((names, options))
        if names[0] == "org/none":
            raise RuntimeError("404")
        return seen["streams" if options.get("streaming") else "splits"]

    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return seen


def test_hub_sets_bring_class_names_and_their_own_test_rows(hub: dict[str, Any]) -> None:
    hub["splits"] = {"train": Rows(text=["a", "b"], label=[1, 0]), "test": Rows(text=["c"], label=[1])}
    train, held = load(Source(), "org/name")
    assert train.columns["label"] == ["yes", "no"]
    assert held is not None and held.columns == {"text": ["c"], "label": ["yes"]}
    assert hub["calls"] == [(("org/name",), {})]


def test_hub_sets_have_configurations_and_splits(hub: dict[str, Any]) -> None:
    one = Rows(text=["a"], label=[1])
    hub["splits"] = {"train": one, "dev": Rows(text=["b", "c"], label=[0, -1])}
    train, held = load(Source(eval_split="dev"), "org/name:small")
    assert hub["calls"] == [(("org/name", "small"), {})]
    assert train.source == "org/name:small (train)" and held is not None
    assert held.columns["label"] == ["no", None]  # -1 marks a row without label
    with pytest.raises(BadInput, match=r"org/name:small \(dev\), row 2: 'label' must be a string or integer, got None"):
        held.labels("label")
    assert load(Source(train_split="dev"), "org/name")[1] is None
    with pytest.raises(BadInput, match=r"data 'org/name' has no split 'extra' \(it has: train, dev\)"):
        load(Source(eval_split="extra"), "org/name")
    with pytest.raises(BadInput, match=r"data 'org/none' cannot be loaded from the hub \(404\); save it as a file"):
        load(Source(), "org/none")


@pytest.mark.parametrize("features", [Rows.features, None])
def test_what_does_not_fit_is_streamed(hub: dict[str, Any], features: dict[str, Any] | None) -> None:
    hub["streams"] = {"train": Streamed(features), "validation": Streamed(features)}
    told: list[tuple[int, int]] = []
    train, held = load(Source(stream_rows=5), "org/huge:all", lambda done, total: told.append((done, total)))
    assert hub["calls"] == [(("org/huge", "all"), {"streaming": True})]
    assert hub["streams"]["train"].read == 5 and len(train) == 5 and held is not None and len(held) == 5
    assert train.columns["text"][0] == "row 1"
    assert train.columns["label"][:2] == (["yes", "no"] if features else [1, 0])
    assert (5, 5) in told


def test_the_first_rows_of_a_file_are_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\nnot reached\n')
    assert load(Source(stream_rows=2), str(path))[0].columns == {"text": ["a", "b"]}
    with pytest.raises(BadInput, match="line 3 is not JSON"):
        load(Source(stream_rows=3), str(path))
    csv = tmp_path / "rows.csv"
    csv.write_text("text,label\na,b\nc\n")
    assert len(read(csv, 1)) == 1
    assert len(load(Source(stream_rows=7), "chatterbot")[0]) == 7


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdefghij"), min_size=10, max_size=60), st.floats(0.05, 0.5))
def test_groups_are_held_out_whole(groups: list[str], fraction: float) -> None:
    kept, held = hold_out(groups, fraction)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(groups)))
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    largest = max(groups.count(name) for name in groups)
    assert fraction * len(groups) <= len(held) < fraction * len(groups) + largest


def test_held_out_rows_are_fixed_and_capped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(100)))
    train, held = split(Source(str(path), eval_fraction=0.2), lambda table: table.strings("text"))
    assert (len(train), len(held)) == (80, 20)
    _, fewer = split(Source(str(path), eval_fraction=0.2, eval_samples=5), lambda table: table.strings("text"))
    assert len(fewer) == 5 and set(fewer.columns["text"]) < set(held.columns["text"])
    own, other = split(Source(str(path), str(path)), lambda table: table.strings("text"))
    assert len(own) == len(other) == 100


def test_normalisation_sees_through_case_and_punctuation() -> None:
    assert normalised("  What's  AI?!") == normalised("what s ai") == "what s ai"


def test_chatterbot_has_no_repeats_and_no_leakage() -> None:
    train, held = chatterbot.tables()
    questions = [{normalised(text) for text in table.columns["prompt"]} for table in (train, held)]
    assert not questions[0] & questions[1]
    pairs = [
        (normalised(prompt), normalised(response))
        for table in (train, held)
        for prompt, response in zip(table.columns["prompt"], table.columns["response"], strict=True)
    ]
    assert len(pairs) == len(set(pairs)) == 1220
    assert (len(train), len(held)) == (1015, 205)
    assert len(set(train.columns["topic"])) == 21
    # The trap: one topic repeats ten questions over a thousand times.
    assert train.columns["topic"].count("tech_support") + held.columns["topic"].count("tech_support") < 50


def test_chatterbot_absent_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatterbot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="install it, or name a data file"):
        chatterbot.pairs()


def test_too_few_rows_to_hold_some_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "only"}\n')
    with pytest.raises(BadInput, match="1 rows cannot be divided"):
        config.build("task", {"name": "causal-lm", "data": str(path), "partition": "iid"}).tables()
