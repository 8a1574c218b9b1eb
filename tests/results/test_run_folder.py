"""The run folder: never written over, whole or absent, and as it was after a crash."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fedwave.core.errors import BadInput
from fedwave.results.run_folder import RunFolder

ARRAYS = {"battery_j": np.array([np.inf, 2.5]), "round": np.array(3), "seen": np.array([True, False])}


def new(path) -> RunFolder:
    return RunFolder(path / "run").create("seed = 0\n", {"python": "3.11"})


def state(value: float) -> dict[str, dict[str, torch.Tensor]]:
    flat = torch.full((6,), value)
    # Two views of one storage, a transposed one, and an empty group: all must come back.
    return {"model": {"a/w": flat[:4].reshape(2, 2).T, "b": flat}, "momentum": {}}


def test_create_append_and_read(tmp_path):
    run = new(tmp_path)
    assert run.experiment.read_text() == "seed = 0\n"
    assert json.loads(run.environment.read_text()) == {"run_format": 1, "python": "3.11"}
    run.append({"round": 0, "loss": float("nan"), "x": np.float64("inf"), "n": np.int64(3), "ids": np.arange(2)})
    run.append({"round": 1, "eval": {"loss": 2.5}})
    assert run.rounds.read_text() == (
        '{"round": 0, "loss": null, "x": null, "n": 3, "ids": [0, 1]}\n{"round": 1, "eval": {"loss": 2.5}}\n'
    )
    assert RunFolder(run.path).open().records()[1] == {"round": 1, "eval": {"loss": 2.5}}


def test_a_run_is_never_written_over(tmp_path):
    run = new(tmp_path)
    with pytest.raises(BadInput, match=r"run already holds a run: continue it with --resume, or name .* --out"):
        RunFolder(run.path).create("", {})
    assert run.experiment.read_text() == "seed = 0\n"


def test_another_format_is_refused(tmp_path):
    run = new(tmp_path)
    run.environment.write_text('{"run_format": 9}')
    with pytest.raises(BadInput, match="run format 9, this fedwave reads format 1"):
        run.open()
    with pytest.raises(BadInput, match="is not a run folder"):
        RunFolder(tmp_path).open()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file/run cannot be written or read: Not a directory"):
        RunFolder(tmp_path / "file" / "run").create("", {})
    run = new(tmp_path)
    run.rounds.unlink()
    run.rounds.mkdir()
    with pytest.raises(BadInput, match=r"rounds\.jsonl cannot be written"):
        run.append({})


def test_checkpoint_brings_everything_back_and_keeps_two(tmp_path):
    run = new(tmp_path)
    assert run.latest() is None
    for number in (1, 2, 17):
        run.append({"round": number - 1})
        run.checkpoint(number, state(number), ARRAYS, {"clock": np.float64(1.5), "who": "me"})
    assert run.kept() == [2, 17]
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["round_000002", "round_000017"]
    found = run.latest()
    assert found is not None
    assert (found.round, found.meta, found.rounds_bytes) == (17, {"clock": 1.5, "who": "me"}, 3 * 13 + 1)
    assert found.tensors["momentum"] == {}
    for name, value in state(17)["model"].items():
        assert torch.equal(found.tensors["model"][name], value)
    for name, value in ARRAYS.items():
        assert found.arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(found.arrays[name], value)


@pytest.mark.parametrize("name", ["state.safetensors", "world.safetensors", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, name, damage):
    run = new(tmp_path)
    for number in (1, 2):
        run.checkpoint(number, state(number), ARRAYS, {"clock": 111111})
    path = run.checkpoints / "round_000002" / name
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(
            content[:-1] + bytes([content[-1] ^ 1]) if name != "meta.json" else content.replace(b"111", b"112")
        )
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.warns(UserWarning, match="round_000002 is damaged"):
        found = run.latest()
    assert found is not None
    assert found.round == 1
    run.truncate_log(found)
    assert run.kept() == [1]


def test_resume_cuts_the_log_to_what_the_checkpoint_saw(tmp_path):
    run = new(tmp_path)
    run.append({"round": 0})
    run.checkpoint(1, state(1), ARRAYS, {})
    run.append({"round": 1})
    with run.rounds.open("a") as log:
        log.write('{"round": 2, "lo')  # killed in the middle of a line
    assert [record["round"] for record in run.records()] == [0, 1]
    found = run.latest()
    run.truncate_log(found)
    assert run.rounds.read_text() == '{"round": 0}\n'
    # A log shorter than the checkpoint knows cannot be continued from there.
    run.truncate_log(None)
    assert run.kept() == []
    assert run.rounds.read_bytes() == b""


def test_a_lost_log_disqualifies_the_checkpoint(tmp_path):
    run = new(tmp_path)
    run.append({"round": 0})
    run.checkpoint(1, state(1), ARRAYS, {})
    run.rounds.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"rounds\.jsonl is shorter than it was"):
        assert run.latest() is None


def test_an_unfinished_checkpoint_is_not_seen(tmp_path):
    run = new(tmp_path)
    run.checkpoint(1, state(1), ARRAYS, {})
    (run.checkpoints / "round_000002.tmp").mkdir()
    assert run.kept() == [1]
    run.checkpoint(2, state(2), ARRAYS, {})
    run.checkpoint(2, state(3), ARRAYS, {})  # made again after going back
    found = run.latest()
    assert found is not None
    assert float(found.tensors["model"]["b"][0]) == 3
