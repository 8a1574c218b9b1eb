"""Random streams: pinned values, independence of cohort and order, distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key, _mix

IDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20)


def test_mixer_is_splitmix64():
    """First outputs of SplitMix64 from state 1234567, as published with its reference implementation."""
    state = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert _mix(state).tolist() == expected


def test_known_answers():
    """Pinned: a run must give the same numbers on every machine and in every later version."""
    key = Key(0).fold("sample", 3)
    assert key.value == 8065984071526492024
    assert Key(7).bits([0, 1, 2**40], 2).tolist() == [
        [3610735443005674341, 5141127732746848797],
        [11577281486786391398, 14105680077167936040],
        [11047467332332686788, 4912601141959551798],
    ]
    assert Key(7).uniform([5])[0, 0] == pytest.approx(0.35691239499508093, rel=1e-15)
    assert Key(7).normal([5])[0, 0] == pytest.approx(-0.9711948306063295, rel=1e-12)


@given(ids=IDS, extra=IDS, n=st.integers(1, 4), seed=st.integers(0, 2**64 - 1))
def test_a_row_depends_on_its_id_only(ids, extra, n, seed):
    key = Key(seed)
    alone = np.concatenate([key.uniform([i], n) for i in ids])
    assert np.array_equal(key.uniform(extra + ids, n)[len(extra) :], alone)
    assert np.array_equal(key.uniform(ids[::-1], n), alone[::-1])
    assert np.array_equal(key.uniform(ids, n + 3)[:, :n], alone)


@given(seed=st.integers(0, 2**64 - 1), ids=IDS)
def test_uniform_is_in_the_open_interval(seed, ids):
    u = Key(seed).uniform(ids, 8)
    assert (u > 0).all()
    assert (u < 1).all()
    assert np.isfinite(Key(seed).normal(ids, 8)).all()


@pytest.mark.parametrize("purpose", ["sample", "network", "features"])
def test_distribution(purpose):
    """Kolmogorov-Smirnov along the ids and along one id's counter. A fixed stream: p is a constant, not a chance."""
    key = Key(11).fold(purpose)
    for u in (key.uniform(np.arange(20_000))[:, 0], key.uniform([3], 20_000)[0]):
        assert stats.kstest(u, "uniform").pvalue > 0.01
    for z in (key.normal(np.arange(20_000))[:, 0], key.normal([3], 20_000)[0]):
        assert stats.kstest(z, "norm").pvalue > 0.01


def test_neighbours_are_not_correlated():
    """Correlation of n pairs has standard deviation 1/sqrt(n); 4 of them is the bound."""
    n = 20_000
    ids = np.arange(n)
    first = Key(1).uniform(ids)[:, 0]
    others = {
        "next id": Key(1).uniform(ids + 1)[:, 0],
        "next counter": Key(1).uniform(ids, 2)[:, 1],
        "next seed": Key(2).uniform(ids)[:, 0],
        "another purpose": Key(1).fold("a").uniform(ids)[:, 0],
        "next round": Key(1).fold("a", 1).uniform(ids)[:, 0],
    }
    for name, other in others.items():
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(n), name
    assert abs(np.corrcoef(others["another purpose"], others["next round"])[0, 1]) < 4 / np.sqrt(n)


def test_folding_separates_parts():
    parts = [("a",), ("b",), ("a", 1), ("a", 2), ("a1",), (1,), ("1",), ("a", "1"), ("a", 1, 1), ()]
    assert len({Key(0).fold(*p).value for p in parts}) == len(parts)
    assert Key(0).fold("a").fold(1) != Key(0).fold("a", 1)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_values_outside_64_bits_are_refused(value):
    with pytest.raises(BadInput, match=r"integer from 0 to 2\*\*64 - 1"):
        Key(value)


def test_generators_are_functions_of_the_key():
    import torch

    for value in (0, 2**63, 2**64 - 1):
        key = Key(value)
        assert key.numpy().random() == key.numpy().random()
        assert torch.rand(1, generator=key.torch()) == torch.rand(1, generator=key.torch())
