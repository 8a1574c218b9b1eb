"""How clients move: not at all, straight on, or from waypoint to waypoint. A place is a function of key, id and time.

Positions are worked out when somebody asks: a client that is not in a cohort costs nothing, and one that comes back
after many rounds is where it would be had it been followed all along.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedwave.core.config import Positive
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Floats, Ints
from fedwave.wireless.budget import Row, job_rows, sourced

State = dict[str, Floats]  # what must be kept of each client between rounds, [C] each
Motion = Callable[[Floats], tuple[Floats, Floats]]  # clock [C] -> position [C, 2], speed [C]
Draw = Callable[[Ints, Key], Floats]  # numbers [n], key -> a position for each number, [n, 2]

KMH = 1.0 / 3.6  # km/h in m/s
FASTEST_KMH = 500.0  # high-speed trains, the fastest that 3GPP evaluates (TR 38.913 Table 6.1.6-1)
_GRAZING = 1e-6  # smallest cosine at the edge: below, a path along the edge is as good as on it


@dataclass(frozen=True)
class Area:
    """Where clients move.

    Parameters
    ----------
    draw : a position for each of some numbers, ``(numbers [n], key) -> [n, 2]`` m; each is a function of the key and
        its number alone.
    radius_m : > 0; straight lines are reflected at this distance from the origin. Infinite: they go on for ever.
    fold : maps positions into the area (wrap-around); ``None``: none is needed.

    Raises
    ------
    BadInput : a radius that is not positive.
    """

    draw: Draw
    radius_m: float = np.inf
    fold: Callable[[Floats], Floats] | None = None

    def __post_init__(self) -> None:
        """Refuse an area without inside."""
        if not self.radius_m > 0.0:
            raise BadInput(f"radius_m: must be positive, got {self.radius_m!r}")


def disc(radius_m: float, *, min_distance_m: float = 0.0) -> Area:
    """The disc around a site: waypoints are uniform by area between two distances, ``r = sqrt(r0^2 + u (R^2 - r0^2))``.

    Paths between them may come closer to the site than ``min_distance_m``.

    Raises
    ------
    BadInput : not ``0 <= min_distance_m < radius_m < inf``.
    """
    if not 0.0 <= min_distance_m < radius_m < np.inf:
        raise BadInput(f"min_distance_m: must be from 0 to below radius_m {radius_m!r}, got {min_distance_m!r}")

    def draw(numbers: Ints, key: Key) -> Floats:
        u = key.uniform(numbers, 2)
        r = np.sqrt(min_distance_m**2 + u[:, 0] * (radius_m**2 - min_distance_m**2))
        return r[:, None] * _unit(2.0 * np.pi * u[:, 1])

    return Area(draw, radius_m)


@dataclass(frozen=True)
class Path:
    """Where clients are from ``clock_s`` on, as far ahead as one asks."""

    clock_s: float
    count: int
    motion: Motion

    def at(self, t_s: Floats | float) -> Floats:
        """``[C, 2]`` m at ``clock_s + t_s``; ``t_s`` one number or ``[C]``, finite and >= 0."""
        return self._moved(t_s)[0]

    def speed_at(self, t_s: Floats | float) -> Floats:
        """``[C]`` m/s at ``clock_s + t_s``; 0 during a pause."""
        return self._moved(t_s)[1]

    @property
    def speed_m_s(self) -> Floats:
        """``[C]`` at ``clock_s``."""
        return self.speed_at(0.0)

    def _moved(self, t_s: Floats | float) -> tuple[Floats, Floats]:
        ahead = np.asarray(t_s, dtype=float)
        if ahead.shape not in ((), (self.count,)) or not (np.isfinite(ahead) & (ahead >= 0.0)).all():
            raise BadInput(f"t_s: must be finite and >= 0, one number or one for each of {self.count} clients")
        return self.motion(np.broadcast_to(self.clock_s + ahead, (self.count,)))


@dataclass(frozen=True)
class Mobility(ABC):
    """A mobility model. Clients start at clock 0 where they were placed.

    ``memory`` names what must be kept of a client between rounds, one float each; ``moves`` is false where positions
    never change.
    """

    memory: ClassVar[tuple[str, ...]] = ("x_m", "y_m")
    moves: ClassVar[bool] = True

    def start(self, ids: Ints, position_m: Floats, key: Key) -> State:
        """State ``{name: [C]}`` at clock 0 of clients placed at ``position_m [C, 2]``."""
        position = np.asarray(position_m, dtype=float)
        if position.shape != (len(ids), 2) or not np.isfinite(position).all():
            raise BadInput(f"position_m: must be {len(ids)} finite pairs of metres, got an array {position.shape}")
        return {"x_m": position[:, 0].copy(), "y_m": position[:, 1].copy()}

    def resume(self, kept: Mapping[str, Floats], ids: Ints, position_m: Floats, key: Key) -> State:
        """What was ``kept`` of clients, ``[C]`` each; :meth:`start` for those with NaN, which were never met.

        ``position_m`` matters for these alone.
        """
        fresh = self.start(ids, position_m, key)
        unknown = np.full(len(ids), np.nan)
        old = {name: np.asarray(kept.get(name, unknown), dtype=float) for name in self.memory}
        met = np.all([np.isfinite(values) for values in old.values()], axis=0)
        return {name: np.where(met, old[name], fresh[name]) for name in self.memory}

    @abstractmethod
    def advance(self, state: State, ids: Ints, key: Key, clock_s: float, area: Area) -> tuple[State, Path]:
        """The state at ``clock_s`` and the path from there on.

        One step or many give the same positions, bit for bit; who else is in the cohort does not matter.

        Parameters
        ----------
        state : ``{name: [C]}`` of an earlier clock, from :meth:`start`, :meth:`resume` or this method.
        ids : ``[C]`` the clients' numbers, 0 to 2^32 - 1.
        key : constant over the job.
        clock_s : finite, not before the state's own time.
        area : where clients move.

        Raises
        ------
        BadInput : a state without the names in ``memory``, a clock that is not finite or goes back.
        """

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each parameter."""
        return job_rows(self)

    def _check(self, state: State, ids: Ints, clock_s: float) -> None:
        for name in self.memory:
            if name not in state or np.shape(state[name]) != (len(ids),) or not np.isfinite(state[name]).all():
                raise BadInput(f"state: {name!r} must be {len(ids)} finite numbers, one per client")
        if not 0.0 <= clock_s < np.inf:
            raise BadInput(f"clock_s: must be finite and >= 0, got {clock_s!r}")


@register("mobility", "static")
@dataclass(frozen=True)
class Static(Mobility):
    """Clients stay where they were placed."""

    moves: ClassVar[bool] = False

    def advance(self, state: State, ids: Ints, key: Key, clock_s: float, area: Area) -> tuple[State, Path]:
        """See :meth:`Mobility.advance`."""
        self._check(state, ids, clock_s)
        position = np.stack([state["x_m"], state["y_m"]], axis=1)
        return state, Path(clock_s, len(ids), lambda _: (position, np.zeros(len(ids))))


@register("mobility", "straight_line")
@dataclass(frozen=True)
class StraightLine(Mobility):
    """Straight on at one speed, in a direction drawn once for each client.

    At the edge of a disc a path is reflected like light from a mirror; with wrap-around it leaves on one side and comes
    in on the other. Both keep clients uniform over the area. O(1) per client however far ahead: between reflections lie
    chords of one length, ``2 R cos a``, each turned by ``pi - 2 a`` against the one before, a the angle of incidence.

    Parameters
    ----------
    speed_kmh : > 0.
    """

    speed_kmh: Positive = sourced(30.0, "km/h", "TR 38.913 Table 6.1.4-1: users outdoors, in cars (urban macro)")

    def __post_init__(self) -> None:
        """Refuse speeds that are not positive."""
        check_speed(self, "speed_kmh")

    def advance(self, state: State, ids: Ints, key: Key, clock_s: float, area: Area) -> tuple[State, Path]:
        """See :meth:`Mobility.advance`; the state is the place at clock 0 and does not change."""
        self._check(state, ids, clock_s)
        start = np.stack([state["x_m"], state["y_m"]], axis=1)
        heading = 2.0 * np.pi * key.fold("mobility", "heading").uniform(ids)[:, 0]
        speed = self.speed_kmh * KMH

        def motion(clock: Floats) -> tuple[Floats, Floats]:
            position = _reflected(start, heading, speed * clock, area.radius_m)
            return folded(position, area), np.full(len(ids), speed)

        return state, Path(clock_s, len(ids), motion)


def _reflected(start: Floats, heading: Floats, way_m: Floats, radius_m: float) -> Floats:
    """``[C, 2]`` after ``way_m [C]`` of a path that is reflected at ``radius_m`` from the origin."""
    direction = _unit(heading)
    if not np.isfinite(radius_m):
        return start + way_m[:, None] * direction
    away = np.hypot(start[:, 0], start[:, 1])
    if (away > radius_m * (1.0 + 1e-9)).any():
        raise BadInput(f"position_m: must be within {radius_m:g} m of the origin, got {away.max():g} m")
    along = (start * direction).sum(axis=1)
    normal = np.sqrt(np.maximum(along**2 + radius_m**2 - away**2, (_GRAZING * radius_m) ** 2))
    first = normal - along  # way to the edge; normal = R cos a
    across = start[:, 0] * direction[:, 1] - start[:, 1] * direction[:, 0]  # R sin a, its sign the sense of rotation
    turn = np.copysign(np.pi - 2.0 * np.arctan2(np.abs(across), normal), across)

    hit = start + first[:, None] * direction
    beyond = np.maximum(way_m - first, 0.0)
    chords = np.floor(beyond / (2.0 * normal))
    corner = radius_m * _unit(np.arctan2(hit[:, 1], hit[:, 0]) + chords * turn)
    rest = beyond - chords * 2.0 * normal
    bounced = corner + rest[:, None] * _unit(heading + (chords + 1.0) * turn)
    return np.where((way_m <= first)[:, None], start + way_m[:, None] * direction, bounced)


def _unit(angle: Floats) -> Floats:
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def folded(position: Floats, area: Area) -> Floats:
    """The positions in the area."""
    return position if area.fold is None else area.fold(position)


def check_speed(model: Any, name: str) -> None:
    """Raise :class:`BadInput` where the parameter ``name`` is not a speed above 0 and at most ``FASTEST_KMH``."""
    if not 0.0 < getattr(model, name) <= FASTEST_KMH:
        raise BadInput(f"{name}: must be above 0 and at most {FASTEST_KMH:g} km/h, got {getattr(model, name)!r}")
