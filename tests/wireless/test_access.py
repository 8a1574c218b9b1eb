"""Random access: contention in closed form, conservation, limits, and what a crowd does to a cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.config import parse
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless.cells.access import RandomAccess, alone_probability

KEY = Key(11)
PLAIN = RandomAccess(ramping=False, grants=10_000, period_s=0.01)


def connect(rules, count, *, arrival_s=0.0, key=KEY, **kwargs):
    return rules.connect(np.full(count, arrival_s), np.arange(count), key, **kwargs)


def test_one_device_waits_for_the_next_occasion():
    # Arrival at 0.123 s, occasion at 0.130 s, then response, contention resolution and RRC set-up: 8 + 15 + 60 ms.
    outcome = connect(PLAIN, 1, arrival_s=0.123)
    assert outcome.connected.all() and outcome.attempts[0] == 1
    assert outcome.seconds[0] == pytest.approx(0.007 + 0.083)
    assert connect(PLAIN, 1, arrival_s=0.13).seconds[0] == pytest.approx(0.083)


def test_idle_seconds_are_the_mean_of_lone_devices():
    ids = np.arange(4000)
    arrival = np.sort(10.0 * ids + KEY.fold("t").uniform(ids)[:, 0])
    outcome = PLAIN.connect(arrival, ids, KEY)
    assert outcome.connected.all()
    # The wait is uniform from 0 to 10 ms: its mean has a standard error of 10 ms / sqrt(12 x 4000) = 0.046 ms.
    assert outcome.seconds.mean() == pytest.approx(PLAIN.idle_s, abs=5 * 4.6e-5)


@pytest.mark.parametrize("preambles", [10, 54])
@pytest.mark.parametrize("contenders", [1, 2, 20, 100])
def test_first_attempts_collide_as_often_as_the_closed_form_says(contenders, preambles):
    # One attempt each: nobody else has the same preamble with (1 - 1/P)^(n - 1), over 600 cells side by side. The
    # mean over independent cells has a standard error of their standard deviation / sqrt(600); 5 of them are allowed.
    cells = 600
    rules = RandomAccess(preambles=preambles, ramping=False, grants=10_000, max_attempts=1)
    ids = np.arange(cells * contenders)
    share = (
        rules.connect(np.zeros(len(ids)), ids, KEY, cell=ids % cells).connected.reshape(contenders, cells).mean(axis=0)
    )
    expected = (1.0 - 1.0 / preambles) ** (contenders - 1)
    assert alone_probability(contenders, preambles) == pytest.approx(expected)
    assert share.mean() == pytest.approx(expected, abs=5.0 * share.std() / cells**0.5 + 1e-9)


def test_retries_follow_the_geometric_law():
    # Alone in its cell a device is heard in attempt i with 1 - exp(-i): the mean number of attempts is
    # 1 + e^-1 + e^-3 + e^-6 + ... = 1.4202, as each further one needs all before it to have failed.
    ids = np.arange(20_000)
    attempts = RandomAccess().connect(np.zeros(len(ids)), ids, KEY, cell=ids).attempts
    expected = np.exp(-np.cumsum(np.arange(10.0))).sum()
    assert expected == pytest.approx(1.4202, abs=1e-4)
    assert attempts.mean() == pytest.approx(expected, abs=5.0 * attempts.std() / len(ids) ** 0.5)


def test_ramping_hears_first_preambles_with_63_percent():
    ids = np.arange(20_000)
    outcome = RandomAccess(max_attempts=1, grants=10_000).connect(np.zeros(len(ids)), ids, KEY, cell=ids)
    assert outcome.connected.mean() == pytest.approx(1.0 - np.exp(-1.0), abs=0.012)  # 3.5 standard errors


def test_grants_limit_an_occasion():
    # 40 devices, one attempt: about 40 (53/54)^39 = 19 are alone on their preamble, and five of them get an answer.
    rules = RandomAccess(ramping=False, grants=5, max_attempts=1)
    assert connect(rules, 40).connected.sum() == 5
    ids = np.arange(80)  # in each cell
    both = rules.connect(np.zeros(80), ids, KEY, cell=ids % 2)
    assert [both.connected[ids % 2 == cell].sum() for cell in (0, 1)] == [5, 5]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32), st.booleans())
def test_everybody_ends_connected_or_failed(count, preambles, attempts, seed, ramping):
    rules = RandomAccess(preambles=preambles, max_attempts=attempts, ramping=ramping, grants=3)
    arrival = Key(seed).fold("t").uniform(np.arange(count))[:, 0]
    outcome = rules.connect(arrival, np.arange(count), Key(seed))
    assert np.isfinite(outcome.seconds).all() and (outcome.seconds > 0.0).all()
    assert ((outcome.attempts >= 1) & (outcome.attempts <= attempts)).all()
    assert (outcome.attempts[~outcome.connected] == attempts).all()
    # An attempt takes at most a period, the response and the longest backoff.
    longest = attempts * (rules.period_s + rules.response_s + rules.backoff_s) + rules.contention_s + rules.rrc_s
    assert (outcome.seconds <= longest + 1e-9).all()


def test_order_and_other_cells_do_not_matter():
    ids = np.arange(200)
    whole = PLAIN.connect(np.zeros(200), ids, KEY, cell=ids % 2)
    shuffled = np.argsort(KEY.fold("order").uniform(ids)[:, 0])
    again = PLAIN.connect(np.zeros(200), ids[shuffled], KEY, cell=ids[shuffled] % 2)
    np.testing.assert_array_equal(again.seconds, whole.seconds[shuffled])
    alone = PLAIN.connect(np.zeros(100), ids[::2], KEY)
    np.testing.assert_array_equal(alone.connected, whole.connected[::2])
    np.testing.assert_array_equal(alone.seconds, whole.seconds[::2])


def test_a_crowd_at_once_blocks_a_cell_and_barring_lets_it_through():
    # 2,000 at once on 54 preambles: (53/54)^1999 = 6e-17, so the first occasions connect nobody.
    rules = RandomAccess()
    assert connect(rules, 2000).connected.mean() < 0.2
    barred = RandomAccess(barring_factor=0.1, barring_time_s=8.0)
    spread = connect(barred, 2000)
    assert spread.connected.mean() > 0.95
    assert spread.seconds.mean() > 10.0  # a geometric number of turns of 8 s, nine on average


def test_load_that_ten_seconds_carry_and_that_they_do_not():
    # The two regimes of the RACH study: arrivals Beta(3, 4) over 10 s, an occasion every 5 ms, 54 preambles. At the
    # peak (density 2.07 / 10 s) 10,000 bring 10 an occasion, which is little; 30,000 bring 31 beside their retries.
    rng = KEY.numpy()
    rules = RandomAccess(period_s=0.005)
    success = []
    for count in (10_000, 30_000):
        arrival = 10.0 * rng.beta(3, 4, count)
        success.append(rules.connect(arrival, np.arange(count), KEY).connected.mean())
    assert success[0] > 0.999
    assert 0.25 < success[1] < 0.37


def test_17500_devices_at_once_are_accounted_for():
    outcome = connect(RandomAccess(), 17_500)
    assert (outcome.connected | (outcome.attempts == 10)).all()


def test_links_ask_for_those_that_ask():
    ids = np.arange(5)
    access = PLAIN.for_links(ids, KEY)
    seconds, connected = access(np.array([0.0, 1.0, 2.0, 3.0, np.inf]), np.array([True, True, False, False, False]))
    assert connected.tolist() == [True, True, False, False, False]
    assert (seconds[:2] > 0.08).all() and (seconds[2:] == 0.0).all()
    none = access(np.zeros(5), np.zeros(5, dtype=bool))
    assert not none[1].any()


def test_refusals():
    with pytest.raises(BadInput, match="max_attempts: must be at most 256, got 300"):
        RandomAccess(max_attempts=300)
    with pytest.raises(BadInput, match=r"barring_factor: must be at least 0\.01"):
        RandomAccess(barring_factor=0.001)
    with pytest.raises(BadInput, match="every arrival must be finite"):
        connect(PLAIN, 2, arrival_s=np.inf)
    with pytest.raises(BadInput, match="preambles"):
        parse(RandomAccess, {"preambles": 0})
    assert all(len(row) == 4 and row[3] for row in RandomAccess().rows())
