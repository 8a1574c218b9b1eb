"""Goodput of a link at a mean SINR: tables, averaged over fading, made of Sionna's error rates and channels.

``scripts/build_link_tables.py`` makes the tables (``data/*.npz``; :mod:`fedwave.wireless.phy.build` says how). A table
gives bits per slot and resource block for: direction and MCS table; line of sight or none (TDL-D, TDL-C of TR 38.901
7.7.2, one antenna at either end: an array's gain belongs in the mean SINR); resource blocks granted; delay spread; how
old the channel is that link adaptation sees; mean SINR. Between its points it is interpolated linearly, in the
logarithms of blocks and delay spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.types import Bools, Floats, Ints

SPEED_OF_LIGHT_M_S = 299_792_458.0
GRANTS = (1, 2, 4, 8, 16, 32, 64, 128, 273)  # at which rates are worth tabulating
RESOLUTION_BITS, RESOLUTION_GAIN = 1.0 / 64.0, 1.0 / 256.0  # of the files: bits of a slot and block, factors
TABLE_KHZ = 30  # subcarrier spacing that the tables' delay spreads belong to
FIRST_ZERO = 2.404825557695773  # of J0
RICE_FACTOR, LOS_DOPPLER = (
    10.0**1.33,
    0.7,
)  # of TDL-D; its direct path's Doppler shift over the largest: TR 38.901 7.7.2
_SERIES = 3.0
_J0_SERIES = [(-1.0) ** k / math.factorial(k) ** 2 for k in range(15, -1, -1)]  # in (z / 2)^2, the highest power first
_PARTS = 16  # an interval of delay spreads or ages is looked up in so many steps
_ROWS = 1 << 14  # links looked up at once, so that what they need stays in the cache


@dataclass(frozen=True, eq=False)
class LinkTable:
    """One direction and MCS table; arrays are float32.

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
    info : versions and parameters of the build, JSON.
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
    name = table_file(direction, mcs_table)
    try:
        with (resources.files("fedwave.wireless.phy") / "data" / name).open("rb") as file, np.load(file) as stored:
            values = {key: stored[key] for key in stored.files}
    except FileNotFoundError:
        raise BadInput(
            f"goodput table {name} is missing from fedwave's package data (scripts/build_link_tables.py makes it)"
        ) from None
    info = str(values.pop("info"))
    for key in ("first", "harq"):  # kept as differences
        values[key] = np.cumsum(values[key], axis=-1, dtype=np.int32) * RESOLUTION_BITS
    values["gain"] = values["gain"] * RESOLUTION_GAIN
    return LinkTable(**{key: value.astype(np.float32) for key, value in values.items()}, info=info)


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
    subcarrier_khz: int = TABLE_KHZ,
) -> Floats:
    """Payload of a slot and layer in bits, averaged over fading; finite, and for one user non-decreasing in SINR.

    The grid of a slot is the reference one: 132 resource elements a block down, 144 up.

    Parameters (arrays broadcast)
    ----------
    sinr_db : mean SINR; below the table goodput falls with the SINR, above it is that of the table's end. NaN: none.
    prbs, users : scalar, or ``[A]`` along the last axis: blocks granted; links with the same statistics of which the
        one that is best off is served.
    profile : "los", "nlos", or true where there is line of sight.
    delay_spread_s, csi_correlation : rms delay spread; correlation with the channel that link adaptation saw.
    harq : with chase combining of up to 4 attempts; without, blocks received at the first.
    subcarrier_khz : subcarrier spacing, a scalar: blocks of half the width see half the delay spread.
    """
    table = link_table(direction, mcs_table)
    los = np.asarray(profile == "los" if isinstance(profile, str) else profile, dtype=bool)
    state = _State.of(table, los, delay_spread_s, csi_correlation, subcarrier_khz)
    sinr = np.asarray(sinr_db, dtype=float)
    blocks, among = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=float)) for x in (prbs, users)))
    shape = np.broadcast_shapes(sinr.shape, state.index.shape, np.shape(prbs), np.shape(users))
    looks = [_look(table, state, harq, *grant) for grant in zip(blocks.tolist(), among.tolist(), strict=True)]
    sinrs, indices = (_columns(value, shape, len(looks)) for value in (sinr, state.index))
    bits = np.empty((len(sinrs[0]), len(looks)))
    for start in range(0, len(bits), _ROWS):
        rows = slice(start, start + _ROWS)
        for column, look in enumerate(looks):
            bits[rows, column] = look(indices[column][rows], sinrs[column][rows])
    return bits.reshape(shape)


def _columns(values: Any, shape: tuple[int, ...], count: int) -> list[Any]:
    """``values`` as broadcast to ``shape``: flat if there is one grant, else those of each along the last axis."""
    if count == 1:
        return [np.broadcast_to(values, shape).reshape(-1)]
    width = values.shape[-1] if values.ndim else 1
    wide = np.broadcast_to(values, (*shape[:-1], width))
    return [wide[..., min(column, width - 1)].reshape(-1) for column in range(count)]


@dataclass(frozen=True)
class _Curves:
    """Functions of the SINR, one of ``rows [W, S]`` for each link."""

    rows: Floats
    low_db: float
    step_db: float

    def at(self, index: Any, sinr_db: Floats) -> Floats:
        """Of the links with the rows ``index``; the edge's values outside the axis."""
        count = self.rows.shape[1]
        high_db = self.low_db + self.step_db * (count - 1)
        place = ((np.clip(sinr_db, self.low_db, high_db) - self.low_db) * (1.0 / self.step_db)).astype(np.float32)
        low = np.minimum(place.astype(np.int32), count - 2)
        place -= low
        low += index * np.int32(count)
        below = self.rows.take(low)
        low += 1
        return below + place * (self.rows.take(low) - below)


def _look(table: LinkTable, state: _State, harq: bool, blocks: float, users: float) -> Callable[[Any, Floats], Floats]:
    """Bits of links by their state and mean SINR, with one grant."""
    low_db, step_db = float(table.sinr_db[0]), float(table.sinr_db[1] - table.sinr_db[0])
    bits = _Curves(state.rows(_of_grant(table, harq, blocks)), low_db, step_db)
    gain = None
    if users > 1.0:
        among = _gain_of(table, blocks, users)
        gain = _Curves(state.rows(among), float(table.gain_db[0]), float(table.gain_db[1] - table.gain_db[0]))

    def look(index: Any, sinr_db: Floats) -> Floats:
        sinr_db = np.fmax(sinr_db, -np.inf)  # NaN is no signal
        found = bits.at(index, sinr_db) * blocks
        below = np.flatnonzero(sinr_db < low_db)
        found[below] *= 10.0 ** ((sinr_db[below] - low_db) / 10.0)
        return found if gain is None else found * gain.at(index, sinr_db)

    return look


@lru_cache(maxsize=256)
def _of_grant(table: LinkTable, harq: bool, blocks: float) -> Floats:
    """Bits of a slot and block ``[2, D, V, S]`` with a grant."""
    return _along(table.harq if harq else table.first, 1, table.blocks, blocks)


@lru_cache(maxsize=256)
def _gain_of(table: LinkTable, blocks: float, users: float) -> Floats:
    """Multi-user gain ``[2, D, V, H]`` with a grant among so many."""
    return _along(_along(table.gain, 4, table.users, users), 1, table.gain_blocks, blocks)


@dataclass(frozen=True)
class _State:
    """What of each link does not depend on grant and SINR: ``index`` says which of few distinct states it is in.

    States ``[W]`` hold line of sight, then index and part of the way to the next, of delay spread and of innovation.
    """

    los: Ints
    spread: tuple[Ints, Floats]
    innovation: tuple[Ints, Floats]
    index: Any

    @classmethod
    def of(
        cls, table: LinkTable, los: Bools, delay_spread_s: ArrayLike, csi_correlation: ArrayLike, subcarrier_khz: int
    ) -> _State:
        """Raises nothing; values outside the table are those of its edge."""
        log_spread = np.log(np.fmax(np.asarray(delay_spread_s, dtype=float), 1e-12)) + np.log(
            subcarrier_khz / TABLE_KHZ
        )
        rho = np.fmin(np.abs(np.asarray(csi_correlation, dtype=float)), 1.0)
        spread = _steps(np.log(table.delay_spread_s), log_spread)
        age = _steps(table.innovation, np.sqrt(1.0 - rho**2))
        spreads, ages = (_PARTS * (len(x) - 1) + 1 for x in (table.delay_spread_s, table.innovation))
        code = (los * spreads + spread) * ages + age
        used = np.flatnonzero(np.bincount(code.ravel(), minlength=2 * spreads * ages))
        index = np.zeros(2 * spreads * ages, dtype=np.int32)
        index[used] = np.arange(len(used))
        rest, age = np.divmod(used, ages)
        los_used, spread = np.divmod(rest, spreads)
        return cls(los_used, _split(spread, spreads), _split(age, ages), index[code])

    def rows(self, values: Floats) -> Floats:
        """``values [2, D, V, S]`` in each state, ``[W, S]``."""
        (d, far), (v, old) = self.spread, self.innovation
        out = np.zeros((len(self.los), values.shape[-1]), dtype=np.float32)
        for i, along_spread in enumerate((1.0 - far, far)):
            for j, along_age in enumerate((1.0 - old, old)):
                weight = (along_spread * along_age).astype(np.float32)
                out += weight[:, None] * values[self.los, d + i, v + j]
        return out


def _steps(axis: Floats, value: Floats) -> Ints:
    """Nearest of ``_PARTS`` steps to an interval of a rising axis."""
    return np.rint(_PARTS * np.interp(value, axis, np.arange(len(axis)))).astype(np.int64)


def _split(step: Ints, steps: int) -> tuple[Ints, Floats]:
    """Interval, and part of it, of steps."""
    low = np.minimum(step, steps - 2) // _PARTS
    return low, step / _PARTS - low


def _along(values: Any, axis: int, known: Floats, wanted: float) -> Any:
    """``values`` without an axis, read linearly in its logarithm; the edge's outside it."""
    place = float(np.interp(np.log(max(wanted, 1e-9)), np.log(known), np.arange(len(known))))
    low = min(int(place), len(known) - 2)
    return values.take(low, axis) * np.float32(1.0 - place + low) + values.take(low + 1, axis) * np.float32(place - low)


def extension_below_db(
    prbs: float, *, direction: str, mcs_table: int, profile: str, delay_spread_s: float, subcarrier_khz: int = TABLE_KHZ
) -> float:
    """Mean SINR below which most of the bits rest on MCS that Sionna has no error rates for.

    Theirs are copies of the lowest curve that it has, shifted at equal gap to capacity: ours. Of the table's nearest
    entry, with a channel that does not change.
    """
    table = link_table(direction, mcs_table)
    spread_s = max(delay_spread_s * subcarrier_khz / TABLE_KHZ, 1e-12)
    block, spread = (
        int(np.argmin(np.abs(np.log(axis / value))))
        for axis, value in ((table.blocks, max(prbs, 1.0)), (table.delay_spread_s, spread_s))
    )
    return float(table.extension_db[int(profile == "los"), block, spread, 0])


def doppler_hz(speed_m_s: ArrayLike, carrier_hz: float) -> Floats:
    """Largest Doppler shift ``v f / c``."""
    return np.asarray(np.asarray(speed_m_s, dtype=float) * carrier_hz / SPEED_OF_LIGHT_M_S)


def csi_correlation(speed_m_s: ArrayLike, carrier_hz: float, age_s: float, los: ArrayLike = False) -> Floats:
    """Correlation of the channel with what link adaptation saw ``age_s`` ago: Jakes' ``|J0(z)|``, ``z = 2 pi f_D age``.

    Link adaptation goes by power, which is correlated by ``J0(z)^2``, whatever the sign of J0. In line of sight with
    the Rice factor K, whose direct path has 0.7 times the largest Doppler shift, it is correlated by
    ``[2 K J0(z) cos(0.7 z) + J0(z)^2] / (2 K + 1)``: the answer is the J0 of the least z that has the same, and the
    smallest where it is negative, for nobody gains by that.
    """
    z = 2.0 * np.pi * doppler_hz(speed_m_s, carrier_hz) * age_s
    known, rho = _sight_correlation()
    return np.where(los, np.interp(_power_correlation(z), known, rho), np.abs(_j0(z)))


def _power_correlation(z: Floats) -> Floats:
    """Of a channel in line of sight, by Doppler shift times age times 2 pi."""
    return (2.0 * RICE_FACTOR * _j0(z) * np.cos(LOS_DOPPLER * z) + _j0(z) ** 2) / (2.0 * RICE_FACTOR + 1.0)


@lru_cache(maxsize=1)
def _sight_correlation() -> tuple[Floats, Floats]:
    """Power correlation in line of sight, rising from 0 to 1, and the J0 that belongs to it."""
    z = np.linspace(FIRST_ZERO, 0.0, 4001)
    power = _power_correlation(z)
    first = len(z) - int(np.argmax(power[::-1] <= 0.0))
    return power[first:], _j0(z[first:])


def _j0(z: Floats) -> Floats:
    """Bessel's J0 of ``z >= 0``: its power series, Abramowitz & Stegun 9.1.12, to 1e-15 as long as ``z <= 3``.

    SciPy's beyond, where clients are fast: it takes longer to load than a plan does to make.
    """
    slow = np.minimum(z, _SERIES)
    found = np.polyval(_J0_SERIES, 0.25 * slow * slow)
    if np.max(z, initial=0.0) <= _SERIES:
        return found
    from scipy.special import j0

    return np.where(z <= _SERIES, found, j0(z))


def coherence_time_s(speed_m_s: ArrayLike, carrier_hz: float) -> Floats:
    """``9 / (16 pi f_d)``, Rappaport, Wireless Communications, eq. 5.40.b; infinite at rest."""
    doppler = doppler_hz(speed_m_s, carrier_hz)
    return np.divide(9.0 / (16.0 * np.pi), doppler, out=np.full_like(doppler, np.inf), where=doppler > 0.0)
