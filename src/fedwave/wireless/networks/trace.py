"""Replay of measured links: rates and latencies over time from files, integrated exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from fedwave.core.config import NonNegative, Positive, part
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Ints, Work, World
from fedwave.wireless.budget import Row, job_rows, sourced
from fedwave.wireless.energy import Connection, EnergyModel, RadioEnergy
from fedwave.wireless.flow import Links, Transfer, run_round
from fedwave.wireless.link import resource_blocks
from fedwave.wireless.network import Network
from fedwave.wireless.networks.traces import Link, RateTrace, Reading, files_of, read_link, read_trace

__all__ = ["RateTrace", "Trace", "read_trace"]

_BEFORE = "assumption: a measured throughput often has it in it"


@register("network", "trace")
@dataclass(frozen=True)
class Trace(Network):
    """Each client replays a measured link from its own point in time; links are not shared.

    A file is one of three kinds, told by its content:

    - csv with a header and the columns time_s (rising), uplink_mbps, downlink_mbps, and latency_ms if you have it. A
      rate holds until the next line's time, the last one as long as the line before; then the trace starts again.
    - json, a list of ``{duration_ms, bandwidth_kbps, latency_ms}``, as the LTE logs that come with Sabre (MMSys 2018).
    - text with the columns pub_time(ms), delay(ms), cellid(db), sinr(db) and others, as the 5G logs of CICV5G (2025):
      the SINR becomes the rate that the package's link tables give it.

    The last two were measured on the downlink alone: the uplink is ``uplink_share`` of it. A transfer takes the latency
    of the moment at which it starts beyond its bits: latency_ms as it is, of a text half the round trip. Contention is
    what others did to the link while it was measured; the clients do not slow each other down.

    Parameters
    ----------
    file : a file, or a folder of them; then each client's file is drawn, for good.
    uplink_share : rate of the uplink over the downlink's where only that was measured.
    bandwidth_mhz, subcarrier_khz : the carrier on which an SINR was measured.
    setup_s, grant_s, inactivity_s : before a transfer when the radio was asleep, when connected; until it falls asleep.
    energy : energy model of a client's radio.
    """

    file: str = field(metadata={"unit": "", "source": "job"})
    uplink_share: Positive = sourced(
        0.13, "", "assumption: 31.27 / 241.61 Mbit/s, averages of 5G users in 51 countries, 2022"
    )
    bandwidth_mhz: Positive = sourced(20.0, "MHz", "assumption: CICV5G does not say")
    subcarrier_khz: Literal[15, 30, 60] = sourced(30, "kHz", "assumption: CICV5G does not say")
    setup_s: NonNegative = sourced(0.0, "s", _BEFORE)
    grant_s: NonNegative = sourced(0.0, "s", _BEFORE)
    inactivity_s: NonNegative = sourced(10.0, "s", "assumption: RRC inactivity timer, a common operator setting")
    energy: Annotated[EnergyModel, part("energy")] = sourced(RadioEnergy(), "", "see the energy rows")

    cite: ClassVar[str] = (
        "the file's; readers for Spiteri et al., MMSys 2018 (LTE) and Zhang et al., doi 10.5281/zenodo.17475688 (5G)"
    )

    def __post_init__(self) -> None:
        """Refuse carriers that 3GPP does not have."""
        resource_blocks(self.bandwidth_mhz, self.subcarrier_khz)

    def explain(self) -> list[Row]:
        """``(name, value, unit, source)`` of each parameter, and energy."""
        return [row for row in job_rows(self) if row[0] != "energy"] + self.energy.rows()

    def place(self, n: int, key: Key) -> Floats:
        """Everybody at the site: the trace holds what distance does. Refuses files that are no traces."""
        self._links()
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
        replay = _Replay(self._links(), cohort.ids, world.clock_s, static_key)
        links = Links(
            down=replay.transfer("down"),
            up=replay.transfer("up"),
            connection=Connection(self.setup_s, self.grant_s, self.inactivity_s),
            energy=self.energy,
            sinr_db=np.full(len(cohort), np.nan),
            lost=np.zeros(len(cohort), dtype=bool),
            idle_s=world.radio_idle_s(cohort.ids),
        )
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)

    def _links(self) -> list[Link]:
        reading = Reading(self.uplink_share, self.bandwidth_mhz, self.subcarrier_khz)
        return [read_link(file, reading) for file in files_of(self.file)]


class _Replay:
    """Who replays which link, and from where in it."""

    def __init__(self, links: list[Link], ids: Ints, clock_s: float, static_key: Key) -> None:
        self.links = links
        self.which = np.floor(static_key.fold("trace file").uniform(ids)[:, 0] * len(links)).astype(np.int64)
        period_s = np.array([link.up.edges_s[-1] for link in links])[self.which]
        self.offset_s = clock_s + static_key.fold("trace").uniform(ids)[:, 0] * period_s

    def transfer(self, way: Literal["up", "down"]) -> Transfer:
        def end(start_s: Floats, bits: Floats) -> Floats:
            sends = np.isfinite(start_s) & (bits > 0.0)
            end_s = start_s.copy()
            for index in np.unique(self.which[sends]):
                who, link = np.flatnonzero(sends & (self.which == index)), self.links[index]
                trace = link.up if way == "up" else link.down
                begin = self.offset_s[who] + start_s[who]
                done = trace.when(trace.sent(begin) + bits[who]) - self.offset_s[who]
                end_s[who] = np.maximum(done, start_s[who]) + link.latency_at(begin)
            return end_s

        return end
