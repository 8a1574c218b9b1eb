"""Coupling of clients to their site: the draws that stay for a whole job, each client's from its own stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless import channel

_MAX_DEPTH_M = {"UMa": 25.0, "UMi": 25.0, "RMa": 10.0, "InH": 0.0}  # TR 38.901 7.4.3.1


@dataclass(frozen=True)
class LargeScale:
    """``loss_db [C]``: path loss, shadowing and penetration, without antennas; ``los``, ``indoor`` ``[C]``."""

    loss_db: Floats
    los: Bools
    indoor: Bools


def large_scale(
    scenario: str,
    position_m: Floats,
    ids: Ints,
    key: Key,
    *,
    carrier_ghz: float,
    h_bs_m: float,
    h_ut_m: float,
    indoor_share: float,
    o2i_model: str,
) -> LargeScale:
    """Draw line of sight, shadow fading and indoor loss of the given clients (TR 38.901 7.4), O(C).

    Indoors: penetration ``N(mean, sigma_P)`` and 0.5 dB per metre of depth, depth the smaller of two uniform draws
    (7.4.3.1). Shadowing is not correlated between clients. Users in cars (RMa) count as outdoors.

    Parameters
    ----------
    position_m : ``[C, 2]`` relative to the site; ``ids [C]`` the clients' numbers, which select their draws.
    key : constant over the job.
    """
    distance = np.hypot(position_m[:, 0], position_m[:, 1])
    uniform = key.fold("large-scale").uniform(ids, 4)
    normal = key.fold("shadowing").normal(ids, 2)
    los = uniform[:, 0] < channel.los_probability(scenario, distance, h_ut_m)
    indoor = uniform[:, 1] < indoor_share
    sigma = channel.shadow_sigma_db(
        scenario,
        los,
        distance_2d_m=distance,
        breakpoint_m=channel.breakpoint_m(scenario, carrier_ghz, h_bs_m, h_ut_m),
    )
    loss = channel.path_loss_db(scenario, los, distance, carrier_ghz, h_bs_m, h_ut_m) + sigma * normal[:, 0]
    depth = _MAX_DEPTH_M[scenario] * uniform[:, 2:4].min(axis=1)
    walls = channel.o2i_penetration_db(o2i_model, carrier_ghz) + channel.o2i_sigma_db(o2i_model) * normal[:, 1]
    return LargeScale(loss_db=loss + np.where(indoor, walls + 0.5 * depth, 0.0), los=los, indoor=indoor)
