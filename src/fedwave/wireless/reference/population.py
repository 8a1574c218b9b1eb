"""All clients of a network in Sionna's TR 38.901 channel at system level, drawn once for a job."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints
from fedwave.wireless.geometry.drop import drop
from fedwave.wireless.geometry.largescale import LargeScale
from fedwave.wireless.reference.rays import Rays
from fedwave.wireless.reference.system_channel import SystemChannel, system_channel

if TYPE_CHECKING:
    from fedwave.wireless.networks.cell import Cell

_ELEMENT_DBI = 8.0  # in Sionna's "38.901" element


class Population:
    """Clients at ``position_m [N, 2]``; ``key`` is constant over the job."""

    def __init__(self, cell: Cell, position_m: Floats, key: Key) -> None:
        self._cell, self._position, self._key = cell, np.asarray(position_m, dtype=float), key

    @property
    def _drawn(self) -> tuple[LargeScale, SystemChannel]:
        return _draw(self._cell, self._position.tobytes(), self._key)

    def look(self, ids: Ints) -> LargeScale:
        """Large-scale state of some clients."""
        return LargeScale(**{name: value[ids] for name, value in vars(self._drawn[0]).items()})

    def rays(self, ids: Ints, serving: Ints, speed_m_s: Floats) -> Rays:
        """Their fast fading."""
        channel = self._drawn[1]
        return Rays(channel.drawn, ids, serving, channel.coupling_db[ids, serving], speed_m_s)


@lru_cache(maxsize=4)
def _draw(cell: Cell, position: bytes, key: Key) -> tuple[LargeScale, SystemChannel]:
    scene, where = cell.scene, np.frombuffer(position).reshape(-1, 2)
    layout, antenna, users = scene.layout, scene.antenna, drop(scene, np.arange(len(where)), key)
    offset = np.repeat(layout.displacement_m(where), layout.sectors, axis=1)  # cells site by site
    channel = system_channel(
        scene.scenario,
        where,
        np.repeat(layout.site_m, layout.sectors, axis=0),
        key=key.fold("reference"),
        carrier_ghz=scene.carrier_ghz,
        h_bs_m=scene.h_bs_m,
        h_ut_m=users.height_m,
        boresight_deg=np.tile(layout.boresight_deg, layout.sites),
        tilt_deg=antenna.tilt_deg,
        antenna=antenna.pattern,
        indoor=users.indoor,
        in_car=users.in_car,
        o2i_model=cell.o2i_model,
        offset_m=offset if layout.wrap_around else None,
    )
    inside_db = _ELEMENT_DBI if antenna.pattern == "element" else 0.0
    gain = np.clip(10.0 ** ((channel.coupling_db + antenna.gain_dbi - inside_db) / 10.0), 1e-37, 1.0)
    each, serving = np.arange(len(where)), gain.argmax(axis=1)
    seen = LargeScale(
        gain=gain.astype(np.float32),
        serving=serving,
        los=channel.los[each, serving],
        indoor=users.indoor,
        distance_m=np.hypot(*offset[each, serving].T),
        loss_db=-10.0 * np.log10(gain[each, serving]),
        height_m=users.height_m,
    )
    return seen, channel
