"""Low-earth-orbit satellite access: measured rates and latency, shared beams, reconfigurations, gaps in visibility."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedwave.core.config import Count, Fraction, NonNegative, Positive, part
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Ints, Work, World
from fedwave.wireless.budget import Row, job_rows, sourced
from fedwave.wireless.energy import Connection, EnergyModel, LeoTerminal
from fedwave.wireless.flow import Links, Transfer, run_round
from fedwave.wireless.medium import share
from fedwave.wireless.network import Network

_OOKLA = "median of Starlink users in Maine, Ookla, 18 December 2024"
_MOHAN = "Mohan et al., A multifaceted look at Starlink performance, WWW 2024"
_EARTH_M, _GRAVITY, _LIGHT_M_S = 6.371e6, 3.986004e14, 299_792_458.0  # mean radius; G M in m^3/s^2


def overhead_pass(altitude_km: float, min_elevation_deg: float) -> tuple[float, float]:
    """Seconds that a satellite passing overhead is in view, and metres to it at the edge of the view.

    From the geometry of a circular orbit: ``psi = arccos(R cos(e) / (R + h)) - e`` is the angle at the Earth's centre
    between the terminal and the satellite at elevation e; the orbit turns by ``sqrt(G M / (R + h)^3)``, so the pass
    lasts ``2 psi`` of it, and the slant range is ``(R + h) sin(psi) / cos(e)``. The Earth's own rotation is left out
    (at most 7 % at 550 km).
    """
    orbit_m, elevation = _EARTH_M + 1e3 * altitude_km, np.deg2rad(min_elevation_deg)
    psi = np.arccos(_EARTH_M * np.cos(elevation) / orbit_m) - elevation
    return float(2.0 * psi / np.sqrt(_GRAVITY / orbit_m**3)), float(orbit_m * np.sin(psi) / np.cos(elevation))


@register("network", "leo")
@dataclass(frozen=True)
class Leo(Network):
    """Clients with a terminal each under the beams of a low-earth-orbit constellation.

    A terminal gets its own measured rate, or an equal share of its beam where that is less. Every ``reconfiguration_s``
    of the simulated clock all links are assigned anew and carry nothing for ``interruption_s``. A dense constellation
    always has a satellite in view; a sparse one, ``visible_share`` below 1, serves a beam for the length of an overhead
    pass and then not at all until the next one, each beam at its own times; who waits for it draws as in a transfer.
    Weather is left out, and so is what a terminal draws between transfers.

    Parameters
    ----------
    downlink_mbps, uplink_mbps : rate of a terminal that has enough of its beam.
    beam_downlink_mbps, beam_uplink_mbps : what all terminals of a beam share.
    beams : clients are spread over so many, by chance and for good.
    rtt_s : before a transfer.
    reconfiguration_s, interruption_s : how often, and for how long, nothing is carried.
    visible_share : of the time, in which a beam has a satellite in view.
    altitude_km, min_elevation_deg : of the orbit, and above which a satellite is in view; they give a pass its length.
    energy : energy model of a terminal.
    """

    downlink_mbps: Positive = sourced(116.77, "Mbit/s", _OOKLA)
    uplink_mbps: Positive = sourced(18.17, "Mbit/s", _OOKLA)
    beam_downlink_mbps: Positive = sourced(600.0, "Mbit/s", "assumption: capacity of a beam")
    beam_uplink_mbps: Positive = sourced(100.0, "Mbit/s", "assumption: capacity of a beam")
    beams: Count = sourced(1, "", "assumption: all clients under one beam, the worst case")
    rtt_s: NonNegative = sourced(
        0.05, "s", "median to European servers, Michel et al., A first look at Starlink, IMC 2022"
    )
    reconfiguration_s: Positive = sourced(15.0, "s", f"globally synchronised, {_MOHAN}")
    interruption_s: NonNegative = sourced(0.2, "s", f"assumption: sub-second degradations are reported, {_MOHAN}")
    visible_share: Fraction = sourced(1.0, "", "assumption: a dense constellation, always in view")
    altitude_km: Positive = sourced(550.0, "km", "Starlink's first shell, FCC 21-48 (2021)")
    min_elevation_deg: Annotated[float, Field(ge=0, le=80, strict=True)] = sourced(
        25.0, "deg", "Starlink's least elevation of user terminals, FCC 21-48 (2021)"
    )
    energy: Annotated[EnergyModel, part("energy")] = sourced(LeoTerminal(), "", "see the energy rows")

    cite: ClassVar[str] = "Michel et al., IMC 2022; Mohan et al., WWW 2024; Ookla, 2024"

    def __post_init__(self) -> None:
        """Refuse links that are always interrupted."""
        if self.interruption_s >= self.reconfiguration_s:
            raise BadInput(
                f"interruption_s: {self.interruption_s:g} s must be less than reconfiguration_s, "
                f"{self.reconfiguration_s:g} s"
            )
        if self.pass_s <= self.interruption_s:
            raise BadInput(
                f"min_elevation_deg: {self.min_elevation_deg:g} leaves a satellite in view for {self.pass_s:.3g} s, "
                f"no longer than interruption_s, {self.interruption_s:g} s"
            )

    @property
    def pass_s(self) -> float:
        """How long a satellite that passes overhead is in view."""
        return overhead_pass(self.altitude_km, self.min_elevation_deg)[0]

    @property
    def distance_s(self) -> float:
        """From the beginning of a pass to that of the next one."""
        return self.pass_s / self.visible_share

    def explain(self) -> list[Row]:
        """``(name, value, unit, source)``: the parameters, what follows from the orbit, and energy."""
        pass_s, slant_m = overhead_pass(self.altitude_km, self.min_elevation_deg)
        orbit: list[Row] = [
            ("pass_s", pass_s, "s", "an overhead pass of a circular orbit"),
            ("least_rtt_s", 4e3 * self.altitude_km / _LIGHT_M_S, "s", "to a gateway by a satellite overhead; in rtt_s"),
            ("edge_rtt_s", 4.0 * slant_m / _LIGHT_M_S, "s", "the same at the least elevation, both ends; in rtt_s"),
        ]
        return [row for row in job_rows(self) if row[0] != "energy"] + orbit + self.energy.rows()

    def place(self, n: int, key: Key) -> Floats:
        """Everybody at the site: distance plays no part."""
        return np.zeros((n, 2))

    def deliver(
        self,
        world: World,
        cohort: Cohort,
        work: Work,
        compute: Compute,
        key: Key,
        *,
        static_key: Key,
        deadline_s: float | None,
        server_s: float = 0.0,
        server_j: float = 0.0,
    ) -> Delivery:
        """See :meth:`Network.deliver`; ``sinr_db`` is NaN."""
        service = _Service(self, world.clock_s, cohort.ids, static_key)
        links = Links(
            down=service.transfer(self.downlink_mbps, self.beam_downlink_mbps),
            up=service.transfer(self.uplink_mbps, self.beam_uplink_mbps),
            connection=Connection(self.rtt_s, self.rtt_s, inactivity_s=0.0),
            energy=self.energy,
            sinr_db=np.full(len(cohort), np.nan),
            lost=np.zeros(len(cohort), dtype=bool),
        )
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)

    def service_s(self, clock_s: Floats) -> Floats:
        """Seconds of service up to a time >= 0 of a beam's clock; a pass, and a period, begins at 0.

        Interruptions stand at the beginning of each period, and a pass begins a new period.
        """
        if self.visible_share == 1.0:
            return self._served_s(clock_s)
        passes = np.floor(clock_s / self.distance_s)
        within = np.minimum(clock_s - passes * self.distance_s, self.pass_s)
        return passes * self._served_s(self.pass_s) + self._served_s(within)

    def clock_of(self, service_s: Floats) -> Floats:
        """The first time of a beam's clock by which there have been so many seconds of service."""
        if self.visible_share == 1.0:
            return self._first_s(service_s)
        each = self._served_s(self.pass_s)
        passes = np.maximum(np.ceil(service_s / each) - 1.0, 0.0)
        return passes * self.distance_s + self._first_s(service_s - passes * each)

    def _served_s(self, seconds: Floats | float) -> Floats:
        """Service of the first ``seconds`` of a pass."""
        periods = np.floor(seconds / self.reconfiguration_s)
        within = seconds - periods * self.reconfiguration_s
        return periods * (self.reconfiguration_s - self.interruption_s) + np.maximum(within - self.interruption_s, 0.0)

    def _first_s(self, service_s: Floats) -> Floats:
        """When in a pass there have been so many seconds of service."""
        each = self.reconfiguration_s - self.interruption_s
        periods = np.maximum(np.ceil(service_s / each) - 1.0, 0.0)
        return periods * self.reconfiguration_s + self.interruption_s + service_s - periods * each


class _Service:
    """Who is under which beam, and how the beams' clocks stand when the round begins."""

    def __init__(self, leo: Leo, clock_s: float, ids: Ints, static_key: Key) -> None:
        self.leo = leo
        self.beam = np.floor(static_key.fold("beam").uniform(ids)[:, 0] * leo.beams).astype(np.int64)
        self.clock_s = np.full(len(ids), clock_s)
        if leo.visible_share < 1.0:
            self.clock_s = clock_s + static_key.fold("pass").uniform(self.beam)[:, 0] * leo.distance_s

    def transfer(self, own_mbps: float, beam_mbps: float) -> Transfer:
        def speed(active: tuple[int, ...], _: bool) -> tuple[float]:
            return (1e6 * min(own_mbps, beam_mbps / active[0]),)

        def end(start_s: Floats, bits: Floats) -> Floats:
            sends = np.isfinite(start_s) & (bits > 0.0)
            done = np.where(sends, self.leo.service_s(np.where(sends, self.clock_s + start_s, 0.0)), np.inf)
            for each in np.unique(self.beam[sends]):
                inside = sends & (self.beam == each)
                done[inside] = share(done[inside], bits[inside], speed)
            end_s = self.leo.clock_of(np.where(sends, done, 0.0)) - self.clock_s
            return np.where(sends, np.maximum(end_s, start_s), start_s)

        return end
