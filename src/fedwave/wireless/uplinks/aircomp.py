"""Over-the-air computation as an uplink: all clients of a cell send at once, and the receiver hears their sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedwave.core.config import Count, Decibel, Index, Loss, NonNegative, Positive
from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.registry import name_of, register
from fedwave.core.types import AirNoise, Bools, Floats, Ints
from fedwave.wireless import aircomp
from fedwave.wireless.budget import Row, rows_of, sourced
from fedwave.wireless.scheduler import Scheduler
from fedwave.wireless.uplinks.air_time import AirGrid, AirTime, Overhead, most_devices
from fedwave.wireless.uplinks.digital import Uplink

TailIndex = Annotated[float, Field(gt=1, le=2, allow_inf_nan=False, strict=True)]
Phase = Annotated[float, Field(ge=0, le=3.2, allow_inf_nan=False, strict=True)]
ErrorShare = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]


@dataclass(frozen=True)
class AirRound:
    """One sum in the air.

    Parameters
    ----------
    coefficient : ``[C, B]`` expected weight of each client's symbols; 0 where it is silent. B is blocks x periods.
    noise : on the sum of unit-power symbols, ``[B]``.
    seconds : from the first pilot to the last symbol.
    symbols : ``[C]`` complex symbols sent.
    control_bits : ``[C]`` digital bits sent on the way: channel reports and the normaliser.
    tx_power_share : ``[C]`` average power of the analog symbols over the maximum, <= 1 (for unit-power symbols; a
        client with smaller values sends less).
    silent : ``[C]`` took part and is off the air on every block.
    """

    coefficient: Floats
    noise: AirNoise
    seconds: float
    symbols: Floats
    control_bits: Floats
    tx_power_share: Floats
    silent: Bools


@register("uplink", "aircomp")
@dataclass(frozen=True)
class AirComp(Uplink):
    """Coherent analog sums: each client inverts its channel, so that the superposed signal is the sum of all updates.

    Client k scales its values to unit power with the round's one normaliser and sends two of them, I and Q, per
    subcarrier and symbol with power ``p_kb <= P`` on block b. Gains are ``g_kb = G_k |h_kb|^2``, ``|h|^2`` from Exp(1)
    (Rayleigh, also for clients in line of sight). The estimate of the sum is
    ``sum_k c_kb s_k + n / sqrt(eta_b)``, ``c_kb = sqrt(p_kb g_kb / eta_b)`` (:mod:`fedwave.wireless.aircomp`), divided
    by ``sum_k c_kb`` (weights included).

    Policies: "zero_forcing" (everybody inverts, the worst channel sets ``eta``), "truncated" (clients are silent on
    blocks below ``threshold``, Zhu, Wang & Huang, IEEE TWC 2020, section III: each client's update is masked), and
    "optimal" (weak clients at full power and under-weighted: Cao et al., IEEE TWC 2020, Theorem 1).

    Errors: channel estimates are MMSE, ``h = h_hat + e``, ``e ~ CN(0, csi_error)``, and a phase error ``N(0, s^2)``
    remains; coefficients shrink by ``exp(-s^2 / 2)``, and ``sum_k c_kb^2 (csi_error / |h_hat_kb|^2 + 1 - exp(-s^2))``
    is noise, as if errors were new for every symbol and every client sent at unit power.

    What to expect: the sum is biased where clients are silent or under-weighted, and its noise is in proportion to the
    largest client's update, which does not vanish where clients differ: coherent truncated sums without memory stop at
    an error floor. Fading is drawn anew for every coherence period that a sum lasts. What is not modelled: peaks of
    analog OFDM beyond the budget's power reduction; timing beyond the cyclic prefix; receive combining, because one
    beam cannot match all devices (the SNR is that of one antenna).

    Parameters
    ----------
    policy : see above.
    threshold : least power gain of a block relative to the client's mean ("truncated" only).
    power_rule : "peak": no block above the average share of the power. "average": a client moves power between its
        blocks, up to the headroom ("truncated" only; inversion without truncation has no finite average).
    peak_headroom_db : most power on a block over the average ("average" only).
    least_snr_db : clients with a lower mean SNR stay silent in every policy; ``None``: nobody.
    blocks : groups of subcarriers B, each with its own fading.
    """

    policy: Literal["zero_forcing", "truncated", "optimal"] = sourced("truncated", "", "Zhu, Wang & Huang 2020")
    threshold: NonNegative = sourced(0.1, "", "assumption: 90 % of the blocks are on the air")
    power_rule: Literal["peak", "average"] = sourced("peak", "", "power spread evenly over the band")
    peak_headroom_db: Loss = sourced(8.0, "dB", "assumption: the weakest block at threshold 0.1 needs 7.4 dB")
    least_snr_db: Decibel | None = sourced(None, "dB", "none: nobody is left out by its path loss")
    blocks: Count = sourced(12, "", "assumption: of 1.7 MHz each in 20 MHz, more than the coherence bandwidth")
    csi_error: ErrorShare = sourced(0.01, "", "assumption: estimates at 20 dB")
    phase_error_rad: Phase = sourced(0.1, "rad", "assumption: about 6 degrees after synchronisation")
    interference: Literal["gaussian", "alpha_stable"] = sourced("gaussian", "", "heavy tails: Yang et al., JSTSP 2022")
    interference_alpha: TailIndex = sourced(1.5, "", "assumption: tail index")
    interference_scale: NonNegative = sourced(0.0, "", "over the noise's standard deviation; what the SNR has not")
    csi_period_s: Positive | None = sourced(None, "s", "coherence time of the fastest client, 9 / (16 pi f_D)")
    dmrs_symbols: Annotated[int, Field(ge=0, le=13, strict=True)] = sourced(
        2, "", "assumption: of 14, front-loaded and one more, TS 38.211 6.4.1.1"
    )
    devices_per_pilot: Count = sourced(16, "", "comb 2 with 8 cyclic shifts, TS 38.211 Table 6.4.1.4.2-1")
    csi_bits: Index = sourced(8, "bit", "assumption: report of one block's gain")
    normaliser_bits: Index = sourced(32, "bit", "assumption: a float from each client, one to all")
    timing_bits: Index = sourced(16, "bit", "timing advance command and its header, TS 38.321 6.1.3.4")
    told_bits: Index = sourced(32, "bit", "assumption: a float to all, normaliser and each block's denoising factor")
    control_bits_per_re: Positive = sourced(0.377, "bit", "CQI 3, QPSK 193/1024, TS 38.214 Table 5.2.2.1-2")

    def __post_init__(self) -> None:
        """Refuse power averages that do not exist."""
        if self.power_rule == "average" and self.policy != "truncated":
            raise BadInput(
                f"power_rule: 'average' needs policy = 'truncated', got policy = {self.policy!r}: "
                "inverting every Rayleigh channel has no finite average power"
            )
        if self.power_rule == "average" and self.threshold <= 0.0:
            raise BadInput("threshold: must be positive with power_rule = 'average', got 0")

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each entry that has a value."""
        return [(f"uplink.{name}", value, unit, why) for name, value, unit, why in rows_of(self) if value is not None]

    def explain(self, grid: AirGrid) -> list[Row]:
        """The entries, and how far the time of a sum is the same for any number of clients."""
        update, own, grid = self.time(1e6, 1, grid), self.overhead, self._grid(grid)
        carried, most = own.bits_per_re * grid.subcarriers, most_devices(grid, own)
        measured = 1.0 / own.devices_per_pilot + own.blocks * own.csi_bits / carried
        first = (own.normaliser_bits + own.timing_bits) / carried
        return [
            *self.rows(),
            ("uplink.million_values_s", update.data * grid.symbol_s, "s", "of a sum, whatever the number of clients"),
            ("uplink.period_s", grid.coherence_s, "s", "after it channels are measured anew"),
            ("uplink.client_period_s", measured * grid.symbol_s, "s", "each client adds to a period: sounding, report"),
            ("uplink.client_once_s", first * grid.symbol_s, "s", "each client adds to a sum: normaliser, timing"),
            ("uplink.most_clients", "any" if most is None else most, "", "of a cell: a period measures no more"),
        ]

    def check(self, scheduler: Scheduler, grid: AirGrid) -> None:
        """Raise :class:`Refused` for more blocks than the carrier has, and schedulers that assume coded uploads."""
        if type(scheduler).backoff_db is not Scheduler.backoff_db:
            raise Refused(
                f"scheduler {name_of(scheduler)!r} sets the power of coded uploads, and in the air the channel does; "
                "take another, or uplink = 'digital'"
            )
        self.time(0.0, 0, grid)

    @property
    def overhead(self) -> Overhead:
        """What a sum needs beside the update."""
        return Overhead(
            self.blocks,
            self.dmrs_symbols,
            self.devices_per_pilot,
            self.csi_bits,
            self.normaliser_bits,
            self.timing_bits,
            self.told_bits,
            self.control_bits_per_re,
        )

    def time(self, values: float, devices: int, grid: AirGrid) -> AirTime:
        """How a sum of ``devices`` updates of ``values`` real values spends its time; raises as :class:`AirTime`."""
        return AirTime(values, devices, self._grid(grid), self.overhead)

    def _grid(self, grid: AirGrid) -> AirGrid:
        return grid if self.csi_period_s is None else replace(grid, coherence_s=self.csi_period_s)

    def sum(
        self, snr: Floats, ids: Ints, values: float, grid: AirGrid, ready: Bools, key: Key, periods: int = 1
    ) -> AirRound:
        """The sum of those who are ``ready [C]``; all are in one cell.

        Parameters
        ----------
        snr : ``[C]`` mean received SNR per subcarrier, linear, at full power spread over the band, one receive antenna.
        ids : ``[C]`` client ids; fading is a function of ``key`` and id.
        values : real values of each update.
        grid : what the sum occupies.
        periods : how often channels are measured, each time with new fading.

        Raises
        ------
        Refused : see :class:`~fedwave.wireless.uplinks.air_time.AirTime`.
        """
        usable = ready & np.isfinite(snr) & (snr > 0.0)
        if self.least_snr_db is not None:
            usable &= snr >= 10.0 ** (self.least_snr_db / 10.0)
        time = self.time(values, int(ready.sum()), grid)
        mean = np.where(usable, snr, 0.0) * (1.0 - self.csi_error)
        fading = -np.log(key.fold("fading").uniform(ids, self.blocks * periods))
        lined = aircomp.joined(
            [self._align(mean, fading[:, at : at + self.blocks]) for at in range(0, fading.shape[1], self.blocks)]
        )
        on = lined.coefficients > 0.0
        return AirRound(
            coefficient=lined.coefficients * np.exp(-0.5 * self.phase_error_rad**2),
            noise=self._noise(lined, fading),
            seconds=time.seconds(periods),
            symbols=np.ceil(values / 2.0) * on.mean(axis=1),
            control_bits=np.where(ready, time.control_bits(periods), 0.0),
            tx_power_share=np.minimum(lined.power.mean(axis=1), 1.0),
            silent=ready & ~on.any(axis=1),
        )

    @property
    def _thermal(self) -> float:
        """Variance of the receiver's Gaussian noise in units of the thermal noise."""
        return 1.0 + (self.interference_scale**2 if self.interference == "gaussian" else 0.0)

    def _align(self, mean: Floats, fading: Floats) -> aircomp.Alignment:
        gains = mean[:, None] * fading
        active = gains > 0.0
        if self.policy == "truncated":
            active &= fading >= self.threshold
        if self.policy == "optimal":
            return aircomp.optimal_alignment(gains, active, self._thermal)
        if self.power_rule == "average":
            return aircomp.average_inversion(mean, fading, active, 10.0 ** (self.peak_headroom_db / 10.0))
        return aircomp.peak_inversion(gains, active)

    def _noise(self, lined: aircomp.Alignment, fading: Floats) -> AirNoise:
        estimate = (1.0 - self.csi_error) * fading
        wrong = -np.expm1(-(self.phase_error_rad**2)) + np.divide(
            self.csi_error, estimate, out=np.zeros(fading.shape), where=lined.coefficients > 0.0
        )
        leaked = (lined.coefficients**2 * wrong).sum(axis=0)
        gaussian = np.sqrt(self._thermal / lined.eta + leaked)
        if self.interference == "gaussian" or self.interference_scale == 0.0:
            return AirNoise("gaussian", 2.0, gaussian)
        heavy = self.interference_scale / np.sqrt(lined.eta)
        return AirNoise("alpha_stable", self.interference_alpha, heavy, gaussian)
