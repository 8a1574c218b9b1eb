"""Transmit power and SINR of the two directions as functions of the grant.

Losses are coupling losses: path loss, shadowing and walls, less the gains of the antenna elements at both ends.
"""

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


def uplink_power_dbm(coupling_db: Floats, *, blocks: Floats, subcarrier_khz: int, budget: LinkBudget) -> Floats:
    """Open-loop PUSCH power, TS 38.213 7.1.1: ``min(P_CMAX - MPR, P0 + 10 log10(2^mu M) + alpha PL)``.

    ``PL`` is what the UE measures on the wide synchronisation beam: the coupling loss.
    """
    wanted = budget.p0_dbm + 10.0 * np.log10(subcarrier_khz / 15 * blocks) + budget.alpha * coupling_db
    return np.minimum(budget.ue_p_cmax_dbm - budget.ue_mpr_db, wanted)


def headroom_db(coupling_db: Floats, *, blocks: Floats, subcarrier_khz: int, budget: LinkBudget) -> Floats:
    """Power headroom, TS 38.213 7.7.1: what is left of the maximum; negative where power limits the grant."""
    wanted = budget.p0_dbm + 10.0 * np.log10(subcarrier_khz / 15 * blocks) + budget.alpha * coupling_db
    return budget.ue_p_cmax_dbm - budget.ue_mpr_db - wanted


def uplink_snr_db(coupling_db: Floats, blocks: Floats, *, subcarrier_khz: int, budget: LinkBudget) -> Floats:
    """SNR per layer after combining with ``blocks`` granted (shapes broadcast): limited power is spread over them."""
    power = uplink_power_dbm(coupling_db, blocks=blocks, subcarrier_khz=subcarrier_khz, budget=budget)
    noise = noise_dbm(prb_hz(subcarrier_khz), budget.gnb_noise_figure_db)
    return power - 10.0 * np.log10(blocks * budget.uplink_layers) - coupling_db + budget.combining_gain_db - noise


def downlink_snr_db(
    coupling_db: Floats, *, prbs: int, subcarrier_khz: int, layers: int, gnb_power_dbm: float, budget: LinkBudget
) -> Floats:
    """``[C]`` SNR per layer; the layers share a power that is spread over the band, whatever the grant."""
    density = gnb_power_dbm - 10.0 * np.log10(prbs * layers)
    noise = noise_dbm(prb_hz(subcarrier_khz), budget.ue_noise_figure_db)
    return density - coupling_db + budget.array_gain_db - noise
