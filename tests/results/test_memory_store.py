"""Clients' memory: what was put comes back, across flushes, crashes and restores."""

from __future__ import annotations

import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.core.types import Leaf
from fedwave.results.memory_store import MemoryStore

LEAVES = {"a/w": Leaf((2, 2)), "n": Leaf((), "int64"), "h": Leaf((3,), "bfloat16")}


def rows(*values: int) -> dict[str, torch.Tensor]:
    v = torch.tensor(values)
    return {"a/w": v.float().reshape(-1, 1, 1).expand(-1, 2, 2), "n": v, "h": v.bfloat16()[:, None].expand(-1, 3)}


def segments(store: MemoryStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_was_put_comes_back_and_the_rest_is_zero(tmp_path, on_disk):
    store = MemoryStore(tmp_path / "memory" if on_disk else None, LEAVES)
    store.put([5, 2], rows(50, 20))
    store.flush(1)
    store.put([7, 5], rows(70, 51))
    found, known = store.get([2, 9, 5, 7])
    assert known.tolist() == [True, False, True, True]
    for name, value in rows(20, 0, 51, 70).items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    found, known = store.get([])
    assert found["a/w"].shape == (0, 2, 2)
    assert known.shape == (0,)


def test_later_changes_of_the_callers_tensors_do_not_reach_the_store():
    store = MemoryStore(None, {"n": Leaf((), "int64")})
    mine = torch.tensor([1, 2])
    store.put([0, 1], {"n": mine})
    mine += 10
    store.get([0, 1])[0]["n"].add_(5)
    assert store.get([0, 1])[0]["n"].tolist() == [1, 2]


def test_a_crash_between_flush_and_checkpoint_is_harmless(tmp_path):
    store = MemoryStore(tmp_path, LEAVES)
    store.put([1, 2], rows(10, 20))
    store.flush(1)  # checkpoint 1 follows
    store.put([2, 3], rows(21, 30))
    store.flush(2)  # killed here: no checkpoint 2
    again = MemoryStore(tmp_path, LEAVES)
    again.restore(1)
    found, known = again.get([1, 2, 3])
    assert found["n"].tolist() == [10, 20, 0]
    assert known.tolist() == [True, True, False]
    again.put([3], rows(31))
    again.flush(3)  # segment 2 must not come back to life
    third = MemoryStore(tmp_path, LEAVES)
    third.restore(3)
    assert third.get([1, 2, 3])[0]["n"].tolist() == [10, 20, 31]


def test_segments_go_when_no_checkpoint_needs_them(tmp_path):
    store = MemoryStore(tmp_path, LEAVES)
    for number, clients in enumerate([[1, 2], [1], [2], [3]], start=1):
        store.put(clients, rows(*[10 * number + c for c in clients]))
        store.flush(number)
    store.retain([2, 3])  # as of round 2 client 2 lives in segment 1
    assert len(segments(store)) == 4
    store.retain([3, 4])  # as of round 3 nobody does
    assert segments(store) == [f"round_00000{n}.safetensors" for n in (2, 3, 4)]
    again = MemoryStore(tmp_path, LEAVES)
    again.restore(3)
    assert again.get([1, 2, 3])[0]["n"].tolist() == [21, 32, 0]


def test_misuse_and_damage_are_named(tmp_path):
    store = MemoryStore(tmp_path, LEAVES)
    store.put([1], rows(1))
    store.flush(1)
    store.flush(1)  # nothing changed: nothing to do
    store.put([2], rows(2))
    with pytest.raises(ValueError, match="round 1 is already written"):
        store.flush(1)
    (tmp_path / "round_000001.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"round_000001\.safetensors cannot be written or read"):
        MemoryStore(tmp_path, LEAVES).restore(1)


@settings(max_examples=40, deadline=None)
@given(
    rounds=st.lists(st.tuples(st.sets(st.integers(0, 5), max_size=4), st.sampled_from("-fck")), max_size=12),
)
def test_equal_to_a_dictionary_whatever_happens(rounds):
    """Model: a dict, and its copies at checkpoints. ``f`` flush only, ``c`` checkpoint, ``k`` kill and restore."""
    leaves = {"n": Leaf((), "int64")}
    with tempfile.TemporaryDirectory() as folder:
        store, truth, kept = MemoryStore(folder, leaves), {}, [(0, {})]
        for number, (clients, event) in enumerate(rounds, start=1):
            values = {client: 100 * number + client for client in sorted(clients)}
            store.put(list(values), {"n": torch.tensor(list(values.values()), dtype=torch.int64)})
            truth |= values
            if event in "fc":
                store.flush(number)
            if event == "c":
                kept = [*kept[-1:], (number, dict(truth))]
                store.retain([made for made, _ in kept])
            if event == "k":
                back = kept[0]  # the newer one may be damaged
                kept, truth = [back], dict(back[1])
                store = MemoryStore(folder, leaves)
                store.restore(back[0])
            found, known = store.get(range(6))
            assert found["n"].tolist() == [truth.get(client, 0) for client in range(6)]
            assert known.tolist() == [client in truth for client in range(6)]
