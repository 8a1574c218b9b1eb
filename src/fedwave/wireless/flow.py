"""A round in time: each client receives, computes and sends, phase after phase, until it is done, lost or late.

This is the same for every network; a network only says when a transfer ends (:data:`Transfer`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import STATUS, Bools, Compute, Delivery, Floats, Work
from fedwave.wireless.energy import Connection, RadioEnergy

# (start_s [C], bits [C]) -> end_s [C]; start is infinite where a client does not send, end where it has no link.
Transfer = Callable[[Floats, Floats], Floats]


class Timeline:
    """Where each client of a cohort stands in time, and what its radio has spent. Clients stop at the deadline."""

    def __init__(self, takes_part: Bools, connection: Connection, energy: RadioEnergy, deadline_s: float) -> None:
        count = len(takes_part)
        self.alive = takes_part.copy()
        self.late = np.zeros(count, dtype=bool)
        self.now_s = np.zeros(count)
        self.radio_j = np.zeros(count)
        self.airtime_s = 0.0
        self._last_s = np.full(count, -np.inf)
        self._connection, self._energy, self._deadline_s = connection, energy, deadline_s

    def transfer(self, bits: Floats, end_of: Transfer, *, watts: float, j_per_bit: float) -> tuple[Floats, Floats, Bools]:
        """Send ``bits [C]``: seconds spent on it, bits on the air until the deadline, clients without a link.

        Clients that do not get to the end leave the round. Progress is taken as linear in time.
        """
        link, deadline = self._connection, self._deadline_s
        wanted = self.alive & (bits > 0.0)
        gap = self.now_s - self._last_s
        start = self.now_s + np.where(wanted, np.where(gap > link.inactivity_s, link.setup_s, link.grant_s), 0.0)
        end = end_of(np.where(wanted, start, np.inf), bits)
        reached = wanted & np.isfinite(end)
        end = np.where(reached, end, start)

        access_s = np.minimum(start, deadline) - np.minimum(self.now_s, deadline)
        air_s = np.minimum(end, deadline) - np.minimum(start, deadline)
        whole = np.where(end > start, end - start, 1.0)
        sent = np.where(reached, bits * np.where(end <= deadline, 1.0, air_s / whole), 0.0)
        access_w = np.where(gap > link.inactivity_s, self._energy.setup_w, self._energy.tail_w)
        self.radio_j += wanted * (self._tail_j(gap) + access_w * access_s) + watts * air_s + j_per_bit * sent
        self.airtime_s += float(air_s.sum())
        self._last_s = np.where(reached, np.minimum(end, deadline), np.where(wanted, -np.inf, self._last_s))
        self._move(end)
        self.alive &= reached | ~wanted
        return access_s + air_s, sent, wanted & ~reached

    def compute(self, seconds: Floats) -> Floats:
        """Compute for ``seconds [C]``; the seconds until the deadline."""
        before = self.now_s
        self._move(before + np.where(self.alive, seconds, 0.0))
        return np.minimum(self.now_s, self._deadline_s) - np.minimum(before, self._deadline_s)

    def close(self) -> None:
        """Charge the inactivity tail after each client's last transfer."""
        self.radio_j += self._tail_j(np.where(np.isfinite(self._last_s), np.inf, 0.0))

    def _tail_j(self, gap: Floats) -> Floats:
        connected = np.isfinite(self._last_s)
        return self._energy.tail_w * np.where(connected, np.minimum(gap, self._connection.inactivity_s), 0.0)

    def _move(self, end: Floats) -> None:
        self.now_s = np.where(self.alive, end, self.now_s)
        self.late |= self.alive & (end > self._deadline_s)
        self.alive &= ~self.late


def run_round(
    work: Work,
    compute: Compute,
    *,
    down: Transfer,
    up: Transfer,
    connection: Connection,
    energy: RadioEnergy,
    sinr_db: Floats,
    lost: Bools | None = None,
    deadline_s: float | None = None,
    server_s: float = 0.0,
    server_j: float = 0.0,
) -> Delivery:
    """The round's :class:`Delivery`, with a coefficient of 0 or 1 per client.

    Clients whose memory or battery does not suffice know it beforehand and take no part. A client without a downlink, or
    that the deadline overtakes in its first reception, missed the broadcast; without an uplink it is in outage; ``lost``
    says whose complete update does not arrive (outage, noticed when it should have been in). The server waits until the
    deadline for clients that are late, never for those that it does not reach.
    """
    deadline = np.inf if deadline_s is None else float(deadline_s)
    takes_part = compute.fits & compute.powered
    if not np.isfinite(compute.seconds[:, takes_part]).all():
        raise BadInput("compute seconds must be finite for every client that takes part")
    count = len(takes_part)
    line = Timeline(takes_part, connection, energy, deadline)
    status = np.where(compute.fits, np.where(compute.powered, STATUS["delivered"], STATUS["battery"]), STATUS["memory"])
    spent = {part: np.full(count, np.nan) for part in ("downlink", "compute", "uplink")}
    sent = {"down": np.zeros(count), "up": np.zeros(count)}
    compute_j = np.zeros(count)

    def book(part: str, took_part: Bools, seconds: Floats) -> None:
        spent[part] = np.where(took_part, np.nan_to_num(spent[part]) + seconds, spent[part])

    for index, phase in enumerate(work.phases):
        before = line.alive.copy()
        seconds, bits, unreached = line.transfer(
            phase.down_bits, down, watts=energy.receive_w, j_per_bit=energy.downlink_j_per_bit
        )
        sent["down"] += bits
        gone = before & ~line.alive
        status[gone] = STATUS["missed_broadcast"] if index == 0 else STATUS["deadline"]
        if index > 0:
            status[unreached] = STATUS["outage"]
        book("downlink", before & (line.alive | (index > 0)), seconds)

        before = line.alive.copy()
        seconds = line.compute(compute.seconds[index])
        fraction = np.divide(seconds, compute.seconds[index], out=np.ones(count), where=compute.seconds[index] > 0.0)
        compute_j += np.where(before, compute.joules[index] * fraction, 0.0)
        status[before & ~line.alive] = STATUS["deadline"]
        book("compute", before, seconds)

        before = line.alive.copy()
        seconds, bits, unreached = line.transfer(
            phase.up_bits, up, watts=energy.transmit_w, j_per_bit=energy.uplink_j_per_bit
        )
        sent["up"] += bits
        status[before & ~line.alive] = STATUS["deadline"]
        status[unreached] = STATUS["outage"]
        book("uplink", before & ~unreached, seconds)

    arrived = line.alive & ~(np.zeros(count, dtype=bool) if lost is None else lost)
    status[line.alive & ~arrived] = STATUS["outage"]
    line.close()
    round_s = _end_s(line, takes_part, deadline) + server_s
    return Delivery(
        coefficient=arrived.astype(float)[:, None],
        status=status,
        downlink_s=spent["downlink"],
        compute_s=spent["compute"],
        uplink_s=spent["uplink"],
        finish_s=np.where(arrived, line.now_s, np.inf),
        round_s=round_s,
        radio_j=line.radio_j,
        compute_j=compute_j + _wait_j(line, compute, spent["downlink"], round_s, deadline),
        down_sent_bits=sent["down"],
        up_sent_bits=sent["up"],
        sinr_db=sinr_db,
        server_s=server_s,
        server_j=server_j,
        airtime=line.airtime_s,
    )


def _end_s(line: Timeline, takes_part: Bools, deadline_s: float) -> float:
    """When the server stops waiting."""
    if line.late.any():
        return deadline_s
    if line.alive.any():
        return float(line.now_s[line.alive].max())
    return float(line.now_s[takes_part].max(initial=0.0))


def _wait_j(line: Timeline, compute: Compute, downlink_s: Floats, round_s: float, deadline_s: float) -> Floats:
    """Idle energy from the end of a client's own part to the round's end, for those that heard the broadcast."""
    wait_s = np.maximum(round_s - np.minimum(line.now_s, deadline_s), 0.0)
    return np.where(np.isnan(downlink_s), 0.0, compute.idle_w * wait_s)
