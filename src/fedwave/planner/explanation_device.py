"""What one class of device makes of a round, row by row: FLOPs, seconds, joules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from fedwave.devices import catalogue
from fedwave.devices.device import Device
from fedwave.federation.setting import Setting
from fedwave.planner.needs import Needs
from fedwave.planner.row import Row

_MEAN = "mean over the class's clients in the rehearsed rounds"
_ROOFS = {
    "flops / (training_efficiency * peak_flops)": "roofline: arithmetic limits (Williams et al. 2009)",
    "traffic_bytes / memory_bandwidth_bytes_s": "roofline: memory bandwidth limits (Williams et al. 2009)",
}
_SPENT_ON = {
    "setup": "power while connecting or waiting for a grant x its seconds (setup_w, tail_w below)",
    "air": "power while receiving and sending x its seconds (receive_w, transmit power below)",
    "bits": "joules per bit x bits sent and received (below)",
    "tail": "power of the inactivity tail x its seconds (tail_w, drx below)",
}


def device_rows(setting: Setting, name: str, needs: Needs) -> Iterator[Row]:
    """Rows of the class ``name``, in the part ``device NAME``."""
    part, device = f"device {name}", setting.fleet.classes[setting.fleet.names.index(name)]
    formulas = setting.method.formulas
    yield from _entry(setting, name, device)
    yield Row(part, "clients", needs.clients, "1", "of the population")
    usable = needs.usable_memory_bytes
    yield Row(part, "usable_memory_bytes", usable, "B", "for one application", "memory_share * memory_bytes")
    yield Row(part, "storage_need_bytes", needs.storage_bytes, "B", "on the device for good", formulas["storage"])
    yield Row(part, "rows", needs.rows, "1", f"rows of a client's local steps; {_MEAN}")
    yield Row(part, "steps", needs.steps, "1", f"local steps; {_MEAN}")
    yield Row(part, "flops", needs.flops, "FLOP", _MEAN, formulas["flops"])
    traffic = "2 * steps * (base_bytes + 4 * trainable_parameters) + 2 * rows * activation_bytes"
    read = "a step reads the weights twice, writes and reads activations"
    yield Row(part, "traffic_bytes", needs.traffic_bytes, "B", read, traffic)
    yield from _seconds(part, device, needs)
    yield Row(part, "compute_j", needs.compute_j, "J", "of training, waiting apart", "active_power_w * compute_s")
    for what, joules in needs.radio_parts_j.items():
        yield Row(part, f"radio_{what}_j", joules, "J", _SPENT_ON[what])
    total = " + ".join(f"radio_{what}_j" for what in needs.radio_parts_j)
    yield Row(part, "radio_j", needs.radio_j, "J", _MEAN, total)
    if needs.battery_j is not None and needs.battery_share is not None:
        yield Row(part, "charged_j", needs.charged_j, "J", f"of training and waiting; {_MEAN}")
        share = "(charged_j + radio_j) / battery_j"
        yield Row(part, "battery_share", needs.battery_share, "1", "of a full battery, a round", share)
    if needs.compute_j > 0.0:
        yield Row(part, "tokens_per_j", needs.tokens_per_j, "1/J", "tokens/s/W", "tokens * rows / compute_j")


def _seconds(part: str, device: Device, needs: Needs) -> Iterator[Row]:
    """By the roof that all clients of the class are under; a mean of both where they differ."""
    roofs = (needs.flops / (device.training_efficiency * device.peak_flops),
             needs.traffic_bytes / device.memory_bandwidth_bytes_s)  # fmt: skip
    formula = next((f for f, s in zip(_ROOFS, roofs, strict=True) if abs(s - needs.compute_s) <= 1e-9 * s), "")
    source = _ROOFS.get(formula, f"per client the larger of {' and '.join(_ROOFS)}; {_MEAN}")
    yield Row(part, "compute_s", needs.compute_s, "s", source, formula)


def _entry(setting: Setting, name: str, device: Device) -> Iterator[Row]:
    """The class's own numbers with their sources."""
    listed = name in catalogue.names()
    known = {row.key: row for row in catalogue.rows(name)} if listed else {}
    for one in fields(Device):
        value = getattr(device, one.name)
        if value is None:
            continue
        row = known.get(one.name)
        if row is not None and row.value == value:
            source = f"{row.basis}: {row.source}"
        else:
            source = f"fleet.device.{name}" if name in setting.fleet.device else "default of a device"
        yield Row(f"device {name}", one.name, value, catalogue.unit_of(one.name), source)
