"""Feasibility without training: the same rounds, rehearsed on shapes alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import STATUSES, RoundRecord
from fedwave.experiment import Experiment
from fedwave.federation.checks import check_network
from fedwave.federation.setting import Setting, Turn
from fedwave.federation.sync import rehearse

_REHEARSED = 20
_STAND_IN = "the network's own fidelity takes too long for a plan: this is its link tables'"
_ANYHOW = "no device can take part; seconds, bits and joules are those of a round in which memory and battery sufficed"


@dataclass(frozen=True)
class Plan:
    """What a job asks of its devices and its network. Quantities are per round unless said otherwise.

    ``binding`` is what ends the round or keeps clients out of it; ``*_per_client`` are means over the rehearsed
    cohorts, ``round_s_p5`` and ``round_s_p95`` quantiles over the ``rehearsed`` rounds; totals take those for all.
    ``base_delivery`` is the one-time delivery of the base model to all devices, in no other number.
    """

    verdict: Literal["suitable", "conditional", "unsuitable"]
    binding: str
    round_s: float
    round_s_p5: float
    round_s_p95: float
    downlink_s: float
    compute_s: float
    uplink_s: float
    uplink_bits_per_client: float
    downlink_bits_per_client: float
    energy_j_per_client: float
    peak_memory_bytes: float
    trainable_parameters: int
    model_parameters: int
    clients: int
    delivered_share: float
    lost: dict[str, float]
    rounds: int
    total_s: float
    total_energy_j: float
    devices: dict[str, dict[str, float | bool]]
    assumptions: tuple[str, ...]
    rehearsed: int
    base_delivery: dict[str, float] | None = None

    @property
    def feasible(self) -> bool:
        """The job can work: exit code 0, else 3."""
        return self.verdict != "unsuitable"

    def to_dict(self) -> dict[str, Any]:
        """Plain table."""
        return asdict(self)


def plan(experiment: Experiment, *, rounds: int | None = None) -> Plan:
    """Rehearse ``rounds`` (by default the job's, at most 20) without training.

    A job is unsuitable where fewer clients than the quorum can be heard in most rounds, conditional where more than one
    client in ten is lost, suitable otherwise. Raises :class:`BadInput` where the numbers run out of range.
    """
    job = experiment.setting()
    setting = replace(job, network=job.network.for_planning())
    check_network(setting)
    with np.errstate(all="ignore"):  # what overflows shows in the result, and is refused there
        count = rounds or min(setting.rounds, _REHEARSED)
        rehearsal = list(rehearse(setting, count))
        takes_place = any(turn.delivery.trained.any() for _, turn in rehearsal)
        costs = rehearsal if takes_place else list(rehearse(setting, count, anyhow=True))
        found = _checked(_summary(setting, rehearsal, costs))
    if setting.network == job.network:
        return found
    return replace(found, assumptions=(_STAND_IN, *found.assumptions))


def _summary(
    setting: Setting, rehearsal: list[tuple[RoundRecord, Turn]], costs: list[tuple[RoundRecord, Turn]]
) -> Plan:
    """The plan: who takes part from ``rehearsal``, what it costs from ``costs`` (the same, where anybody can)."""
    status = np.concatenate([t.delivery.status for _, t in rehearsal]) if rehearsal else np.zeros(0)
    delivered = [record.delivered for record, _ in rehearsal]
    records, turns = [r for r, _ in costs], [t for _, t in costs]
    seconds = np.array([r.round_s for r in records])
    lost = {
        name: float(np.mean(status == code)) for code, name in enumerate(STATUSES) if code and np.any(status == code)
    }
    heard = float(np.mean(status == 0)) if status.size else 0.0
    path = {
        name: float(np.mean([getattr(r, f"{name}_s") for r in records])) for name in ("downlink", "compute", "uplink")
    }
    verdict = _verdict(setting, delivered, heard)
    assumptions = (*setting.spec.assumptions, *_radio_assumptions(setting))
    if costs is not rehearsal:
        assumptions = (_ANYHOW, *assumptions)
    return Plan(
        verdict=verdict,
        binding=max(lost, key=lambda name: lost[name])
        if verdict != "suitable" and lost
        else max(path, key=lambda n: path[n]),
        round_s=float(seconds.mean()),
        round_s_p5=float(np.quantile(seconds, 0.05)),
        round_s_p95=float(np.quantile(seconds, 0.95)),
        **{f"{name}_s": value for name, value in path.items()},
        uplink_bits_per_client=_mean(turns, _up_bits),
        downlink_bits_per_client=_mean(turns, lambda t: t.work.down_bits),
        energy_j_per_client=_mean(turns, lambda t: t.delivery.radio_j + t.delivery.compute_j),
        peak_memory_bytes=float(max((t.compute.peak_bytes.max() for t in turns if len(t.cohort)), default=0.0)),
        trainable_parameters=setting.spec.trainable_parameters,
        model_parameters=setting.spec.model_parameters,
        clients=len(setting.population),
        delivered_share=heard,
        lost=lost,
        rounds=setting.rounds,
        total_s=float(seconds.mean()) * setting.rounds,
        total_energy_j=float(np.mean([r.energy_j for r in records])) * setting.rounds,
        devices=_devices(setting, [t for _, t in rehearsal]),
        assumptions=assumptions,
        rehearsed=len(rehearsal),
        base_delivery=setting.base_delivery(),
    )


def _radio_assumptions(setting: Setting) -> list[str]:
    """The entries of the link budget that rest on an assumption rather than on a table."""
    explain = getattr(setting.network, "explain", None)
    rows = explain() if explain else []
    return [
        f"{name} = {_shown(value)} {unit}".rstrip() + source.removeprefix("assumption")
        for name, value, unit, source in rows
        if source.startswith("assumption")
    ]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _checked(plan: Plan) -> Plan:
    """``plan``, where all its numbers are finite."""
    for name, value in vars(plan).items():
        if isinstance(value, float) and not np.isfinite(value):
            raise BadInput(
                f"the plan's {name} is {value}: a number of the job's devices or network is beyond all measure"
            )
    return plan


def _verdict(setting: Setting, delivered: list[int], heard: float) -> Literal["suitable", "conditional", "unsuitable"]:
    enough = np.mean([d >= setting.federation.quorum for d in delivered])
    if enough < 0.5:
        return "unsuitable"
    return "suitable" if heard >= 0.9 else "conditional"


def _up_bits(turn: Turn) -> Any:
    """What clients are asked to send digitally; of a sum in the air, what they sent to make it possible."""
    return turn.work.up_bits if turn.delivery.up_symbols is None else turn.delivery.up_sent_bits


def _mean(turns: list[Turn], what: Any) -> float:
    values = np.concatenate([np.atleast_1d(what(turn)) for turn in turns])
    return float(values.mean()) if values.size else 0.0


def _devices(setting: Setting, turns: list[Turn]) -> dict[str, dict[str, float | bool]]:
    """Per device class that was met: seconds and joules of computing, memory, whether it fits."""
    table: dict[str, dict[str, float | bool]] = {}
    for index, name in enumerate(setting.fleet.names):
        mine = [(t, t.cohort.device == index) for t in turns if np.any(t.cohort.device == index)]
        if mine:
            table[name] = {
                "compute_s": float(np.mean(np.concatenate([t.compute.seconds.sum(0)[m] for t, m in mine]))),
                "compute_j": float(np.mean(np.concatenate([t.compute.joules.sum(0)[m] for t, m in mine]))),
                "peak_memory_bytes": float(max(t.compute.peak_bytes[m].max() for t, m in mine)),
                "usable_memory_bytes": setting.fleet.classes[index].usable_memory_bytes,
                "training_efficiency": setting.fleet.classes[index].training_efficiency,
                "fits": bool(all(t.compute.fits[m].all() for t, m in mine)),
            }
    return table
