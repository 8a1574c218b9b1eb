"""Passes: every row in one of them, within the budget, and as little padding as grouping by length allows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.engines.stacked.batches import Costs, cut_passes


@st.composite
def steps(draw):
    """Rows ``[K, b]`` with gaps, at least one row, their lengths, and costs."""
    k, b = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = np.where(rng.random((k, b)) < draw(st.floats(0.2, 1.0)), np.arange(k * b).reshape(k, b), -1)
    rows[draw(st.integers(0, k - 1)), 0] = 99
    lengths = rng.integers(1, draw(st.integers(2, 200)), (k, b))
    costs = Costs(draw(st.integers(1, 500)), draw(st.floats(0, 100)), draw(st.floats(0, 100)))
    return rows, np.where(rows >= 0, lengths, 1), costs


@settings(deadline=None, max_examples=300)
@given(steps())
def test_every_row_is_in_one_pass(step):
    rows, lengths, costs = step
    passes = cut_passes(rows, lengths, costs)
    seen = np.concatenate([one.place.reshape(-1) for one in passes])
    assert sorted(seen[seen >= 0]) == np.flatnonzero(rows.reshape(-1) >= 0).tolist()
    for place, slots in passes:
        lanes = np.arange(len(rows)) if slots is None else slots
        assert len(lanes) == len(place)
        owner = np.where(place >= 0, place // rows.shape[1], lanes[:, None])
        assert (owner == lanes[:, None]).all()  # a lane's rows are of the slot whose leaves it uses


@settings(deadline=None, max_examples=300)
@given(steps())
def test_passes_keep_to_the_budget(step):
    """Padded tokens are within the budget, but for a single column of rows that no cut makes smaller."""
    rows, lengths, costs = step
    for place, _ in cut_passes(rows, lengths, costs):
        longest = lengths.reshape(-1)[place[place >= 0]].max() if (place >= 0).any() else 0
        assert place.shape[1] == 1 or place.size * longest <= costs.budget


def test_rows_without_length_go_together():
    rows = np.arange(12).reshape(3, 4)
    (one,) = cut_passes(rows, np.ones_like(rows), Costs(4096, 10.0, 10.0))
    assert one.slots is None
    assert (one.place == rows).all()


def test_padding_of_texts():
    """Sixteen clients of 4 rows, lognormal lengths: less than a quarter is padding, where blocks would have 3 times."""
    drawn = np.random.default_rng(0).lognormal(np.log(24), 0.7, (16, 4)).clip(4, 128).astype(int)
    passes = cut_passes(np.arange(64).reshape(16, 4), drawn, Costs(4096, 24.0, 0.3))
    flat = drawn.reshape(-1)
    padded = sum(place.size * flat[place[place >= 0]].max() for place, _ in passes)
    assert padded / flat.sum() < 1.25 < 3.0 < 64 * flat.max() / flat.sum()
    assert len(passes) < 16


def test_cutting_weighs_padding_against_starts():
    """Lengths 1 and 10, 4 rows each: apart they are 44 tokens and two starts, together 80 and one."""
    rows, lengths = np.arange(8).reshape(8, 1), np.repeat([1, 10], 4)[:, None]
    assert [len(cut_passes(rows, lengths, Costs(1000, start))) for start in (35.0, 37.0)] == [2, 1]
