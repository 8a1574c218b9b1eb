"""Background traffic with QoS targets on the same carrier: what it leaves to federated learning, and what that costs.

Each flow is a Poisson stream of packets with a 5QI. The carrier is one server: a packet of b bits to a user whose rate
on the whole carrier is r takes b / r seconds of it. Classes are served by priority level. Packets are cut at slot
borders, so a class waits for a lower one at most as long as the slot in service lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.config import Count, NonNegative, Positive, Probability
from fedwave.core.errors import BadInput
from fedwave.core.types import Bools, Floats
from fedwave.wireless.budget import sourced
from fedwave.wireless.qos import FIVE_QI, Qos


@dataclass(frozen=True)
class Flow:
    """Background users of one kind in each cell; Poisson packets.

    Parameters
    ----------
    five_qi : a key of ``FIVE_QI``.
    users_per_cell : how many send at the same time on average.
    rate_kbps : of each.
    packet_bytes : mean size of what arrives at once: a voice frame, a video frame, a web page.
    packets : "fixed" or "exponential" sizes.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    five_qi: int
    users_per_cell: NonNegative
    rate_kbps: Positive
    packet_bytes: Positive
    packets: Literal["fixed", "exponential"] = "fixed"

    def __post_init__(self) -> None:
        """Refuse a 5QI that the table does not have."""
        if self.five_qi not in FIVE_QI:
            known = ", ".join(str(key) for key in sorted(FIVE_QI))
            raise BadInput(f"five_qi: {self.five_qi!r} is not one of {known}")

    @property
    def qos(self) -> Qos:
        """Its line of the table."""
        return FIVE_QI[self.five_qi]


@dataclass(frozen=True)
class FlowReport:
    """What a flow gets, alone and with federated learning (FL) beside it.

    Parameters
    ----------
    blocked : share of its users that admission control turns away.
    load, carried : share of the carrier that it asks for, that it gets; the latter add up to at most 1 with FL's.
    delay_alone_s, delay_s : mean of waiting and transmission; ``None`` where the queue grows without bound.
    late_alone, late : probability that it exceeds the radio's part of the packet delay budget.
    late_target, error_rate : what the 5QI allows: late packets; lost packets (TS 23.501).
    throughput_alone_bps, throughput_bps : ``packet bits / mean delay``; 0 in overload.
    """

    five_qi: int
    resource: str
    blocked: float
    load: float
    carried: float
    delay_alone_s: float | None
    delay_s: float | None
    late_alone: float
    late: float
    late_target: float
    error_rate: float
    throughput_alone_bps: float
    throughput_bps: float

    @property
    def ok_alone(self) -> bool:
        """Its target is met without FL, for those who are admitted; not where nobody is."""
        return self.blocked < 1.0 and self.late_alone <= self.late_target

    @property
    def ok(self) -> bool:
        """Its target is met with FL, likewise."""
        return self.blocked < 1.0 and self.late <= self.late_target

    def to_dict(self) -> dict[str, Any]:
        """Plain table, with whether the target is met."""
        return {**vars(self), "ok_alone": self.ok_alone, "ok": self.ok}

    @property
    def fl_cost_s(self) -> float | None:
        """What FL adds to the mean delay; ``None`` in overload."""
        return None if self.delay_s is None or self.delay_alone_s is None else self.delay_s - self.delay_alone_s


@dataclass(frozen=True)
class Traffic:
    """Background flows of every cell; FL is a guest on their carrier.

    Not in the delays: HARQ round trips, TDD alignment, spread of packet sizes and rates around the mean transmission
    time. With H the load above a class (FL's included where its level is above) and S that with the class itself:

    - ``W = (R + L) / ((1 - H)(1 - S))`` plus the transmission, with ``R = sum lambda E[X^2] / 2`` over the class and
      those above, ``L = sum rho min(E[X^2] / E[X], slot) / 2`` over those below and ``rho slot / 2`` of FL. With
      packets shorter than a slot it is Cobham's non-preemptive priority queue, with vanishing slots the preemptive one.
    - Best effort at FL's own level shares with it: ``E[X] (1 + f) / (1 - S)``, processor sharing with one permanent
      customer, FL, that is there for the share f of what is left (exact for H = 0 and f = 0 or 1).
    - Late, an approximation: ``B exp(-(t - slot / (1 - H)) B (1 - H)(1 - S) / R)``, t being what the budget leaves to
      waiting; exact for M/M/1. The slot counts where FL or a lower class sends. B is S; with FL above, which makes the
      carrier smaller, ``(S - FL) / (1 - FL)``. Processor sharing: ``exp(-t / mean delay)``.

    Parameters
    ----------
    flows : background flows.
    fl_priority : FL's priority level, 1 to 127; 90 is that of 5QI 9, best effort.
    fl_cap : share of the carrier that FL may take at most.
    user_share : admission control: a background user is served if it needs no more of the carrier by itself. Without
        it one user at the edge, who could not make a call anyway, would fill the cell.
    slot_s : length of a slot.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    flows: tuple[Flow, ...] = ()
    fl_priority: Count = 90
    fl_cap: Probability = 1.0
    user_share: Positive = sourced(0.1, "", "assumption: share of the carrier that admission control grants one user")
    slot_s: Positive = sourced(0.0005, "s", "14 symbols at 30 kHz, TS 38.211 4.3.2")

    cite: ClassVar[str] = "Cobham, Priority Assignment in Waiting Line Problems, Operations Research 2(1), 1954"

    def __post_init__(self) -> None:
        """Refuse levels that 3GPP does not have."""
        if self.fl_priority > 127:
            raise BadInput(f"fl_priority: must be from 1 to 127 (TS 23.501 5.7.3.3), got {self.fl_priority!r}")

    def loads(self, carrier_s_per_bit: ArrayLike) -> Floats:
        """Share of the carrier that each flow asks for, ``[F]``: ``users x rate x E[1 / r]`` of those admitted.

        Parameters
        ----------
        carrier_s_per_bit : 1 / r of the background users, r their goodput on the whole carrier: probe users ``[U]`` or
            one mean; > 0, finite. Leave out users without a link.

        Raises
        ------
        BadInput : nothing given, or a value that is not positive and finite.
        """
        return self._queue(carrier_s_per_bit).load

    def overloaded(self, carrier_s_per_bit: ArrayLike) -> bool:
        """The guaranteed bit rates alone need the whole carrier or more."""
        return bool(self.loads(carrier_s_per_bit)[self._guaranteed].sum() >= 1.0)

    def share_for_fl(self, carrier_s_per_bit: ArrayLike) -> float:
        """Share of the carrier in [0, 1] that FL can have: what guaranteed rates and its betters leave, up to the cap.

        Flows at FL's own level count as betters: an open load in a stable shared queue gets through whole.
        """
        before = self._guaranteed | (self._level <= self.fl_priority)
        left = 1.0 - float(self.loads(carrier_s_per_bit)[before].sum())
        return float(min(max(left, 0.0), self.fl_cap))

    def cost(self, carrier_s_per_bit: ArrayLike, fl_load: float) -> list[FlowReport]:
        """Every flow without FL and with FL on ``fl_load`` of the carrier.

        Raises
        ------
        BadInput : ``fl_load`` outside 0 to :meth:`share_for_fl`.
        """
        most = self.share_for_fl(carrier_s_per_bit)
        if not 0.0 <= fl_load <= most * (1.0 + 1e-9) + 1e-12:
            raise BadInput(f"fl_load must be from 0 to {most:g}, what the flows leave to FL, got {fl_load!r}")
        queue, load = self._queue(carrier_s_per_bit), min(float(fl_load), most)
        return [self._report(queue, index, load) for index in range(len(self.flows))]

    @property
    def _level(self) -> Floats:
        return np.array([flow.qos.level for flow in self.flows], dtype=float)

    @property
    def _guaranteed(self) -> Bools:
        return np.array([flow.qos.guaranteed for flow in self.flows], dtype=bool)

    def _queue(self, carrier_s_per_bit: ArrayLike) -> _Queue:
        each = np.atleast_1d(np.asarray(carrier_s_per_bit, dtype=float))
        if each.size == 0 or not (np.isfinite(each) & (each > 0.0)).all():
            raise BadInput("carrier_s_per_bit needs at least one user, and positive finite values only")
        bits = np.array([8.0 * flow.packet_bytes for flow in self.flows])
        spread = np.array([2.0 if flow.packets == "exponential" else 1.0 for flow in self.flows])
        rate = np.array([1e3 * flow.rate_kbps for flow in self.flows])
        users = np.array([flow.users_per_cell for flow in self.flows])
        admitted = rate[:, None] * each <= self.user_share
        share = admitted.mean(axis=1)
        count = np.maximum(admitted.sum(axis=1), 1)
        mean, square = ((admitted * each**power).sum(axis=1) / count for power in (1, 2))
        nobody = share == 0.0  # their packets have some length all the same, which no queue ever sees
        mean, square = np.where(nobody, each.min(), mean), np.where(nobody, each.min() ** 2, square)
        return _Queue(
            level=self._level,
            load=rate * users * share * mean,
            blocked=1.0 - share,
            mean_s=bits * mean,
            square_s2=spread * bits**2 * square,
            fl_priority=self.fl_priority,
            slot_s=self.slot_s,
        )

    def _report(self, queue: _Queue, index: int, fl_load: float) -> FlowReport:
        flow = self.flows[index]
        qos, bits = flow.qos, 8.0 * flow.packet_bytes
        shared = not qos.guaranteed and qos.level == self.fl_priority
        radio_s = 1e-3 * (qos.budget_ms - qos.core_ms)
        delay_of = queue.shared if shared else queue.ordered
        (alone, late_alone), (delay, late) = (delay_of(index, fl, radio_s) for fl in (0.0, fl_load))
        return FlowReport(
            five_qi=flow.five_qi,
            resource=qos.resource,
            blocked=float(queue.blocked[index]),
            load=float(queue.load[index]),
            carried=float(queue.carried(fl_load)[index]),
            delay_alone_s=alone,
            delay_s=delay,
            late_alone=late_alone,
            late=late,
            late_target=qos.late_share,
            error_rate=qos.error_rate,
            throughput_alone_bps=0.0 if alone is None else bits / alone,
            throughput_bps=0.0 if delay is None else bits / delay,
        )


@dataclass(frozen=True)
class _Queue:
    """One carrier as a server, ``[F]``: levels, loads, blocked users, two moments of the transmission times."""

    level: Floats
    load: Floats
    blocked: Floats
    mean_s: Floats
    square_s2: Floats
    fl_priority: int
    slot_s: float

    def carried(self, fl_load: float) -> Floats:
        """What each flow gets when the carrier is filled level by level, FL at its own; equals share what is left."""
        out = np.zeros(len(self.load))
        left = 1.0 - fl_load  # nobody at or above FL's level needs this: FL gets what they leave
        for level in np.unique(self.level):
            same = self.level == level
            asked = float(self.load[same].sum())
            out[same] = self.load[same] * (min(asked, left) / asked if asked > 0.0 else 1.0)
            left = max(left - asked, 0.0)
        return out

    def _between(self, index: int, fl_load: float) -> tuple[float, float, bool]:
        """Load above the flow's level, that with its own, and whether FL is above."""
        level = self.level[index]
        fl_above = self.fl_priority < level
        higher = float(self.load[self.level < level].sum()) + (fl_load if fl_above else 0.0)
        return higher, higher + float(self.load[self.level == level].sum()), fl_above

    def ordered(self, index: int, fl_load: float, radio_s: float) -> tuple[float | None, float]:
        """Mean delay and probability of exceeding ``radio_s``, first come first served within a level."""
        higher, with_own, fl_above = self._between(index, fl_load)
        if with_own >= 1.0:
            return None, 1.0
        slot = self.slot_s
        residual = 0.5 * self.load * self.square_s2 / self.mean_s  # lambda E[X^2] / 2
        ahead, below = self.level <= self.level[index], self.level > self.level[index]
        own = float(residual[ahead].sum())
        chunk = np.minimum(self.square_s2 / self.mean_s, slot)
        slots = float((0.5 * self.carried(fl_load) * chunk)[below].sum()) + 0.5 * fl_load * slot
        idle = (1.0 - higher) * (1.0 - with_own)
        first = min(float(self.mean_s[index]), slot)
        send_s = first + (float(self.mean_s[index]) - first) / (1.0 - higher)
        spare_s = radio_s - send_s - (slot / (1.0 - higher) if slots > 0.0 else 0.0)
        busy = (with_own - fl_load) / (1.0 - fl_load) if fl_above else with_own  # FL above leaves a smaller carrier
        late = 1.0 if spare_s < 0.0 else busy * _decay(spare_s * busy * idle, own)
        return (own + slots) / idle + send_s, late

    def shared(self, index: int, fl_load: float, radio_s: float) -> tuple[float | None, float]:
        """The same at FL's level: processor sharing, FL as one permanent customer for part of the time."""
        _, with_own, _ = self._between(index, 0.0)
        if with_own >= 1.0:
            return None, 1.0
        left = 1.0 - with_own
        delay = float(self.mean_s[index]) * (1.0 + min(fl_load / left, 1.0)) / left
        return delay, _decay(radio_s, delay)


def _decay(numerator: float, denominator: float) -> float:
    """``exp(-numerator / denominator)``, 0 where the denominator is."""
    return float(np.exp(-numerator / denominator)) if denominator > 0.0 else 0.0
