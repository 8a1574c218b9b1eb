"""Energy of the radio: a client's by one of two models, whole phone or components, and the gNB's by its load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.config import Count, Decibel, Fraction, Index, NonNegative, Positive
from fedwave.core.errors import BadInput
from fedwave.core.registry import register
from fedwave.core.types import Floats
from fedwave.wireless.budget import Row, job_rows, sourced

_HUANG = "measured LTE phone, Huang et al., MobiSys 2012, Tables 3 and 4"
_FIT = "fitted to public phone measurements with a hardware power monitor (5,049 samples)"


@dataclass(frozen=True)
class Drx:
    """Connected-mode discontinuous reception, TS 38.321 5.7: what a connected radio without data draws.

    The radio listens for ``after_s`` once a transfer is over. Then it wakes for ``on_s`` of every cycle:
    ``short_cycles`` short ones, long ones from there. A cycle counts with its mean power,
    ``(on_s P_tail + (cycle - on_s) P_sleep + E_wake) / cycle``.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    enabled: bool = sourced(True, "", "off: the radio listens all the time")
    after_s: NonNegative = sourced(0.1, "s", "assumption: drx-InactivityTimer, a value of TS 38.331")
    on_s: NonNegative = sourced(0.008, "s", "assumption: drx-onDurationTimer, a value of TS 38.331")
    long_cycle_s: Positive = sourced(0.16, "s", "assumption: drx-LongCycle, a value of TS 38.331")
    short_cycle_s: Positive = sourced(0.04, "s", "assumption: drx-ShortCycle, a value of TS 38.331")
    short_cycles: Index = sourced(0, "", "assumption: drx-ShortCycleTimer; 0 is no short cycle")
    sleep_w: NonNegative = sourced(0.025, "W", "light sleep, 20 units of TR 38.840 Table 18; 1.26 mW a unit")
    wake_j: NonNegative = sourced(0.000126, "J", "light sleep in and out, 100 units x ms of TR 38.840; 1.26 mW a unit")

    def __post_init__(self) -> None:
        """Refuse cycles that are shorter than their on duration."""
        if self.on_s > self.long_cycle_s or (self.short_cycles > 0 and self.on_s > self.short_cycle_s):
            raise BadInput(f"on_s: {self.on_s:g} s must not exceed a cycle")

    def joules(self, seconds: Floats, listening_w: float) -> Floats:
        """Energy of the first ``seconds [C]`` (finite, >= 0) after a transfer."""
        if not self.enabled:
            return listening_w * seconds
        short_s = self.short_cycles * self.short_cycle_s
        listening = np.minimum(seconds, self.after_s)
        short = np.clip(seconds - self.after_s, 0.0, short_s)
        long = np.maximum(seconds - self.after_s - short_s, 0.0)
        mean_w = [self._mean_w(cycle, listening_w) for cycle in (self.short_cycle_s, self.long_cycle_s)]
        return listening_w * listening + mean_w[0] * short + mean_w[1] * long

    def _mean_w(self, cycle_s: float, listening_w: float) -> float:
        return (self.on_s * listening_w + (cycle_s - self.on_s) * self.sleep_w + self.wake_j) / cycle_s


class EnergyModel(ABC):
    """Power of a client's radio in each of its states; exactly one model is in force, so nothing is counted twice.

    ``transmit_w`` where a network has no power control, ``receive_w``, ``uplink_j_per_bit``, ``downlink_j_per_bit``;
    ``setup_w`` while connecting, ``tail_w`` while connected without data, ``drx`` what reduces it.
    """

    receive_w: float
    uplink_j_per_bit: float
    downlink_j_per_bit: float
    setup_w: float
    tail_w: float
    drx: Drx
    transmit_w: float
    model: ClassVar[str]

    @abstractmethod
    def send_w(self, power_dbm: ArrayLike, uplink_share: float = 1.0) -> Floats:
        """Mean power over an upload, any shape; bits are charged on top by ``uplink_j_per_bit``.

        Parameters
        ----------
        power_dbm : radiated while sending.
        uplink_share : of the upload's time in which it sends, because TDD gives the rest to the downlink.
        """

    def tail_j(self, gap_s: ArrayLike, inactivity_s: float) -> Floats:
        """Energy of the first ``gap_s`` (>= 0, may be infinite) after a transfer; asleep from ``inactivity_s`` on.

        ``integral of P(t) from 0 to min(gap_s, inactivity_s)``; without DRX ``tail_w min(gap_s, inactivity_s)``.
        """
        seconds = np.minimum(np.maximum(np.asarray(gap_s, dtype=float), 0.0), inactivity_s)
        return self.drx.joules(seconds, self.tail_w)

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)``: which model, its entries, and those of DRX; "job" where a job set it."""
        first: Row = ("energy_model", self.model, "", "whole phone or components, never both")
        own = [row for row in job_rows(self) if row[0] != "drx"]
        drx: list[Row] = [(f"drx.{name}", value, unit, source) for name, value, unit, source in job_rows(self.drx)]
        return [first, *own, *drx[: None if self.drx.enabled else 1]]


@register("energy", "whole_phone")
@dataclass(frozen=True)
class RadioEnergy(EnergyModel):
    """Whole phone, low-band 5G: ``P = intercept + slope x rate`` on the air, constant while connecting and in the tail.

    Nothing is added for the power amplifier or the baseband, whatever the transmit power: they are in the figures. So
    is what the phone draws with its screen off, so idle power charged over the same seconds is slightly pessimistic;
    and so is the DRX of the measured network, which is why ``drx`` is off here. The tail is charged whole after a
    client's last transfer. A zero object is a free radio.
    """

    model: ClassVar[str] = "whole phone (intercept + slope per bit)"

    transmit_w: NonNegative = sourced(1.288, "W", f"{_HUANG}; assumed for NR")
    receive_w: NonNegative = sourced(1.288, "W", f"{_HUANG}; assumed for NR")
    uplink_j_per_bit: NonNegative = sourced(32.2e-9, "J/bit", f"low-band 5G, {_FIT}")
    downlink_j_per_bit: NonNegative = sourced(11.5e-9, "J/bit", f"low-band 5G, {_FIT}")
    setup_w: NonNegative = sourced(1.211, "W", f"promotion power, {_HUANG}; assumed for NR")
    tail_w: NonNegative = sourced(1.060, "W", f"tail base power, {_HUANG}; assumed for NR")
    drx: Drx = sourced(Drx(enabled=False), "", "the measured tail has its network's DRX in it")

    def send_w(self, power_dbm: ArrayLike, uplink_share: float = 1.0) -> Floats:
        """``transmit_w`` whatever the power and the share: measured over uploads, pauses between slots included."""
        return np.full(np.shape(power_dbm), self.transmit_w)


@register("energy", "whole_phone_lte")
@dataclass(frozen=True)
class WholePhoneLte(RadioEnergy):
    """Whole phone on LTE, measured: intercept plus slope per bit (see :class:`RadioEnergy`)."""

    uplink_j_per_bit: NonNegative = sourced(76.7e-9, "J/bit", f"LTE, {_FIT}")
    downlink_j_per_bit: NonNegative = sourced(11.5e-9, "J/bit", f"LTE, {_FIT}")


@register("energy", "whole_phone_mmwave")
@dataclass(frozen=True)
class WholePhoneMmWave(RadioEnergy):
    """Whole phone on 5G millimetre wave: measured slopes per bit; the intercepts of LTE are an assumption, and low."""

    uplink_j_per_bit: NonNegative = sourced(8.9e-9, "J/bit", f"millimetre wave, {_FIT}")
    downlink_j_per_bit: NonNegative = sourced(1.7e-9, "J/bit", f"millimetre wave, {_FIT}")


@register("energy", "components")
@dataclass(frozen=True)
class Components(EnergyModel):
    """The modem by its parts: ``P = P_tx / eta + P_baseband`` while sending, ``receive_w`` while receiving, no slope.

    Between its uplink slots it draws ``tail_w``: it listens for its next grant (PDCCH) and receives no data.

    Ratios are those of 3GPP TR 38.840 (FR1, 100 MHz, four receive antennas). They have no watts: the unit is fixed at
    1.26 mW, so that the 450 units between 0 and 23 dBm are ``(200 - 1) mW / eta`` at the assumed PA efficiency of 0.35,
    independent of power. The rest of the phone is not in it.
    """

    model: ClassVar[str] = "components (power amplifier + baseband)"

    pa_efficiency: Fraction = sourced(0.35, "", "assumption: eta of the power amplifier, at every transmit power")
    baseband_w: NonNegative = sourced(0.312, "W", "250 units at 0 dBm less its PA, TR 38.840 Table 18; 1.26 mW a unit")
    receive_w: NonNegative = sourced(0.378, "W", "PDCCH + PDSCH, 300 units, TR 38.840 Table 18; 1.26 mW a unit")
    setup_w: NonNegative = sourced(0.378, "W", "assumption: as receiving, random access is mostly waiting for answers")
    tail_w: NonNegative = sourced(0.126, "W", "PDCCH only, 100 units, TR 38.840 Table 18; 1.26 mW a unit")
    max_power_dbm: Decibel = sourced(23.0, "dBm", "power class 3, TS 38.101-1 Table 6.2.1-1; without power control")
    drx: Drx = sourced(Drx(), "", "see the drx entries")

    @property
    def transmit_w(self) -> float:
        """Power while sending at ``max_power_dbm``."""
        return float(self.send_w(self.max_power_dbm))

    @property
    def uplink_j_per_bit(self) -> float:
        """Nothing beyond the power: 0."""
        return 0.0

    @property
    def downlink_j_per_bit(self) -> float:
        """Nothing beyond the power: 0."""
        return 0.0

    def send_w(self, power_dbm: ArrayLike, uplink_share: float = 1.0) -> Floats:
        """``10^(P_dBm / 10) mW / eta + P_baseband`` for the uplink's share of the time, else ``tail_w``; any shape."""
        amplifier_w = 1e-3 * 10.0 ** (np.asarray(power_dbm, dtype=float) / 10.0) / self.pa_efficiency
        return uplink_share * (amplifier_w + self.baseband_w) + (1.0 - uplink_share) * self.tail_w


@register("energy", "nb-iot")
@dataclass(frozen=True)
class NbIotModem(Components):
    """A Cat-NB modem by its parts, with the powers of the battery study of 3GPP TR 45.820: 545 mW sending 23 dBm."""

    pa_efficiency: Fraction = sourced(0.44, "", "power amplifier, TR 45.820 5.4 (secondary)")
    baseband_w: NonNegative = sourced(0.091, "W", "545 mW at 23 dBm less its PA, TR 45.820 5.4 (secondary)")
    receive_w: NonNegative = sourced(0.090, "W", "TR 45.820 5.4 (secondary)")
    setup_w: NonNegative = sourced(0.090, "W", "assumption: as receiving")
    tail_w: NonNegative = sourced(0.090, "W", "assumption: as receiving, until the connection is released")
    drx: Drx = sourced(Drx(enabled=False), "", "assumption: none in the tail")


@register("energy", "wifi")
@dataclass(frozen=True)
class WifiStation(Components):
    """The Wi-Fi radio of a phone by its parts. Every figure is an assumption, of the order of data sheets."""

    pa_efficiency: Fraction = sourced(0.2, "", "assumption: a linear power amplifier, backed off")
    baseband_w: NonNegative = sourced(0.5, "W", "assumption: of the order of data sheets")
    receive_w: NonNegative = sourced(0.4, "W", "assumption: of the order of data sheets")
    setup_w: NonNegative = sourced(0.4, "W", "assumption: as receiving")
    tail_w: NonNegative = sourced(0.4, "W", "assumption: as receiving, until power save")
    max_power_dbm: Decibel = sourced(15.0, "dBm", "assumption: a phone's transmit power")
    drx: Drx = sourced(Drx(enabled=False), "", "assumption: none in the tail")


@register("energy", "leo_terminal")
@dataclass(frozen=True)
class LeoTerminal(RadioEnergy):
    """A satellite user terminal while in use: constant power, an assumption of the order of its makers' sheets."""

    model: ClassVar[str] = "terminal (constant power while in use)"

    transmit_w: NonNegative = sourced(60.0, "W", "assumption: a phased-array terminal, whatever it does")
    receive_w: NonNegative = sourced(60.0, "W", "assumption: a phased-array terminal, whatever it does")
    uplink_j_per_bit: NonNegative = sourced(0.0, "J/bit", "assumption: power does not depend on the rate")
    downlink_j_per_bit: NonNegative = sourced(0.0, "J/bit", "assumption: power does not depend on the rate")
    setup_w: NonNegative = sourced(60.0, "W", "assumption: a phased-array terminal, whatever it does")
    tail_w: NonNegative = sourced(60.0, "W", "assumption: a phased-array terminal, whatever it does")
    drx: Drx = sourced(Drx(enabled=False), "", "assumption: none")


@dataclass(frozen=True)
class Connection:
    """When a transfer can start: after connection set-up when the radio was asleep, after a grant otherwise.

    The radio falls asleep after ``inactivity_s`` without a transfer, which is also how long the tail lasts.
    ``backhaul_s`` passes between the server and the site before or after a transfer; the radio is not in use then.
    """

    setup_s: float
    grant_s: float
    inactivity_s: float
    backhaul_s: float = 0.0


FREE = RadioEnergy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class GnbEnergy:
    """Energy of base stations by their load: ``P = N_TRX (P_0 + Delta_p P_max load)``.

    Auer et al., How much energy is needed to run a wireless network?, IEEE Wireless Communications 18(5), 2011, eq. 1.

    The load is the mean share of the transmit power (or of the resource blocks) in use. With ``sleeps`` the time
    without data costs ``P_sleep`` instead of ``P_0``. The figures are those of an LTE macro site of 2010; active
    antennas of 5G differ, so compare ratios rather than joules.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    transceivers: Count = sourced(2, "", "a cell's part of a three-sector site's six, Auer et al. 2011, Table 2")
    idle_w: NonNegative = sourced(130.0, "W", "P_0 of a macro transceiver, Auer et al. 2011, Table 2")
    slope: NonNegative = sourced(4.7, "", "Delta_p of a macro transceiver, Auer et al. 2011, Table 2")
    max_power_w: NonNegative = sourced(20.0, "W", "P_max of a macro transceiver, Auer et al. 2011, Table 2")
    sleep_w: NonNegative = sourced(75.0, "W", "P_sleep of a macro transceiver, Auer et al. 2011, Table 2")
    sleeps: bool = sourced(False, "", "assumption: reference signals keep a cell awake")

    def joules(self, seconds: float, load: ArrayLike, cells: int = 1) -> float:
        """Energy of ``cells`` cells over ``seconds``.

        Parameters
        ----------
        seconds : >= 0.
        load : in [0, 1], one number for every cell or ``[cells]``.
        cells : number of cells.

        Raises
        ------
        BadInput : a load outside [0, 1], or seconds that are negative or not finite.
        """
        share = np.broadcast_to(np.asarray(load, dtype=float), (cells,))
        if not ((share >= 0.0) & (share <= 1.0)).all():
            raise BadInput(f"load: must be from 0 to 1, got {load!r}")
        if not (np.isfinite(seconds) and seconds >= 0.0):
            raise BadInput(f"seconds: must be finite and not negative, got {seconds!r}")
        silent_w = self.sleep_w * (1.0 - share) + self.idle_w * share if self.sleeps else self.idle_w
        watts = silent_w + self.slope * self.max_power_w * share
        return float(seconds * self.transceivers * np.broadcast_to(watts, share.shape).sum())

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each entry."""
        return job_rows(self)
