"""All that the large-scale pass must know of a deployment, resolved to numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fedwave.core.errors import BadInput, Refused
from fedwave.wireless import channel
from fedwave.wireless.geometry.antenna import Antenna
from fedwave.wireless.geometry.topology import Layout

MAX_DEPTH_M = {"UMa": 25.0, "UMi": 25.0, "RMa": 10.0, "InH": 0.0}  # TR 38.901 7.4.3.1
FLOORS = (4, 8)  # storeys of a building, TR 38.901 Table 7.2-1 (as in TR 36.873)
STOREY_M = 3.0


@dataclass(frozen=True)
class Scene:
    """Geometry and propagation of a deployment (the defaults are those of UMa at 3.5 GHz).

    Parameters
    ----------
    scenario : "UMa", "UMi", "RMa" or "InH".
    carrier_ghz : within the scenario's range.
    layout : sites, sectors, wrap-around.
    antenna : of each sector.
    h_bs_m, h_ut_m : heights of the sites' antennas and of users outdoors or on the ground floor.
    min_distance_m : least distance of a placed user from its site.
    indoor_share : users behind an outer wall; InH users share the site's building and have none.
    o2i_high_share : share of these behind "high"-loss walls (TR 38.901 leaves the mix open; RMa has "low" only).
    in_car_share : share of the users outdoors who sit in a car (TR 38.901 Table 7.2-3: all of RMa's).
    floors : users indoors are spread over the storeys of their buildings (UMa, UMi; TR 38.901 Table 7.2-1).
    office : "mixed" or "open" (InH).
    shadowing : off, shadow fading is 0 dB; line of sight stays a draw.

    Raises
    ------
    BadInput : a value outside its range.
    Refused : walls, cars or floors where the scenario has none.
    """

    scenario: Literal["UMa", "UMi", "RMa", "InH"] = "UMa"
    carrier_ghz: float = 3.5
    layout: Layout = field(default_factory=Layout)
    antenna: Antenna = field(default_factory=Antenna)
    h_bs_m: float = 25.0
    h_ut_m: float = 1.5
    min_distance_m: float = 35.0
    indoor_share: float = 0.8
    o2i_high_share: float = 0.0
    in_car_share: float = 0.0
    floors: bool = False
    office: Literal["mixed", "open"] = "mixed"
    shadowing: bool = True

    def __post_init__(self) -> None:
        """Refuse what TR 38.901 has no formulas for."""
        channel.check_range(self.scenario, carrier_ghz=self.carrier_ghz, h_ut_m=self.h_ut_m)
        for name in ("indoor_share", "o2i_high_share", "in_car_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadInput(f"{name}: must be between 0 and 1, got {getattr(self, name)!r}")
        for name in ("h_bs_m", "h_ut_m"):  # h_bs_m may differ from TR 38.901's 25 m (UMa) and 10 m (UMi)
            if not 0.0 < getattr(self, name) < np.inf:
                raise BadInput(f"{name}: must be positive, got {getattr(self, name)!r}")
        if self.office not in ("mixed", "open"):
            raise BadInput(f"office: must be 'mixed' or 'open', got {self.office!r}")
        if self.scenario == "InH" and self.indoor_share > 0.0:
            raise Refused("indoor_share: InH users share the site's building, so it must be 0")
        if self.scenario == "RMa" and self.o2i_high_share > 0.0:
            raise Refused("o2i_high_share: RMa has low-loss walls only (TR 38.901 7.4.3.1), so it must be 0")
        if self.floors and self.scenario not in ("UMa", "UMi"):
            raise Refused(f"floors: {self.scenario} users are on the ground, only UMa and UMi have storeys")
        far, most = self.layout.cell_radius_m, channel.valid_range(self.scenario, "distance_m")[1]
        if far > most:
            raise BadInput(
                f"inter_site_distance_m: {self.layout.inter_site_distance_m:g} puts users up to {far:.0f} m from their "
                f"site, the {self.scenario} formulas of TR 38.901 end at {most:g} m"
            )
