"""The links of a cohort at one moment: SINR in both directions, and the rates that follow for every grant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless import power
from fedwave.wireless.budget import LinkBudget
from fedwave.wireless.link import slots_per_second
from fedwave.wireless.phy import goodput
from fedwave.wireless.sharing.rates import USERS, Rates

_KEPT = ("_plain_up", "_plain_down", "up_full_sinr_db", "coherence_time_s", "_up_variance", "_down_variance")
_LOS_POWER_SPREAD = 0.09  # variance of the power gain of TDL-D, K = 13.3 dB: (2 K + 1) / (K + 1)^2


@dataclass(frozen=True)
class Carrier:
    """A carrier's grid: frequency, resource blocks, subcarrier spacing."""

    carrier_ghz: float
    prbs: int
    subcarrier_khz: int

    @property
    def bandwidth_hz(self) -> float:
        """What the resource blocks occupy."""
        return self.prbs * power.prb_hz(self.subcarrier_khz)

    @cached_property
    def grants(self) -> Ints:
        """Grants at which rates are tabulated: those of the goodput tables, up to all blocks."""
        known = np.asarray(goodput.GRANTS, dtype=np.int64)
        return np.append(known[known < self.prbs], self.prbs)


@dataclass(frozen=True)
class Radio:
    """Links of ``C`` clients; arrays are ``[C]``.

    Parameters
    ----------
    coupling_db : coupling loss to the serving cell, antenna elements included.
    cell, los, delay_spread_s, speed_m_s : serving cell, line of sight, delay spread, speed.
    down_iot_db, up_iot_db : interference over thermal noise at the client, at its serving cell.
    gnb_power_dbm : power of a cell over the whole carrier.
    q_out_db : SINR below which there is no link: where TS 38.133 8.1 has a terminal out of synchronisation. In the
        uplink, where 3GPP has no such number, the same holds with the blocks granted.
    """

    carrier: Carrier
    budget: LinkBudget
    gnb_power_dbm: float
    q_out_db: float
    coupling_db: Floats
    cell: Ints
    los: Bools
    delay_spread_s: Floats
    speed_m_s: Floats
    down_iot_db: Floats
    up_iot_db: Floats

    def up_sinr_db(self, blocks: Floats) -> Floats:
        """Mean uplink SINR with ``blocks`` granted, ``[C, len(blocks)]``."""
        snr = power.uplink_snr_db(
            self.coupling_db[:, None], blocks, subcarrier_khz=self.carrier.subcarrier_khz, budget=self.budget
        )
        return snr - self.up_iot_db[:, None]

    def down_sinr_db(self, layers: int = 1) -> Floats:
        """Mean downlink SINR per layer, ``[C]``."""
        return (
            power.downlink_snr_db(
                self.coupling_db,
                prbs=self.carrier.prbs,
                subcarrier_khz=self.carrier.subcarrier_khz,
                layers=layers,
                gnb_power_dbm=self.gnb_power_dbm,
                budget=self.budget,
            )
            - self.down_iot_db
        )

    def up(self, *, diversity: bool = False, backoff_db: Floats | None = None) -> Rates:
        """Uplink goodput of the clients; with ``diversity`` also what being served at one's peaks adds."""
        if not diversity and backoff_db is None:
            return self._plain_up
        less = np.zeros(len(self.coupling_db)) if backoff_db is None else backoff_db
        rates = self._plain_up if backoff_db is None else self._up_rates(less)
        if not diversity:
            return rates
        few = np.maximum(self.carrier.prbs / USERS, 1.0)
        return replace(rates, gain=self._gain(self.up_sinr_db(few) - less[:, None], few, "up"))

    @cached_property
    def _plain_up(self) -> Rates:
        return self._up_rates(np.zeros(len(self.coupling_db)))

    def _up_rates(self, backoff_db: Floats) -> Rates:
        grants = self.carrier.grants.astype(float)
        sinr = self.up_sinr_db(grants) - backoff_db[:, None]
        return Rates.usable(self._goodput_bps(sinr, grants, "up", self.budget.uplink_layers), self.carrier.grants)

    def down(self, *, diversity: bool = False) -> Rates:
        """Downlink goodput, with the number of layers that carries most."""
        if not diversity:
            return self._plain_down
        few = np.maximum(self.carrier.prbs / USERS, 1.0)
        return replace(self._plain_down, gain=self._gain(self.down_sinr_db()[:, None], few, "down"))

    @cached_property
    def _plain_down(self) -> Rates:
        grants = self.carrier.grants.astype(float)
        rate = np.zeros((len(self.coupling_db), len(grants)))
        for layers in range(1, self.budget.downlink_layers + 1):
            sinr = self.down_sinr_db(layers)[:, None]
            rate = np.maximum(rate, self._goodput_bps(sinr, grants, "down", layers))
        return Rates.usable(rate, self.carrier.grants)

    @cached_property
    def up_full_bps(self) -> Floats:
        """Uplink goodput with the whole carrier, or as much of it as serves best, ``[C]``."""
        return self._plain_up.full_bps

    @cached_property
    def down_full_bps(self) -> Floats:
        """Downlink goodput with the whole carrier, ``[C]``."""
        return self._plain_down.full_bps

    def full_bps(self, direction: str, extra_db: float = 0.0, layers: int | None = None) -> Floats:
        """Goodput with the whole carrier if the SINR were ``extra_db`` higher, ``[C]``; by default with all layers."""
        whole = np.array([float(self.carrier.prbs)])
        if direction == "up":
            sinr = self.up_sinr_db(whole) + extra_db
            return self._goodput_bps(sinr, whole, "up", self.budget.uplink_layers)[:, 0]
        rates = [
            self._goodput_bps(self.down_sinr_db(each)[:, None] + extra_db, whole, "down", each)[:, 0]
            for each in range(1, (layers or self.budget.downlink_layers) + 1)
        ]
        return np.max(rates, axis=0)

    def up_power_dbm(self, blocks: Floats) -> Floats:
        """Transmit power with ``blocks [C]`` granted."""
        return power.uplink_power_dbm(
            self.coupling_db, blocks=blocks, subcarrier_khz=self.carrier.subcarrier_khz, budget=self.budget
        )

    @cached_property
    def up_full_sinr_db(self) -> Floats:
        """Mean uplink SINR with the whole carrier, ``[C]``."""
        return self.up_sinr_db(np.array([float(self.carrier.prbs)]))[:, 0]

    @cached_property
    def coherence_time_s(self) -> Floats:
        """How long a channel holds, ``[C]``."""
        return goodput.coherence_time_s(self.speed_m_s, self.carrier.carrier_ghz * 1e9)

    def variance(self, direction: str) -> Floats:
        """Relative variance of the whole carrier's rate from one state of the channel to another, ``[C]``.

        That of the power gain of one path, which the band averages, times the square of ``d ln rate / d ln SINR``,
        taken over 1 dB.
        """
        return self._up_variance if direction == "up" else self._down_variance

    @cached_property
    def _up_variance(self) -> Floats:
        return self._variance(self.up_full_bps, self.full_bps("up", 1.0))

    @cached_property
    def _down_variance(self) -> Floats:
        return self._variance(self.down_full_bps, self.full_bps("down", 1.0))

    def _variance(self, rate_bps: Floats, rate_1_db_up_bps: Floats) -> Floats:
        spread = np.where(self.los, _LOS_POWER_SPREAD, 1.0) / (1.0 + self.carrier.bandwidth_hz * self.delay_spread_s)
        linear = rate_bps * (10.0**0.1 - 1.0)
        slope = np.divide(rate_1_db_up_bps - rate_bps, linear, out=np.zeros(len(rate_bps)), where=rate_bps > 0.0)
        return np.minimum(slope, 1.0) ** 2 * spread

    def take(self, index: Ints) -> Radio:
        """Some of the clients, with what is known of their rates."""
        names = (
            "coupling_db", "cell", "los", "delay_spread_s", "speed_m_s", "down_iot_db", "up_iot_db"
        )  # fmt: skip
        some = replace(self, **{name: getattr(self, name)[index] for name in names})
        for name in _KEPT:
            if name in self.__dict__:
                kept = self.__dict__[name]
                some.__dict__[name] = kept.take(index) if isinstance(kept, Rates) else kept[index]
        return some

    def known(self) -> Radio:
        """Itself, once it knows all that :meth:`take` passes on."""
        for name in _KEPT:
            getattr(self, name)
        return self

    def _goodput_bps(self, sinr_db: Floats, blocks: Floats, direction: str, layers: int) -> Floats:
        up = direction == "up"
        budget = self.budget
        share = budget.tdd_uplink_share if up else budget.tdd_downlink_share
        factor = slots_per_second(self.carrier.subcarrier_khz) * share * (1.0 - budget.protocol_overhead)
        rate = factor * layers * self._slot_bits(sinr_db, blocks, direction, 1.0)
        return np.where(sinr_db >= self.q_out_db, rate, 0.0)

    def _slot_bits(self, sinr_db: Floats, blocks: Floats, direction: str, users: Floats | float) -> Floats:
        budget = self.budget
        return goodput.slot_bits(
            sinr_db - budget.implementation_loss_db,
            blocks,
            direction=direction,
            mcs_table=budget.uplink_mcs_table if direction == "up" else budget.downlink_mcs_table,
            profile=self.los[:, None],
            delay_spread_s=self.delay_spread_s[:, None],
            csi_correlation=self._csi_correlation[:, None],
            users=users,
            subcarrier_khz=self.carrier.subcarrier_khz,
        )

    def _gain(self, sinr_db: Floats, blocks: Floats, direction: str) -> Floats:
        """Goodput of a client served at its peaks among ``USERS``, over that of the same grant anywhere."""
        plain = self._slot_bits(sinr_db, blocks, direction, 1.0)
        best = self._slot_bits(sinr_db, blocks, direction, USERS.astype(float))
        return np.divide(best, plain, out=np.ones_like(best), where=plain > 0.0)

    @cached_property
    def _csi_correlation(self) -> Floats:
        return goodput.csi_correlation(
            self.speed_m_s, self.carrier.carrier_ghz * 1e9, self.budget.csi_delay_s, self.los
        )
