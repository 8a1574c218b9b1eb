"""The rounds of a job rehearsed on shapes alone, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import STATUSES, RoundRecord
from fedwave.experiment import Experiment
from fedwave.federation.checks import check_network
from fedwave.federation.setting import Setting, Turn
from fedwave.planner.constraints import (
    DAY_S,
    ENOUGH,
    Constraint,
    Terms,
    Verdict,
    Yardsticks,
    all_constraints,
    binding,
    judge,
)
from fedwave.planner.needs import Needs, mean, needs
from fedwave.planner.radio import Air, air
from fedwave.planner.ranges import Range, ranges, up_bits
from fedwave.planner.rehearsed import Rehearsed, Round, rehearsed
from fedwave.planner.server import ServerNeeds, server_needs
from fedwave.planner.unsure import clients_open, server_open
from fedwave.results.format import si

_USUAL = Yardsticks()
_STAND_IN = "the network's own fidelity takes too long for a plan: this is its link tables'"
_UNCHARGED = "no battery is charged while the job lasts"
_BEYOND = (
    "the job is gone through as if {:,} rounds were all: batteries run down as over all rounds of the job, changes of "
    "the base model pile up as over these"
)
_NO_DELIVERY = (
    "how the base model ({:.3g} GB) gets to the devices is in no number: this network's plan does not cover it"
)
_BASE_STATIONS = "joules are the clients' and the server's; base stations spend {} more a round"
_NO_AIRTIME = "--max-airtime says nothing here: the network has no airtime that jobs and others share"
_FEW_ANSWER = "of {} clients that the largest round asks, {:.3g} answer on average: fleet.availability, or their charge"
_FEW_SEEDS = (
    "p5 and p95 are the least and the most of {} rounds of {} seeds: where seeds differ most, three rounds of four lie "
    "between them"
)
_ENOUGH_SEEDS = 10
_ANYHOW = (
    "no device that was met can take part; seconds, bits and joules are those of a round in which memory and battery "
    "sufficed"
)


@dataclass(frozen=True)
class Plan:
    """What a job asks of its devices and its network. Quantities are per round unless said otherwise.

    ``binding`` is the constraint that makes the verdict, with its ``margin`` (have over need; below 1 it does not
    hold), or what keeps clients out of the round (:func:`.constraints.binding`); ``constraints`` are all of them. Means
    are over the ``rehearsed`` rounds of ``seeds`` seeds, ``*_per_client`` over their cohorts; totals take those for all
    rounds. ``ranges`` says how far rounds are from the mean (bits: of one client; joules: of a round's mean over its
    clients), :class:`.ranges.Range`.
    ``round_s_error`` is the standard error of ``round_s`` over the seeds, as a share of it; 0 with one seed.
    ``access_s`` is what ``downlink_s`` and ``uplink_s`` hold of connecting.
    ``granularity`` is seconds of computing over seconds of communication of the client that ends the round,
    ``tokens_per_j`` what is trained per joule of training (tokens/s/W), over all clients. ``base_delivery`` is the
    one-time delivery of the base model to all devices, in no other number.
    """

    verdict: Verdict
    binding: str
    margin: float | None
    constraints: tuple[Constraint, ...]
    round_s: float
    downlink_s: float
    compute_s: float
    uplink_s: float
    access_s: float
    server_s: float
    granularity: float | None
    uplink_bits_per_client: float
    downlink_bits_per_client: float
    energy_j_per_client: float
    tokens_per_j: float
    peak_memory_bytes: float
    trainable_parameters: int
    model_parameters: int
    clients: int
    delivered_share: float
    lost: dict[str, float]
    rounds: int
    rounds_per_day: float
    total_s: float
    total_energy_j: float
    total_bits: float
    battery_cycles: float
    devices: dict[str, Needs]
    server: ServerNeeds
    air: Air
    ranges: dict[str, Range]
    assumptions: tuple[str, ...]
    rehearsed: int
    seeds: int
    round_s_error: float
    base_delivery: dict[str, float] | None = None

    @property
    def feasible(self) -> bool:
        """The job can work: exit code 0, else 3."""
        return self.verdict != "unsuitable"

    @property
    def round_s_p5(self) -> float:
        """Of twenty rounds one is shorter."""
        return self.ranges["round_s"].p5

    @property
    def round_s_p95(self) -> float:
        """Of twenty rounds one is longer."""
        return self.ranges["round_s"].p95

    def to_dict(self) -> dict[str, Any]:
        """Plain table, with what follows from its entries."""
        table = asdict(self)
        table["constraints"] = [asdict(one) | {"margin": one.margin} for one in self.constraints]
        for name, one in self.devices.items():
            table["devices"][name] |= {"peak_memory_bytes": one.peak_memory_bytes, "fits": one.fits}
        table["server"] |= {"peak_memory_bytes": self.server.peak_memory_bytes, "fits": self.server.fits}
        table |= {"round_s_p5": self.round_s_p5, "round_s_p95": self.round_s_p95}
        table["air"]["left_share"] = self.air.left_share
        return table


def plan(experiment: Experiment, *, rounds: int | None = None, yardsticks: Yardsticks = _USUAL) -> Plan:
    """Rehearse rounds of several seeds without training; see :func:`.rehearsed.rehearsed`, :func:`.constraints.judge`.

    ``rounds``: the first so many with the job's own seed, and no others: quicker, and blind to other places.

    Raises :class:`BadInput` where the numbers run out of range.
    """
    job = experiment.setting()
    setting = replace(job, network=job.network.for_planning())
    check_network(setting)
    with np.errstate(all="ignore"):  # what overflows shows in the result, and is refused there
        found = _checked(_summary(setting, rehearsed(experiment, setting, rounds), yardsticks))
    if setting.network == job.network:
        return found
    return replace(found, assumptions=(_STAND_IN, *found.assumptions))


def _summary(setting: Setting, played: Rehearsed, yardsticks: Yardsticks) -> Plan:
    """The plan: who takes part from ``played.rounds``, what it costs from ``played.costs``."""
    records, turns = [r for r, _ in played.costs], [t for _, t in played.costs]
    round_s, path = float(np.mean([r.round_s for r in records])), _path(records)
    access_s = float(np.mean([_slowest(turn) for turn in turns]))
    devices, radio, server = needs(setting, turns), air(turns), server_needs(setting, turns)
    lost, heard = _lost(played.rounds)
    server_s = float(np.mean([r.server_s for r in records]))
    terms = Terms.of(setting, yardsticks, server_s=server_s, cohort=_largest(turns))
    constraints = all_constraints(devices, server, path, access_s, radio.share, terms=terms, yardsticks=yardsticks)
    enough = float(np.mean([r.delivered >= setting.federation.quorum for r, _ in played.rounds])) >= 0.5
    verdict = judge(constraints, enough=enough, heard=heard)
    bound = binding(constraints, lost if heard < ENOUGH else {})
    delivered = setting.base_delivery()
    talk_s = path["downlink"] + path["uplink"]
    turns_each = setting.rounds * _mean(turns, lambda t: float(len(t.cohort))) / max(len(setting.population), 1)
    bits = {"uplink": _mean(turns, up_bits), "downlink": _mean(turns, lambda t: t.work.down_bits)}
    return Plan(
        verdict=verdict,
        binding=bound.name if isinstance(bound, Constraint) else bound,
        margin=bound.margin if isinstance(bound, Constraint) else None,
        constraints=tuple(constraints),
        round_s=round_s,
        **{f"{name}_s": value for name, value in path.items()},
        access_s=access_s,
        server_s=server_s,
        granularity=path["compute"] / talk_s if talk_s > 0.0 else None,
        **{f"{name}_bits_per_client": value for name, value in bits.items()},
        energy_j_per_client=_mean(turns, lambda t: t.delivery.radio_j + t.delivery.compute_j),
        tokens_per_j=_tokens_per_j(devices),
        peak_memory_bytes=max((one.peak_memory_bytes for one in devices.values()), default=0.0),
        trainable_parameters=setting.spec.trainable_parameters,
        model_parameters=setting.spec.model_parameters,
        clients=len(setting.population),
        delivered_share=heard,
        lost=lost,
        rounds=setting.rounds,
        rounds_per_day=DAY_S / round_s if round_s > 0.0 else 0.0,
        total_s=round_s * setting.rounds,
        total_energy_j=float(np.mean([r.energy_j for r in records])) * setting.rounds,
        total_bits=float(np.mean([r.uplink_bits + r.downlink_bits for r in records])) * setting.rounds,
        battery_cycles=turns_each * max((one.battery_share or 0.0 for one in devices.values()), default=0.0),
        devices=devices,
        server=server,
        air=radio,
        ranges=ranges(setting, played.costs),
        assumptions=_assumptions(setting, played, radio, yardsticks, delivered),
        rehearsed=len(played.rounds),
        seeds=played.seeds,
        round_s_error=_error([r.round_s for r in records], played.seeds),
        base_delivery=delivered,
    )


def _error(values: list[float], seeds: int) -> float:
    """Standard error of the mean as a share of it; each seed has as many of the ``values``, in order."""
    means = np.reshape(values, (seeds, -1)).mean(1)
    return float(means.std(ddof=1) / np.sqrt(seeds) / means.mean()) if seeds > 1 and means.mean() > 0.0 else 0.0


def _path(records: list[RoundRecord]) -> dict[str, float]:
    """Mean seconds of the critical path by part, connecting included in the transfers."""
    return {
        name: float(np.mean([getattr(r, f"{name}_s") for r in records])) for name in ("downlink", "compute", "uplink")
    }


def _slowest(turn: Turn) -> float:
    """Seconds that the client that ends the round spends connecting."""
    delivery = turn.delivery
    if delivery.access_s is None or not np.isfinite(delivery.finish_s).any():
        return 0.0
    return float(delivery.access_s[np.argmax(np.where(np.isfinite(delivery.finish_s), delivery.finish_s, -np.inf))])


def _lost(rehearsal: list[Round]) -> tuple[dict[str, float], float]:
    """Shares of the updates by why they were lost, and the share that counts."""
    status = np.concatenate([t.delivery.status for _, t in rehearsal]) if rehearsal else np.zeros(0)
    lost = {
        name: float(np.mean(status == code)) for code, name in enumerate(STATUSES) if code and np.any(status == code)
    }
    return lost, float(np.mean(status == 0)) if status.size else 0.0


def _tokens_per_j(devices: dict[str, Needs]) -> float:
    """Of all clients together."""
    joules = sum(one.compute_j * one.share for one in devices.values())
    return sum(one.tokens_per_j * one.compute_j * one.share for one in devices.values()) / joules if joules else 0.0


def _assumptions(
    setting: Setting, played: Rehearsed, radio: Air, yardsticks: Yardsticks, delivered: Any
) -> tuple[str, ...]:
    """All that the plan takes for granted, in sentences."""
    stations_j = float(np.mean([record.energy_gnb_j for record, _ in played.costs]))
    turns = [turn for _, turn in played.costs]
    answer, most = _mean(turns, lambda t: float(len(t.cohort))), _largest(turns)
    mobile = any(one.battery_j is not None for one in setting.fleet.classes)
    told = {
        _ANYHOW: not played.takes_place,
        _FEW_ANSWER.format(most, answer): answer < ENOUGH * most,
        **dict.fromkeys(yardsticks.sentences(), True),
        _NO_AIRTIME: yardsticks.airtime_share < 1.0 and radio.block_s == 0.0,
        _UNCHARGED: mobile,
        _BEYOND.format(played.horizon): 0 < played.horizon < setting.rounds,
        _NO_DELIVERY.format(setting.spec.base_bytes / 1e9): setting.spec.base_bytes > 0 and delivered is None,
        _BASE_STATIONS.format(si(stations_j, "J")): stations_j > 0.0,
        _FEW_SEEDS.format(len(played.costs), played.seeds): 1 < played.seeds < _ENOUGH_SEEDS,
        **dict.fromkeys(setting.spec.assumptions, True),
        **{one.sentence: bool(one.sentence) for one in (*clients_open(setting), server_open(setting))},
        **dict.fromkeys(_radio_assumptions(setting), True),
    }
    return tuple(sentence for sentence, holds in told.items() if holds)


def _largest(turns: list[Turn]) -> int:
    """Clients of the largest cohort."""
    return max((len(turn.cohort) for turn in turns), default=0)


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


def _mean(turns: list[Turn], what: Callable[[Turn], Any]) -> float:
    return mean([what(turn) for turn in turns])
