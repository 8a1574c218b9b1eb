"""One NB-IoT carrier: transport blocks, gaps and repetitions of Cat-NB1 and Cat-NB2 by coupling loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from fedwave.core.config import Count, Decibel, Loss, NonNegative, Positive, Probability, part
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Cohort, Compute, Delivery, Floats, Ints, Work, World
from fedwave.wireless.budget import Row, job_rows, sourced
from fedwave.wireless.cells.access import RandomAccess
from fedwave.wireless.energy import Connection, EnergyModel, NbIotModem
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.medium import sending_share, share
from fedwave.wireless.network import Network

_THERMAL_DBM_HZ = -174.0
_TONE_HZ, _CARRIER_HZ = 15e3, 180e3
_TONES = (12, 6, 3, 1)  # subcarriers that an uplink transmission may take, TS 36.211 10.1.2.3
_UP_REPETITIONS = 2 ** np.arange(8)  # 1 to 128, TS 36.213 Table 16.5.1.1-3
_DOWN_REPETITIONS = 2 ** np.arange(12)  # 1 to 2,048, the powers of two of TS 36.213 Table 16.4.1.3-2


@dataclass(frozen=True)
class Category:
    """A device category: largest transport blocks, their milliseconds over all 12 tones, and those between blocks.

    Block sizes are those of TS 36.306 Tables 4.1C-1 and 4.1C-2. The gaps (control channel, scheduling delays,
    acknowledgement, synchronisation) are those with which they give the sustained peaks that are commonly published:
    25.5 kbit/s down and 62.5 up (NB1), 127.3 and 158.5 (NB2, two HARQ processes).
    """

    down_bits: float
    down_ms: float
    down_gap_ms: float
    up_bits: float
    up_ms: float
    up_gap_ms: float


_CATEGORIES = {
    "NB1": Category(680.0, 3.0, 23.67, 1000.0, 4.0, 12.0),
    "NB2": Category(2536.0, 10.0, 9.92, 2536.0, 10.0, 6.0),
}


@dataclass(frozen=True)
class Nprach(RandomAccess):
    """Random access of one coverage class: a preamble is a tone of 3.75 kHz that hops; its repetitions take no time."""

    preambles: Count = sourced(12, "", "assumption: nprach-NumSubcarriers, a value of TS 36.331")
    period_s: Positive = sourced(0.64, "s", "assumption: nprach-Periodicity, a value of TS 36.331")
    backoff_s: NonNegative = sourced(2.048, "s", "assumption: a backoff value of TS 36.321 Table 7.2-2, NB-IoT")


@dataclass(frozen=True)
class CarrierUse:
    """How a device that is alone uses the carrier, ``[K]`` by coverage class.

    ``rate_bps`` (0: out of coverage), ``occupancy``: share of the carrier, ``duty``: share of its time with data.
    """

    rate_bps: Floats
    occupancy: Floats
    duty: Floats


@register("network", "nb-iot")
@dataclass(frozen=True)
class NbIot(Network):
    """Devices on one NB-IoT carrier of 180 kHz, in coverage classes by their coupling loss.

    A block is repeated until ``R SNR >= gap (2^SE - 1)`` (ideal combining), so the rate follows from the link budget.
    The uplink takes the number of tones that carries most. A device alone leaves the carrier unused in its gaps; where
    many want it, its time is shared: nobody gets more than alone, the rest in equal shares. Classes do random access
    apart.

    Parameters
    ----------
    category : of the devices, Cat-NB1 or Cat-NB2.
    power_dbm : power class of the device.
    mcl_db : coupling loss of each coverage class, path and antennas together.
    shares : of the clients in each class; a client's class is drawn for good.
    gnb_power_dbm, gnb_noise_figure_db, ue_noise_figure_db : of the site, on the carrier, and of the device.
    gap_db : distance to capacity of a block.
    signalling_bits : that a connection set-up moves each way, at the class's rate.
    rtt_s : before a transfer of a connected device.
    calls_per_s : devices that the site pages in a second when a round begins, so that they do not all answer at once.
    inactivity_s : until the connection is released.
    access, energy : random access, apart per class; energy model of a device.
    """

    category: Literal["NB1", "NB2"] = sourced("NB1", "", "TS 36.306 4.1C")
    power_dbm: Literal[14, 20, 23] = sourced(23, "dBm", "power class 3, TS 36.101 Table 6.2.2F-1")
    mcl_db: tuple[Loss, ...] = sourced((144.0, 154.0, 164.0), "dB", "normal, robust, extreme coverage, TR 45.820")
    shares: tuple[Probability, ...] = sourced((0.7, 0.2, 0.1), "", "assumption: most are outdoors")
    gnb_power_dbm: Decibel = sourced(43.0, "dBm", "stand-alone carrier, TR 45.820; 35 in-band")
    gnb_noise_figure_db: Loss = sourced(3.0, "dB", "TR 45.820")
    ue_noise_figure_db: Loss = sourced(5.0, "dB", "TR 45.820")
    gap_db: Loss = sourced(3.0, "dB", "assumption: coding and channel estimation against capacity")
    signalling_bits: Positive = sourced(1000.0, "bit", "assumption: RRC and core network, each way")
    rtt_s: NonNegative = sourced(1.0, "s", "assumption: request, grant, core network")
    calls_per_s: Positive = sourced(5.0, "1/s", "assumption: what 12 preambles every 0.64 s can take")
    inactivity_s: NonNegative = sourced(20.0, "s", "assumption: RRC inactivity timer")
    access: Nprach = sourced(Nprach(), "", "see the access rows")
    energy: Annotated[EnergyModel, part("energy")] = sourced(NbIotModem(), "", "see the energy rows")

    cite: ClassVar[str] = "3GPP TS 36.211, TS 36.213 (NB-IoT), TR 45.820 (link budget, power)"

    def __post_init__(self) -> None:
        """Refuse classes without shares, and shares that are no shares."""
        if not self.mcl_db or len(self.shares) != len(self.mcl_db):
            raise BadInput(f"shares: needs one for each of the {len(self.mcl_db)} mcl_db, got {len(self.shares)}")
        if abs(sum(self.shares) - 1.0) > 1e-6:
            raise BadInput(f"shares: must sum to 1, got {sum(self.shares):g}")

    def explain(self) -> list[Row]:
        """``(name, value, unit, source)``: parameters, classes with their rates, access, and energy."""
        lists = ("mcl_db", "shares", "access", "energy")
        rows = [row for row in job_rows(self) if row[0] not in lists]
        source = {name: text for name, _, _, text in job_rows(self)}
        rates = [use.rate_bps.tolist() for use in (self.downlink(), self.uplink())]
        for number, (mcl, part_of_all, down, up) in enumerate(zip(self.mcl_db, self.shares, *rates, strict=True)):
            rows += [
                (f"class_{number}.mcl_db", mcl, "dB", source["mcl_db"]),
                (f"class_{number}.share", part_of_all, "", source["shares"]),
                (f"class_{number}.downlink_bps", down, "bit/s", "gaps and repetitions at this coupling loss"),
                (f"class_{number}.uplink_bps", up, "bit/s", "gaps and repetitions at this coupling loss"),
            ]
        access = [(f"access.{name}", value, unit, text) for name, value, unit, text in self.access.rows()]
        return rows + access + self.energy.rows()

    def downlink(self) -> CarrierUse:
        """``bits / (R (data + control) + gap)`` per class; control is 1 ms, repeated like the data."""
        kind = _CATEGORIES[self.category]
        noise_dbm = _THERMAL_DBM_HZ + 10.0 * np.log10(_CARRIER_HZ) + self.ue_noise_figure_db
        snr_db = self.gnb_power_dbm - np.asarray(self.mcl_db) - noise_dbm
        wanted = self._wanted(kind.down_bits / (kind.down_ms * 1e-3 * _CARRIER_HZ), snr_db)
        repeat, reached = _repetitions(wanted, _DOWN_REPETITIONS)
        cycle_ms = repeat * kind.down_ms + (repeat - 1.0) + kind.down_gap_ms
        busy_ms = repeat * (kind.down_ms + 1.0)
        return CarrierUse(
            np.where(reached, 1e3 * kind.down_bits / cycle_ms, 0.0),
            busy_ms / cycle_ms,
            repeat * kind.down_ms / cycle_ms,
        )

    def uplink(self) -> CarrierUse:
        """``bits / (R data + gap)`` per class with the best number of tones; n tones take 12 / n times as long."""
        kind, best = _CATEGORIES[self.category], None
        for tones in _TONES:
            noise_dbm = _THERMAL_DBM_HZ + 10.0 * np.log10(tones * _TONE_HZ) + self.gnb_noise_figure_db
            snr_db = self.power_dbm - np.asarray(self.mcl_db) - noise_dbm
            wanted = self._wanted(kind.up_bits / (kind.up_ms * 1e-3 * _CARRIER_HZ), snr_db)
            repeat, reached = _repetitions(wanted, _UP_REPETITIONS)
            data_ms = repeat * kind.up_ms * 12.0 / tones
            duty = data_ms / (data_ms + kind.up_gap_ms)
            rate = np.where(reached, 1e3 * kind.up_bits / (data_ms + kind.up_gap_ms), 0.0)
            use = CarrierUse(rate, duty * tones / 12.0, duty)
            best = use if best is None else _better(best, use)
        assert best is not None
        return best

    def _wanted(self, efficiency: float, snr_db: Floats) -> Floats:
        """Repetitions that a block of ``efficiency`` bit/s/Hz wants, not rounded."""
        return 10.0 ** ((self.gap_db - snr_db) / 10.0) * (2.0**efficiency - 1.0)

    def coverage(self, ids: Ints, static_key: Key) -> Ints:
        """Coverage class of each client, 0 to K - 1."""
        draw = static_key.fold("coverage").uniform(ids)[:, 0]
        return np.minimum(np.searchsorted(np.cumsum(self.shares), draw, side="right"), len(self.shares) - 1)

    def place(self, n: int, key: Key) -> Floats:
        """Everybody at the site: the coupling loss says what distance would."""
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
        carrier = _Carrier(self, cohort.ids, self.coverage(cohort.ids, static_key), key)
        links = Links(
            down=carrier.down,
            up=carrier.up,
            connection=Connection(0.0, self.rtt_s, self.inactivity_s),
            energy=self.energy,
            sinr_db=np.full(len(cohort), np.nan),
            lost=np.zeros(len(cohort), dtype=bool),
            idle_s=world.radio_idle_s(cohort.ids),
            access=carrier.connect,
            paged_s=carrier.paged_s,
            send_w=carrier.send_w,
        )
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)


def _repetitions(wanted: Floats, allowed: Ints) -> tuple[Floats, Bools]:
    """The fewest allowed repetitions that suffice, and whether any do."""
    place = np.searchsorted(allowed, wanted * (1.0 - 1e-9))
    return allowed[np.minimum(place, len(allowed) - 1)].astype(float), place < len(allowed)


def _better(one: CarrierUse, other: CarrierUse) -> CarrierUse:
    """Class by class the higher rate; at equal rates the one that takes less of the carrier."""
    wins = (other.rate_bps > one.rate_bps) | ((other.rate_bps == one.rate_bps) & (other.occupancy < one.occupancy))
    return CarrierUse(*(np.where(wins, b, a) for a, b in zip(vars(one).values(), vars(other).values(), strict=True)))


class _Carrier:
    """The carrier during a round."""

    def __init__(self, network: NbIot, ids: Ints, coverage: Ints, key: Key) -> None:
        self.network, self.coverage = network, coverage
        self.uses = network.downlink(), network.uplink()
        self.random_access = network.access.for_links(ids, key, cell=coverage)
        self.paged_s = len(ids) / network.calls_per_s * key.fold("paging").uniform(ids)[:, 0]
        self.sending = np.zeros(len(ids))

    def connect(self, now_s: Floats, asks: Bools) -> tuple[Floats, Bools]:
        """Random access, then signalling at the rate of the class."""
        seconds, connected = self.random_access(now_s, asks)
        rates = [use.rate_bps[self.coverage] for use in self.uses]
        for rate in rates:
            signals = connected & (rate > 0.0)
            seconds = seconds + np.where(signals, self.network.signalling_bits / np.where(signals, rate, 1.0), 0.0)
        return seconds, connected

    def down(self, start_s: Floats, bits: Floats) -> Floats:
        return self._end(start_s, bits, self.uses[0])

    def up(self, start_s: Floats, bits: Floats) -> Floats:
        use = self.uses[1]
        end_s = self._end(start_s, bits, use)
        alone_s = bits / np.maximum(use.rate_bps[self.coverage], 1e-9)
        self.sending = sending_share(use.duty[self.coverage] * alone_s, start_s, end_s)
        return end_s

    def send_w(self) -> Floats:
        """Mean power over an upload: sending for the time of its blocks, listening in between."""
        energy = self.network.energy
        return energy.receive_w + self.sending * (float(energy.send_w(self.network.power_dbm)) - energy.receive_w)

    def _end(self, start_s: Floats, bits: Floats, use: CarrierUse) -> Floats:
        reached = use.rate_bps[self.coverage] > 0.0

        def speed(active: tuple[int, ...], _: bool) -> list[float]:
            level = _level(np.array(active), use.occupancy[: len(active)])
            return (use.rate_bps * np.minimum(1.0, level / use.occupancy))[: len(active)].tolist()

        end_s = share(np.where(reached, start_s, np.inf), bits, speed, kind=self.coverage)
        return np.where(bits > 0.0, end_s, start_s)


def _level(active: Ints, occupancy: Floats) -> float:
    """The share that everyone may take so that ``sum active min(occupancy, level) = 1``; infinite where all fit."""
    if float(active @ occupancy) <= 1.0:
        return np.inf
    left, others = 1.0, float(active.sum())
    for place in np.argsort(occupancy):
        if occupancy[place] * others >= left:
            break
        left -= float(active[place] * occupancy[place])
        others -= float(active[place])
    return left / others
