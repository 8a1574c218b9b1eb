"""How a plan comes about: each number with its formula, its value and its source, from the model to the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, fields

from fedwave.core.errors import BadInput
from fedwave.core.registry import name_of
from fedwave.core.types import Schema
from fedwave.experiment import Experiment
from fedwave.federation.setting import Setting
from fedwave.models import catalogue as models
from fedwave.planner.constraints import DAY_S, Constraint, Yardsticks, left_s
from fedwave.planner.explanation_device import device_rows
from fedwave.planner.rehearsal import Plan
from fedwave.planner.row import Row
from fedwave.tasks.pretrained import Pretrained, pretrained_of
from fedwave.transforms.chain import Chain

_KAPLAN = "Kaplan et al. 2020, Table 1, over all tokens of a row"
_KORTHIKANTI = "Korthikanti et al. 2022, Section 4.1, term by term for this model's widths; attention keeps its scores"
_LENGTHS = ("rows have no length", "patches of an image, and the class token")
_HELD = {
    "weights": "frozen ones, and trained ones in float32",
    "gradients": "float32, of what is trained alone",
    "optimizer": "float32, for each moment",
    "method": "float32",
    "activations": "of one step's rows, kept for the backward pass",
}
_REHEARSED = "mean over the rehearsed rounds"


def explain(experiment: Experiment, plan: Plan, yardsticks: Yardsticks) -> list[Row]:
    """The chain of formulas behind ``plan``, in the order in which one number follows from another.

    A formula that is not empty is Python over names of rows above it, those of its own part first, else the nearest;
    its value is the plan's own, so that the two can be compared (:func:`evaluate`).

    Raises :class:`BadInput` where a number runs out of range.
    """
    setting = experiment.setting()
    found = [*_model(experiment, setting), *_payload(setting, plan), *_memory(setting, plan)]
    for name, needs in plan.devices.items():
        found += device_rows(setting, name, needs)
    found += [*_radio(plan), *_round(setting, plan), *_totals(plan), *_constraints(setting, plan, yardsticks)]
    found += [*_verdict(plan), *_network(setting)]
    for row in found:
        if isinstance(row.value, float) and not math.isfinite(row.value):
            raise BadInput(f"{row.part}: {row.name} is {row.value}: a number of the job is beyond all measure")
    return found


def _model(experiment: Experiment, setting: Setting) -> Iterator[Row]:
    spec, task = setting.spec, experiment.task
    pretrained = pretrained_of(task)
    entry = models.lookup(pretrained.name) if pretrained else None
    origin = f"task {name_of(task)}" if pretrained is None else f"shapes in the config of {pretrained.name}"
    if entry is not None:
        origin += f"; checked against {entry.source} ({entry.basis})"
    part = "model"
    yield Row(part, "model_parameters", spec.model_parameters, "1", origin)
    yield from _trainable(setting)
    width = "at the width of task.dtype" if hasattr(task, "dtype") else "float32"
    yield Row(part, "base_bytes", spec.base_bytes, "B", f"frozen weights, {width}")
    length = (
        "task.max_tokens; every row is charged as long" if hasattr(task, "max_tokens") else _LENGTHS[spec.tokens > 1]
    )
    yield Row(part, "tokens", spec.tokens, "1", f"of a row: {length}")
    yield from _flops(setting, pretrained)
    kept = "values that the backward pass reads, layer by layer" if pretrained is None else _KORTHIKANTI
    yield Row(part, "activation_bytes", spec.activation_bytes, "B", f"of a row: {kept}")
    yield Row(part, "inference_bytes", spec.inference_bytes, "B", "of a row: one layer's activations at a time")


def _trainable(setting: Setting) -> Iterator[Row]:
    """Of plain LoRA with one rank, ``r (d_in + d_out)`` over the adapted layers."""
    spec, formula = setting.spec, ""
    if spec.bases and spec.max_rank:
        widths = sum(sum(shape) for shape in spec.bases.values())
        layers = len(spec.bases)
        rest = spec.trainable_parameters - spec.max_rank * widths
        yield Row("model", "lora_rank", spec.max_rank, "1", "task.adapter.rank, the largest of the fleet")
        yield Row("model", "lora_widths", widths, "1", f"d_in + d_out, summed over {layers} adapted layers")
        formula = "lora_rank * lora_widths"
        if rest:
            yield Row("model", "other_values", rest, "1", "trained beside LoRA: a head")
            formula += " + other_values"
    source = "Hu et al. 2021, Section 4.1: A [r, d_in], B [d_out, r]" if formula else "leaves that the adapter trains"
    yield Row("model", "trainable_parameters", spec.trainable_parameters, "1", source, formula)


def _flops(setting: Setting, pretrained: Pretrained | None) -> Iterator[Row]:
    spec, formula = setting.spec, ""
    if pretrained is not None:
        arch = pretrained.architecture
        plain = 2.0 * arch.matmul_parameters * spec.tokens + 4.0 * arch.layers * spec.tokens**2 * arch.attention_width
        if plain <= spec.forward_flops * (1.0 + 1e-12):
            yield Row("model", "matmul_parameters", arch.matmul_parameters, "1", "weights that multiply each token")
            yield Row("model", "layers", arch.layers, "1", "config")
            yield Row("model", "attention_width", arch.attention_width, "1", "config")
            beside = spec.forward_flops - plain
            yield Row("model", "beside_flops", beside, "FLOP", "what the adapter or a head adds, of a row")
            formula = "2 * matmul_parameters * tokens + 4 * layers * tokens**2 * attention_width + beside_flops"
    source = _KAPLAN if formula else "of a row, counted layer by layer"
    yield Row("model", "forward_flops", spec.forward_flops, "FLOP", source, formula)
    yield Row("model", "backward_flops", spec.backward_flops, "FLOP", next(_backward(setting)))


def _backward(setting: Setting) -> Iterator[str]:
    spec = setting.spec
    yield from (text for text in spec.assumptions if "ackward" in text)
    if spec.backward_flops == 2.0 * spec.forward_flops:
        yield "of a row: input and weight gradients, twice a forward pass (Kaplan et al. 2020, Section 2.1)"
    yield "of a row: gradients of what is trained, counted layer by layer"


def _payload(setting: Setting, plan: Plan) -> Iterator[Row]:
    """What a client sends and receives: values, bits, what each transform makes of them."""
    sides = (
        ("uplink", setting.codec.up, setting.method.uplink(setting.spec), plan.uplink_bits_per_client),
        ("downlink", setting.codec.down, setting.method.downlink(setting.spec), plan.downlink_bits_per_client),
    )
    for way, chain, schema, bits in sides:
        part = f"payload {way}"
        leaves = [leaf for one in schema.values() for leaf in one.leaves.values()]
        raw = sum(leaf.bits for leaf in leaves)
        yield Row(part, "values", sum(leaf.size for leaf in leaves), "1", f"method {name_of(setting.method)}")
        yield Row(part, "raw_bits", raw, "bit", "values at the width of their type, untransformed")
        names = []
        for name, value, source in _encoded(chain, schema):
            names.append(name)
            yield Row(part, name, value, "bit", source)
        if other := bits - sum(value for _, value, _ in _encoded(chain, schema)):
            names.append("other_bits")
            yield Row(part, "other_bits", other, "bit", "mean of smaller ranks, missed base changes, sums in the air")
        yield Row(part, f"{way}_bits_per_client", bits, "bit", "exact", " + ".join(names))


def _encoded(chain: Chain, schema: Schema) -> Iterator[tuple[str, int, str]]:
    """Bits of each transform's own buffers, and of the values that travel as they are."""
    left = [part.leaves for part in schema.values()]
    for place, transform in enumerate(chain.transforms):
        stages = [transform.shapes(leaves) for leaves in left]
        left = [leaves for leaves, _ in stages]
        bits = 8 * sum(buffer.bytes for _, buffers in stages for buffer in buffers.values())
        yield f"{name_of(transform)}_{place}_bits", bits, "codes, scales and places, each buffer in whole bytes"
    yield "plain_bits", sum(leaf.bits for leaves in left for leaf in leaves.values()), "values that travel as they are"


def _memory(setting: Setting, plan: Plan) -> Iterator[Row]:
    """What is held at the peak: the same on every class of device."""
    method, spec, part = setting.method, setting.spec, "memory"
    for one in fields(method):
        value = getattr(method, one.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield Row(part, f"method_{one.name}", value, "", "job")
    trained = sum(leaf.size for leaf in method.travelling(spec).values())
    kept = sum(leaf.size for leaf in method.memory(spec).values())
    slots = len(method.local_optimizer.slots)
    yield Row(part, "batch_size", setting.batch_size, "1", "job: rows of a local step")
    yield Row(part, "trained_values", trained, "1", "trainable values that the method changes")
    yield Row(part, "kept_values", kept, "1", "what the method keeps between rounds")
    yield Row(part, "optimizer_slots", slots, "1", f"moments of {name_of(method.local_optimizer)}, in float32")
    bytes_ = next(iter(plan.devices.values())).memory_bytes if plan.devices else {}
    for name, value in bytes_.items():
        yield Row(part, f"{name}_bytes", value, "B", _HELD[name], method.formulas[name])
    total = " + ".join(f"{name}_bytes" for name in bytes_)
    if total:
        yield Row(part, "peak_memory_bytes", plan.peak_memory_bytes, "B", "all at once, nothing recomputed", total)


def _radio(plan: Plan) -> Iterator[Row]:
    part, air = "radio", plan.air
    for name, spread, unit, source in (
        ("sinr", air.sinr_db, "dB", "uplink, all resource blocks granted"),
        ("carrier", air.carrier_bps, "bit/s", "goodput with the uplink carrier alone"),
        ("up", air.up_bps, "bit/s", "bits over the seconds from asking to the end, waiting included"),
        ("down", air.down_bps, "bit/s", "bits over the seconds from asking to the end, waiting included"),
    ):
        for quantile, value in asdict(spread).items() if spread else ():
            yield Row(part, f"{name}_{quantile}", value, unit, f"{source}; over clients and rounds")
    yield Row(part, "block_s", air.block_s, "PRB s", f"uplink resource blocks x seconds; {_REHEARSED}")
    yield Row(part, "airtime_share", air.share, "1", "of the blocks of the cells in use while the rounds last")
    yield Row(part, "left_share", air.left_share, "1", "for others", "1 - airtime_share")
    yield Row(part, "access_s", plan.access_s, "s", "connecting, of the client that ends the round; in the transfers")


def _round(setting: Setting, plan: Plan) -> Iterator[Row]:
    part, critical = "round", f"of the client that ends the round; {_REHEARSED}"
    for name in ("downlink_s", "compute_s", "uplink_s"):
        yield Row(part, name, getattr(plan, name), "s", critical)
    server = setting.server.device
    yield Row(part, "server_s", plan.server_s, "s", f"aggregation on {server}, two bytes of traffic a FLOP")
    other = plan.round_s - (plan.downlink_s + plan.compute_s + plan.uplink_s + plan.server_s)
    formula = "downlink_s + compute_s + uplink_s + server_s"
    if abs(other) > 1e-9 * plan.round_s:
        yield Row(part, "other_s", other, "s", "waiting for clients that are not heard in the end")
        formula += " + other_s"
    yield Row(part, "round_s", plan.round_s, "s", f"mean of {plan.rehearsed} rehearsed rounds", formula)
    yield Row(part, "round_s_p5", plan.round_s_p5, "s", "over rounds")
    yield Row(part, "round_s_p95", plan.round_s_p95, "s", "over rounds")
    if plan.granularity is not None:
        source = "seconds of computing per second of communication"
        yield Row(part, "granularity", plan.granularity, "1", source, "compute_s / (downlink_s + uplink_s)")


def _totals(plan: Plan) -> Iterator[Row]:
    part = "in all"
    yield Row(part, "rounds", plan.rounds, "1", "job, or suggested by a pilot")
    yield Row(part, "day_s", DAY_S, "s", "definition")
    yield Row(part, "total_s", plan.total_s, "s", "", "rounds * round_s")
    rate = "day_s / round_s" if plan.round_s > 0.0 else ""
    yield Row(part, "rounds_per_day", plan.rounds_per_day, "1", "" if rate else "no round takes any time", rate)
    yield Row(part, "energy_j_per_client", plan.energy_j_per_client, "J", f"radio, training and waiting; {_REHEARSED}")
    everybody = f"of a round, all clients and the server; {_REHEARSED}"
    yield Row(part, "energy_j", plan.total_energy_j / plan.rounds, "J", everybody)
    yield Row(part, "total_energy_j", plan.total_energy_j, "J", "", "rounds * energy_j")
    on_air = f"that a round puts on the air, all clients, lost ones included; {_REHEARSED}"
    yield Row(part, "round_bits", plan.total_bits / plan.rounds, "bit", on_air)
    yield Row(part, "total_bits", plan.total_bits, "bit", "", "rounds * round_bits")


# Where the need and what there is come from, and the formula of the latter.
_DEVICES = ("of the client that a tenth are worse off than", "device or yardstick", "")
_SOURCES = {
    **dict.fromkeys(("memory", "storage"), _DEVICES),
    "energy": (f"{_DEVICES[0]}: of a battery, in a round or in all", "--max-battery, or charge for the whole job", ""),
    "airtime": ("airtime of a round over that of the cells in use", "--max-airtime", ""),
    "server memory": ("of the server, all parts", "server.device", ""),
}
_PART = "of the part by itself, connecting apart"


def _constraints(setting: Setting, plan: Plan, yardsticks: Yardsticks) -> Iterator[Row]:
    deadline = setting.federation.deadline_s
    yield Row("yardsticks", "max_days", yardsticks.days, "d", "--max-days")
    yield Row("yardsticks", "max_battery", yardsticks.battery_share, "1", "--max-battery: of a battery, a round")
    yield Row("yardsticks", "max_airtime", yardsticks.airtime_share, "1", "--max-airtime: of the uplink carrier")
    rounds_s = yardsticks.days * DAY_S / plan.rounds
    yield Row("yardsticks", "rounds_s", rounds_s, "s", "that a round may take", "max_days * day_s / rounds")
    if deadline is not None:
        yield Row("yardsticks", "deadline_s", deadline, "s", "federation.deadline_s: that clients have")
    path_s = plan.downlink_s + plan.compute_s + plan.uplink_s
    yield Row("yardsticks", "path_s", path_s, "s", "critical path", "downlink_s + compute_s + uplink_s")
    for one in plan.constraints:
        part = f"constraint {one.name}"
        needs, have, formula = _SOURCES.get(one.name) or (_PART, *_time(one, path_s, plan.server_s, rounds_s, deadline))
        yield Row(part, "need", one.need, one.unit, needs)
        yield Row(part, "have", one.have, one.unit, have, formula)
        plain = one.need > 0.0 and one.have / one.need < 1e9 and one.margin != 1.0
        yield Row(part, "margin", one.margin, "1", "holds from 1 on; at most 1e9", "have / need" if plain else "")


def _time(one: Constraint, path_s: float, server_s: float, rounds_s: float, deadline: float | None) -> tuple[str, str]:
    """Source and formula of what there is for one part of a round; see :func:`.constraints.time_constraints`."""
    budget, whole, budget_s, whole_s = "rounds_s", "(path_s + server_s)", rounds_s, path_s + server_s
    if deadline is not None and one.name != "server" and one.have < left_s(one.need, whole_s, rounds_s):
        budget, whole, budget_s, whole_s = "deadline_s", "path_s", deadline, path_s
    if whole_s <= budget_s:
        return "what the other parts leave", f"{budget} - ({whole} - need)"
    return "its share: all parts together take too long", f"need * {budget} / {whole}"


def _verdict(plan: Plan) -> Iterator[Row]:
    part = "verdict"
    yield Row(part, "delivered_share", plan.delivered_share, "1", "updates that count; nine of ten are enough")
    for name, share in plan.lost.items():
        yield Row(part, f"lost_{name}", share, "1", "of the updates")
    hard = [one.name for one in plan.constraints if one.margin < 1.0 and one.hard]
    soft = [one.name for one in plan.constraints if one.margin < 1.0 and not one.hard]
    reason = "every constraint holds, and nine updates of ten count"
    if plan.verdict == "unsuitable":
        reason = f"nothing works without: {', '.join(hard)}" if hard else "in most rounds too few updates count"
    elif plan.verdict == "conditional":
        reason = f"yardsticks that are missed: {', '.join(soft)}" if soft else "more than one update in ten is lost"
    yield Row(part, "verdict", plan.verdict, "", reason)
    why = "what most updates are lost to" if plan.margin is None else "the least margin"
    yield Row(part, "binding", plan.binding, "", why)


def _network(setting: Setting) -> Iterator[Row]:
    """The link budget, and the powers of the radio."""
    rows = getattr(setting.network, "explain", list)()
    for name, value, unit, source in rows:
        plain = value if isinstance(value, int | float | str) or value is None else str(value)
        yield Row("link budget", name, plain, unit, source)
