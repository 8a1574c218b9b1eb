"""Margins and the verdict that follows from them, by hand."""

import pytest

from fedwave.core.errors import BadInput
from fedwave.planner.constraints import Constraint, Yardsticks, binding, device_constraints, judge, time_constraints
from fedwave.planner.needs import Needs


def needs(clients, memory, usable, *, storage=1e9, room=None, battery=None):
    return Needs(
        clients=clients, memory_bytes={"weights": memory}, usable_memory_bytes=usable, storage_bytes=storage,
        device_storage_bytes=room, flops=1.0, training_efficiency=0.2, compute_s=1.0, compute_j=1.0, radio_j=0.0,
        battery_j=None if battery is None else 100.0, battery_share=battery, tokens_per_j=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(("poor", "margin"), [(9, 4.0), (11, 0.5)])
def test_memory_is_that_of_the_client_that_a_tenth_are_worse_off_than(poor, margin):
    """Of 100 clients, 9 with half of what they need are within the tenth that may be lost, 11 are not."""
    classes = {"small": needs(poor, 8e9, 4e9), "large": needs(100 - poor, 8e9, 32e9)}
    (memory,) = device_constraints(classes, Yardsticks())
    assert (memory.name, memory.margin, memory.hard) == ("memory", margin, True)


def test_what_has_no_limit_is_no_constraint():
    names = [one.name for one in device_constraints({"mains": needs(1, 1e9, 4e9)}, Yardsticks())]
    assert names == ["memory"]
    phone = {"phone": needs(1, 1e9, 4e9, room=5e9, battery=0.01)}
    assert {one.name: one.margin for one in device_constraints(phone, Yardsticks(battery_share=0.05))} == {
        "memory": 4.0,
        "storage": 5.0,
        "energy": pytest.approx(5.0),
    }


def test_how_much_longer_each_part_may_take():
    """Of a round of 44 s with a deadline of 60 s, 36 s of upload may become 52 s, 6 s of computing 22 s."""
    parts = {"downlink": 2.0, "compute": 6.0, "uplink": 36.0, "access": 0.0}
    found = {one.name: one.have for one in time_constraints(parts, 60.0)}
    assert found == {"downlink": 18.0, "compute": 22.0, "uplink": 52.0}


def test_the_part_that_is_too_long_binds():
    """With 10 s, 36 s of upload have 10 - 8 = 2; the others are late because of it and have 10 / 44 of their need."""
    found = time_constraints({"downlink": 2.0, "compute": 6.0, "uplink": 36.0}, 10.0)
    assert {one.name: one.margin for one in found} == {
        "downlink": pytest.approx(10.0 / 44.0),
        "compute": pytest.approx(10.0 / 44.0),
        "uplink": pytest.approx(2.0 / 36.0),
    }
    assert binding(found, {}).name == "uplink"
    # With 4 s no part could be kept by shortening another one alone: the longest is named.
    found = time_constraints({"downlink": 2.0, "uplink": 36.0, "compute": 6.0}, 4.0)
    assert [one.margin for one in found] == pytest.approx([4.0 / 44.0] * 3)
    assert binding(found, {}).name == "uplink"


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
    assert binding([far, near, broken], {"deadline": 0.3}) == broken
    hard = Constraint("memory", 1.0, 0.8, "B")
    assert binding([far, broken, hard], {}) == hard  # with less energy asked for it would be as unsuitable


def test_nothing_needed_is_far_from_binding():
    assert Constraint("airtime", 0.0, 1.0, "1").margin == 1e9
    assert Constraint("airtime", 0.25, 1.0, "1").sentence() == "airtime: needs 0.25 of 1 (4x)"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_yardsticks_are_numbers_above_0(value):
    with pytest.raises(BadInput, match=r"battery_share \(--max-battery\): must be a number above 0"):
        Yardsticks(battery_share=value)
