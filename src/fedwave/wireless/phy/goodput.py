"""Goodput of a link at a mean SINR: tables, averaged over fading, that Sionna's error rates and channels were made into.

``scripts/build_link_tables.py`` makes the tables (``data/*.npz``; :mod:`fedwave.wireless.phy.build` says how). A table
gives bits per slot and resource block for: direction and MCS table; line of sight or none (TDL-D, TDL-C of TR 38.901
7.7.2); resource blocks granted; delay spread; how old the channel is that link adaptation sees; mean SINR. Between its
points it is interpolated linearly, in the logarithms of blocks and delay spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import j0

from fedwave.core.errors import BadInput
from fedwave.core.types import Bools, Floats, Ints

SPEED_OF_LIGHT_M_S = 299_792_458.0
GRANTS = (1, 2, 4, 8, 16, 32, 64, 128, 273)  # at which rates are worth tabulating
RESOLUTION_BITS = 1.0 / 64.0  # of a slot and block, in the files
RESOLUTION_GAIN = 1.0 / 256.0
_FIRST_ZERO = 2.404825557695773  # of J0
_SILENT_DB = -300.0
_PARTS = 16  # an interval of delay spreads or ages is looked up in so many steps


@dataclass(frozen=True)
class LinkTable:
    """One direction and MCS table.

    Parameters
    ----------
    sinr_db : ``[S]`` mean SINR, equally spaced.
    blocks, delay_spread_s : ``[G]``, ``[D]``.
    innovation : ``[V]``, ``sqrt(1 - rho^2)`` with rho the correlation of the channel with what link adaptation saw.
    first : ``[2, G, D, V, S]`` bits of a slot and block without retransmissions; line of sight second.
    harq : the same with chase combining, the slots of retransmissions counted.
    extension_db : ``[2, G, D, V]`` SINR below which most bits rest on MCS that Sionna has no curve for.
    gain_db, gain_blocks, users : ``[H]``, ``[K]``, ``[U]``, the axes of ``gain``.
    gain : ``[2, K, D, V, U, H]`` goodput of the best of so many equal links over that of one.
    info : versions and parameters of the build.
    """

    sinr_db: Floats
    blocks: Floats
    delay_spread_s: Floats
    innovation: Floats
    first: Floats
    harq: Floats
    extension_db: Floats
    gain_db: Floats
    gain_blocks: Floats
    users: Floats
    gain: Floats
    info: str


def table_file(direction: str, mcs_table: int) -> str:
    """Name of a table's file."""
    return f"link_{direction}_{mcs_table}.npz"


@lru_cache(maxsize=6)
def link_table(direction: str, mcs_table: int) -> LinkTable:
    """The table of a direction ("down", "up") and MCS table (1 to 3, TS 38.214 5.1.3.1). Raises :class:`BadInput`."""
    if direction not in ("down", "up") or mcs_table not in (1, 2, 3):
        raise BadInput(
            f"no goodput table for direction {direction!r}, MCS table {mcs_table!r} (allowed: down or up; 1, 2 or 3)"
        )
    path = resources.files(__package__) / "data" / table_file(direction, mcs_table)
    with path.open("rb") as file, np.load(file) as stored:
        values = {name: stored[name] for name in stored.files}
    info = str(values.pop("info"))
    if values["first"].dtype == np.int16:
        for name in ("first", "harq"):
            values[name] = np.cumsum(values[name], axis=-1, dtype=np.int32) * np.float32(RESOLUTION_BITS)
        values["gain"] = values["gain"] * np.float32(RESOLUTION_GAIN)
    return LinkTable(**{name: value.astype(np.float32) for name, value in values.items()}, info=info)


def slot_bits(
    sinr_db: ArrayLike,
    prbs: ArrayLike,
    *,
    direction: str,
    mcs_table: int,
    profile: str | Bools,
    delay_spread_s: ArrayLike,
    csi_correlation: ArrayLike = 1.0,
    users: ArrayLike = 1.0,
    harq: bool = True,
) -> Floats:
    """Payload of a slot and layer in bits, averaged over fading; non-decreasing in SINR, never NaN.

    The grid of a slot is the reference one: 132 resource elements a block down, 144 up.

    Parameters (all broadcast)
    ----------
    sinr_db : mean SINR; below the table goodput falls with the SINR, above it is that of the table's end.
    prbs, users : scalar, or ``[A]`` along the last axis: blocks granted; links with the same statistics of which the
        one that is best off is served.
    profile : "los", "nlos", or true where there is line of sight.
    delay_spread_s, csi_correlation : rms delay spread; correlation with the channel that link adaptation saw.
    harq : with chase combining of up to 4 attempts; without, blocks received at the first.
    """
    table = link_table(direction, mcs_table)
    los = np.asarray(profile == "los" if isinstance(profile, str) else profile, dtype=bool)
    sinr = np.fmax(np.asarray(sinr_db, dtype=float), _SILENT_DB)
    blocks = np.atleast_1d(np.asarray(prbs, dtype=float))
    among = np.atleast_1d(np.asarray(users, dtype=float))
    state = _State.of(table, los, delay_spread_s, csi_correlation)
    per_block = state.at(_along(table.harq if harq else table.first, 1, table.blocks, blocks), table.sinr_db, sinr)
    bits = per_block * blocks * 10.0 ** (np.minimum(sinr - table.sinr_db[0], 0.0) / 10.0)
    if (among > 1.0).any():
        blocks, among = np.broadcast_arrays(blocks, among)
        gain = _along(table.gain, 4, table.users, among)  # [2, K, D, V, A, H]
        gain = np.stack([_along(gain[:, :, :, :, i], 1, table.gain_blocks, blocks[i : i + 1])[:, 0] for i in range(len(among))], 1)
        bits = bits * state.at(gain, table.gain_db, sinr)
    shapes = (np.shape(x) for x in (sinr, los, prbs, delay_spread_s, csi_correlation, users))
    return bits.reshape(np.broadcast_shapes(*shapes))


@dataclass(frozen=True)
class _State:
    """What of each link does not depend on grant and SINR: few distinct ``rows [W, 5]``, and each link's ``index``.

    Rows hold line of sight, then index and part of the way to the next, of delay spread and of innovation.
    """

    los: Ints
    spread: tuple[Ints, Floats]
    innovation: tuple[Ints, Floats]
    index: Ints

    @classmethod
    def of(cls, table: LinkTable, los: Bools, delay_spread_s: ArrayLike, csi_correlation: ArrayLike) -> _State:
        """Raises nothing; values outside the table are those of its edge."""
        rho = np.clip(np.abs(np.asarray(csi_correlation, dtype=float)), 0.0, 1.0)
        spread = _steps(np.log(table.delay_spread_s), np.log(np.maximum(np.asarray(delay_spread_s, dtype=float), 1e-12)))
        age = _steps(table.innovation, np.sqrt(1.0 - rho**2))
        spreads, ages = (_PARTS * (len(x) - 1) + 1 for x in (table.delay_spread_s, table.innovation))
        code = (los * spreads + spread) * ages + age
        used = np.flatnonzero(np.bincount(code.ravel(), minlength=2 * spreads * ages))
        index = np.zeros(2 * spreads * ages, dtype=np.int64)
        index[used] = np.arange(len(used))
        rest, age = np.divmod(used, ages)
        los_used, spread = np.divmod(rest, spreads)
        return cls(los_used, _split(spread, spreads), _split(age, ages), index[code])

    def at(self, values: Floats, axis_db: Floats, sinr_db: Floats) -> Floats:
        """``values [2, A, D, V, S]`` at each link's state and SINR, ``[..., A]``."""
        d, part = self.spread
        rows = values[self.los, :, d] * (1.0 - part[:, None, None, None]) + values[self.los, :, d + 1] * part[:, None, None, None]
        v, part = self.innovation
        each = np.arange(len(v))
        curves = rows[each, :, v] * (1.0 - part[:, None, None]) + rows[each, :, v + 1] * part[:, None, None]
        width, count = curves.shape[1:]
        place = np.clip((sinr_db - axis_db[0]) / (axis_db[1] - axis_db[0]), 0.0, count - 1.0)
        low = np.minimum(place.astype(np.int64), count - 2)
        start = (self.index * width + np.arange(width)) * count + low
        flat = curves.ravel()
        below = flat.take(start)
        return below + (place - low) * (flat.take(start + 1) - below)


def _steps(axis: Floats, value: Floats) -> Ints:
    """Nearest of ``_PARTS`` steps to an interval of a rising axis."""
    return np.rint(_PARTS * np.interp(value, axis, np.arange(len(axis)))).astype(np.int64)


def _split(step: Ints, steps: int) -> tuple[Ints, Floats]:
    """Interval, and part of it, of steps."""
    low = np.minimum(step, steps - 2) // _PARTS
    return low, step / _PARTS - low


def _along(values: Floats, axis: int, known: Floats, wanted: Floats) -> Floats:
    """Linear in the logarithm along an axis; the edge's values outside it."""
    place = np.interp(np.log(np.maximum(wanted, 1e-9)), np.log(known), np.arange(len(known)))
    low = np.minimum(place.astype(np.int64), len(known) - 2)
    part = (place - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return values.take(low, axis) * (1.0 - part) + values.take(low + 1, axis) * part


def extension_share(
    sinr_db: ArrayLike, prbs: int, *, direction: str, mcs_table: int, profile: str, delay_spread_s: float
) -> Bools:
    """Where most of the goodput rests on MCS below Sionna's lowest, whose error rates are shifted copies (ours)."""
    table = link_table(direction, mcs_table)
    block = int(np.argmin(np.abs(np.log(table.blocks / prbs))))
    spread = int(np.argmin(np.abs(np.log(table.delay_spread_s / max(delay_spread_s, 1e-12)))))
    return np.asarray(sinr_db) < table.extension_db[int(profile == "los"), block, spread, 0]


def doppler_hz(speed_m_s: ArrayLike, carrier_hz: float) -> Floats:
    """Largest Doppler shift ``v f / c``."""
    return np.asarray(speed_m_s, dtype=float) * carrier_hz / SPEED_OF_LIGHT_M_S


def csi_correlation(speed_m_s: ArrayLike, carrier_hz: float, age_s: float) -> Floats:
    """Correlation of the channel with itself ``age_s`` ago: Jakes' ``J0(2 pi f_d age)``, and 0 from its first zero on.

    Beyond that zero J0 comes back a little; a scheduler gains nothing by it, for it does not know the sign.
    """
    argument = 2.0 * np.pi * doppler_hz(speed_m_s, carrier_hz) * age_s
    return np.where(argument < _FIRST_ZERO, np.clip(j0(argument), 0.0, 1.0), 0.0)


def coherence_time_s(speed_m_s: ArrayLike, carrier_hz: float) -> Floats:
    """``9 / (16 pi f_d)``, Rappaport, Wireless Communications, eq. 5.40.b; infinite at rest."""
    doppler = doppler_hz(speed_m_s, carrier_hz)
    return np.divide(9.0 / (16.0 * np.pi), doppler, out=np.full_like(doppler, np.inf), where=doppler > 0.0)
