"""Margins and the verdict that follows from them, by hand."""

from types import SimpleNamespace

import pytest

from fedwave.core.errors import BadInput
from fedwave.planner.constraints import (
    Constraint,
    Terms,
    Yardsticks,
    all_constraints,
    binding,
    device_constraints,
    judge,
    time_constraints,
)
from fedwave.planner.needs import Needs


def terms(deadline_s=None, *, rounds_s=1e9, server_s=0.0, turns=1.0, charge=1.0):
    return Terms(rounds_s, deadline_s, server_s, turns, charge)


def needs(clients, memory, usable, *, storage=1e9, room=None, battery=None):
    return Needs(
        clients=clients, share=float(clients), memory_bytes={"weights": memory}, usable_memory_bytes=usable,
        storage_bytes=storage, device_storage_bytes=room, flops=1.0, training_efficiency=0.2,
        compute_s=1.0, compute_j=1.0, radio_j=0.0,
        battery_j=None if battery is None else 100.0, battery_share=battery, tokens_per_j=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(("poor", "margin"), [(9, 4.0), (10, 4.0), (11, 0.5)])
def test_memory_is_that_of_the_client_that_a_tenth_are_worse_off_than(poor, margin):
    """Of 100 clients, 10 with half of what they need are within the tenth that may be lost, 11 are not."""
    classes = {"small": needs(poor, 8e9, 4e9), "large": needs(100 - poor, 8e9, 32e9)}
    (memory,) = device_constraints(classes, terms(), Yardsticks())
    assert (memory.name, memory.margin, memory.hard) == ("memory", margin, True)


def test_what_has_no_limit_is_no_constraint():
    names = [one.name for one in device_constraints({"mains": needs(1, 1e9, 4e9)}, terms(), Yardsticks())]
    assert names == ["memory"]
    phone = {"phone": needs(1, 1e9, 4e9, room=5e9, battery=0.01)}
    assert {one.name: one.margin for one in device_constraints(phone, terms(), Yardsticks(battery_share=0.05))} == {
        "memory": 4.0,
        "storage": 5.0,
        "energy": pytest.approx(5.0),
    }


def test_how_much_longer_each_part_may_take():
    """Of a round of 44 s with a deadline of 60 s, 36 s of upload may become 52 s, 6 s of computing 22 s."""
    parts = {"downlink": 2.0, "compute": 6.0, "uplink": 36.0, "access": 0.0}
    found = {one.name: one.have for one in time_constraints(parts, terms(60.0))}
    assert found == {"downlink": 18.0, "compute": 22.0, "uplink": 52.0}


def test_the_longest_part_of_what_is_too_long_binds():
    """With 10 s for 44, or 43.9: each part has its share, and the upload of 36 s is what to look at."""
    parts = {"downlink": 2.0, "uplink": 36.0, "compute": 6.0}
    for budget_s in (10.0, 43.9):
        found = time_constraints(parts, terms(budget_s))
        assert [one.margin for one in found] == pytest.approx([budget_s / 44.0] * 3)
        assert binding(found, {}).name == "uplink"


def test_a_deadline_does_not_stop_the_days():
    """Of 100 s a round, 44 s of clients and 30 s of the server leave 26: uploads of 36 s may take 62, not 1000 - 8."""
    parts = {"downlink": 2.0, "compute": 6.0, "uplink": 36.0}
    found = {one.name: one.have for one in time_constraints(parts, terms(1000.0, rounds_s=100.0, server_s=30.0))}
    assert found == {"downlink": 28.0, "compute": 32.0, "uplink": 62.0, "server": 56.0}


def test_a_server_that_takes_too_long_binds():
    found = time_constraints({"uplink": 5.0}, terms(rounds_s=20.0, server_s=60.0))
    assert [one.margin for one in found] == pytest.approx([20.0 / 65.0] * 2)
    assert binding(found, {}).name == "server"


@pytest.mark.parametrize(("turns", "need", "have"), [(10.0, 0.04, 0.05), (50.0, 2.0, 0.7)])
def test_a_battery_lasts_for_the_job_or_a_round_counts(turns, need, have):
    """At 4 % a round: 10 rounds of at most 5 % take half of a battery; 50 take two, where 0.7 may be used."""
    phone = {"phone": needs(1, 1e9, 4e9, battery=0.04)}
    energy = device_constraints(phone, terms(turns=turns, charge=0.7), Yardsticks(battery_share=0.05))[-1]
    assert (energy.name, energy.need, energy.have) == ("energy", need, have)


@pytest.mark.parametrize(("most", "names"), [(1.0, []), (0.5, ["airtime"])])
def test_airtime_binds_where_it_is_bounded(most, names):
    """Schedulers fill what is free, so that all of it is no bound."""
    server = SimpleNamespace(peak_memory_bytes=1.0, usable_memory_bytes=2.0)
    path = {"downlink": 1.0, "compute": 1.0, "uplink": 1.0}
    found = all_constraints(
        {"mains": needs(1, 1e9, 4e9)}, server, path, 0.0, 0.99, terms=terms(), yardsticks=Yardsticks(airtime_share=most)
    )
    assert [one.name for one in found if one.name == "airtime"] == names


HOLDS, SOFT, HARD = (Constraint("x", 1.0, have, "s", hard) for have, hard in ((2.0, True), (0.5, False), (0.5, True)))


@pytest.mark.parametrize(
    ("constraints", "enough", "heard", "verdict"),
    [
        ([HOLDS], True, 1.0, "suitable"),
        ([HOLDS], True, 0.89, "conditional"),
        ([HOLDS, SOFT], True, 1.0, "conditional"),
        ([HOLDS, HARD], True, 1.0, "unsuitable"),
        ([HOLDS], False, 1.0, "unsuitable"),
    ],
)
def test_verdicts(constraints, enough, heard, verdict):
    assert judge(constraints, enough=enough, heard=heard) == verdict


def test_what_binds():
    near, far = Constraint("memory", 1.0, 1.5, "B"), Constraint("uplink", 1.0, 9.0, "s")
    assert binding([far, near], {}) == near
    assert binding([far, near], {"deadline": 0.3, "outage": 0.1}) == "deadline"
    broken = Constraint("energy", 1.0, 0.1, "1", hard=False)
    assert binding([far, near, broken], {}) == broken
    assert binding([far, near, broken], {"deadline": 0.3}) == "deadline"
    hard = Constraint("memory", 1.0, 0.8, "B")
    assert binding([far, broken, hard], {}) == hard  # with less energy asked for it would be as unsuitable


def test_nothing_needed_is_far_from_binding():
    assert Constraint("airtime", 0.0, 1.0, "1").margin == 1e9
    assert Constraint("airtime", 0.25, 1.0, "1").sentence() == "airtime: needs 0.25 of 1 (4x)"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_yardsticks_are_numbers_above_0(value):
    with pytest.raises(BadInput, match=r"battery_share \(--max-battery\): must be a number above 0"):
        Yardsticks(battery_share=value)
