"""How far rounds are from their mean, and how far the mean may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwave.core.types import Floats
from fedwave.federation.setting import Setting, Turn
from fedwave.planner.needs import mean
from fedwave.planner.rehearsed import Round
from fedwave.planner.unsure import clients_open, server_open


@dataclass(frozen=True)
class Range:
    """Of a quantity over the rehearsed rounds.

    ``p5`` and ``p95`` are where nine rounds of ten lie. ``low`` and ``high`` are the stated range: of seconds and
    joules p5 and p95, widened by what the catalogue leaves open (:mod:`.unsure`); of bits the least and the most.
    """

    p5: float
    p95: float
    low: float
    high: float


def ranges(setting: Setting, rounds: Sequence[Round]) -> dict[str, Range]:
    """Of a plan's main quantities, by their names there. Joules: of a round's mean over its clients."""
    records, turns = [record for record, _ in rounds], [turn for _, turn in rounds]
    found = {name: _of_rounds([getattr(r, name) for r in records]) for name in ("downlink_s", "uplink_s")}
    return {
        **_seconds(setting, rounds),
        **found,
        "energy_j_per_client": _joules(setting, turns),
        "uplink_bits_per_client": _of_bits([up_bits(turn) for turn in turns]),
        "downlink_bits_per_client": _of_bits([turn.work.down_bits for turn in turns]),
    }


def up_bits(turn: Turn) -> Any:
    """What clients are asked to send digitally; of a sum in the air, what they sent to make it possible."""
    return turn.work.up_bits if turn.delivery.up_symbols is None else turn.delivery.up_sent_bits


def _seconds(setting: Setting, rounds: Sequence[Round]) -> dict[str, Range]:
    """Of the round and its computing. What the client that ends it computes, and the server, may take more or less."""
    client = max(one.seconds for one in clients_open(setting))
    server = server_open(setting).seconds
    round_s, compute_s = (np.array([getattr(r, name) for r, _ in rounds]) for name in ("round_s", "compute_s"))
    server_s = np.array([turn.delivery.server_s - turn.cloud_s for _, turn in rounds])
    least_s = round_s - (1.0 - 1.0 / client) * compute_s - (1.0 - 1.0 / server) * server_s
    most_s = round_s + (client - 1.0) * compute_s + (server - 1.0) * server_s
    if setting.federation.deadline_s is not None:  # the server does not wait any longer
        waits_s = setting.federation.deadline_s + np.array([turn.delivery.server_s for _, turn in rounds])
        most_s = np.minimum(most_s, waits_s + (server - 1.0) * server_s)
    return {
        "round_s": _of_rounds(round_s, least_s, most_s),
        "compute_s": _of_rounds(compute_s, compute_s / client, compute_s * client),
    }


def _joules(setting: Setting, turns: Sequence[Turn]) -> Range:
    factors = np.array([one.joules for one in clients_open(setting)])

    def factor(turn: Turn) -> Floats:
        return factors[turn.cohort.device]

    def each(power: int) -> list[float]:
        return [
            mean([turn.delivery.radio_j + turn.delivery.compute_j + _trained_j(turn) * (factor(turn) ** power - 1.0)])
            for turn in turns
        ]

    return _of_rounds(each(0), each(-1), each(1))


def _trained_j(turn: Turn) -> Floats:
    """Of training, waiting apart, of those who trained; at most what was spent, where a deadline cut it off."""
    return np.where(turn.delivery.trained, np.minimum(turn.compute.joules.sum(0), turn.delivery.compute_j), 0.0)


def _of_rounds(nominal: Any, least: Any = None, most: Any = None) -> Range:
    """Of one value a round; ``least`` and ``most`` are what it is with devices that are off by all that is open."""
    p5, p95 = _quantiles(nominal)
    low = p5 if least is None else _quantiles(least)[0]
    high = p95 if most is None else _quantiles(most)[1]
    return Range(p5, p95, low, high)


def _of_bits(values: Sequence[Floats]) -> Range:
    """Of one value a client and round."""
    joined = np.concatenate([np.atleast_1d(value) for value in values])
    return Range(*_quantiles(joined), float(joined.min()), float(joined.max())) if joined.size else Range(0, 0, 0, 0)


def _quantiles(values: Any) -> tuple[float, float]:
    """Between which one more value of the kind lies nine times of ten: at 0.05 and 0.95 of n + 1 places."""
    p5, p95 = np.quantile(values, (0.05, 0.95), method="weibull").tolist()
    return p5, p95
