"""A 5G NR network: TR 38.901 propagation, fading-averaged link tables, power-limited uplink, scheduled blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from fedwave.core.config import Decibel, NonNegative, Positive, Probability, part
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Work, World
from fedwave.wireless import channel
from fedwave.wireless.base_delivery import BaseDelivery, base_delivery
from fedwave.wireless.budget import DEPLOYMENTS, Deployment, LinkBudget, Row
from fedwave.wireless.cells.access import RandomAccess
from fedwave.wireless.cells.cell_round import CellRound
from fedwave.wireless.cells.coverage import Coverage
from fedwave.wireless.cells.reception import listeners
from fedwave.wireless.downlinks.downlink import Downlink
from fedwave.wireless.downlinks.unicast import Unicast
from fedwave.wireless.energy import Connection, EnergyModel, GnbEnergy, RadioEnergy
from fedwave.wireless.geometry.antenna import Antenna
from fedwave.wireless.geometry.handover import Handover
from fedwave.wireless.geometry.mobility import Mobility, Static
from fedwave.wireless.geometry.placement import annulus
from fedwave.wireless.geometry.scene import Scene
from fedwave.wireless.geometry.spreads import delay_spread_s
from fedwave.wireless.geometry.topology import Layout
from fedwave.wireless.link import FR2_FROM_GHZ, resource_blocks
from fedwave.wireless.network import Network
from fedwave.wireless.phy.goodput import extension_below_db
from fedwave.wireless.radio import Carrier
from fedwave.wireless.scheduler import Scheduler
from fedwave.wireless.schedulers.equal_finish import EqualFinish
from fedwave.wireless.traffic import Traffic
from fedwave.wireless.uplinks.air_radio import air_grid
from fedwave.wireless.uplinks.air_time import AirGrid
from fedwave.wireless.uplinks.aircomp import AirComp
from fedwave.wireless.uplinks.digital import Digital, Uplink


@register("network", "cell")
@dataclass(frozen=True)
class Cell(Network):
    """One cell or a cluster of sites that serve the clients. Cost per round: O(clients).

    ``sites = 1``: all clients are in one cell, and others appear as interference over thermal. More sites: clients are
    spread over the cluster and served by the strongest cell; interference follows from the load. Rates are averages
    over fast fading (short transfers vary around them). Multi-user MIMO is excluded. The transfers of different
    phases of a round do not compete with each other.

    Parameters
    ----------
    scenario : "UMa", "UMi", "RMa", "InH"; sets the defaults of the fields that are ``None`` (see ``explain()``).
    carrier_ghz : carrier frequency.
    bandwidth_mhz, subcarrier_khz : a channel of TS 38.101-1 or, from 24.25 GHz on, TS 38.101-2 (Tables 5.3.2-1).
    sites, sectors : sites of a hexagonal cluster (1, 7, 19 or 37) and cells of each (1 or 3).
    inter_site_distance_m, wrap_around : of the cluster; it repeats, so that its edge has neighbours too.
    scheduler, uplink, downlink : who sends when, and how; the scheduler also shares the downlink.
    uplink_traffic, downlink_traffic : background flows with QoS targets on the same carrier, and FL's cap beside them.
    access : how sleeping radios connect.
    mobility, handover : how clients move, and what that costs.
    radius_m, min_distance_m : the cell that clients are placed in (default: inter-site distance / sqrt 3), sites = 1.
    h_bs_m, h_ut_m : antenna heights of the site and of the users.
    gnb_power_dbm : transmit power of a cell, over the whole carrier.
    indoor_share, o2i_model : clients behind a wall, and which (TR 38.901 Table 7.4.3-2).
    in_car_share : of those outdoors, who sit in a car.
    office : of InH, which decides on line of sight (TR 38.901 Table 7.4.2-1).
    tilt_deg : downtilt of a sector's antenna.
    budget, energy, gnb : tables with a source per entry: link, clients' radios, base stations.
    fidelity : "table" for 10 to 1,000,000 clients. For at most 1,000 that stand still, with Sionna (the extra
        ``sionna``): "system", slot by slot in a TR 38.901 channel (round robin or proportional fair), or "link", rates
        from each client's impulse responses. A plan always takes the tables.
    """

    scenario: Literal["UMa", "UMi", "RMa", "InH"] = "UMa"
    carrier_ghz: Positive = 3.5
    bandwidth_mhz: Positive = 20.0
    subcarrier_khz: Literal[15, 30, 60, 120] = 30
    sites: Literal[1, 7, 19, 37] = 1
    sectors: Literal[1, 3] = 1
    inter_site_distance_m: Positive | None = None
    wrap_around: bool = True
    scheduler: Annotated[Scheduler, part("scheduler")] = field(default_factory=EqualFinish)
    uplink: Annotated[Uplink, part("uplink")] = field(default_factory=Digital)
    downlink: Annotated[Downlink, part("downlink")] = field(default_factory=Unicast)
    uplink_traffic: Traffic = field(default_factory=Traffic)
    downlink_traffic: Traffic = field(default_factory=Traffic)
    access: RandomAccess = field(default_factory=RandomAccess)
    mobility: Annotated[Mobility, part("mobility")] = field(default_factory=Static)
    handover: Handover = field(default_factory=Handover)
    radius_m: Positive | None = None
    min_distance_m: NonNegative | None = None
    h_bs_m: Positive | None = None
    h_ut_m: Positive = 1.5
    indoor_share: Probability | None = None
    in_car_share: Probability | None = None
    gnb_power_dbm: Decibel | None = None
    o2i_model: Literal["low", "high"] = "low"
    office: Literal["mixed", "open"] = "mixed"
    tilt_deg: NonNegative = 0.0
    budget: LinkBudget = field(default_factory=LinkBudget)
    energy: Annotated[EnergyModel, part("energy")] = field(default_factory=RadioEnergy)
    gnb: GnbEnergy = field(default_factory=GnbEnergy)
    fidelity: Literal["table", "system", "link"] = "table"

    cite: ClassVar[str] = "3GPP TR 38.901 (propagation), TS 38.214 and TS 38.306 (rates)"

    def __post_init__(self) -> None:
        """Refuse grids that 3GPP does not have, cells without an inside, and keys that contradict each other."""
        resource_blocks(self.bandwidth_mhz, self.subcarrier_khz, self.carrier_ghz)
        least, most = self.resolved("min_distance_m"), self.radius
        if least >= most:
            raise BadInput(f"radius_m: {most:g} m must exceed min_distance_m, {least:g} m")
        if self.sites == 1:
            channel.check_range(self.scenario, radius_m=most)
        if self.sites > 1 and self.radius_m is not None:
            raise BadInput("radius_m: is for sites = 1; a cluster's cells follow from inter_site_distance_m")
        if self.budget.tdd_downlink_share <= 0.0:
            raise BadInput("budget.tdd_uplink_share: uplink and guard shares must leave something for the downlink")
        if isinstance(self.uplink, AirComp):
            self.uplink.check(self.scheduler, self.air_grid)
        _ = self.scene  # refuses what propagation has no formulas for
        if self.fidelity != "table":
            from fedwave.wireless.reference.cells import check

            check(self)

    @property
    def prbs(self) -> int:
        """Resource blocks of the carrier, M."""
        return resource_blocks(self.bandwidth_mhz, self.subcarrier_khz, self.carrier_ghz)

    @property
    def carrier(self) -> Carrier:
        """The carrier's grid."""
        return Carrier(self.carrier_ghz, self.prbs, self.subcarrier_khz)

    @property
    def air_grid(self) -> AirGrid:
        """What a sum in the air may occupy at most, and how long channels hold at best."""
        return air_grid(self, self.prbs * self.uplink_traffic.fl_cap, self.budget.fading_speed_kmh / 3.6)

    @cached_property
    def scene(self) -> Scene:
        """Geometry and propagation, resolved to numbers."""
        pattern = "omni" if self.sectors == 1 else "element"
        return Scene(
            scenario=self.scenario,
            carrier_ghz=self.carrier_ghz,
            layout=Layout(
                self.sites, self.sectors, self.resolved("inter_site_distance_m"), self.wrap_around and self.sites > 1
            ),
            antenna=Antenna(pattern, self.budget.element_gain_dbi + self.budget.ue_gain_dbi, self.tilt_deg),
            h_bs_m=self.resolved("h_bs_m"),
            h_ut_m=self.h_ut_m,
            min_distance_m=self.resolved("min_distance_m"),
            indoor_share=self.resolved("indoor_share"),
            in_car_share=self.resolved("in_car_share"),
            o2i_high_share=float(self.o2i_model == "high"),
            office=self.office,
        )

    @property
    def _deployment(self) -> Deployment:
        return DEPLOYMENTS[self.scenario]

    @property
    def radius(self) -> float:
        """Radius of the one cell, in metres."""
        return self.resolved("inter_site_distance_m") / 3.0**0.5 if self.radius_m is None else self.radius_m

    def resolved(self, name: str) -> float:
        """The key ``name``, from the scenario where the job leaves it out."""
        value = getattr(self, name)
        return getattr(self._deployment, name) if value is None else value

    @property
    def connection(self) -> Connection:
        """Times around a transfer; connecting takes as long as in an idle cell."""
        budget = self.budget
        return Connection(self.access.idle_s, budget.grant_s, budget.inactivity_s, budget.backhaul_s)

    def explain(self) -> list[Row]:
        """The whole link budget, resolved: ``(name, value, unit, source)``."""
        own: list[Row] = [("sites", self.sites, "", "job"), ("sectors", self.sectors, "", "job, per site")]
        if self.sites == 1:
            own.append(("radius_m", self.radius, "m", "job" if self.radius_m else "inter-site distance / sqrt(3)"))
        for name, _, unit, source in DEPLOYMENTS[self.scenario].rows():
            own.append((name, self.resolved(name), unit, source if getattr(self, name) is None else "job"))
        own += [("h_ut_m", self.h_ut_m, "m", "TR 38.901 Table 7.2-1 (outdoor and ground-floor users)")]
        if self.scenario == "RMa":
            own.append(("building_height_m", channel.BUILDING_HEIGHT_M, "m", "TR 38.901 Table 7.4.1-1, default h"))
            own.append(("street_width_m", channel.STREET_WIDTH_M, "m", "TR 38.901 Table 7.4.1-1, default W"))
        if self.scenario == "InH":
            own.append(("office", self.office, "", "job; TR 38.901 Table 7.4.2-1"))
        own += [("resource_blocks", self.prbs, "", "TS 38.101-1 Table 5.3.2-1"), *self._extension_rows()]
        still = [] if self.mobility.moves else ["q_out_db"]  # of the rules of handover, all that concerns who rests
        own += self.budget.rows() + self.access.rows() + self.mobility.rows()
        own += [row for row in self.handover.rows() if not still or row[0] in still]
        own += self.energy.rows() + self.gnb.rows()
        return own + (self.uplink.explain(self.air_grid) if isinstance(self.uplink, AirComp) else [])

    def _extension_rows(self) -> list[Row]:
        """From which SINR downwards the goodput tables rest on error rates of our own."""
        source = "goodput table without line of sight: below, most bits rest on MCS whose error rates are our extension"
        spread_s = float(delay_spread_s(self.scenario, False, self.carrier_ghz))
        tables = {"up": self.budget.uplink_mcs_table, "down": self.budget.downlink_mcs_table}
        rows: list[Row] = []
        for way, mcs_table in tables.items():
            kwargs: Any = {"direction": way, "mcs_table": mcs_table, "profile": "nlos", "delay_spread_s": spread_s}
            below = extension_below_db(self.prbs, subcarrier_khz=self.subcarrier_khz, **kwargs)
            rows.append((f"{way}link_extension_db", below, "dB", source))
        return rows

    def place(self, n: int, key: Key) -> Floats:
        """Uniform over the cell, or over the cluster, ``[N, 2]`` metres."""
        least = self.resolved("min_distance_m")
        if self.sites == 1:
            return annulus(n, key, radius_m=self.radius, min_distance_m=least)
        return self.scene.layout.place(np.arange(n), key, min_distance_m=least)

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
        course = CellRound(self, world, cohort, work, compute, key, static_key, deadline_s)
        return course.delivery(server_s=server_s, server_j=server_j)

    def notes(self, static_key: Key) -> list[str]:
        """See :meth:`Network.notes`: cells that background traffic fills, and defaults that are not for this band."""
        found = Coverage(self, static_key).overload()
        if self.carrier_ghz >= FR2_FROM_GHZ and self.budget == LinkBudget():
            found.append(
                "network.budget: array gains, powers and noise figures are defaults for FR1, and "
                f"{self.carrier_ghz:g} GHz is in FR2: set those of your antennas"
            )
        return found

    def for_planning(self) -> Cell:
        """See :meth:`Network.for_planning`: at table fidelity."""
        return replace(self, fidelity="table")

    def deliver_base(self, world: World, bits: float, static_key: Key) -> BaseDelivery:
        """See :meth:`Network.deliver_base`: by this network's downlink, from where all are, at the background load."""
        coverage, ids = Coverage(self, static_key, world.position_m), np.arange(len(world.position_m))
        seen = coverage.look(world.position_m, ids)
        speed = np.full(len(ids), self.budget.fading_speed_kmh / 3.6)
        radio = coverage.radio(seen, seen.serving, speed, coverage.background)
        share = coverage.free_blocks("down") / self.prbs
        return base_delivery(
            bits, listeners(radio), self.downlink, energy=self.energy, connection=self.connection, carrier_share=share
        )
