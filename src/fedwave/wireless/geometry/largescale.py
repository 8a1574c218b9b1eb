"""The large-scale pass: the coupling gain of every user to every cell, in blocks of users that fit the cache."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless import channel
from fedwave.wireless.geometry import shadowing, spreads
from fedwave.wireless.geometry.antenna import BEAMWIDTH_DEG, MAX_ATTENUATION_DB
from fedwave.wireless.geometry.drop import Users, drop
from fedwave.wireless.geometry.scene import Scene

_ROWS = 4096  # users in a block: 19 sites in float32 are 0.3 MB an array
_NEPER = float(np.log(10.0) / 10.0)  # 10^(x/10) = exp(_NEPER x)
_FAR_M = 1e7  # positions beyond count as this far, which keeps squares within float32
_LEAST = np.float32(_NEPER * -370.0)  # weakest gain that float32 holds as a normal number, in nepers of power
_CUT = np.float32(12.0 * _NEPER / np.radians(BEAMWIDTH_DEG) ** 2)  # a cut of the element pattern, per square radian
_MOST = np.float32(_NEPER * MAX_ATTENUATION_DB)

Single = Floats  # float32 all along
Field = tuple[shadowing.Map, Ints]  # a map and the sites' offsets into it, [sites, 1]


@dataclass(frozen=True)
class LargeScale:
    """What a round sees of the air before fading, interference and arrays.

    Parameters
    ----------
    gain : ``[C, cells]`` float32 in (0, 1], linear: path loss, shadow fading, penetration and the element pattern.
    serving : ``[C]`` the strongest cell.
    los : ``[C]`` line of sight to the serving site; of users indoors, on the way outside.
    indoor : ``[C]`` behind an outer wall.
    distance_m : ``[C]`` on the ground to the serving site's nearest copy, at least 10 m (InH: 0 m).
    loss_db : ``[C]`` coupling loss of the serving link, ``-10 lg gain``.
    height_m : ``[C]`` of the user's antenna.
    """

    gain: Single
    serving: Ints
    los: Bools
    indoor: Bools
    distance_m: Floats
    loss_db: Floats
    height_m: Floats

    def take(self, index: Ints) -> LargeScale:
        """Some of the users."""
        return LargeScale(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def couple(scene: Scene, position_m: Floats, ids: Ints, key: Key) -> LargeScale:
    """Coupling gain of each user to each cell (TR 38.901 7.3, 7.4, 7.6.3), O(C cells) time, float32.

    Line of sight and shadow fading are functions of position and site (correlated maps of ``key``), so that they are
    consistent in space and while a user moves; a site's sectors share them. Storeys do not enter the maps. Walls,
    depth, height and car are functions of the id. Fading between sites is uncorrelated. A ground distance below the
    range of the formulas (10 m; InH: 1 m of direct distance) counts as that distance.

    Parameters
    ----------
    position_m : ``[C, 2]`` in the layout's coordinates.
    ids : ``[C]`` the clients' numbers, which select their static draws.
    key : constant over the job.

    Raises
    ------
    BadInput : positions that are not ``[C, 2]`` finite numbers.
    """
    position, ids = np.asarray(position_m), np.asarray(ids, dtype=np.int64)
    if position.shape != (len(ids), 2) or not np.isfinite(position).all():
        raise BadInput(f"position_m: must be {len(ids)} finite pairs of metres, got an array {position.shape}")
    users = drop(scene, ids, key)
    count, cells = len(ids), scene.layout.cells
    gain = np.empty((count, cells), dtype=np.float32)
    serving, los = np.empty(count, dtype=np.int64), np.empty(count, dtype=bool)
    distance = np.empty(count, dtype=np.float32)
    for inside in (False, True):  # apart, because users indoors need one map of shadow fading and others two
        members = np.flatnonzero(users.indoor == inside)
        if not len(members):
            continue
        block = _Block(scene, key, inside)
        for start in range(0, len(members), _ROWS):
            rows = members[start : start + _ROWS]
            strength, d2, sight = block.evaluate(np.clip(position[rows], -_FAR_M, _FAR_M), ids, rows, users)
            best = strength.argmax(axis=1)
            near = best // scene.layout.sectors, np.arange(len(rows))
            gain[rows], serving[rows], los[rows], distance[rows] = strength, best, sight[near], d2[near]
    top = np.take_along_axis(gain, serving[:, None], axis=1)[:, 0]
    return LargeScale(gain, serving, los, users.indoor, distance, -10.0 * np.log10(top), users.height_m)


def line_of_sight(scene: Scene, position_m: Floats, ids: Ints, key: Key) -> Bools:
    """What :func:`couple` takes for the line of sight between users and sites, ``[C, sites]``; arguments as there."""
    position, users = np.clip(position_m, -_FAR_M, _FAR_M), drop(scene, ids, key)
    los = np.empty((len(ids), scene.layout.sites), dtype=bool)
    for inside in (False, True):
        block, members = _Block(scene, key, inside), np.flatnonzero(users.indoor == inside)
        for start in range(0, len(members), _ROWS):
            rows = members[start : start + _ROWS]
            los[rows] = block.state(position[rows], rows, users)[3].T
    return los


class _Block:
    """One kind of users (behind walls or not): constants and maps, then ``evaluate`` for a block of them.

    Arrays are ``[sites, users]``, so that sums run along users.
    """

    def __init__(self, scene: Scene, key: Key, inside: bool) -> None:
        self.scene, self.inside, self.key = scene, inside, key
        layout = scene.layout
        turn = np.radians(layout.wrap_deg)  # coordinates in which the first translation is the x axis
        self.turn = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        self.site = (layout.site_m @ self.turn).astype(np.float32)
        azimuth = np.radians(layout.boresight_deg) - turn
        self.boresight = ((azimuth + np.pi) % (2.0 * np.pi) - np.pi).astype(np.float32)
        scenario, states = scene.scenario, ("O2I",) if inside else ("LoS", "NLoS")
        self.sight = self._field("line of sight", spreads.los_correlation_m(scenario), uniform=True)
        correlations_m = {name: spreads.shadow_correlation_m(scenario, name) for name in states if scene.shadowing}
        self.shadow = [self._field(name, correlation_m) for name, correlation_m in correlations_m.items()]
        self.nearest = np.float32(0.0 if scenario == "InH" else channel.valid_range(scenario, "distance_m")[0])

    def _field(self, name: str, correlation_m: float, uniform: bool = False) -> Field:
        key, layout = self.key.fold("map", name), self.scene.layout
        draw = shadowing.uniform_map if uniform else shadowing.normal_map
        field = draw(key, correlation_m, layout.extent_m)
        return field, field.offsets(key, layout.sites)[:, None]

    def state(self, position: Floats, rows: Ints, users: Users) -> tuple[Single, Single, Single, Bools]:
        """Displacement in turned coordinates, ground distance and line of sight, each ``[sites, users]``."""
        dx, dy, square = self._separation(position)
        d2 = np.maximum(np.sqrt(square), self.nearest)
        outside = np.maximum(d2 - users.depth_m[rows], np.float32(0.0)) if self.inside else d2
        probability = channel.los_probability(self.scene.scenario, outside, users.height_m[rows], self.scene.office)
        return dx, dy, d2, _read(self.sight, position) < probability

    def evaluate(self, position: Floats, ids: Ints, rows: Ints, users: Users) -> tuple[Single, Single, Bools]:
        """Gain ``[users, cells]``, ground distance and line of sight ``[sites, users]``."""
        dx, dy, d2, sight = self.state(position, rows, users)
        height = users.height_m[rows]
        drop_m = np.float32(self.scene.h_bs_m) - height
        blocked = np.logical_not(sight).astype(np.float32)
        loss = self._loss_db(d2, drop_m, height, blocked, ids[rows], position)
        loss += users.penetration_db[rows]
        return self._gain(loss, dx, dy, d2, drop_m), d2, sight

    def _separation(self, position: Floats) -> tuple[Single, Single, Single]:
        """Displacement from site to user in turned coordinates and its square, each ``[sites, users]``.

        The lattice of translations is two rectangular ones, w x sqrt(3) w, half a diagonal apart: reduce to the first,
        then see whether the second has a nearer point.
        """
        turned = (position @ self.turn).astype(np.float32)
        dx, dy = turned[:, 0] - self.site[:, :1], turned[:, 1] - self.site[:, 1:]
        if self.scene.layout.wrap_around:
            width = np.float32(np.hypot(*self.scene.layout.wrap_m[0]))
            depth = np.float32(3.0**0.5) * width
            dx -= width * np.rint(dx * (1 / width))
            dy -= depth * np.rint(dy * (1 / depth))
            other_x, other_y = np.abs(dx) - width / 2, np.abs(dy) - depth / 2
            other = (other_x * other_x + other_y * other_y < dx * dx + dy * dy).astype(np.float32)
            dx -= np.copysign(other * (width / 2), dx)
            dy -= np.copysign(other * (depth / 2), dy)
        return dx, dy, dx * dx + dy * dy

    def _loss_db(
        self, d2: Single, drop_m: Single, height: Single, blocked: Single, ids: Ints, position: Floats
    ) -> Single:
        """Path loss and shadow fading in dB; ``blocked`` is 1 without line of sight and 0 with."""
        scene = self.scene
        terms = channel.path_loss_terms(
            scene.scenario, scene.carrier_ghz, scene.h_bs_m, *self._heights(d2, height, ids)
        )
        direct = np.maximum(d2 * d2 + drop_m * drop_m, np.float32(1.0))
        lg = np.log10(direct)  # twice lg d
        far = None
        near = _line(terms.near, lg)
        if scene.scenario == "RMa":  # its two slopes do not meet, so the smaller distance decides
            near += np.float32(terms.near[2]) * np.sqrt(direct)
            far = (d2 > np.float32(terms.breakpoint_m)).astype(np.float32)
            near += far * (_line(terms.far, lg) - near)
        elif scene.scenario != "InH":  # two slopes that cross at the breakpoint: the larger
            np.maximum(near, _line(terms.far, lg), out=near)
        excess = np.maximum(_line(terms.blocked, lg) - near, np.float32(0.0))
        loss = near + blocked * excess
        if self.shadow:
            loss += self._shadow_db(blocked, far, position)
        return loss

    def _heights(self, d2: Single, height: Single, ids: Ints) -> tuple[Any, Any]:
        """User heights and effective environment heights for :func:`channel.path_loss_terms`."""
        if not (self.scene.floors and self.inside):
            return float(self.scene.h_ut_m), 1.0
        environment = np.ones_like(d2)
        tall = np.flatnonzero(height >= 13.0)
        if self.scene.scenario == "UMa" and len(tall):
            u = self.key.fold("environment height").uniform(ids[tall], len(d2)).T
            environment[:, tall] = channel.environment_height_m(d2[:, tall], height[tall], u.astype(np.float32))
        return height, environment

    def _shadow_db(self, blocked: Single, far: Single | None, position: Floats) -> Single:
        values = [_read(field, position) for field in self.shadow]
        scenario = self.scene.scenario
        if self.inside:
            return np.float32(spreads.indoor_shadow_sigma_db(scenario)) * values[0]
        sight_db, blocked_db = (np.float32(spreads.shadow_sigma_db(scenario, state)) for state in (True, False))
        sight = sight_db * values[0]
        if far is not None:
            far_db = np.float32(spreads.shadow_sigma_db(scenario, True, distance_2d_m=2.0, breakpoint_m=1.0))
            sight += far * ((far_db - sight_db) * values[0])
        return sight + blocked * (blocked_db * values[1] - sight)

    def _gain(self, loss: Single, dx: Single, dy: Single, d2: Single, drop_m: Single) -> Single:
        """Linear gain ``[users, cells]``: loss and the element pattern, which is added in nepers."""
        antenna, sectors = self.scene.antenna, self.scene.layout.sectors
        loss *= np.float32(-_NEPER)
        loss += np.float32(_NEPER * antenna.gain_dbi)
        out = np.empty((len(loss), sectors, loss.shape[1]), dtype=np.float32)
        if antenna.pattern == "omni":
            out[:] = np.clip(loss, _LEAST, np.float32(0.0))[:, None]
        else:
            azimuth = np.arctan2(dy, dx)
            vertical = np.arctan2(drop_m, d2) - np.float32(np.radians(antenna.tilt_deg))
            vertical *= vertical
            vertical *= _CUT
            for sector, boresight in enumerate(self.boresight):
                _sector(out[:, sector], loss, azimuth, boresight, vertical)
            np.clip(out, _LEAST, np.float32(0.0), out=out)
        np.exp(out, out=out)
        return np.ascontiguousarray(out.reshape(-1, loss.shape[1]).T)


def _sector(out: Single, loss: Single, azimuth: Single, boresight: Any, vertical: Single) -> None:
    """``loss - min(A_V + A_H, A_max)`` of one sector, into ``out``; A_max caps the sum, so A_V and A_H need no cap."""
    pi = np.float32(np.pi)
    np.subtract(azimuth, boresight, out=out)
    np.abs(out, out=out)
    np.subtract(out, pi, out=out)
    np.abs(out, out=out)
    np.subtract(pi, out, out=out)  # pi - ||azimuth - boresight| - pi|: the angle between, 0 to pi
    np.multiply(out, out, out=out)
    np.multiply(out, _CUT, out=out)
    np.add(out, vertical, out=out)
    np.minimum(out, _MOST, out=out)
    np.subtract(loss, out, out=out)


def _line(terms: Any, twice_lg: Single) -> Single:
    """``a + b lg d`` from ``2 lg d``, float32."""
    return np.asarray(terms[0], dtype=np.float32) + np.asarray(terms[1] / 2.0, dtype=np.float32) * twice_lg


def _read(source: Field, position: Floats) -> Single:
    """The map at the users' positions as each site sees it, ``[sites, users]``."""
    field, offsets = source
    index = field.index(position) + offsets
    index &= len(field.values) - 1
    return field.values.take(index, mode="wrap")
