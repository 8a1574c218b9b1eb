"""Lyapunov: energy budgets that hold over the whole training, not in every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.config import NonNegative, Positive
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
from fedwave.wireless.scheduler import Asked, Scheduler
from fedwave.wireless.sharing.min_max import claims_in_time
from fedwave.wireless.sharing.rates import Rates


@register("scheduler", "lyapunov")
@dataclass(frozen=True)
class Lyapunov(Scheduler):
    """Drift plus penalty: each client's energy is kept to a budget on average over rounds.

    A virtual queue holds what a client has spent over its budget, ``Q_k <- [Q_k + e_k - E_k / T]^+`` with its budget
    E_k for T rounds and e_k = 0 where it was not asked. Each round minimises ``V penalty + sum_k Q_k e_k`` over who
    takes part, the penalty being minus the data that is heard: ``sum_k (Q_k e_k - V samples_k / mean samples)`` over
    those admitted (who cannot meet the deadline even alone is not). The sum has no term in common, so exactly those
    with ``Q_k e_k <= V samples_k / mean`` take part. Mean energy exceeds the budget by at most Q_k / T; a larger V
    trains on more data and lets the queues grow with it: for the first ``V / budget`` of its spending a client is
    hardly held back. A budget below what one upload costs with set-up and tail is kept by leaving rounds out.

    The estimate of e_k is the device's own word on its training plus an upload on the whole carrier; the queue is
    charged with what was spent. Those admitted share the carrier so that they end together. Xu and Wang 2021 (whose
    bandwidth allocation lowers transmit power; here it is open-loop power control's).

    Parameters
    ----------
    budget_j : energy of a client per round of the job on average, E_k / T, in joules.
    v : V, in square joules.
    """

    budget_j: Positive = 10.0
    v: NonNegative = 1000.0

    cite: ClassVar[str] = (
        "Xu, Wang, Client Selection and Bandwidth Allocation in Wireless Federated Learning Networks: A Long-Term "
        "Perspective, IEEE TWC 20(2), 2021"
    )
    initial: ClassVar[Mapping[str, float]] = {"debt_j": 0.0, "round": -1.0}

    def admit(self, asked: Asked, key: Key) -> Bools:
        """Those whose data outweighs their debt, ``[C]``; none that would be late even alone on the carrier."""
        mean = float(np.mean(asked.samples)) if len(asked) else 0.0
        worth = asked.samples / mean if mean > 0.0 else np.ones(len(asked))
        alone_s = asked.compute_s + _seconds(asked.down_bits, asked.down_bps) + _seconds(asked.up_bits, asked.up_bps)
        heard = np.isfinite(alone_s) & (alone_s <= asked.deadline_s)
        joules = np.where(heard, asked.compute_j + asked.radio_j, 0.0)
        return heard & (self._debt_j(asked) * joules <= self.v * worth)

    def remember(self, asked: Asked, admitted: Bools, heard: Bools, spent_j: Floats) -> dict[str, Floats]:
        """The virtual queues in joules, and the round that they are of."""
        debt = np.maximum(self._debt_j(asked) + spent_j - self.budget_j, 0.0)
        return {"debt_j": debt, "round": np.full(len(asked), float(asked.round))}

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """As equal finish: blocks with which those that can be in time end together."""
        return claims_in_time(ready_s, bits, rates, until_s)

    def _debt_j(self, asked: Asked) -> Floats:
        """The queues when the round starts: each round in which a client was not asked has paid its budget back."""
        missed = np.maximum(asked.round - asked.memory["round"] - 1.0, 0.0)
        return np.maximum(asked.memory["debt_j"] - missed * self.budget_j, 0.0)


def _seconds(bits: Floats, bps: Floats) -> Floats:
    """Infinite without a link."""
    return np.divide(bits, bps, out=np.where(bits > 0.0, np.inf, 0.0), where=bps > 0.0)
