"""What the catalogue's own numbers leave open of a device.

A catalogue number of the basis "secondary" (a page that repeats the maker) or "computed" (units x clock x width) is
nominal: it goes by one clock, width or limit, and a processor that trains for minutes in somebody's pocket keeps
another. How far off it is nobody has published for these devices, so the factor is a judgement, and a plan prints it: a
quarter either way, about what lies between nominal and sustained clocks. Numbers of makers and measurements count as
they are, and so do those that a user gives. What is assumed (the share of the peak that training reaches) has no error
that could be stated: a plan prints the value. Shapes of models are whole numbers, right or wrong: they widen nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedwave.devices import catalogue
from fedwave.devices.device import Device
from fedwave.federation.setting import Setting

FACTOR = 1.25
_LOOSE = ("secondary", "computed")
_SPEED, _POWER = ("peak_flops", "memory_bandwidth_bytes_s"), ("active_power_w",)


@dataclass(frozen=True)
class Open:
    """What the catalogue leaves open of a device: factors either way of its seconds and of its joules, and why."""

    seconds: float = 1.0
    joules: float = 1.0
    sentence: str = ""


def left_open(name: str, device: Device) -> Open:
    """Of the class ``name``; nothing where ``device`` is the user's own and not the catalogue's."""
    if name not in catalogue.names() or catalogue.lookup(name) != device:
        return Open()
    loose = {row.key: row for row in catalogue.rows(name) if row.basis in _LOOSE and row.key in (*_SPEED, *_POWER)}
    if not loose:
        return Open()
    seconds = FACTOR if any(key in loose for key in _SPEED) else 1.0
    joules = seconds * (FACTOR if any(key in loose for key in _POWER) else 1.0)
    numbers = ", ".join(f"{key} = {row.value:.4g} {row.unit} ({row.basis})" for key, row in loose.items())
    factors = f"seconds to a factor of {seconds:g}, its joules of {joules:.3g}"
    return Open(seconds, joules, f"{name}: {numbers}: not from the maker, nor measured; so its {factors} either way")


def clients_open(setting: Setting) -> list[Open]:
    """Of the fleet's classes, in their order."""
    return [left_open(name, one) for name, one in zip(setting.fleet.names, setting.fleet.classes, strict=True)]


def server_open(setting: Setting) -> Open:
    """Of the server's device."""
    return left_open(setting.server.device, catalogue.lookup(setting.server.device))
