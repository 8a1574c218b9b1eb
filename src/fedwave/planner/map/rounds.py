"""Rounds put together from what a network's transfers and the devices' computing take, many cells at once.

The course of a round is that of :mod:`fedwave.wireless.flow`: receive, compute, send; clients stop at the deadline.
Arrays are ``[M, D, R, C]``: demands (a model under one recipe), devices, rounds, clients of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedwave.core.types import STATUS, Bools, Floats, Ints
from fedwave.planner.map.demands import Demand
from fedwave.planner.map.links import Links, Transfers, Way

PARTS = ("downlink", "compute", "uplink")


@dataclass(frozen=True)
class Rounds:
    """What a plan takes from its rehearsal, of every demand on every device: ``[M, D]``, unless said otherwise.

    Parameters
    ----------
    round_s, access_s : means over the rounds.
    path_s : the critical path by part, ``[parts, M, D]``.
    energy_j : of a client in a round, mean; radio, training and waiting.
    airtime_share : of the uplink carrier.
    heard : share of the updates that count; ``enough``: the quorum is heard in most rounds.
    lost : share of the updates by status, ``[statuses, M, D]``.
    """

    round_s: Floats
    access_s: Floats
    path_s: Floats
    energy_j: Floats
    airtime_share: Floats
    heard: Floats
    enough: Bools
    lost: Floats


@dataclass(frozen=True)
class _Course:
    """What becomes of every client, ``[M, D, R, C]``; ``finish_s`` infinite: not heard. ``blocks [..., R]``."""

    deadline_s: float
    status: Ints
    late: Bools
    finish_s: Floats
    parts: Floats
    access_s: Floats
    radio_j: Floats
    compute_j: Floats
    block_s: Floats
    blocks: Floats


def rounds(demands: Sequence[Demand], down_bits: Floats, links: Links, battery_j: Floats) -> Rounds:
    """Of demands with the same number of phases, on devices whose full batteries hold ``battery_j [D]``.

    ``down_bits [M, P, R, C]`` : as each receives them (:func:`.demands.received`).
    """
    with np.errstate(all="ignore"):
        course = _course(demands, down_bits, links)
        took = _powered(demands, links, course, battery_j)
        return _means(demands, links, course, took)


def _course(demands: Sequence[Demand], down_bits: Floats, links: Links) -> _Course:
    """Every round as if memory and batteries sufficed everywhere."""
    federation = demands[0].setting.federation
    deadline_s = np.inf if federation.deadline_s is None else float(federation.deadline_s)
    asked, compute = links.asked, np.stack([d.seconds for d in demands], axis=1)  # [P, M, D, R, C]
    joules, devices = np.stack([d.joules for d in demands], axis=1), compute.shape[2]
    shape = compute.shape[1:]
    line = _Line(np.broadcast_to(asked, shape), deadline_s)
    blocks = np.zeros((len(demands), 1, shape[2]))
    for phase in range(len(compute)):
        down = _sent(links, "down", down_bits[:, phase])
        line.transfer(0, down, first=phase == 0)
        line.compute(compute[phase], joules[phase])
        up = _sent(links, "up", np.stack([d.up_bits[phase] for d in demands]))
        awake = (compute[phase] < links.inactivity_s) & (up.seconds > 0.0) & (down.seconds > 0.0)
        line.transfer(2, up, saved_s=awake * links.awake_s, saved_j=awake * links.awake_j)
        blocks = np.maximum(blocks, up.carrier_blocks)
    server_s = np.array([d.server_s for d in demands])[:, None, None]
    idle_w = np.stack([d.idle_w for d in demands])[:, :, None, None]
    round_s = line.end_s() + server_s
    wait_s = np.maximum(round_s[..., None] - np.minimum(line.now_s, deadline_s), 0.0) * line.got_broadcast
    return _Course(
        deadline_s=deadline_s,
        status=line.status,
        late=line.late,
        finish_s=np.where(line.status == 0, line.now_s, np.inf),
        parts=line.parts,
        access_s=line.access_s,
        radio_j=line.radio_j,
        compute_j=line.compute_j + idle_w * wait_s,
        block_s=line.block_s,
        blocks=np.broadcast_to(blocks, (len(demands), devices, shape[2])),
    )


def _sent(links: Links, way: Way, bits: Floats) -> Transfers:
    """All transfers of one direction, ``[M, 1, R, C]``, at the mean of each round's ``bits [M, R, C]``."""
    found = links.transfers(way, links.mean(way, bits))
    return Transfers(**{name: values[:, None] for name, values in vars(found).items()})


class _Line:
    """Where all clients stand in time; see :class:`fedwave.wireless.flow.Timeline`."""

    def __init__(self, asked: Bools, deadline_s: float) -> None:
        self.deadline_s, self.alive = deadline_s, asked.copy()
        self.status = np.zeros(asked.shape, dtype=np.int64)
        self.now_s, self.radio_j, self.compute_j, self.access_s, self.block_s = (np.zeros(asked.shape) for _ in "12345")
        self.parts = np.zeros((len(PARTS), *asked.shape))
        self.got_broadcast, self.late = asked.copy(), np.zeros(asked.shape, dtype=bool)

    def transfer(
        self, part: int, sent: Transfers, *, first: bool = False, saved_s: Floats | float = 0.0,
        saved_j: Floats | float = 0.0,
    ) -> None:  # fmt: skip
        """Who has no link leaves the round, and so does who is overtaken by the deadline."""
        lost = self.alive & (sent.status > 0)
        seconds = np.where(np.isnan(sent.seconds), 0.0, np.maximum(sent.seconds - saved_s, 0.0))
        share = self.alive * self._in_time(seconds)
        self.radio_j += share * np.maximum(sent.joules - saved_j, 0.0)
        self.block_s += share * sent.block_s
        self.access_s += np.minimum(sent.access_s, seconds) * share
        self.status = np.where(lost, sent.status, self.status)
        self._spend(part, np.where(lost, 0.0, seconds), "missed_broadcast" if first else "deadline")
        self.alive = self.alive & ~lost
        if first:
            self.got_broadcast = self.alive.copy()

    def compute(self, seconds: Floats, joules: Floats) -> None:
        """Everybody that is still there computes."""
        self.compute_j += self.alive * self._in_time(seconds) * joules
        self._spend(1, seconds, "deadline")

    def end_s(self) -> Floats:
        """When the server stops waiting, ``[M, D, R]``."""
        last = np.where(self.alive.any(-1), np.where(self.alive, self.now_s, 0.0).max(-1), self.now_s.max(-1))
        return np.where(self.late.any(-1), self.deadline_s, last)

    def _in_time(self, seconds: Floats) -> Floats:
        """Share of the next ``seconds`` that is before the deadline."""
        left_s = np.maximum(self.deadline_s - self.now_s, 0.0)
        return np.where(seconds > left_s, left_s / np.maximum(seconds, 1e-300), 1.0)

    def _spend(self, part: int, seconds: Floats, status: str) -> None:
        before = np.minimum(self.now_s, self.deadline_s)
        self.now_s = np.where(self.alive, self.now_s + seconds, self.now_s)
        self.parts[part] += np.minimum(self.now_s, self.deadline_s) - before
        overtaken = self.alive & (self.now_s > self.deadline_s)
        self.status = np.where(overtaken, STATUS[status], self.status)
        self.late = self.late | overtaken
        self.alive = self.alive & ~overtaken


def _powered(demands: Sequence[Demand], links: Links, course: _Course, battery_j: Floats) -> Bools:
    """``[M, D, R, C]`` who takes part: memory and what is left of the battery suffice."""
    setting = demands[0].setting
    need = np.stack([d.joules.sum(0) for d in demands])  # [M, D, R, C]
    charged = (setting.fleet.initial_charge >= setting.fleet.min_charge) | np.isinf(battery_j)  # else nobody is called
    fits = (np.stack([d.fits for d in demands]) & charged)[:, :, None]
    left = np.full((*need.shape[:2], len(setting.population)), np.inf)
    left = np.minimum(left, setting.fleet.initial_charge * battery_j[None, :, None])
    took = np.zeros(need.shape, dtype=bool)
    for index in range(need.shape[2]):
        ids = links.ids[index]
        took[:, :, index] = fits & (need[:, :, index] <= left[:, :, ids]) & links.asked[index]
        spent = (course.radio_j + course.compute_j)[:, :, index] * took[:, :, index]
        who = ids[links.asked[index]]
        left[:, :, who] = np.maximum(left[:, :, who] - spent[:, :, links.asked[index]], 0.0)
    return took


def _means(demands: Sequence[Demand], links: Links, course: _Course, took: Bools) -> Rounds:
    """As :func:`fedwave.planner.plan` sums its rehearsal up; where nobody can take part, the course is that of all."""
    quorum, asked = demands[0].setting.federation.quorum, links.asked
    fits = np.stack([d.fits for d in demands])[:, :, None, None]
    why = np.where(fits, STATUS["battery"], STATUS["memory"])
    status = np.where(took, course.status, why)
    heard = (status == 0) & asked
    met = heard.sum(-1, keepdims=True) >= quorum
    status = np.where(heard & ~met, STATUS["quorum"], status)
    counted = max(int(asked.sum()), 1)
    lost = np.stack([((status == code) & asked).sum((-1, -2)) / counted for code in range(len(STATUS))])
    anybody = np.any(took, axis=(-1, -2))
    took = np.where(anybody[..., None, None], took, asked)
    round_s, path, access_s = _ends(course, took, np.array([d.server_s for d in demands])[:, None, None])
    used = (course.block_s * took).sum((-1, -2))
    there = (course.blocks * round_s).sum(-1)
    share = np.divide(used, there, out=np.zeros_like(used), where=there > 0.0)
    delivered = np.where(anybody[..., None], met[..., 0] & ((status == 0) & asked).any(-1), False)
    return Rounds(
        round_s=round_s.mean(-1),
        access_s=access_s.mean(-1),
        path_s=path.mean(-1),
        energy_j=((course.radio_j + course.compute_j) * took).sum((-1, -2)) / counted,
        airtime_share=np.minimum(share, 1.0),
        heard=lost[0],
        enough=delivered.mean(-1) >= 0.5,
        lost=lost,
    )


def _ends(course: _Course, took: Bools, server_s: Floats) -> tuple[Floats, Floats, Floats]:
    """Seconds of the rounds, of their critical paths by part, and of connecting, ``[M, D, R]``."""
    in_time = took & (course.status == 0)
    spent = course.parts.sum(0)
    waited = np.where(in_time.any(-1, keepdims=True), in_time, took)
    left = np.where((took & course.late).any(-1), course.deadline_s, np.where(waited, spent, 0.0).max(-1))
    round_s, last = left + server_s, np.where(took, spent, -1.0).argmax(-1)[..., None]
    path = []
    for part in course.parts:
        path.append(np.minimum(np.take_along_axis(part, last, -1)[..., 0], left))
        left = left - path[-1]
    finish = np.where(in_time, course.finish_s, -np.inf)
    access = np.take_along_axis(course.access_s, finish.argmax(-1)[..., None], -1)[..., 0]
    return round_s, np.stack(path), np.where(in_time.any(-1), access, 0.0)
