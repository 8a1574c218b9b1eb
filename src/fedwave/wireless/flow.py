"""A round in time: each client receives, computes and sends, phase after phase, until it is done, lost or late.

This is the same for every network; a network only says when a transfer ends (:data:`Transfer`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import STATUS, Bools, Compute, Delivery, Floats, Work
from fedwave.wireless.energy import Connection, EnergyModel

# (start_s [C], bits [C]) -> end_s [C]; start is infinite where a client does not send, end where it has no link.
Transfer = Callable[[Floats, Floats], Floats]

# () -> when transfers that never end stopped [C] (-inf: they never began), bits sent by then [C].
Stopped = Callable[[], tuple[Floats, Floats]]

# (now_s [C], who asks [C]) -> seconds until connected [C], connected at all [C].
Access = Callable[[Floats, Bools], tuple[Floats, Bools]]


@dataclass(frozen=True)
class Links:
    """A cohort's links in one round.

    Parameters
    ----------
    down, up : when a transfer ends.
    connection, energy : times and powers around a transfer.
    sinr_db : ``[C]``, for the record.
    lost : ``[C]`` the update does not arrive although it was sent.
    idle_s : ``[C]`` seconds since the radio was last used when the round starts (``None``: never); its tail of then is
        paid, so what of it has not run yet is given back.
    admitted : ``[C]`` who takes part at all; ``None``: everybody.
    access : how a sleeping radio connects; ``None``: in ``connection.setup_s``, always.
    paged_s : ``[C]`` when the network calls each client in the round's beginning, if its radio sleeps then; until it is
        called it spends nothing. ``None``: at once.
    send_w : power while sending, asked for after ``up`` has said when transfers end; ``None``: ``energy.transmit_w``.
    failed : who lost the radio link for good, asked for likewise; ``None``: nobody.
    stopped : when those of ``up`` that never end stopped, and the bits that they had sent, ``[C]`` each, asked for
        likewise; ``-inf``, or ``None`` for all: they never began.
    """

    down: Transfer
    up: Transfer
    connection: Connection
    energy: EnergyModel
    sinr_db: Floats
    lost: Bools
    idle_s: Floats | None = None
    admitted: Bools | None = None
    access: Access | None = None
    paged_s: Floats | None = None
    send_w: Callable[[], Floats] | None = None
    failed: Callable[[], Bools] | None = None
    stopped: Stopped | None = None


@dataclass(frozen=True)
class Sent:
    """What became of a transfer, ``[C]``: seconds spent, bits on the air by the deadline, no link, no access."""

    seconds: Floats
    bits: Floats
    unreached: Bools
    refused: Bools


class Timeline:
    """Where each client stands in time, and what its radio has spent. Clients stop at the deadline.

    ``alive``: still in the round; ``late``: overtaken by the deadline.
    """

    def __init__(self, takes_part: Bools, links: Links, deadline_s: float) -> None:
        count = len(takes_part)
        self.alive = takes_part.copy()
        self.late = np.zeros(count, dtype=bool)
        self.now_s = np.zeros(count)
        self.parts_j = {part: np.zeros(count) for part in ("setup", "air", "bits", "tail")}
        self.access_s = np.zeros(count)
        self.airtime_s = 0.0
        self._links, self._energy, self._deadline_s = links, links.energy, deadline_s
        self.last_s = np.full(count, -np.inf) if links.idle_s is None else -links.idle_s
        self._paid_j = self._tail_j(np.full(count, np.inf))

    def transfer(
        self,
        bits: Floats,
        end_of: Transfer,
        *,
        watts: Callable[[], Any],
        j_per_bit: float,
        stopped: Stopped | None = None,
    ) -> Sent:
        """Send ``bits [C]``; who does not get to the end leaves the round. Progress is taken as linear in time."""
        link, deadline = self._links.connection, self._deadline_s
        wanted = self.alive & (bits > 0.0)
        gap = self.now_s - self.last_s
        asleep = gap > link.inactivity_s
        asks = wanted & asleep
        idle_s = self._until_called(asks)
        access_s, connected = self._access(self.now_s + idle_s, asks)
        access_s = np.where(wanted, np.where(asleep, access_s, link.grant_s), 0.0)
        start = self.now_s + idle_s + access_s + np.where(wanted, link.backhaul_s, 0.0)
        goes = wanted & connected
        end = end_of(np.where(goes, start, np.inf), bits)
        reached = goes & np.isfinite(end)
        begin = np.minimum(start, deadline)
        stop_s, stop_bits = (-np.inf, 0.0) if stopped is None else stopped()
        broken = goes & ~reached & (stop_s > begin)
        end = np.where(reached, end, np.where(broken, np.minimum(stop_s, deadline), begin))

        waited_s = begin - np.minimum(self.now_s, deadline)
        idle_s = np.minimum(idle_s, waited_s)
        access_s = np.minimum(access_s, waited_s - idle_s)
        air_s = np.minimum(end, deadline) - begin
        whole = np.where(end > start, end - start, 1.0)
        sent = np.where(reached, bits * np.where(end <= deadline, 1.0, air_s / whole), np.where(broken, stop_bits, 0.0))
        access_w = np.where(asleep, self._energy.setup_w, self._energy.tail_w)
        owed_j = self._tail_j(gap) - self._paid_j
        used = (reached | broken) & (start < deadline)
        self.parts_j["tail"] += np.where(used, owed_j, 0.0)
        self.parts_j["setup"] += wanted * access_w * access_s
        self.parts_j["air"] += np.where(air_s > 0.0, watts(), 0.0) * air_s
        self.parts_j["bits"] += j_per_bit * sent
        self._paid_j = np.where(used, 0.0, self._paid_j)
        self.airtime_s += float(air_s.sum())
        self.access_s += idle_s + access_s
        self.last_s = np.where(used, np.minimum(end, deadline), self.last_s)
        self._move(end)
        self.alive &= reached | ~wanted
        return Sent(waited_s + air_s, sent, goes & ~reached, wanted & ~connected)

    def compute(self, seconds: Floats) -> Floats:
        """Compute for ``seconds [C]``; returns the seconds until the deadline."""
        before = self.now_s
        self._move(before + np.where(self.alive, seconds, 0.0))
        return np.minimum(self.now_s, self._deadline_s) - np.minimum(before, self._deadline_s)

    def close(self) -> None:
        """Charge the inactivity tail after each client's last transfer, whole even where the round ends before it."""
        self.parts_j["tail"] += self._tail_j(np.full(len(self.alive), np.inf)) - self._paid_j

    @property
    def radio_j(self) -> Floats:
        """What the radio has spent so far, ``[C]``."""
        return sum(self.parts_j.values(), np.zeros(len(self.alive)))

    def stopped_s(self) -> Floats:
        """When each client's own part ended, ``[C]``."""
        return np.minimum(self.now_s, self._deadline_s)

    def _until_called(self, asleep: Bools) -> Floats:
        """Seconds until the network calls a sleeping radio; later than in the round's beginning it calls by itself."""
        if self._links.paged_s is None:
            return np.zeros(len(asleep))
        return np.where(asleep & (self.now_s <= 0.0), self._links.paged_s, 0.0)

    def _access(self, now_s: Floats, asks: Bools) -> tuple[Floats, Bools]:
        """Seconds until a sleeping radio is connected, and whether it is (True for those that do not ask)."""
        if self._links.access is None:
            return np.full(len(asks), self._links.connection.setup_s), np.ones(len(asks), dtype=bool)
        seconds, connected = self._links.access(now_s, asks)
        return seconds, connected | ~asks

    def _tail_j(self, gap: Floats) -> Floats:
        used = np.isfinite(self.last_s)
        return np.where(used, self._energy.tail_j(np.where(used, gap, 0.0), self._links.connection.inactivity_s), 0.0)

    def _move(self, end: Floats) -> None:
        self.now_s = np.where(self.alive, end, self.now_s)
        self.late |= self.alive & (end > self._deadline_s)
        self.alive &= ~self.late


def run_round(
    work: Work,
    compute: Compute,
    links: Links,
    *,
    deadline_s: float | None = None,
    server_s: float = 0.0,
    server_j: float = 0.0,
) -> Delivery:
    """The round's :class:`Delivery`, with a coefficient of 0 or 1 per client.

    Clients whose memory or battery does not suffice know it beforehand and take no part. A client without a downlink,
    or that the deadline overtakes in its first reception, missed the broadcast; without an uplink it is in outage, and
    so is one whose sent update is lost (noticed when it should have been in). The server waits until the deadline for
    clients that are late, and never for those that it does not reach.
    """
    if not np.isfinite(compute.seconds[:, compute.fits & compute.powered]).all():
        raise BadInput("compute seconds must be finite for every client that takes part")
    course = _Course(compute, links, np.inf if deadline_s is None else float(deadline_s))
    for index, phase in enumerate(work.phases):
        course.receive(phase.down_bits, first=index == 0)
        course.compute(index)
        course.send(phase.up_bits)
    return course.delivery(server_s, server_j)


class _Course:
    """A round under way: the timeline, and what each client's parts come to."""

    def __init__(self, compute: Compute, links: Links, deadline_s: float) -> None:
        count = len(compute.fits)
        self.work, self.links, self.deadline_s = compute, links, deadline_s
        admitted = np.ones(count, dtype=bool) if links.admitted is None else links.admitted
        self.takes_part = compute.fits & compute.powered & admitted
        self.line = Timeline(self.takes_part, links, deadline_s)
        self.status = np.where(self.takes_part, STATUS["delivered"], STATUS["battery"])
        self.status[~admitted] = STATUS["refused"]
        self.status[~compute.fits] = STATUS["memory"]
        self.seconds = {part: np.full(count, np.nan) for part in ("downlink", "compute", "uplink")}
        self.down_bits, self.up_bits, self.compute_j = np.zeros(count), np.zeros(count), np.zeros(count)

    def receive(self, bits: Floats, *, first: bool) -> None:
        energy, before = self.links.energy, self.line.alive.copy()
        sent = self.line.transfer(
            bits, self.links.down, watts=lambda: energy.receive_w, j_per_bit=energy.downlink_j_per_bit
        )
        self.down_bits += sent.bits
        self._leave(before, "missed_broadcast" if first else "deadline")
        self.status[sent.unreached] = STATUS["missed_broadcast" if first else "outage"]
        self.status[sent.refused] = STATUS["access"]
        self._book("downlink", self.line.alive if first else before, sent.seconds)

    def compute(self, index: int) -> None:
        seconds, before = self.work.seconds[index], self.line.alive.copy()
        spent = self.line.compute(seconds)
        fraction = np.divide(spent, seconds, out=np.ones(len(spent)), where=seconds > 0.0)
        self.compute_j += np.where(before, self.work.joules[index] * fraction, 0.0)
        self._leave(before, "deadline")
        self._book("compute", before, spent)

    def send(self, bits: Floats) -> None:
        energy, before = self.links.energy, self.line.alive.copy()
        watts = self.links.send_w or (lambda: energy.transmit_w)
        sent = self.line.transfer(
            bits, self.links.up, watts=watts, j_per_bit=energy.uplink_j_per_bit, stopped=self.links.stopped
        )
        self.up_bits += sent.bits
        self._leave(before, "deadline")
        self.status[sent.unreached] = STATUS["outage"]
        self.status[sent.refused] = STATUS["access"]
        if self.links.failed is not None:
            self.status[sent.unreached & self.links.failed()] = STATUS["radio_link_failure"]
        self._book("uplink", before & ~sent.refused & (~sent.unreached | (sent.bits > 0.0)), sent.seconds)

    def delivery(self, server_s: float, server_j: float) -> Delivery:
        line = self.line
        arrived = line.alive & ~self.links.lost
        self.status[line.alive & ~arrived] = STATUS["outage"]
        line.close()
        round_s = self._end_s() + server_s
        heard_broadcast = ~np.isnan(self.seconds["downlink"])
        wait_s = np.where(heard_broadcast, np.maximum(round_s - line.stopped_s(), 0.0), 0.0)
        return Delivery(
            coefficient=arrived.astype(float)[:, None],
            status=self.status,
            downlink_s=self.seconds["downlink"],
            compute_s=self.seconds["compute"],
            uplink_s=self.seconds["uplink"],
            finish_s=np.where(arrived, line.now_s, np.inf),
            round_s=round_s,
            radio_j=line.radio_j,
            radio_parts_j=line.parts_j,
            compute_j=self.compute_j + self.work.idle_w * wait_s,
            down_sent_bits=self.down_bits,
            up_sent_bits=self.up_bits,
            sinr_db=self.links.sinr_db,
            server_s=server_s,
            server_j=server_j,
            airtime=line.airtime_s,
            access_s=line.access_s,
            radio_last_s=None if self.links.idle_s is None else line.last_s,
        )

    def _end_s(self) -> float:
        """When the server stops waiting."""
        if self.line.late.any():
            return self.deadline_s
        waited_for = self.line.alive if self.line.alive.any() else self.takes_part
        return float(self.line.now_s[waited_for].max(initial=0.0))

    def _leave(self, before: Bools, status: str) -> None:
        self.status[before & ~self.line.alive] = STATUS[status]

    def _book(self, part: str, who: Bools, seconds: Floats) -> None:
        before = self.seconds[part]
        self.seconds[part] = np.where(who, np.where(np.isnan(before), 0.0, before) + seconds, before)
