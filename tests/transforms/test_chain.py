"""Sizes are what serialisation gives, decoding is exact on both ends, and error feedback loses nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.config import build
from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.types import Leaf
from fedwave.transforms.chain import Chain
from fedwave.transforms.clip import Clip
from fedwave.transforms.quantize import Quantize
from fedwave.transforms.top_k import TopK

CHAINS = [
    Chain(),
    Chain((Clip(1.0),)),
    Chain((Quantize(8),)),
    Chain((Quantize(4),)),
    Chain((Quantize(2, scale="l2"),)),
    Chain((TopK(0.3),)),
    Chain((TopK(0.5, error_feedback=False), TopK(0.5))),
    Chain((Clip(2.0), TopK(0.2), Quantize(4))),
    Chain((TopK(1.0), Clip(1.0), Quantize(8))),
]

leaf = st.builds(
    Leaf,
    st.lists(st.integers(0, 7), max_size=3).map(tuple),
    st.sampled_from(["float32", "bfloat16", "float16", "float64", "int64", "int32"]),
)
leaves_strategy = st.dictionaries(st.sampled_from(["a", "b/lora_A.weight", "c"]), leaf, min_size=1)


def keys(k: int, seed: int = 0) -> list[Key]:
    return [Key(seed).fold("client", i) for i in range(k)]


def random_values(leaves: dict[str, Leaf], k: int, seed: int) -> dict[str, torch.Tensor]:
    generator = Key(seed).torch()
    values = {}
    for name, leaf in leaves.items():
        x = torch.randn(k, *leaf.shape, generator=generator)
        values[name] = (x if "float" in leaf.dtype else 100 * x).to(getattr(torch, leaf.dtype))
    return values


@settings(max_examples=150, deadline=None)
@given(leaves=leaves_strategy, chain=st.sampled_from(CHAINS), k=st.integers(1, 3), seed=st.integers(0, 99))
def test_bytes_are_counted_exactly_and_bring_back_what_decode_gives(leaves, chain, k, seed):
    values = random_values(leaves, k, seed)
    encoded = chain.encode(values, None, keys(k, seed))
    decoded = encoded.decode()
    assert {n: (tuple(v.shape[1:]), v.dtype) for n, v in decoded.items()} == {
        n: (x.shape, getattr(torch, x.dtype)) for n, x in leaves.items()
    }
    for client in range(k):
        data = chain.pack(encoded, leaves, client)
        assert 8 * len(data) == chain.bits(leaves)
        received = chain.unpack(data, leaves)
        for name in leaves:
            assert torch.equal(received[name], decoded[name][client])
            if "int" in leaves[name].dtype:
                assert torch.equal(received[name], values[name][client])


def test_sizes_by_hand():
    leaves = {"w": Leaf((10, 10)), "b": Leaf((5,), "bfloat16"), "n": Leaf((), "int64")}
    assert Chain().bits(leaves) == 100 * 32 + 5 * 16 + 64
    # 4 bits: w 50 bytes + 4 of scale; b ceil(20 / 8) = 3 bytes + 4; the integer as it is.
    assert Chain((Quantize(4),)).bits(leaves) == 8 * (54 + 7 + 8)
    # top 10 %: w 10 float32 + ceil(10 * 7 / 8) = 9 bytes of places; b max(1, round(0.5)) = 1 bfloat16 + 1 byte.
    assert Chain((TopK(0.1),)).bits(leaves) == 8 * (40 + 9 + 2 + 1 + 8)
    # then 8 bits: w 10 codes + 4 + 9; b 1 code + 4 + 1.
    assert Chain((TopK(0.1), Quantize(8))).bits(leaves) == 8 * (23 + 6 + 8)
    assert Chain((Clip(1.0),)).bits(leaves) == Chain().bits(leaves)


def test_a_client_is_encoded_the_same_in_any_packing():
    chain = Chain((TopK(0.5), Quantize(4)))
    values = random_values({"w": Leaf((6, 4)), "b": Leaf((3,))}, 4, seed=1)
    together = chain.encode(values, None, keys(4)).decode()
    order = [2, 0]
    apart = chain.encode({n: v[order] for n, v in values.items()}, None, [keys(4)[i] for i in order]).decode()
    for name, value in apart.items():
        assert torch.equal(value, together[name][order])


def test_an_empty_cohort_and_an_empty_part_pass():
    for chain in CHAINS:
        assert chain.encode({"w": torch.zeros(0, 3, 2)}, None, []).decode()["w"].shape == (0, 3, 2)
        assert chain.encode({}, None, keys(2)).decode() == {}
        assert chain.bits({}) == 0


@settings(max_examples=40, deadline=None)
@given(
    chain=st.sampled_from([Chain((TopK(0.1),)), Chain((TopK(0.3), Quantize(2))), Chain((TopK(0.2), Clip(0.5)))]),
    heard=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12),
    seed=st.integers(0, 99),
)
def test_sum_sent_and_memory_is_the_sum_of_updates(chain, heard, seed):
    """By induction: heard, e' = u + e - sent; lost, e' = u + e and nothing is sent. So sum(sent) + e = sum(u)."""
    leaves = {"w": Leaf((7, 3)), "b": Leaf((4,), "float64")}
    memory, updates, sent = {}, {}, {}
    for number, flags in enumerate(heard):
        mask = torch.tensor(flags)
        values = random_values(leaves, 3, seed + number)
        encoded = chain.encode(values, memory, keys(3, number))
        decoded = encoded.decode()
        for name, value in values.items():
            row = mask.reshape(-1, *[1] * (value.dim() - 1))
            updates[name] = updates.get(name, 0) + value.double()
            sent[name] = sent.get(name, 0) + decoded[name].double() * row
        memory = {
            name: torch.where(mask.reshape(-1, *[1] * (x.dim() - 1)), x, encoded.memory_if_lost[name])
            for name, x in encoded.memory_if_heard.items()
        }
    assert {n: (tuple(v.shape[1:]), str(v.dtype)[6:]) for n, v in memory.items()} == {
        n: (x.shape, x.dtype) for n, x in chain.memory_leaves(leaves).items()
    }
    for name in leaves:
        total = sent[name] + memory["residual/" + name].double()
        torch.testing.assert_close(total, updates[name], atol=2e-5, rtol=0)


def test_half_precision_residuals_keep_what_rounding_drops():
    """x = 1 + 2**-10 is not a bfloat16: 1.0 is sent, 2**-10 stays; after eight such rounds 2**-7 may go."""
    chain = Chain((TopK(1.0),))
    memory = {"residual/w": torch.full((1, 1), 2.0**-10)}
    encoded = chain.encode({"w": torch.ones(1, 1, dtype=torch.bfloat16)}, memory, keys(1))
    assert encoded.decode()["w"].item() == 1.0
    assert encoded.memory_if_heard["residual/w"].item() == 2.0**-10
    assert encoded.memory_if_lost["residual/w"].item() == 1 + 2.0**-10


def test_clipping_before_the_sparsifier_is_not_fed_back():
    # (3, 4) is clipped to (0.6, 0.8); top 1 sends 0.8; 0.6 stays, not 3.
    encoded = Chain((Clip(1.0), TopK(0.5))).encode({"w": torch.tensor([[3.0, 4.0]])}, None, keys(1))
    torch.testing.assert_close(encoded.decode()["w"], torch.tensor([[0.0, 0.8]]))
    torch.testing.assert_close(encoded.memory_if_heard["residual/w"], torch.tensor([[0.6, 0.0]]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("chain", CHAINS)
def test_what_is_not_finite_stays_so_and_spoils_no_memory(chain, bad):
    values = {"w": torch.arange(1.0, 13.0).repeat(2, 1), "b": torch.ones(2, 2)}
    values["w"][1, 3] = bad
    memory = {"residual/w": torch.full((2, 12), 0.25)} if chain.stateful else {}
    encoded = chain.encode(values, memory, keys(2))
    finite = torch.stack([x.isfinite().all(1) for x in encoded.decode().values()]).all(0)
    assert finite.tolist() == [True, False]
    for kept in (encoded.memory_if_heard, encoded.memory_if_lost):
        assert all(x.isfinite().all() for x in kept.values())
        if chain.stateful:
            assert torch.equal(kept["residual/w"][1], torch.full((12,), 0.25))
            assert torch.equal(kept["residual/b"][1], torch.zeros(2))


def test_properties_and_refusal():
    assert Chain((Clip(1.0),)).additive
    assert not Chain((Clip(1.0), Quantize(8))).additive
    assert Chain((TopK(),)).stateful
    assert not Chain((TopK(error_feedback=False),)).stateful
    assert Chain((TopK(error_feedback=False),)).memory_leaves({"w": Leaf((2,))}) == {}
    assert Chain((TopK(),)).memory_leaves({"w": Leaf((2,), "bfloat16"), "n": Leaf((), "int64")}) == {
        "residual/w": Leaf((2,), "float32")
    }
    with pytest.raises(Refused, match="'top_k' stands after 'quantize'"):
        Chain((Quantize(8), TopK(0.1)))
    both = (Quantize(8, direction="down"), TopK(0.1))
    assert Chain.of(both, "down").transforms == both[:1]
    with pytest.raises(BadInput, match="has 3 bytes where its schema has 8"):
        Chain().unpack(b"abc", {"w": Leaf((2,))})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "quantize", "bits": 3}, "bits"),
        ({"name": "top_k", "fraction": 0.0}, "fraction"),
        ({"name": "clip", "norm": -1}, "norm"),
        ({"name": "clip", "direction": "sideways"}, "direction"),
        ({"name": "top-k"}, "did you mean 'top_k'"),
    ],
)
def test_a_wrong_table_is_named(table, message):
    with pytest.raises(BadInput, match=message):
        build("transform", table)


def test_tables_give_the_same_objects():
    assert build("transform", {"name": "quantize", "bits": 4, "direction": "down"}) == Quantize(4, direction="down")
    assert build("transform", {"name": "top_k", "fraction": 0.2}) == TopK(0.2)
    assert build("transform", "clip") == Clip(1.0)


def test_planning_sizes_needs_no_torch():
    code = (
        "import sys; from fedwave.core.registry import names; names('transform');"
        "from fedwave.core.types import Leaf; from fedwave.transforms.chain import Chain;"
        "from fedwave.transforms.top_k import TopK; from fedwave.transforms.quantize import Quantize;"
        "assert Chain((TopK(0.1), Quantize(4))).bits({'w': Leaf((100,))}) == 8 * (5 + 4 + 9);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
