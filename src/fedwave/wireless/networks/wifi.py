"""Wi-Fi access points: IEEE 802.11ax rates under contention, by Bianchi's model of a saturated channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from fedwave.core.config import Count, NonNegative, part
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Ints, Work, World
from fedwave.wireless.budget import Row, job_rows, sourced
from fedwave.wireless.energy import Connection, EnergyModel, WifiStation
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.medium import sending_share, share
from fedwave.wireless.network import Network

# IEEE 802.11ax-2021 27.5: data subcarriers by bandwidth in MHz; bits per subcarrier and code rate by MCS.
_SUBCARRIERS = {20: 234, 40: 468, 80: 980, 160: 1960}
_BITS = (1, 2, 2, 4, 4, 6, 6, 6, 8, 8, 10, 10)
_CODE_RATE = (1 / 2, 1 / 2, 3 / 4, 1 / 2, 3 / 4, 2 / 3, 3 / 4, 5 / 6, 3 / 4, 5 / 6, 3 / 4, 5 / 6)
_SYMBOL_S = 12.8e-6 + 0.8e-6  # with the shortest guard interval

# Times of the 5 GHz band (IEEE 802.11-2020 Table 17-21); control frames at 24 Mbit/s: 20 us, and 4 us per 96 bits.
_SLOT_S, _SIFS_S, _DIFS_S = 9e-6, 16e-6, 34e-6
_RTS_S, _CTS_S = 28e-6, 28e-6
_BLOCK_ACK_S = {64: 32e-6, 256: 40e-6}  # of up to so many packets: a bitmap of 8 or 32 bytes
_PREAMBLE_S = 44e-6  # HE single user, one long training field of 8 us and more for further streams left out
_LONGEST_S = 5.484e-3  # of a frame, aPPDUMaxTime
_STATIONS = 2007  # association identifiers of an access point, IEEE 802.11-2020 9.4.1.8
_WINDOW, _STAGES = 16, 6  # CWmin + 1 = 16, CWmax + 1 = 1024 (best effort)
_PACKET_BYTES, _HEADER_BYTES, _TCP_IP_BYTES = 1500, 44, 40  # MAC header 36, checksum 4, delimiter 4


def phy_rate_bps(bandwidth_mhz: int, mcs: int, spatial_streams: int) -> float:
    """IEEE 802.11ax data rate: ``subcarriers x bits x code rate x streams / 13.6 us`` (full band, short guard)."""
    return _SUBCARRIERS[bandwidth_mhz] * _BITS[mcs] * _CODE_RATE[mcs] * spatial_streams / _SYMBOL_S


def attempt_probability(contenders: ArrayLike, window: int = _WINDOW, stages: int = _STAGES) -> tuple[Floats, Floats]:
    """Bianchi's fixed point: a station's attempt probability in a slot ``tau``, and of a collision ``p``, any shape.

    ``tau = 2 (1 - 2p) / ((1 - 2p)(W + 1) + p W (1 - (2p)^m))`` and ``p = 1 - (1 - tau)^(n - 1)``, by bisection on p.
    The second falls and the first rises in tau, so there is one solution.

    Source: Bianchi, Performance analysis of the IEEE 802.11 distributed coordination function, IEEE JSAC 18(3), 2000,
    equations 7 to 9.
    """
    n = np.asarray(contenders, dtype=float)
    low, high = np.zeros(n.shape), np.ones(n.shape)
    for _ in range(60):
        p = 0.5 * (low + high)
        above = 1.0 - (1.0 - _tau(p, window, stages)) ** (n - 1.0) > p
        low, high = np.where(above, p, low), np.where(above, high, p)
    p = np.where(n <= 1.0, 0.0, 0.5 * (low + high))
    return _tau(p, window, stages), p


def _tau(p: Floats, window: int, stages: int) -> Floats:
    """The first equation with the geometric sum written out, which has no gap at p = 1/2."""
    total = sum(((2.0 * p) ** stage for stage in range(stages)), np.zeros(np.shape(p)))
    return 2.0 / (1.0 + window + p * window * total)


@register("network", "wifi")
@dataclass(frozen=True)
class Wifi(Network):
    """Clients of 802.11ax access points, all at the same rate; those of one share its channel.

    Uploads contend: n saturated stations share what Bianchi's model leaves. Downloads come from the access point alone,
    which serves them in turn; while it has any, it is one more contender of the uploads. Uploads do not slow the
    downloads down, so where both overlap the time of downloads is optimistic. No multi-user OFDMA or MIMO, no hidden
    stations, no channel errors: the MCS is taken as the one that the distance allows.

    Parameters
    ----------
    access_points : clients are spread over so many, by chance and for good; each has a channel of its own.
    bandwidth_mhz, mcs, spatial_streams : of every client's link.
    aggregate : packets of 1,500 bytes in a frame, as far as 5.484 ms allow.
    rts_cts : frames are announced, so that a collision costs little.
    rtt_s : round trip to the server, before a transfer.
    wake_s, inactivity_s : to leave power save, and before entering it.
    energy : energy model of a client's radio.
    """

    access_points: Count = sourced(1, "", "assumption: all clients at one, the worst case")
    bandwidth_mhz: Literal[20, 40, 80, 160] = sourced(80, "MHz", "assumption: a channel of the 5 GHz band")
    mcs: Annotated[int, Field(ge=0, le=11, strict=True)] = sourced(7, "", "assumption: 64QAM 5/6, a room away")
    spatial_streams: Annotated[int, Field(ge=1, le=8, strict=True)] = sourced(2, "", "assumption: a phone")
    aggregate: Annotated[int, Field(ge=1, le=256, strict=True)] = sourced(
        64, "packets", "assumption; at most 256, IEEE 802.11ax-2021 (block acknowledgement)"
    )
    rts_cts: bool = sourced(True, "", "assumption: frames of several milliseconds are announced")
    rtt_s: NonNegative = sourced(0.02, "s", "assumption: a fixed line and a server in the region")
    wake_s: NonNegative = sourced(0.0512, "s", "assumption: half a beacon interval of 102.4 ms")
    inactivity_s: NonNegative = sourced(0.2, "s", "assumption: before the radio enters power save")
    energy: Annotated[EnergyModel, part("energy")] = sourced(WifiStation(), "", "see the energy rows")

    cite: ClassVar[str] = "Bianchi, IEEE JSAC 18(3), 2000 (contention); IEEE 802.11ax-2021 (rates)"

    @property
    def phy_bps(self) -> float:
        """Data rate of a frame's payload on the air."""
        return phy_rate_bps(self.bandwidth_mhz, self.mcs, self.spatial_streams)

    def explain(self) -> list[Row]:
        """``(name, value, unit, source)``: the parameters, what follows from them, and energy."""
        derived: list[Row] = [("phy_rate_bps", self.phy_bps, "bit/s", "IEEE 802.11ax-2021 27.5")]
        for n in (1, 10, 50):
            derived.append(
                (f"throughput_{n}_bps", float(self.throughput_bps(n)), "bit/s", f"Bianchi 2000, {n} contend")
            )
        return [row for row in job_rows(self) if row[0] != "energy"] + derived + self.energy.rows()

    def throughput_bps(self, contenders: ArrayLike) -> Floats:
        """Payload of all contenders together, bit/s, any shape; Bianchi 2000, equation 13.

        ``P_s P_tr E[P] / ((1 - P_tr) slot + P_tr P_s T_s + P_tr (1 - P_s) T_c)``, TCP/IP headers not in the payload.
        """
        n = np.asarray(contenders, dtype=float)
        tau, _ = attempt_probability(n)
        busy = 1.0 - (1.0 - tau) ** n
        success = n * tau * (1.0 - tau) ** (n - 1.0)
        sent_s, collision_s = self._durations_s()
        payload = self._packets * 8.0 * (_PACKET_BYTES - _TCP_IP_BYTES)
        return success * payload / ((1.0 - busy) * _SLOT_S + success * sent_s + (busy - success) * collision_s)

    @property
    def _packets(self) -> int:
        fit = int(_LONGEST_S * self.phy_bps / (8 * (_PACKET_BYTES + _HEADER_BYTES)))
        return max(1, min(self.aggregate, fit))

    def _durations_s(self) -> tuple[float, float]:
        """The channel's time for a frame, T_s, and for a collision, T_c (equations 14 and 17)."""
        data_s = _PREAMBLE_S + self._packets * 8.0 * (_PACKET_BYTES + _HEADER_BYTES) / self.phy_bps
        sent_s = data_s + _SIFS_S + _BLOCK_ACK_S[64 if self._packets <= 64 else 256] + _DIFS_S
        if not self.rts_cts:
            return sent_s, sent_s  # who collides waits for the acknowledgement that does not come
        return sent_s + _RTS_S + _CTS_S + 2.0 * _SIFS_S, _RTS_S + _SIFS_S + _CTS_S + _DIFS_S

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
        """See :meth:`Network.deliver`; ``sinr_db`` is NaN.

        Raises
        ------
        BadInput : more of the cohort at one access point than can be associated with it.
        """
        air = _Air(self, cohort.ids, static_key)
        links = Links(
            down=air.down,
            up=air.up,
            connection=Connection(self.wake_s + self.rtt_s, self.rtt_s, self.inactivity_s),
            energy=self.energy,
            sinr_db=np.full(len(cohort), np.nan),
            lost=np.zeros(len(cohort), dtype=bool),
            idle_s=world.radio_idle_s(cohort.ids),
            send_w=air.send_w,
        )
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)


class _Air:
    """The channels during a round: when each access point sent, and how long each client's own frames took."""

    def __init__(self, wifi: Wifi, ids: Ints, static_key: Key) -> None:
        self.wifi = wifi
        point = np.floor(static_key.fold("access point").uniform(ids)[:, 0] * wifi.access_points).astype(np.int64)
        self.cells = [np.flatnonzero(point == each) for each in np.unique(point)]
        most = max((len(cell) for cell in self.cells), default=0)
        if most > _STATIONS:
            raise BadInput(
                f"access_points: {wifi.access_points} for a cohort of {len(ids)} leaves {most} clients at one "
                f"(at most {_STATIONS} can be associated)"
            )
        self.all_bps = wifi.throughput_bps(np.arange(1, most + 2))
        self.downloads: list[Floats] = [np.zeros((0, 2)) for _ in self.cells]
        self.sending = np.zeros(len(ids))

    def down(self, start_s: Floats, bits: Floats) -> Floats:
        end_s = start_s.copy()
        for number, cell in enumerate(self.cells):
            end_s[cell] = share(start_s[cell], bits[cell], lambda active, _: (self.all_bps[0] / active[0],))
            spans = np.stack([start_s[cell], end_s[cell]], axis=1)[np.isfinite(start_s[cell]) & (bits[cell] > 0.0)]
            self.downloads[number] = np.vstack([self.downloads[number], spans])
        return end_s

    def up(self, start_s: Floats, bits: Floats) -> Floats:
        def speed(active: tuple[int, ...], downloads: bool) -> tuple[float]:
            contenders = active[0] + downloads
            return (self.all_bps[contenders - 1] / contenders,)

        end_s = start_s.copy()
        for cell, downloads in zip(self.cells, self.downloads, strict=True):
            end_s[cell] = share(start_s[cell], bits[cell], speed, foreign=downloads)
        self.sending = sending_share(bits / self.wifi.phy_bps, start_s, end_s)
        return end_s

    def send_w(self) -> Floats:
        """Mean power over an upload: sending for the time of its own frames, listening while others send."""
        energy = self.wifi.energy
        return energy.receive_w + self.sending * (energy.transmit_w - energy.receive_w)
