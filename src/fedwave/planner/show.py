"""A plan in words and numbers."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from fedwave.devices import catalogue
from fedwave.devices.device import Device
from fedwave.planner.changes import Change
from fedwave.planner.constraints import times
from fedwave.planner.needs import Needs
from fedwave.planner.radio import Spread
from fedwave.planner.ranges import Range
from fedwave.planner.rehearsal import Plan
from fedwave.planner.row import Row
from fedwave.planner.server import ServerNeeds
from fedwave.results.format import data, duration, si


def lines(plan: Plan) -> Iterator[str]:
    """The plan, line by line."""
    margin = "" if plan.margin is None else f", margin {times(plan.margin)}"
    yield f"verdict: {plan.verdict}; binding: {plan.binding}{margin}"
    if plan.margin is not None and abs(plan.margin - 1.0) < 2.0 * plan.round_s_error:
        yield "  near: the margin is within two standard errors over the seeds; another seed may be judged otherwise"
    for name, text in _rows(plan):
        yield f"  {name:<10} {text}"
    for name, device in plan.devices.items():
        yield f"  {name}: {_device(name, device)}"
    for one in plan.constraints:
        yield f"  {'holds' if one.margin >= 1.0 else 'BROKEN'}: {one.sentence()}"
    for assumption in plan.assumptions:
        yield f"  assumes: {assumption}"


def explain_lines(rows: Sequence[Row]) -> Iterator[str]:
    """``name = formula = value unit [source]``, part by part."""
    part = None
    for row in rows:
        if row.part != part:
            part = row.part
            yield f"{part}:"
        value = f"{row.value:.6g}" if isinstance(row.value, float) else str(row.value)
        unit = "" if row.unit in ("", "1") else f" {row.unit}"
        chain = " = ".join(text for text in (row.name, row.formula, f"{value}{unit}") if text)
        yield f"  {chain}" + (f"  [{row.source}]" if row.source else "")


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """What would help, as overrides for the command line."""
    if not changes:
        yield "  no change of methods, ranks, bits, cohorts, layers, devices or bandwidth was found that would help"
    for one in changes:
        words = " ".join(shlex.quote(text) for text in one.overrides)
        lost = "" if one.delivered_share >= 1.0 else f", {one.delivered_share:.0%} delivered"
        still = f"nearer, though {one.binding} still binds, with"
        how = still if one.verdict == "unsuitable" else f"{one.verdict} with"
        yield f"  {how}: {words}  (round {duration(one.round_s)}, margin {times(one.margin)}{lost})"


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "model", f"{_count(plan.model_parameters)} parameters, {_count(plan.trainable_parameters)} trainable"
    spread = _spread(plan, "round_s", duration)
    path = {"download": plan.downlink_s, "compute": plan.compute_s, "upload": plan.uplink_s}
    yield (
        "round",
        f"{duration(plan.round_s)} ({spread}): "
        + ", ".join(f"{n} {duration(s)}" for n, s in path.items())
        + (f"; {duration(plan.access_s)} of it connecting" if plan.access_s else ""),
    )
    if plan.granularity is not None:
        yield "balance", f"{plan.granularity:.3g} s of computing per second of communication"
    yield "payload", f"{_bits(plan, 'uplink')} up, {_bits(plan, 'downlink')} down per client and round"
    yield from _air(plan)
    each, total = si(plan.energy_j_per_client, "J"), si(plan.total_energy_j, "J")
    efficiency = f", {plan.tokens_per_j:.3g} tokens/s/W of training" if plan.tokens_per_j else ""
    spread = _spread(plan, "energy_j_per_client", lambda joules: si(joules, "J"))
    yield "energy", f"{each} per client and round ({spread}){efficiency}, {total} in all"
    yield "memory", f"{si(plan.peak_memory_bytes, 'B')} at most on a device"
    yield "server", _server(plan.server)
    yield (
        "delivered",
        f"{plan.delivered_share:.0%} of the updates of {plan.clients} clients in turn"
        + "".join(f", {name.replace('_', ' ')} {share:.0%}" for name, share in plan.lost.items()),
    )
    if plan.base_delivery is not None:
        yield "base model", _base(plan.base_delivery)
    rehearsed = f", going by {plan.rehearsed} rounds of {plan.seeds} seed{'s' if plan.seeds > 1 else ''}"
    rehearsed += f" (standard error {plan.round_s_error:.1%})" if plan.round_s_error else ""
    cycles = f", {plan.battery_cycles:.2g} battery charges of a client" if plan.battery_cycles else ""
    yield (
        "in all",
        (
            f"{plan.rounds} round{'s' if plan.rounds != 1 else ''} in {duration(plan.total_s)} "
            f"({_number(plan.rounds_per_day)} a day){rehearsed}; {data(plan.total_bits)}, "
            f"{plan.total_energy_j / 3.6e6:.3g} kWh{cycles}"
        ),
    )


def _spread(plan: Plan, name: str, show: Callable[[float], str]) -> str:
    """Nine rounds of ten, and what they may be where the catalogue's numbers are off."""
    one = plan.ranges[name]
    wider = "" if (one.low, one.high) == (one.p5, one.p95) else f"; {_between(one, show)} if the devices are off"
    return f"p5 {show(one.p5)}, p95 {show(one.p95)}{wider}"


def _bits(plan: Plan, way: str) -> str:
    name = f"{way}_bits_per_client"
    one, value = plan.ranges[name], data(getattr(plan, name))
    return value if one.low == one.high else f"{value} ({_between(one, data)})"


def _between(one: Range, show: Callable[[float], str]) -> str:
    return f"{show(one.low)} to {show(one.high)}"


def _server(server: ServerNeeds) -> str:
    cloud = ""
    if server.cloud_s:
        cloud = f"; {data(server.cloud_bits)} to the cloud and back in {duration(server.cloud_s)}"
    work = f"{duration(server.compute_s)} and {si(server.compute_j, 'J')} a round"
    return f"{server.device}: {work}, {_memory(server)}{cloud}"


def _memory(one: Needs | ServerNeeds) -> str:
    needed, usable = si(one.peak_memory_bytes, "B"), si(one.usable_memory_bytes, "B")
    parts = ", ".join(f"{name} {si(value, 'B')}" for name, value in one.memory_bytes.items() if value)
    fits = f"{needed} of {usable} usable" if one.fits else f"needs {needed}, has {usable} usable: does NOT fit"
    return f"{fits} ({parts})"


def _air(plan: Plan) -> Iterator[tuple[str, str]]:
    air = plan.air
    if air.up_bps is not None:
        carrier = "" if air.carrier_bps is None else f" (alone on the carrier {_rates(air.carrier_bps)})"
        yield "up", f"{_rates(air.up_bps)}{carrier}"
    if air.down_bps is not None:
        yield "down", _rates(air.down_bps)
    if air.block_s:
        yield (
            "airtime",
            (
                f"{_number(air.block_s)} resource-block seconds a round, {air.share:.0%} of the uplink carrier; "
                f"{air.left_share:.0%} is left to others"
            ),
        )


def _rates(spread: Spread) -> str:
    return " / ".join(si(value, "bit/s") for value in (spread.p5, spread.p50, spread.p95)) + " at p5 / p50 / p95"


def _device(name: str, device: Needs) -> str:
    battery = "" if device.battery_share is None else f", {device.battery_share:.2%} of a battery a round"
    return (
        f"{duration(device.compute_s)} of computing (at {device.training_efficiency:.0%} of peak"
        f"{_taken(name, device.training_efficiency)}), {_memory(device)}{battery}"
    )


def _taken(name: str, efficiency: float) -> str:
    """Whether the share of the peak is the catalogue's assumption, or what a device of one's own has unless told."""
    known = next((row for row in catalogue.rows(name) if row.key == "training_efficiency"), None)
    if known is not None and known.value == efficiency:
        return ", assumed" if known.basis == "assumed" else ""
    return ", the default" if known is None and efficiency == Device.training_efficiency else ""


def _base(base: dict[str, float]) -> str:
    missed = f", {base['unreached_share']:.0%} not reached" if base["unreached_share"] else ""
    seconds, joules = duration(base["seconds"]), si(base["joules_mean"], "J")
    return f"{data(base['bits'])} to every device once: {seconds}, {joules} each{missed}"


def _count(number: int) -> str:
    return si(float(number), "").strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000.0 else f"{value:.3g}"
