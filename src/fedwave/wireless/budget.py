"""The link budget: every default of the radio in one table, each with its source, so that a plan can print it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from fedwave.core.config import Count, Decibel, Loss, NonNegative, Positive, Probability

Row = tuple[str, Any, str, str]


def sourced(value: Any, unit: str, source: str) -> Any:
    """A dataclass field with its default, unit and source."""
    return field(default=value, metadata={"unit": unit, "source": source})


def rows_of(table: Any) -> list[Row]:
    """``(name, value, unit, source)`` of each field of a dataclass whose fields carry a unit and a source."""
    return [(f.name, getattr(table, f.name), f.metadata["unit"], f.metadata["source"]) for f in fields(table)]


def job_rows(table: Any) -> list[Row]:
    """As :func:`rows_of`; where a value is not the default its source is the job."""
    default = {f.name: f.default for f in fields(table)}
    return [(name, v, unit, source if v == default[name] else "job") for name, v, unit, source in rows_of(table)]


@dataclass(frozen=True)
class Deployment:
    """What a scenario fixes: geometry and transmit power of a site."""

    inter_site_distance_m: float = sourced(500.0, "m", "TR 38.901 Tables 7.2-1 to 7.2-3")
    min_distance_m: float = sourced(35.0, "m", "TR 38.901 Tables 7.2-1 to 7.2-3 (minimum BS-UT distance, 2D)")
    h_bs_m: float = sourced(25.0, "m", "TR 38.901 Tables 7.2-1 to 7.2-3")
    indoor_share: float = sourced(0.8, "", "TR 38.901 Tables 7.2-1 and 7.2-3; InH users share the site's building")
    in_car_share: float = sourced(0.0, "", "TR 38.901 Table 7.2-3: in RMa all outdoors sit in cars; else none")
    gnb_power_dbm: Decibel = sourced(49.0, "dBm", "TR 38.901 Table 7.8-1 below 6 GHz; RMa: ITU-R M.2412 rural, 20 MHz")

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each entry."""
        return rows_of(self)


DEPLOYMENTS = {
    "UMa": Deployment(),
    "UMi": Deployment(200.0, 10.0, 10.0, 0.8, 0.0, 44.0),
    "RMa": Deployment(1732.0, 35.0, 35.0, 0.5, 1.0, 49.0),
    "InH": Deployment(20.0, 0.0, 3.0, 0.0, 0.0, 24.0),
}


@dataclass(frozen=True)
class LinkBudget:
    """Gains, losses and shares of the radio that a scenario does not fix. ``rows()`` is what a plan prints."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    element_gain_dbi: Decibel = sourced(8.0, "dBi", "gNB antenna element, TR 38.901 Table 7.3-1")
    array_gain_db: Loss = sourced(12.0, "dB", "assumption: 32 transceivers, 15 dB, less 3 dB for stale CSI")
    combining_gain_db: Loss = sourced(12.0, "dB", "assumption: 32 receive branches, 15 dB, less 3 dB for estimation")
    ue_gain_dbi: Decibel = sourced(0.0, "dBi", "UE antenna, TR 38.901 Table 7.8-1 (isotropic)")
    gnb_noise_figure_db: Loss = sourced(5.0, "dB", "TR 38.901 Table 7.8-1 / ITU-R M.2412")
    ue_noise_figure_db: Loss = sourced(9.0, "dB", "TR 38.901 Table 7.8-1")
    ue_p_cmax_dbm: Decibel = sourced(23.0, "dBm", "power class 3, TS 38.101-1 Table 6.2.1-1")
    ue_mpr_db: Loss = sourced(1.5, "dB", "maximum power reduction, CP-OFDM QPSK inner, TS 38.101-1 Table 6.2.2-1")
    p0_dbm: Decibel = sourced(-90.0, "dBm", "assumption: nominal PUSCH power per 15 kHz resource block")
    alpha: Probability = sourced(0.8, "", "assumption: fractional path-loss compensation")
    uplink_iot_db: Loss = sourced(5.0, "dB", "assumption: interference over thermal where sites = 1")
    downlink_iot_db: Loss = sourced(10.0, "dB", "assumption: interference over thermal where sites = 1")
    neighbour_load: Probability = sourced(0.5, "", "assumption: share of other cells' blocks in use where sites > 1")
    implementation_loss_db: Loss = sourced(2.0, "dB", "assumption: receiver and channel estimation against ideal ones")
    fading_speed_kmh: NonNegative = sourced(
        3.0, "km/h", "TR 38.901 Table 7.2-1; of the surroundings where clients rest"
    )
    csi_delay_s: NonNegative = sourced(0.005, "s", "assumption: age of the channel that link adaptation sees")
    tdd_uplink_share: Probability = sourced(0.25, "", "assumption: DDDSU, one uplink slot of five and symbols of S")
    tdd_guard_share: Probability = sourced(
        0.03, "", "assumption: two guard symbols of five slots; the rest is downlink"
    )
    uplink_layers: Count = sourced(1, "", "assumption: one antenna port sends")
    downlink_layers: Count = sourced(
        2, "", "assumption: rank 1 or 2, whichever carries more; no inter-layer interference"
    )
    uplink_mcs_table: Literal[1, 2, 3] = sourced(1, "", "64QAM, TS 38.214 Table 5.1.3.1-1")
    downlink_mcs_table: Literal[1, 2, 3] = sourced(2, "", "256QAM, TS 38.214 Table 5.1.3.1-2")
    protocol_overhead: Probability = sourced(
        0.07, "", "assumption: headers and acknowledgements from MAC to TCP/IP 5 %, encryption and TLS records 2 %"
    )
    connected_per_cell: Count = sourced(400, "", "assumption: clients that a cell serves at once; others wait")
    calls_per_s: Positive = sourced(400.0, "1/s", "assumption: clients that a cell pages in a second")
    grant_s: NonNegative = sourced(0.01, "s", "assumption: scheduling request and grant, when connected")
    backhaul_s: NonNegative = sourced(0.01, "s", "assumption: one way between the site and the server")
    inactivity_s: NonNegative = sourced(10.0, "s", "assumption: RRC inactivity timer, a common operator setting")

    @property
    def tdd_downlink_share(self) -> float:
        """What uplink and guard leave."""
        return 1.0 - self.tdd_uplink_share - self.tdd_guard_share

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each entry."""
        return job_rows(self)
