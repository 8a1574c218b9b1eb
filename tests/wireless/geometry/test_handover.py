"""Handover, radio link failure and re-establishment against times worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.wireless.geometry.handover import Handover, Link

RULES = Handover()
EXPONENT = 3.76  # of the distance, so that two cells differ by 37.6 lg(d1 / d2) dB
SPEED = 30.0 / 3.6


def received_at(x_m, sites_m):
    """``[len(x), sites]`` on a straight road; 10 m to the side of the sites."""
    return (np.hypot(np.asarray(x_m)[:, None] - sites_m, 10.0) ** -EXPONENT).astype(np.float32)


def table(sinr_db):
    """SINR from a table ``[C, cells]``."""
    values = np.asarray(sinr_db, dtype=float)
    return lambda cell: values[np.arange(len(cell)), cell]


def drive(rules, sites_m, seconds, dt_s, *, x0_m=0.0, sinr_db=10.0):
    """One client along the road: links after each step, and the interruption of each."""
    link, links, silent = Link.start(np.array([0])), [], []
    for step in range(round(seconds / dt_s)):
        received = received_at([x0_m + SPEED * step * dt_s], sites_m)
        link, interrupted = rules.step(link, received, table(np.full(received.shape, sinr_db)), dt_s)
        links.append(link)
        silent.append(interrupted[0])
    return links, np.array(silent)


def test_one_handover_on_the_way_between_two_sites():
    # 37.6 lg(d0 / d1) = 3 dB (offset and hysteresis) at d0 / d1 = 1.2017: d0 = 500 * 1.2017 / 2.2017 = 272.9 m, 32.7 s;
    # the side distance of 10 m moves that by a few centimetres. The time to trigger adds 0.16 s, the grid up to 0.02 s
    links, silent = drive(RULES, np.array([0.0, 500.0]), 60.0, 0.02)
    serving = np.array([link.serving[0] for link in links])
    assert (np.diff(serving) >= 0).all() and serving[-1] == 1
    assert 0.02 * serving.argmin() == 0.0
    assert 0.02 * (serving == 1).argmax() == pytest.approx(272.9 / SPEED + 0.16, abs=0.04)
    assert links[-1].handovers[0] == 1 and links[-1].failures[0] == 0
    assert silent.sum() == pytest.approx(0.062) and silent.max() <= 0.02  # carried over several short steps


@pytest.mark.parametrize("dt_s", [0.1, 1.0, 5.0])
def test_an_upload_of_563_s_at_30_km_h_crosses_nine_borders(dt_s):
    # 563 s * 8.33 m/s = 4,692 m; borders between sites 500 m apart lie at 250, 750, ..., 4,250 m, and 23 m after the
    # last one the handover is due: nine handovers, ten cells
    links, silent = drive(RULES, 500.0 * np.arange(12), 563.0, dt_s)
    assert links[-1].handovers[0] == 9 and links[-1].serving[0] == 9
    assert silent.sum() == pytest.approx(9 * 0.062)


def test_hysteresis_suppresses_ping_pong():
    # a client at the border, where the stronger cell changes by +-2 dB every half second
    def swing(rules):
        link = Link.start(np.array([0]))
        for step in range(100):
            strength = np.array([[1.0, 10 ** (0.2 if step // 5 % 2 else -0.2)]])
            link, _ = rules.step(link, strength, table([[10.0, 10.0]]), 0.1)
        return link.handovers[0]

    assert swing(replace(RULES, a3_offset_db=0.0, a3_hysteresis_db=0.0)) == 19  # 20 half seconds, the first in cell 0
    assert swing(RULES) == 0  # 2 dB are less than 3 dB
    assert swing(replace(RULES, a3_offset_db=0.0, a3_hysteresis_db=0.0, time_to_trigger_s=0.64)) == 0


def test_the_time_to_trigger_starts_anew():
    link = Link.start(np.array([0]))
    for strength in (2.5, 2.5, 1.0, 2.5, 2.5):  # 4 dB for 0.15 s, a gap, 4 dB for 0.15 s
        link, _ = RULES.step(link, np.array([[1.0, strength]]), table([[9.0, 9.0]]), 0.075)
        assert link.serving[0] == 0
    link, _ = RULES.step(link, np.array([[1.0, 2.5]]), table([[9.0, 9.0]]), 0.075)
    assert link.serving[0] == 1
    assert link.candidate[0] == -1 and link.above_s[0] == 0.0


def test_another_candidate_starts_its_own_time_and_the_strongest_wins():
    link = Link.start(np.array([0]))
    sinr = table([[9.0, 9.0, 9.0]])
    link, _ = RULES.step(link, np.array([[1.0, 3.0, 1.0]]), sinr, 0.1)
    changed, _ = RULES.step(link, np.array([[1.0, 1.0, 3.0]]), sinr, 0.1)  # cell 2 has had 0.1 s only
    assert changed.serving[0] == 0 and changed.candidate[0] == 2
    both, _ = RULES.step(link, np.array([[1.0, 3.0, 4.0]]), sinr, 0.1)  # cell 1 has had 0.2 s, cell 2 is stronger
    assert both.serving[0] == 2


def test_link_failure_and_reestablishment_by_hand():
    # out of sync from 0 s: T310 ends at 1 s; no cell has -6 dB until 3 s; then 0.3 s to be connected again
    link, alone = Link.start(np.array([0])), np.array([[2.0, 1.0]])
    total = []
    for _ in range(30):
        link, silent = RULES.step(link, alone, table([[-9.0, -12.0]]), 0.1)
        total.append(silent[0])
    assert link.failures[0] == 1 and not link.connected[0] and not link.lost[0]
    assert link.search_s[0] == pytest.approx(2.0)
    assert sum(total[:10]) == pytest.approx(0.0) and sum(total) == pytest.approx(2.0)
    link, silent = RULES.step(link, np.array([[1.0, 1.5]]), table([[-9.0, -5.0]]), 0.2)
    assert link.connected[0] and link.serving[0] == 1 and silent[0] == pytest.approx(0.2)
    link, silent = RULES.step(link, np.array([[1.0, 1.5]]), table([[-9.0, -5.0]]), 0.2)
    assert silent[0] == pytest.approx(0.1) and link.handovers[0] == 0


def test_t310_stops_above_q_in_only():
    link, one = Link.start(np.array([0])), np.array([[1.0]])
    for sinr, running in [(-8.1, 0.4), (-7.0, 0.8), (-5.9, 0.0), (-7.0, 0.0), (-8.1, 0.4)]:
        link, _ = RULES.step(link, one, table([[sinr]]), 0.4)
        assert link.out_s[0] == pytest.approx(running), sinr
    assert link.failures[0] == 0


def test_a_handover_rescues_a_failing_link_and_comes_too_late_after_t310():
    sinr, strength = table([[-15.0, 5.0]]), np.array([[1.0, 10.0]])
    saved, silent = RULES.step(Link.start(np.array([0])), strength, sinr, 2.0)  # 0.16 s against 1 s
    assert (saved.handovers[0], saved.failures[0], silent[0]) == (1, 0, pytest.approx(0.062))
    late, silent = replace(RULES, time_to_trigger_s=1.28).step(Link.start(np.array([0])), strength, sinr, 2.0)
    assert (late.handovers[0], late.failures[0], silent[0]) == (0, 1, pytest.approx(0.3))
    assert late.serving[0] == 1  # re-established there


def test_without_any_cell_the_client_is_lost():
    # T310 ends at 1 s, T311 at 31 s; all time from the failure on is without data
    link, silent = RULES.step(Link.start(np.array([0])), np.array([[0.0, 0.0]]), table([[-np.inf, -np.inf]]), 30.9)
    assert not link.lost[0] and silent[0] == pytest.approx(29.9)
    link, silent = RULES.step(link, np.array([[0.0, 0.0]]), table([[-np.inf, -np.inf]]), 0.2)
    assert link.lost[0] and silent[0] == pytest.approx(0.2)
    again, silent = RULES.step(link, np.array([[1.0, 1.0]]), table([[20.0, 20.0]]), 5.0)  # for good
    assert again.lost[0] and silent[0] == 5.0 and not again.connected[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40))
def test_one_step_or_many_come_to_the_same_while_nothing_changes(seed, steps):
    rng, clients, cells = np.random.default_rng(seed), 50, 4
    received, sinr = rng.lognormal(0.0, 2.0, (clients, cells)), table(rng.uniform(-15.0, 5.0, (clients, cells)))
    rules = replace(RULES, time_to_trigger_s=float(rng.choice([0.16, 1.28])), t311_s=3.0)
    start = Link.start(rng.integers(0, cells, clients))
    once, silent = rules.step(start, received, sinr, 7.3)
    link, total = start, 0.0
    for _ in range(steps):
        link, part = rules.step(link, received, sinr, 7.3 / steps)
        total = total + part
    for name in ("serving", "lost", "handovers", "failures"):
        np.testing.assert_array_equal(getattr(link, name), getattr(once, name), err_msg=name)
    np.testing.assert_allclose(total, silent, atol=1e-9)
    np.testing.assert_array_equal(link.connected, once.connected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 20.0))
def test_bounds(seed, dt_s):
    rng, clients, cells = np.random.default_rng(seed), 30, 3
    link = Link.start(rng.integers(0, cells, clients))
    for _ in range(12):
        received = rng.lognormal(0.0, 2.0, (clients, cells)).astype(np.float32)
        before, (link, silent) = link, RULES.step(link, received, table(rng.uniform(-20, 5, (clients, cells))), dt_s)
        assert ((silent >= 0.0) & (silent <= dt_s)).all()
        assert ((link.serving >= 0) & (link.serving < cells)).all()
        assert (link.lost >= before.lost).all()
        assert (link.handovers - before.handovers <= 1).all() and (link.failures >= before.failures).all()
        # a timer may stand at its limit by rounding, it then ends at the beginning of the next step
        assert ((link.out_s >= 0.0) & (link.out_s <= RULES.t310_s + 1e-12)).all()
        assert ((link.above_s >= 0.0) & (link.above_s <= RULES.time_to_trigger_s + 1e-12)).all()
        assert np.isfinite(link.pending_s).all() and (link.pending_s >= 0.0).all()
        assert (link.connected | link.lost | (link.search_s <= RULES.t311_s)).all()


def test_the_rest_of_the_cohort_does_not_matter():
    rng = np.random.default_rng(3)
    received, sinr = rng.lognormal(0.0, 2.0, (20, 3)), rng.uniform(-15.0, 5.0, (20, 3))
    index = np.array([17, 2, 9])
    everybody, silent = RULES.step(Link.start(rng.integers(0, 3, 20)), received, table(sinr), 1.5)
    rng = np.random.default_rng(3)
    _ = rng.lognormal(0.0, 2.0, (20, 3)), rng.uniform(-15.0, 5.0, (20, 3))
    some, part = RULES.step(Link.start(rng.integers(0, 3, 20)).take(index), received[index], table(sinr[index]), 1.5)
    np.testing.assert_array_equal(part, silent[index])
    for name, values in vars(some).items():
        np.testing.assert_array_equal(values, getattr(everybody, name)[index], err_msg=name)


def test_defaults_carry_sources():
    rows = RULES.rows()
    assert {row[0] for row in rows} == set(vars(RULES)) and all(row[3] for row in rows)


def test_bad_input_names_the_key():
    for wrong in ({"a3_offset_db": -1.0}, {"t310_s": np.inf}, {"q_in_db": -9.0}, {"interruption_s": np.nan}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            Handover(**wrong)
    link, good, sinr = Link.start(np.array([0])), np.ones((1, 2)), table([[0.0, 0.0]])
    with pytest.raises(BadInput, match="dt_s"):
        RULES.step(link, good, sinr, 0.0)
    with pytest.raises(BadInput, match="received"):
        RULES.step(link, np.ones((2, 2)), sinr, 1.0)
    with pytest.raises(BadInput, match="received"):
        RULES.step(link, np.array([[1.0, np.nan]]), sinr, 1.0)
    with pytest.raises(BadInput, match="serving"):
        RULES.step(Link.start(np.array([2])), good, sinr, 1.0)
    with pytest.raises(BadInput, match="sinr_db"):
        RULES.step(link, good, table([[np.nan, 0.0]]), 1.0)
