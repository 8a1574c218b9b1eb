"""Who is asked: uniform, without replacement, and each client's draw its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.keys import Key
from fedwave.federation.samplers import Uniform


@given(n=st.integers(0, 40), cohort=st.integers(1, 50), seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_cohort_of_the_available(n, cohort, seed, share):
    available = Key(seed).fold("a").uniform(np.arange(n))[:, 0] < share
    ids = Uniform(cohort=cohort).select(available, Key(seed))
    assert len(ids) == min(cohort, int(available.sum()))
    assert available[ids].all()
    assert np.array_equal(ids, np.unique(ids))


@given(seed=st.integers(0, 2**32))
def test_a_larger_cohort_contains_the_smaller(seed):
    everyone = np.ones(30, dtype=bool)
    small, large = (set(Uniform(cohort=c).select(everyone, Key(seed)).tolist()) for c in (4, 9))
    assert small < large


def test_every_client_is_equally_likely():
    """600 rounds of 5 in 20: each is chosen 150 times on average, standard deviation sqrt(600 x 1/4 x 3/4) = 10.6."""
    counts = np.zeros(20)
    for round_ in range(600):
        counts[Uniform(cohort=5).select(np.ones(20, dtype=bool), Key(0).fold("round", round_))] += 1
    assert counts.sum() == 3000
    assert np.abs(counts - 150).max() < 4 * 10.6
    # Chi-square of draws without replacement: (n - 1) on average, here 19 with standard deviation about 6.
    assert ((counts - 150) ** 2 / (150 * 0.75)).sum() * 19 / 20 == pytest.approx(19, abs=4 * 6.2)
