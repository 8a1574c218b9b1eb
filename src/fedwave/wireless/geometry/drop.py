"""What stays with a user for a whole job, wherever it is: walls, depth, storey, car. A function of its id."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless import channel
from fedwave.wireless.geometry import spreads
from fedwave.wireless.geometry.scene import FLOORS, MAX_DEPTH_M, STOREY_M, Scene

_ROWS = 1 << 16  # users at a time, which bounds the memory of the draws


@dataclass(frozen=True)
class Users:
    """Static attributes, ``[C]`` each.

    ``indoor`` behind an outer wall, ``in_car``; ``depth_m`` from the wall (0 outdoors); ``height_m`` of the antenna;
    ``penetration_db`` of wall, depth and car together (0 outdoors on foot).
    """

    indoor: Bools
    in_car: Bools
    depth_m: Floats
    height_m: Floats
    penetration_db: Floats


def drop(scene: Scene, ids: Ints, key: Key) -> Users:
    """Draw the static attributes of the given clients, float32, O(C).

    Indoors (TR 38.901 7.4.3.1): depth is the smaller of two draws from U(0, 25 m), in RMa U(0, 10 m); penetration is
    ``N(wall, sigma_P) + 0.5 dB/m depth``, the wall "high" or "low" loss. With floors (Table 7.2-1): N_fl ~ U{4..8}
    storeys, n_fl ~ U{1..N_fl}, height ``3 (n_fl - 1) + 1.5`` m. Outdoors in a car (7.4.3.2): N(9, 5) dB.
    The normal draws are not truncated, as in the report, so a few losses are below 0 dB.

    Parameters
    ----------
    ids : ``[C]`` the clients' numbers, which select their draws.
    key : constant over the job.
    """
    key, ids = key.fold("drop"), np.asarray(ids, dtype=np.int64)
    parts = [_drop(scene, ids[start : start + _ROWS], key) for start in range(0, max(len(ids), 1), _ROWS)]
    return Users(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _drop(scene: Scene, ids: Ints, key: Key) -> tuple[Bools, Bools, Floats, Floats, Floats]:
    indoor = _chosen(scene.indoor_share, ids, key.fold("indoor"))
    in_car = _chosen(scene.in_car_share, ids, key.fold("car")) & ~indoor
    depth = np.zeros(len(ids), dtype=np.float32)
    height = np.full(len(ids), scene.h_ut_m, dtype=np.float32)
    loss = np.zeros(len(ids), dtype=np.float32)

    inside = np.flatnonzero(indoor)
    depth[inside] = MAX_DEPTH_M[scene.scenario] * key.fold("depth").uniform(ids[inside], 2).min(axis=1)
    loss[inside] = _wall_db(scene, ids[inside], key) + 0.5 * depth[inside]
    if scene.floors:
        height[inside] = _height_m(scene, ids[inside], key.fold("floor"))

    cars = np.flatnonzero(in_car)
    mean, sigma = spreads.CAR_PENETRATION_DB
    loss[cars] = mean + sigma * key.fold("penetration").normal(ids[cars])[:, 0]
    return indoor, in_car, depth, height, loss


def _chosen(share: float, ids: Ints, key: Key) -> Bools:
    """``[C]``: true with probability ``share``; no draw where there is no choice."""
    if share in (0.0, 1.0):
        return np.full(len(ids), bool(share))
    return key.uniform(ids)[:, 0] < share


def _wall_db(scene: Scene, ids: Ints, key: Key) -> Floats:
    high = _chosen(scene.o2i_high_share, ids, key.fold("wall"))
    models = ("low", "high")
    mean = np.array([float(channel.o2i_penetration_db(model, scene.carrier_ghz)) for model in models])
    sigma = np.array([spreads.o2i_sigma_db(model) for model in models])
    return mean[high.astype(int)] + sigma[high.astype(int)] * key.fold("penetration").normal(ids)[:, 0]


def _height_m(scene: Scene, ids: Ints, key: Key) -> Floats:
    u = key.uniform(ids, 2)
    storeys = FLOORS[0] + np.floor(u[:, 0] * (FLOORS[1] - FLOORS[0] + 1))
    return STOREY_M * np.floor(u[:, 1] * storeys) + scene.h_ut_m
