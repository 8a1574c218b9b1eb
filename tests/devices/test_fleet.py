"""The fleet: who has which device, who answers, what the work costs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Phase, Work, World
from fedwave.devices import catalogue
from fedwave.devices.device import Device
from fedwave.devices.fleet import Fleet

KEY = Key(7)
# reached 5e11 FLOP/s, usable 4e9 bytes
SMALL = Device(1e12, 8e9, 1e11, active_power_w=10.0, idle_power_w=1.0, battery_j=100.0, training_efficiency=0.5)
# reached 4e12 FLOP/s, usable 30e9 bytes, on mains
LARGE = Device(1e13, 4e10, 1e12, active_power_w=200.0, training_efficiency=0.4, memory_share=0.75)


def two(**kwargs: Any) -> Fleet:
    return Fleet(mix={"small": 1.0, "large": 1.0}, device={"small": SMALL, "large": LARGE}, **kwargs)


def cohort(device: list[int]) -> Cohort:
    n = len(device)
    zeros = np.zeros(n, dtype=np.int64)
    return Cohort(0, np.arange(n), np.ones(n), zeros, zeros, zeros, zeros, np.array(device), zeros, zeros)


def world(battery_j: np.ndarray) -> World:
    n = len(battery_j)
    return World(0, 0.0, battery_j, np.zeros((n, 2)), np.full(n, -1, dtype=np.int64), np.zeros(0))


def work(flops: list[Any], *, touched: Any = 0.0, memory: Any = 0.0) -> Work:
    n = len(np.atleast_1d(flops[0]))
    none = np.zeros(n)
    phases = tuple(Phase(none, np.atleast_1d(np.asarray(f, dtype=float)), none) for f in flops)
    return Work(phases, np.broadcast_to(np.asarray(memory, float), n), np.broadcast_to(np.asarray(touched, float), n))


def test_shares_of_the_mix_are_met_and_a_client_keeps_its_device() -> None:
    fleet = Fleet(mix={"phone": 7, "jetson-orin-nano": 3})
    assert fleet.names == ("jetson-orin-nano", "phone")
    device = fleet.assign(20_000, KEY)
    # binomial: standard deviation sqrt(0.3 x 0.7 / 20000) = 0.0032; five of them
    assert np.mean(device == 0) == pytest.approx(0.3, abs=0.0162)
    assert np.array_equal(fleet.assign(500, KEY), device[:500])
    assert not np.array_equal(fleet.assign(500, Key(8)), device[:500])


def test_time_energy_memory_and_power_by_hand() -> None:
    """large is index 0, small 1. 1e12 FLOPs: 0.25 s on large (4e12), 2 s on small (5e11); joules 50 and 20."""
    fleet = two()
    c = fleet.compute(cohort([0, 1, 1]), work([[1e12, 1e12, 6e12]], memory=[3e10, 4e9, 4.1e9]), world(_full(fleet)))
    np.testing.assert_allclose(c.seconds, [[0.25, 2.0, 12.0]])
    np.testing.assert_allclose(c.joules, [[50.0, 20.0, 120.0]])
    assert c.fits.tolist() == [True, True, False]  # usable 30e9 and 4e9: the boundary fits
    assert c.powered.tolist() == [True, True, False]  # 120 J out of a battery of 100 J
    assert c.idle_w.tolist() == [0.0, 1.0, 1.0]
    assert c.peak_bytes.tolist() == [3e10, 4e9, 4.1e9]


def _full(fleet: Fleet) -> np.ndarray:
    return fleet.batteries(np.array([0, 1, 1]))


def test_memory_traffic_is_spread_over_the_phases_with_their_arithmetic() -> None:
    """Phases of 1 and 3 parts, 8e11 bytes: 2 s and 6 s of memory on small, against 0.5 s and 1.5 s of arithmetic."""
    c = two().compute(cohort([1]), work([2.5e11, 7.5e11], touched=8e11), world(np.array([100.0])))
    np.testing.assert_allclose(c.seconds, [[2.0], [6.0]])
    np.testing.assert_allclose(c.joules, [[20.0], [60.0]])


def test_work_without_arithmetic_still_moves_its_bytes() -> None:
    c = two().compute(cohort([1]), work([0.0, 0.0], touched=2e11), world(np.array([100.0])))
    np.testing.assert_allclose(c.seconds, [[1.0], [1.0]])


def test_the_fleet_and_the_device_agree_on_every_class() -> None:
    fleet = Fleet(mix=dict.fromkeys(catalogue.names(), 1.0))
    n = len(fleet.names)
    c = fleet.compute(cohort(list(range(n))), work([np.full(n, 3e12)], touched=1e11), world(np.full(n, np.inf)))
    for index, name in enumerate(fleet.names):
        device = catalogue.lookup(name)
        assert c.seconds[0, index] == pytest.approx(device.seconds(3e12, 1e11), rel=1e-12)
        assert c.joules[0, index] == pytest.approx(device.joules(3e12, 1e11), rel=1e-12)


@given(
    st.lists(st.floats(0, 1e16, allow_subnormal=False), min_size=1, max_size=4),
    st.floats(1.0, 10.0),
    st.floats(0, 1e13, allow_subnormal=False),
    st.integers(0, 1),
)
def test_time_grows_with_arithmetic_and_energy_is_power_times_time(
    flops: list[float], factor: float, touched: float, device: int
) -> None:
    fleet, place = two(), world(np.array([100.0]))
    less = fleet.compute(cohort([device]), work(flops, touched=touched), place)
    more = fleet.compute(cohort([device]), work([f * factor for f in flops], touched=touched), place)
    assert np.all(more.seconds >= less.seconds * (1 - 1e-12))
    np.testing.assert_allclose(less.joules, less.seconds * fleet.classes[device].active_power_w)
    if sum(flops) > 1e-3:  # memory is never beaten: the phases together take at least the traffic's time
        assert less.seconds.sum() >= touched / fleet.classes[device].memory_bandwidth_bytes_s * (1 - 1e-9)


@given(st.floats(0, 2e10))
def test_fits_turns_exactly_at_the_usable_memory(memory: float) -> None:
    c = two().compute(cohort([1]), work([0.0], memory=memory), world(np.array([100.0])))
    assert c.fits[0] == (memory <= 4e9)


def test_batteries_start_at_the_initial_charge_and_mains_never_ends() -> None:
    assert two(initial_charge=0.25).batteries(np.array([0, 1])).tolist() == [np.inf, 25.0]


def test_a_client_below_the_minimum_charge_declines() -> None:
    fleet = two(min_charge=0.3)
    here = fleet.available(world(np.array([np.inf, 29.0, 30.0])), np.array([0, 1, 1]), KEY)
    assert here.tolist() == [True, False, True]


def test_availability_is_a_chance_per_client_and_round() -> None:
    device = np.zeros(20_000, dtype=np.int64)
    place = world(np.full(20_000, np.inf))
    fleet = two(availability=0.4)
    first, second = (fleet.available(place, device, KEY.fold(r)) for r in (0, 1))
    # standard deviation sqrt(0.4 x 0.6 / 20000) = 0.0035; of independent rounds both: 0.16
    assert first.mean() == pytest.approx(0.4, abs=0.0175)
    assert (first & second).mean() == pytest.approx(0.16, abs=0.0135)
    assert two().available(place, device, KEY).all()
    assert not two(availability=0.0).available(place, device, KEY).any()


def test_a_job_may_bring_its_own_device_and_reads_back() -> None:
    table = {
        "mix": {"mine": 1, "phone": 2},
        "device": {
            "mine": {
                "peak_flops": 1e12,
                "memory_bytes": 8e9,
                "memory_bandwidth_bytes_s": 1e11,
                "active_power_w": 10,
            }
        },
    }
    fleet = config.parse(Fleet, table)
    assert fleet.classes == (Device(1e12, 8e9, 1e11, 10.0), catalogue.lookup("phone"))
    assert config.parse(Fleet, config.dump(fleet)) == fleet


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"mix": {"phnoe": 1}}, "unknown device 'phnoe'; did you mean 'phone'"),
        ({"mix": {}}, "at least one device class"),
        ({"mix": {"phone": -1}}, "mix.phone"),
        ({"availability": 1.5}, "availability"),
        ({"mixx": {}}, "did you mean 'mix'"),
        ({"device": {"mine": {"peak_flops": 0}}}, "device.mine"),
    ],
)
def test_a_bad_table_is_refused_by_key(table: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        config.parse(Fleet, table)


def test_a_million_clients_are_assigned_in_one_call() -> None:
    device = Fleet(mix={"phone": 1, "laptop": 1}).assign(1_000_000, KEY)
    assert device.shape == (1_000_000,)
    assert device.dtype == np.int64


def test_planning_with_devices_imports_no_torch() -> None:
    import subprocess

    code = "import fedwave.devices.fleet, sys; fedwave.devices.fleet.Fleet().classes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
