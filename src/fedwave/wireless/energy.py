"""Energy of a client's radio: the whole-phone model, intercept plus slope per bit (the power amplifier is inside)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedwave.core.config import NonNegative
from fedwave.wireless.budget import Row, rows_of, sourced

_HUANG = "measured LTE phone, Huang et al., MobiSys 2012, Tables 3 and 4; assumed for NR"
_SLOPE = "low-band 5G, fitted to public phone measurements with a hardware power monitor (5,049 samples)"


@dataclass(frozen=True)
class RadioEnergy:
    """Radio power of a client: ``P = intercept + slope x rate`` on the air, constant while connecting and in the tail.

    Whole-phone figures: nothing is added for the power amplifier or the baseband. They include what the phone draws
    with its screen off, so idle power charged over the same seconds is slightly pessimistic. The tail is charged whole
    after a client's last transfer. A zero object is a free radio.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    transmit_w: NonNegative = sourced(1.288, "W", _HUANG)
    receive_w: NonNegative = sourced(1.288, "W", _HUANG)
    uplink_j_per_bit: NonNegative = sourced(32.2e-9, "J/bit", _SLOPE)
    downlink_j_per_bit: NonNegative = sourced(11.5e-9, "J/bit", _SLOPE)
    setup_w: NonNegative = sourced(1.211, "W", f"promotion power, {_HUANG}")
    tail_w: NonNegative = sourced(1.060, "W", f"tail base power, {_HUANG}")

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each entry."""
        return rows_of(self)


@dataclass(frozen=True)
class Connection:
    """When a transfer can start: after connection set-up when the radio was asleep, after a grant otherwise.

    The radio falls asleep after ``inactivity_s`` without a transfer, which is also how long the tail lasts.
    """

    setup_s: float
    grant_s: float
    inactivity_s: float


FREE = RadioEnergy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
