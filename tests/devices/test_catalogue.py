"""The device catalogue: every number stands with its source, and the computed ones are right."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.devices import catalogue
from fedwave.devices.device import Device


def test_every_number_has_value_unit_source_and_basis() -> None:
    assert len(catalogue.names()) >= 15
    for row in catalogue.rows():
        assert row.value > 0, row
        assert len(row.source) > 10, row
        assert row.basis in typing.get_args(catalogue.Basis), row
        assert row.unit == _unit(row.key), row


def _unit(key: str) -> str:
    ends = {"_flops": "FLOP/s", "_bytes_s": "byte/s", "_bytes": "byte", "_w": "W", "_j": "J"}
    return next((unit for end, unit in ends.items() if key.endswith(end)), "1")


def test_only_the_two_shares_that_no_data_sheet_gives_are_assumed() -> None:
    for row in catalogue.rows():
        assert (row.basis == "assumed") == (row.key in ("training_efficiency", "memory_share")), row
        if row.key == "training_efficiency":
            assert 0.1 <= row.value <= 0.4


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("phone", "peak_flops", (3.3 * 32 + (3 * 3.2 + 2 * 3.0) * 16) * 1e9),
        ("phone", "memory_bandwidth_bytes_s", 4800e6 * 2 * 64 / 8),
        ("phone", "battery_j", 5.0 * 3.85 * 3600),
        ("phone-mid", "peak_flops", (2 * 2.2 * 16 + 6 * 1.8 * 8) * 1e9),
        ("phone-mid", "memory_bandwidth_bytes_s", 2133e6 * 2 * 32 / 8),
        ("phone-mid", "battery_j", 5.0 * 3.85 * 3600),
        ("jetson-orin-nano", "peak_flops", 1024 * 2 * 1.02e9),
        ("jetson-agx-orin", "memory_bandwidth_bytes_s", 3200e6 * 2 * 256 / 8),
        ("raspberry-pi-5", "peak_flops", 4 * 2.4e9 * 16),
        ("raspberry-pi-5", "memory_bandwidth_bytes_s", 4267e6 * 32 / 8),
        ("laptop", "peak_flops", 8 * 3.3e9 * 32),
        ("laptop", "memory_bandwidth_bytes_s", 5600e6 * 128 / 8),
        ("phone-2025", "peak_flops", (2 * 4.6 + 6 * 3.62) * 1e9 * 32),
        ("phone-2025", "memory_bandwidth_bytes_s", 5300e6 * 2 * 64 / 8),
        ("phone-2025", "battery_j", 7.0 * 3.85 * 3600),
        ("vehicle", "active_power_w", 130 / 2),
        ("raspberry-pi-zero-2-w", "peak_flops", 4 * 1.0e9 * 8),
        ("raspberry-pi-zero-2-w", "memory_bandwidth_bytes_s", 450e6 * 2 * 32 / 8),
        ("raspberry-pi-zero-2-w", "active_power_w", 0.350 * 5.1),
        ("microcontroller", "peak_flops", 2 * 240e6 * 2),
        ("microcontroller", "memory_bandwidth_bytes_s", 240e6 * 4),
        ("microcontroller", "active_power_w", 0.068 * 3.3),
    ],
)
def test_computed_numbers_are_what_their_source_computes(name: str, key: str, value: float) -> None:
    assert getattr(catalogue.lookup(name), key) == pytest.approx(value, rel=1e-5)


def test_each_computed_number_is_among_those() -> None:
    computed = {(row.device, row.key) for row in catalogue.rows() if row.basis == "computed"}
    marks = test_computed_numbers_are_what_their_source_computes.pytestmark  # type: ignore[attr-defined]
    assert computed == {(name, key) for name, key, _ in marks[0].args[1]}


def test_an_unknown_device_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(BadInput, match="did you mean 'jetson-orin-nano'"):
        catalogue.lookup("jetson-orin-nono")
    with pytest.raises(BadInput, match="unknown device"):
        catalogue.describe("abacus")


def test_each_class_says_what_it_stands_for() -> None:
    assert all(len(catalogue.describe(name)) > 10 for name in catalogue.names())


# 1e12 FLOP/s x 0.5 reached, 1e11 byte/s: the two roofs meet at 5 FLOP a byte.
_DEVICE = Device(1e12, 8e9, 1e11, active_power_w=10.0, training_efficiency=0.5)


def test_the_roofline_takes_the_slower_of_arithmetic_and_memory() -> None:
    assert _DEVICE.seconds(1e12) == 2.0
    assert _DEVICE.seconds(1e12, 1e11) == 2.0  # 10 FLOP a byte: arithmetic
    assert _DEVICE.seconds(1e12, 4e11) == 4.0  # 2.5 FLOP a byte: memory
    assert _DEVICE.joules(1e12, 4e11) == 40.0


@given(st.floats(0, 1e15), st.floats(0, 1e15), st.floats(0, 1e13))
def test_more_arithmetic_never_takes_less_time(less: float, more: float, traffic: float) -> None:
    less, more = sorted((less, more))
    assert _DEVICE.seconds(less, traffic) <= _DEVICE.seconds(more, traffic)
    assert _DEVICE.joules(more, traffic) == pytest.approx(10.0 * _DEVICE.seconds(more, traffic))
