"""What a job must keep to, how near it is to it, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.types import Floats
from fedwave.federation.setting import Setting
from fedwave.planner.needs import Needs
from fedwave.planner.server import ServerNeeds
from fedwave.results.format import duration, si

Verdict = Literal["suitable", "conditional", "unsuitable"]
_LOST_TO = {  # an update's status -> the constraint behind it
    "missed_broadcast": "downlink", "outage": "uplink", "radio_link_failure": "uplink", "deadline": "deadline",
    "memory": "memory", "battery": "energy", "refused": "airtime", "access": "access", "quorum": "deadline",
}  # fmt: skip
_ROUNDING = 1e-9
ENOUGH = 0.9  # share of the clients for which a constraint must hold
DAY_S = 86_400.0


@dataclass(frozen=True)
class Yardsticks:
    """What counts as suitable where neither devices nor deadline say it.

    Parameters
    ----------
    days : within which all rounds must be played.
    battery_share : of a full battery that a client may spend on a round.
    airtime_share : of the uplink carrier that the job may take while a round lasts; by default all that is free.
    """

    days: float = 30.0
    battery_share: float = 0.05
    airtime_share: float = 1.0

    def __post_init__(self) -> None:
        """Raises :class:`BadInput` for what is no yardstick."""
        options = ("--max-days", "--max-battery", "--max-airtime")
        for option, (name, value) in zip(options, vars(self).items(), strict=True):
            if not (value > 0.0 and np.isfinite(value)):
                raise BadInput(f"yardstick {name} ({option}): must be a number above 0, got {value!r}")

    def sentences(self) -> tuple[str, ...]:
        """What a plan takes for granted."""
        return (
            f"suitable: all rounds within {self.days:g} days, at most {self.battery_share:.0%} of a battery a round, "
            + (f"at most {self.airtime_share:.0%}" if self.airtime_share < 1.0 else "any share")
            + " of the uplink carrier",
        )


@dataclass(frozen=True)
class Constraint:
    """One thing that a job needs and what there is of it.

    ``margin`` is have / need, for the client for which it is least among the best nine of ten; below 1 it does not
    hold. ``hard``: without it nothing works, whatever one is willing to put up with.
    """

    name: str
    need: float
    have: float
    unit: str
    hard: bool = True

    @property
    def margin(self) -> float:
        """have / need; at most 1e9, where next to nothing is needed."""
        margin = min(self.have / self.need, 1e9) if self.need > 0.0 else 1e9
        return 1.0 if abs(margin - 1.0) < _ROUNDING else margin

    def sentence(self) -> str:
        """In words."""
        show = duration if self.unit == "s" else (lambda value: si(value, self.unit))
        if self.unit == "1":
            show = "{:.3g}".format
        return f"{self.name}: needs {show(self.need)} of {show(self.have)} ({times(self.margin)})"


@dataclass(frozen=True)
class Terms:
    """What the constraints of a job depend on beside what its rounds ask.

    Parameters
    ----------
    rounds_s : that a round may take for all to end in the days there are.
    deadline_s : after which nobody is waited for; ``None`` where there is none.
    server_s : after the last update is in: the server's work and its way to the cloud.
    turns : that a client takes part over the whole job.
    charge : share of a battery that may be used up over the whole job, since nothing charges it.
    """

    rounds_s: float
    deadline_s: float | None
    server_s: float
    turns: float
    charge: float

    @classmethod
    def of(cls, setting: Setting, yardsticks: Yardsticks, *, server_s: float, cohort: float) -> Terms:
        """Of ``setting``, with so many clients in a round."""
        return cls(
            rounds_s=yardsticks.days * DAY_S / setting.rounds,
            deadline_s=setting.federation.deadline_s,
            server_s=server_s,
            turns=setting.rounds * cohort / max(len(setting.population), 1),
            charge=max(setting.fleet.initial_charge - setting.fleet.min_charge, 0.0),
        )


def all_constraints(
    devices: Mapping[str, Needs],
    server: ServerNeeds,
    path: Mapping[str, float],
    access_s: float,
    airtime_share: float,
    *,
    terms: Terms,
    yardsticks: Yardsticks,
) -> list[Constraint]:
    """Everything that a job must keep to.

    Parameters
    ----------
    path : mean seconds on the critical path (``downlink``, ``compute``, ``uplink``), connecting included in transfers.
    access_s : what the client that ends the round spends connecting.
    airtime_share : of the uplink carrier, while a round lasts.
    """
    return [
        *device_constraints(devices, terms, yardsticks),
        *time_constraints(_apart(path, access_s), terms),
        *_airtime(airtime_share, yardsticks.airtime_share),
        server_constraint(server),
    ]


def _airtime(share: float, most: float) -> list[Constraint]:
    """None where all of the carrier may be taken: schedulers fill what is free, so that this would always be near."""
    return [Constraint("airtime", share, most, "1", hard=False)] if share and most < 1.0 else []


def device_constraints(needs: Mapping[str, Needs], terms: Terms, yardsticks: Yardsticks) -> list[Constraint]:
    """Memory, storage and energy, each at the client that a tenth of all clients are worse off than.

    Energy: what a round takes of a battery, or, where that is nearer to its bound, what the whole job takes.
    """
    classes = list(needs.values())
    weight = np.array([one.share for one in classes])
    lasts = terms.turns * yardsticks.battery_share <= terms.charge
    turns, battery = (1.0, yardsticks.battery_share) if lasts else (terms.turns, terms.charge)
    found = []
    for name, unit, hard, pairs in (
        ("memory", "B", True, [(one.peak_memory_bytes, one.usable_memory_bytes) for one in classes]),
        ("storage", "B", True, [(one.storage_bytes, one.device_storage_bytes) for one in classes]),
        ("energy", "1", False, [(_in_turns(one.battery_share, turns), battery) for one in classes]),
    ):
        known = [k for k, (need, have) in enumerate(pairs) if need is not None and have is not None]
        if known:
            margin = np.array([_margin(*pairs[k]) if k in known else np.inf for k in range(len(pairs))])
            worst = _worst(margin, weight)
            if worst in known:
                need, have = pairs[worst]
                found.append(Constraint(name, float(need or 0.0), float(have or 0.0), unit, hard))
    return found


def time_constraints(parts: Mapping[str, float], terms: Terms) -> list[Constraint]:
    """How much longer each part of a round may take, the others being what they are.

    Clients have until the deadline, and clients and server together the days there are over the rounds; the nearer one
    counts. Where all together take too long, each has the share of the time that it would have if all shrank alike: the
    margins are equal, and the longest part binds. A deadline is never overstepped, so that there a margin of 1 is what
    is seen of clients that it has cut off.

    Parameters
    ----------
    parts : seconds on the critical path by name (``downlink``, ``compute``, ``uplink``, ``access``).
    """
    clients_s = sum(parts.values())
    whole_s = clients_s + terms.server_s

    def has(seconds: float) -> float:
        by_days = left_s(seconds, whole_s, terms.rounds_s)
        return by_days if terms.deadline_s is None else min(left_s(seconds, clients_s, terms.deadline_s), by_days)

    found = [Constraint(name, seconds, has(seconds), "s") for name, seconds in parts.items() if seconds > 0.0]
    if terms.server_s > 0.0:
        found.append(Constraint("server", terms.server_s, left_s(terms.server_s, whole_s, terms.rounds_s), "s"))
    return found


def times(margin: float) -> str:
    """A margin in words."""
    return f"{margin:.3g}x" if margin < 1e4 else "more than 10,000x"


def left_s(seconds: float, whole_s: float, budget_s: float) -> float:
    """What a part of ``whole_s`` has: what the others leave of the budget; its share, where the whole is too long."""
    return budget_s - (whole_s - seconds) if whole_s <= budget_s else seconds * budget_s / whole_s


def server_constraint(server: ServerNeeds) -> Constraint:
    """The server's memory. Not hard: another device does it, or a place elsewhere where the model is evaluated."""
    return Constraint("server memory", server.peak_memory_bytes, server.usable_memory_bytes, "B", hard=False)


def judge(constraints: Sequence[Constraint], *, enough: bool, heard: float) -> Verdict:
    """Unsuitable where something does not hold without which nothing works, or too few can be heard in most rounds.

    Conditional where more than one client in ten is lost, or a yardstick does not hold that may be moved.

    Parameters
    ----------
    enough : the quorum is heard in most rounds.
    heard : share of the updates that count.
    """
    if not enough or any(one.hard and one.margin < 1.0 for one in constraints):
        return "unsuitable"
    return "suitable" if heard >= ENOUGH and all(one.margin >= 1.0 for one in constraints) else "conditional"


def binding(constraints: Sequence[Constraint], lost: Mapping[str, float]) -> Constraint | str:
    """The constraint with the least margin; of those that do not hold, if there are such.

    What makes the verdict comes first, whatever one is willing to put up with: hard constraints, then what most updates
    are ``lost`` to, if some are.
    """
    broken = [one for one in constraints if one.margin < 1.0]
    hard = [one for one in broken if one.hard]
    if lost and not hard:
        name = _LOST_TO[max(lost, key=lambda name: lost[name])]
        return next((one for one in broken if one.name == name), name)
    return min(hard or broken or constraints, key=lambda one: (float(f"{one.margin:.9g}"), -one.need))


def _apart(path: Mapping[str, float], access_s: float) -> dict[str, float]:
    """The parts with connecting by itself: half of it in each transfer, or what fits in there."""
    down = min(access_s / 2.0, path["downlink"])
    up = min(access_s - down, path["uplink"])
    return {**path, "downlink": path["downlink"] - down, "uplink": path["uplink"] - up, "access": down + up}


def _in_turns(share: float | None, turns: float) -> float | None:
    return None if share is None else share * turns


def _margin(need: float | None, have: float | None) -> float:
    return np.inf if not need or have is None else have / need


def _worst(margin: Floats, weight: Floats) -> int:
    """The class that the (1 - ENOUGH) quantile of all clients belongs to, the least margins first."""
    order = np.argsort(margin, kind="stable")
    below = np.cumsum(weight[order]) / weight.sum()
    return int(order[np.searchsorted(below, 1.0 - ENOUGH + _ROUNDING, side="right").clip(max=len(order) - 1)])
