"""Random waypoints: legs are drawn one after the other, as far ahead as somebody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.config import NonNegative, Positive
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Floats, Ints
from fedwave.wireless.budget import sourced
from fedwave.wireless.geometry.mobility import KMH, Area, Mobility, Path, State, check_speed, folded

_LEG_BIT = 32  # a leg's draws have the number (leg + 1) 2^32 + id
_SHORTEST_LEG_S = 1.0  # so that legs without length or pause come to an end


@register("mobility", "random_waypoint")
@dataclass(frozen=True)
class RandomWaypoint(Mobility):
    """From waypoint to waypoint on straight legs, with a pause at each (Johnson & Maltz, Mobile Computing, 1996).

    Waypoints are draws of the area; a leg's speed is uniform between two limits. A leg lasts at least 1 s, pause
    included. Clients set out from their placement at clock 0. With time they gather in the middle of the area
    (Bettstetter, Resta & Santi, IEEE Trans. Mobile Computing 2(3), 2003), and their mean speed falls, because slow legs
    take longer; with a least speed of 0, which is refused, it would fall for ever (Yoon, Liu & Noble, INFOCOM 2003).

    Parameters
    ----------
    min_speed_kmh, max_speed_kmh : > 0, the limits of a leg's speed.
    pause_s : >= 0, at each waypoint.
    """

    memory: ClassVar[tuple[str, ...]] = ("x_m", "y_m", "leg", "since_s")

    min_speed_kmh: Positive = sourced(3.0, "km/h", "TR 38.901 Table 7.2-1: users of UMa and UMi")
    max_speed_kmh: Positive = sourced(3.0, "km/h", "TR 38.901 Table 7.2-1: users of UMa and UMi")
    pause_s: NonNegative = sourced(0.0, "s", "assumption: no pause")

    def __post_init__(self) -> None:
        """Refuse speeds that are not positive, limits in the wrong order, negative pauses."""
        check_speed(self, "min_speed_kmh")
        check_speed(self, "max_speed_kmh")
        if self.min_speed_kmh > self.max_speed_kmh:
            raise BadInput(f"min_speed_kmh: {self.min_speed_kmh:g} is above max_speed_kmh, {self.max_speed_kmh:g}")
        if not 0.0 <= self.pause_s < np.inf:
            raise BadInput(f"pause_s: must be finite and >= 0, got {self.pause_s!r}")

    def start(self, ids: Ints, position_m: Floats, key: Key) -> State:
        """See :meth:`Mobility.start`."""
        zeros = np.zeros(len(ids))
        return {**super().start(ids, position_m, key), "leg": zeros, "since_s": zeros}

    def advance(self, state: State, ids: Ints, key: Key, clock_s: float, area: Area) -> tuple[State, Path]:
        """See :meth:`Mobility.advance`. O(C) for each leg that has ended since."""
        self._check(state, ids, clock_s)
        if (state["since_s"] > clock_s).any():
            raise BadInput(f"clock_s: {clock_s:g} is before the state's own time, {state['since_s'].max():g}")
        walk = _Walk(self, state, np.asarray(ids, dtype=np.int64), key.fold("mobility"), area)
        legs = walk.first = walk.at(np.full(len(ids), clock_s))
        now = {"x_m": legs.origin[:, 0], "y_m": legs.origin[:, 1], "leg": legs.leg, "since_s": legs.since_s}
        return now, Path(clock_s, len(ids), walk)


@dataclass(frozen=True)
class _Legs:
    """The current leg, ``[C]`` each: its number, when and where it began, whereto, how fast, its end with the pause."""

    leg: Floats
    since_s: Floats
    origin: Floats
    target: Floats
    speed: Floats
    until_s: Floats


class _Walk:
    """Motion of some clients on legs that are drawn as far as one asks; later questions go on from the last legs."""

    def __init__(self, model: RandomWaypoint, state: State, ids: Ints, key: Key, area: Area) -> None:
        self.model, self.ids, self.key, self.area = model, ids, key, area
        origin = np.stack([state["x_m"], state["y_m"]], axis=1)
        self.first = self.last = self.legs(ids, state["leg"], state["since_s"], origin)

    def legs(self, ids: Ints, leg: Floats, since_s: Floats, origin: Floats) -> _Legs:
        """The legs of those numbers."""
        numbers = ((leg.astype(np.int64) + 1) << _LEG_BIT) + ids
        target = self.area.draw(numbers, self.key.fold("waypoint"))
        slow, fast = self.model.min_speed_kmh * KMH, self.model.max_speed_kmh * KMH
        speed = slow + (fast - slow) * self.key.fold("speed").uniform(numbers)[:, 0]
        taken = np.hypot(*(target - origin).T) / speed + self.model.pause_s
        return _Legs(leg, since_s, origin, target, speed, since_s + np.maximum(taken, _SHORTEST_LEG_S))

    def at(self, clock: Floats) -> _Legs:
        """The legs at ``clock [C]``, not before the first ones."""
        known = self.last if (self.last.since_s <= clock).all() else self.first
        late = np.flatnonzero(known.until_s <= clock)
        found = {name: values.copy() for name, values in vars(known).items()}
        while len(late):
            done = {name: values[late] for name, values in found.items()}
            fresh = self.legs(self.ids[late], done["leg"] + 1.0, done["until_s"], done["target"])
            for name, values in vars(fresh).items():
                found[name][late] = values
            late = late[fresh.until_s <= clock[late]]
        self.last = _Legs(**found)
        return self.last

    def __call__(self, clock: Floats) -> tuple[Floats, Floats]:
        """Position and speed."""
        legs = self.at(clock)
        step = legs.target - legs.origin
        way, gone = np.hypot(step[:, 0], step[:, 1]), legs.speed * (clock - legs.since_s)
        share = np.divide(gone, way, out=np.ones_like(way), where=gone < way)
        return folded(legs.origin + share[:, None] * step, self.area), np.where(gone < way, legs.speed, 0.0)
