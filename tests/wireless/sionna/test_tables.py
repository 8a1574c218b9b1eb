"""The goodput tables against Sionna: transport blocks, and link adaptation on links between the tables' points."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("sionna", reason="needs the extra fedwave[sionna]")

from . import compare_tables as compare

PLACES = range(-13, 54, 6)  # -8.45 to 30.55 dB, off the grid


def test_transport_blocks_are_sionnas():
    different, total = compare.transport_block_differences()
    assert different == 0
    assert total > 10_000_000


@pytest.fixture(scope="module")
def found():
    some = compare.cases(16, effort=450_000)
    return [row for case in some[2:4] + some[6:] for row in compare.rows(case, PLACES)]  # old reports are the hard ones


def test_held_out_links(found):
    got = compare.summary(found)
    assert got["points"] >= 100
    assert got["error_bar"] < 0.008  # of the reference, on average
    assert got["mean"] <= 0.01
    assert got["p99"] <= 0.05


def test_the_extension_apart(found):
    """Below half of a bit's tenth relative differences say little: 0.01 bits per resource element are allowed."""
    got = compare.summary(found)
    assert got["extension_points"] >= 10
    assert got["extension_mean"] <= 0.01
    assert got["extension_largest"] <= 0.03


def test_sionna_as_it_is():
    """Where MCS without a curve in Sionna carry nearly nothing, Sionna untouched says the same; else it has less."""
    for case in compare.cases(4, effort=100_000)[::3]:
        for row in compare.untouched(case, PLACES):
            if row["extension"] < 0.002:
                assert row["ours"] == pytest.approx(row["theirs"], rel=0.02, abs=4 * row["error_bar"])
            else:
                assert row["ours"] > 0.98 * row["theirs"] - 4 * row["error_bar"]


def test_the_outer_loop_itself_comes_to_the_same():
    """Sionna's ``OuterLoopLinkAdaptation`` wanders around the back-off that the reference solves for: 3 %."""
    case = replace(compare.cases(12)[11], draws=1_000)
    assert case.correlation < 0.5
    reference = compare.Reference(case)
    for place in (15, 39):
        assert compare.outer_loop(case, place) == pytest.approx(reference.goodput(place)[0], rel=0.03)


def test_a_table_without_fading_over_rates():
    over = compare.awgn_over_rating()
    assert ((over > 0.13) & (over < 0.5)).all()
