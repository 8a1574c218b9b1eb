"""One 5G NR cell: TR 38.901 propagation, link adaptation, power-limited uplink, scheduled resource blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from fedwave.core.config import Decibel, NonNegative, Positive, Probability, part
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Work, World
from fedwave.wireless import power
from fedwave.wireless.budget import DEPLOYMENTS, Deployment, LinkBudget, Row
from fedwave.wireless.energy import Connection, RadioEnergy
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.geometry.largescale import LargeScale, large_scale
from fedwave.wireless.geometry.placement import annulus
from fedwave.wireless.link import goodput_bps, resource_blocks
from fedwave.wireless.network import Network
from fedwave.wireless.scheduler import Scheduler
from fedwave.wireless.schedulers.equal_finish import EqualFinish
from fedwave.wireless.uplinks.digital import Digital, Uplink


@register("network", "cell")
@dataclass(frozen=True)
class Cell(Network):
    """A site in the middle of its cell; other cells appear as interference over thermal. Cost per round: O(C M).

    Every client receives its message by unicast. Rates follow from the mean SINR (path loss, shadowing, penetration):
    fast fading is inside the implementation gap. Multi-user MIMO is excluded. The transfers of different phases of a
    round do not compete with each other.

    Parameters
    ----------
    scenario : "UMa", "UMi", "RMa", "InH"; sets the defaults of the fields that are ``None`` (see ``explain()``).
    carrier_ghz : carrier frequency.
    bandwidth_mhz, subcarrier_khz : an FR1 channel of TS 38.101-1 Table 5.3.2-1.
    scheduler, uplink : who sends when, and how; the scheduler also shares the downlink.
    radius_m, min_distance_m : the cell that clients are placed in (default: inter-site distance / sqrt 3).
    h_bs_m, h_ut_m : antenna heights of the site and of the users.
    gnb_power_dbm : transmit power of the site, over the whole carrier.
    indoor_share, o2i_model : clients behind a wall, and which (TR 38.901 Table 7.4.3-2).
    budget, energy : tables with a source per entry.
    """

    scenario: Literal["UMa", "UMi", "RMa", "InH"] = "UMa"
    carrier_ghz: Positive = 3.5
    bandwidth_mhz: Positive = 20.0
    subcarrier_khz: Literal[15, 30, 60] = 30
    scheduler: Annotated[Scheduler, part("scheduler")] = field(default_factory=EqualFinish)
    uplink: Annotated[Uplink, part("uplink")] = field(default_factory=Digital)
    radius_m: Positive | None = None
    min_distance_m: NonNegative | None = None
    h_bs_m: Positive | None = None
    h_ut_m: Positive = 1.5
    indoor_share: Probability | None = None
    gnb_power_dbm: Decibel | None = None
    o2i_model: Literal["low", "high"] = "low"
    budget: LinkBudget = field(default_factory=LinkBudget)
    energy: RadioEnergy = field(default_factory=RadioEnergy)

    cite: ClassVar[str] = "3GPP TR 38.901 (propagation), TS 38.214 and TS 38.306 (rates)"

    def __post_init__(self) -> None:
        """Refuse grids that 3GPP does not have, and cells without an inside."""
        resource_blocks(self.bandwidth_mhz, self.subcarrier_khz)
        if self._or_default("min_distance_m") >= self._radius_m:
            raise BadInput(
                f"radius_m: {self._radius_m:g} m must exceed min_distance_m, {self._or_default('min_distance_m'):g} m"
            )
        if self.budget.tdd_downlink_share <= 0.0:
            raise BadInput("budget.tdd_uplink_share: uplink and guard shares must leave something for the downlink")

    @property
    def prbs(self) -> int:
        """Resource blocks of the carrier, M."""
        return resource_blocks(self.bandwidth_mhz, self.subcarrier_khz)

    @property
    def _deployment(self) -> Deployment:
        return DEPLOYMENTS[self.scenario]

    @property
    def _radius_m(self) -> float:
        return self._deployment.radius_m if self.radius_m is None else self.radius_m

    def _or_default(self, name: str) -> float:
        value = getattr(self, name)
        return getattr(self._deployment, name) if value is None else value

    def explain(self) -> list[Row]:
        """The whole link budget, resolved: ``(name, value, unit, source)``."""
        own = [("radius_m", self._radius_m, "m", "job" if self.radius_m else "inter-site distance / sqrt(3)")]
        for name, _, unit, source in DEPLOYMENTS[self.scenario].rows():
            if hasattr(self, name):
                chosen = getattr(self, name)
                own.append((name, self._or_default(name), unit, source if chosen is None else "job"))
        own += [("h_ut_m", self.h_ut_m, "m", "TR 38.901 Table 7.2-1 (outdoor and ground-floor users)")]
        own += [("resource_blocks", self.prbs, "", "TS 38.101-1 Table 5.3.2-1")]
        return own + self.budget.rows() + self.energy.rows()

    def place(self, n: int, key: Key) -> Floats:
        """Uniform over the cell, ``[N, 2]`` metres."""
        return annulus(n, key, radius_m=self._radius_m, min_distance_m=self._or_default("min_distance_m"))

    def coupling(self, world: World, cohort: Cohort, static_key: Key) -> LargeScale:
        """Large-scale state of the cohort: draws of ``static_key`` at the world's positions."""
        return large_scale(
            self.scenario,
            world.position_m[cohort.ids],
            cohort.ids,
            static_key,
            carrier_ghz=self.carrier_ghz,
            h_bs_m=self._or_default("h_bs_m"),
            h_ut_m=self.h_ut_m,
            indoor_share=self._or_default("indoor_share"),
            o2i_model=self.o2i_model,
        )

    def rates(self, loss_db: Floats) -> tuple[Floats, Floats, Floats]:
        """Goodput down and up ``[C, M]`` by granted blocks, and the uplink SINR ``[C, M]`` in dB."""
        up_db = power.uplink_sinr_db(loss_db, prbs=self.prbs, subcarrier_khz=self.subcarrier_khz, budget=self.budget)
        budget = self.budget
        up = self._goodput(
            up_db,
            share=budget.tdd_uplink_share,
            layers=budget.uplink_layers,
            table=budget.uplink_mcs_table,
            symbols=14,
            dmrs_re_per_prb=24,  # two reference-signal symbols, six elements each in two groups without data
        )
        return self._downlink(loss_db), up, up_db

    def _downlink(self, loss_db: Floats) -> Floats:
        """Downlink goodput ``[C, M]`` with the number of layers that carries most."""
        best = np.zeros((len(loss_db), self.prbs))
        for layers in range(1, self.budget.downlink_layers + 1):
            sinr_db = power.downlink_sinr_db(
                loss_db,
                prbs=self.prbs,
                subcarrier_khz=self.subcarrier_khz,
                layers=layers,
                gnb_power_dbm=self._or_default("gnb_power_dbm"),
                budget=self.budget,
            )
            rate = self._goodput(
                sinr_db[:, None],
                share=self.budget.tdd_downlink_share,
                layers=layers,
                table=self.budget.downlink_mcs_table,
                symbols=12,  # two of a slot's symbols carry the control channel
                dmrs_re_per_prb=12,
            )
            best = np.maximum(best, rate)
        return best

    def _goodput(
        self, sinr_db: Floats, *, share: float, layers: int, table: int, symbols: int, dmrs_re_per_prb: int
    ) -> Floats:
        return goodput_bps(
            10.0 ** (sinr_db / 10.0),
            prbs=self.prbs,
            subcarrier_khz=self.subcarrier_khz,
            share=share,
            layers=layers,
            table=table,
            symbols=symbols,
            dmrs_re_per_prb=dmrs_re_per_prb,
            gap_db=self.budget.implementation_gap_db,
            bler=self.budget.target_bler,
            protocol_overhead=self.budget.protocol_overhead,
        )

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
        """See :meth:`Network.deliver`; ``sinr_db`` is the uplink's with all resource blocks granted."""
        down, up, up_db = self.rates(self.coupling(world, cohort, static_key).loss_db)
        until_s = np.inf if deadline_s is None else deadline_s
        links = Links(
            down=lambda start_s, bits: self.scheduler.finish(start_s, bits, down),
            up=lambda start_s, bits: self.uplink.finish(start_s, bits, up, self.scheduler, until_s),
            connection=Connection(self.budget.setup_s, self.budget.grant_s, self.budget.inactivity_s),
            energy=self.energy,
            sinr_db=up_db[:, -1],
            lost=np.zeros(len(cohort), dtype=bool),
            idle_s=world.radio_idle_s(cohort.ids),
        )
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)
