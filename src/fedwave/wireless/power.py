"""Transmit power and SINR of the two directions as functions of the grant."""

from __future__ import annotations

import numpy as np

from fedwave.core.types import Floats
from fedwave.wireless.budget import LinkBudget

_THERMAL_DBM_HZ = -174.0  # k T at 290 K


def noise_dbm(bandwidth_hz: float, noise_figure_db: float) -> float:
    """Receiver noise power, ``-174 dBm/Hz + 10 log10 B + NF``."""
    return _THERMAL_DBM_HZ + 10.0 * float(np.log10(bandwidth_hz)) + noise_figure_db


def prb_hz(subcarrier_khz: int) -> float:
    """Bandwidth of one resource block: 12 subcarriers."""
    return 12e3 * subcarrier_khz


def uplink_power_dbm(loss_db: Floats, *, prbs: Floats, subcarrier_khz: int, budget: LinkBudget) -> Floats:
    """Open-loop PUSCH power, TS 38.213 7.1.1: ``min(P_CMAX - MPR, P0 + 10 log10(2^mu M) + alpha PL)``.

    ``PL`` is what the UE measures on the wide synchronisation beam: the loss less the antenna element gains.
    """
    measured = loss_db - budget.element_gain_dbi - budget.ue_gain_dbi
    wanted = budget.p0_dbm + 10.0 * np.log10(subcarrier_khz / 15 * prbs) + budget.alpha * measured
    return np.minimum(budget.ue_p_cmax_dbm - budget.ue_mpr_db, wanted)


def uplink_sinr_db(loss_db: Floats, *, prbs: int, subcarrier_khz: int, budget: LinkBudget) -> Floats:
    """``[C, M]`` SINR per layer after combining when granted 1 to M blocks: limited power is spread over the grant."""
    grant = np.arange(1.0, prbs + 1.0)
    loss = loss_db[:, None]
    power = uplink_power_dbm(loss, prbs=grant, subcarrier_khz=subcarrier_khz, budget=budget)
    gain = budget.element_gain_dbi + budget.ue_gain_dbi + budget.combining_gain_db
    floor = noise_dbm(prb_hz(subcarrier_khz), budget.gnb_noise_figure_db) + budget.uplink_iot_db
    return power - 10.0 * np.log10(grant * budget.uplink_layers) - loss + gain - floor


def downlink_sinr_db(
    loss_db: Floats, *, prbs: int, subcarrier_khz: int, layers: int, gnb_power_dbm: float, budget: LinkBudget
) -> Floats:
    """``[C]`` SINR per layer; the layers share a power that is spread over the band, whatever the grant."""
    density = gnb_power_dbm - 10.0 * np.log10(prbs * layers)
    gain = budget.element_gain_dbi + budget.ue_gain_dbi + budget.array_gain_db
    floor = noise_dbm(prb_hz(subcarrier_khz), budget.ue_noise_figure_db) + budget.downlink_iot_db
    return density - loss_db + gain - floor
