"""The cells of a network as sums in the air meet them: what is free for a sum, and the SNR of one receive antenna."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.types import Floats, Ints
from fedwave.wireless import power
from fedwave.wireless.phy.goodput import coherence_time_s
from fedwave.wireless.radio import Radio
from fedwave.wireless.uplinks.air_time import AirGrid

if TYPE_CHECKING:
    from fedwave.wireless.networks.cell import Cell


def air_grid(cell: Cell, free_blocks: float, speed_m_s: float) -> AirGrid:
    """What a sum occupies in a cell of which ``free_blocks`` are free, for clients of at most ``speed_m_s``."""
    hold_s = float(coherence_time_s(speed_m_s, cell.carrier_ghz * 1e9))
    return AirGrid(int(free_blocks), cell.subcarrier_khz, cell.budget.tdd_uplink_share, hold_s)


def full_power_dbm(radio: Radio) -> float:
    """The most that a client sends: analog OFDM backs off as coded OFDM does."""
    return radio.budget.ue_p_cmax_dbm - radio.budget.ue_mpr_db


def air_snr(radio: Radio, prbs: int, elsewhere_w_hz: Floats) -> Floats:
    """``[C]`` mean SNR per subcarrier, linear, of one receive antenna, at full power spread over ``prbs`` blocks.

    ``elsewhere_w_hz [S]``: what other cells' sums add to each cell's interference.
    """
    budget, scs = radio.budget, radio.carrier.subcarrier_khz
    noise_dbm = power.noise_dbm(power.prb_hz(scs), budget.gnb_noise_figure_db)
    snr_db = full_power_dbm(radio) - 10.0 * np.log10(prbs) - radio.coupling_db - noise_dbm
    thermal_w_hz = 10.0 ** ((power.noise_dbm(1.0, budget.gnb_noise_figure_db) - 30.0) / 10.0)
    over_thermal = 10.0 ** (radio.up_iot_db / 10.0) + elsewhere_w_hz[radio.cell] / thermal_w_hz
    return 10.0 ** ((snr_db - budget.implementation_loss_db) / 10.0) / over_thermal


def sums_elsewhere_w_hz(radio: Radio, gain: Floats, serving: Ints, prbs: int) -> Floats:
    """Power density ``[S]`` that each cell hears of the other cells' sums, as if all sums were at the same time.

    Every client inverts its mean channel ``gain [C, S]``, and the weakest of its cell sends at full power.
    """
    own = np.take_along_axis(gain, serving[:, None], axis=1)[:, 0].astype(float)
    weakest = np.full(gain.shape[1], np.inf)
    np.minimum.at(weakest, serving, own)
    watts = 10.0 ** ((full_power_dbm(radio) - 30.0) / 10.0) * weakest[serving] / own
    heard = gain * (watts / (prbs * power.prb_hz(radio.carrier.subcarrier_khz)))[:, None]
    heard[np.arange(len(heard)), serving] = 0.0
    return heard.sum(axis=0)
