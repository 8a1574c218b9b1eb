"""What slot loop and link level share: the carrier, and checks of their plain-array inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.types import Floats, Ints
from fedwave.wireless.link import slots_per_second
from fedwave.wireless.reference.backend import MCS_TABLES

_LETTER = {"up": "U", "down": "D"}


@dataclass(frozen=True)
class Carrier:
    """One direction of a carrier; only its slots are simulated.

    Parameters
    ----------
    prbs : resource blocks M.
    subcarrier_khz : 15, 30 or 60.
    pattern : a letter per slot, repeated: D, U, or S (special: counts for neither direction). FDD: "U" or "D".
    direction : "up" or "down".
    data_elements : resource elements of a block and slot that carry data; 132 is 12 symbols less one of DM-RS.
    """

    prbs: int
    subcarrier_khz: int = 30
    pattern: str = "DDDSU"
    direction: Literal["up", "down"] = "up"
    data_elements: int = 132

    def __post_init__(self) -> None:
        if self.direction not in _LETTER:
            raise BadInput(f'direction: {self.direction!r} is not "up" or "down"')
        if not set(self.pattern) <= set("DSU") or _LETTER[self.direction] not in self.pattern:
            raise BadInput(f"pattern: {self.pattern!r} must be made of D, S, U and have a slot {self.direction}")
        if self.prbs < 1:
            raise BadInput(f"prbs: {self.prbs} must be at least 1")
        if self.subcarrier_khz not in (15, 30, 60):
            raise BadInput(f"subcarrier_khz: {self.subcarrier_khz!r} is not one of 15, 30, 60")

    @property
    def slot_s(self) -> float:
        """Duration of a slot, TS 38.211 4.3.2."""
        return 1.0 / slots_per_second(self.subcarrier_khz)

    @property
    def places(self) -> Ints:
        """Positions of the direction's slots in the pattern."""
        return np.flatnonzero(np.array(list(self.pattern)) == _LETTER[self.direction])

    @property
    def share(self) -> float:
        """Share of all slots that are the direction's."""
        return len(self.places) / len(self.pattern)

    @property
    def block_hz(self) -> float:
        """Width of a resource block."""
        return 12e3 * self.subcarrier_khz

    def starts_s(self, number: ArrayLike) -> Floats:
        """When the direction's slots of the given numbers (from 0) start."""
        period, place = np.divmod(np.asarray(number, dtype=np.int64), len(self.places))
        return (period * len(self.pattern) + self.places[place]) * self.slot_s


def mean_sinr(sinr_db: ArrayLike, prbs: int) -> Floats:
    """``[U, M]`` from ``[U, M]`` (column m - 1: with m blocks) or ``[U, 1]`` (whatever the grant).

    Raises
    ------
    BadInput : another shape, or a value that is not finite.
    """
    sinr = np.asarray(sinr_db, dtype=float)
    if sinr.ndim != 2 or not len(sinr) or sinr.shape[1] not in (1, prbs):
        raise BadInput(f"sinr_db: shape {sinr.shape} must be [users, {prbs}] or [users, 1]")
    if not np.isfinite(sinr).all():
        raise BadInput("sinr_db: every value must be finite")
    return np.broadcast_to(sinr, (len(sinr), prbs))


def check_adaptation(table: int, bler_target: float) -> None:
    """Refuse MCS tables that Sionna has no EESM parameters for, and targets that are no probability."""
    if table not in MCS_TABLES:
        raise BadInput(f"mcs_table: {table!r} must be 1 (64QAM) or 2 (256QAM)")
    if not 0.0 < bler_target < 1.0:
        raise BadInput(f"bler_target: {bler_target!r} must be between 0 and 1")
