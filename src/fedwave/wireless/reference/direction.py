"""One direction of a cell network in the terms of the link level and the slot loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints
from fedwave.wireless.phy.build.codes import RE_PER_PRB
from fedwave.wireless.radio import Radio
from fedwave.wireless.reference.carrier import Carrier
from fedwave.wireless.reference.fading import Channel
from fedwave.wireless.reference.link_level import link_rates

if TYPE_CHECKING:
    from fedwave.wireless.networks.cell import Cell

_SPACING = 60  # slots of the direction between two looks at the channel; whole periods of every pattern below


@dataclass(frozen=True)
class Direction:
    """One direction of a cell as the reference takes it.

    Parameters
    ----------
    carrier : the slots.
    mcs_table : 1 or 2.
    sinr_db : ``[C, M]`` with 1 to M blocks, implementation loss taken off.
    layers : ``[C]`` of each client, alike and without interference between them, as at table fidelity.
    payload : share of what slots carry that is payload: protocol overhead off; symbols of special slots, which the
        budget's share of a direction counts and the slot pattern does not, on.
    """

    carrier: Carrier
    mcs_table: int
    sinr_db: Floats
    layers: Ints
    payload: float

    @classmethod
    def of(cls, cell: Cell, radio: Radio, direction: str, prbs: int, backoff_db: Floats) -> Direction:
        """From the link budget; ``backoff_db [C]`` off the uplink's power."""
        budget, up = cell.budget, direction == "up"
        carrier = Carrier(
            prbs,
            cell.subcarrier_khz,
            pattern=pattern(budget.tdd_uplink_share),
            direction="up" if up else "down",
            data_elements=RE_PER_PRB[direction],
        )
        share = budget.tdd_uplink_share if up else budget.tdd_downlink_share
        layers = np.full(len(radio.cell), budget.uplink_layers) if up else _layers(radio)
        if up:
            sinr = radio.up_sinr_db(np.arange(1.0, prbs + 1.0)) - backoff_db[:, None]
        else:
            every = np.stack([radio.down_sinr_db(each) for each in range(1, budget.downlink_layers + 1)], axis=1)
            one = np.take_along_axis(every, layers[:, None] - 1, axis=1)
            sinr = np.broadcast_to(one, (len(layers), prbs))
        return cls(
            carrier,
            budget.uplink_mcs_table if up else budget.downlink_mcs_table,
            sinr - budget.implementation_loss_db,
            layers,
            share / carrier.share * (1.0 - budget.protocol_overhead),
        )

    def rates_bps(self, who: Ints, grants: Ints, channel: Channel, key: Key, slots: int) -> Floats:
        """``[len(who), G]`` mean goodput of some clients over looks at their channels."""
        found = link_rates(
            self.sinr_db[who],
            grants,
            carrier=self.carrier,
            fading=channel,
            key=key,
            slots=slots,
            spacing=_SPACING,
            mcs_table=self.mcs_table,
        )
        return found.mean_bps * self.layers[who, None] * self.payload


def pattern(uplink_share: float) -> str:
    """Five slots of which the nearest number to ``uplink_share`` are uplink: DDDSU at 0.25."""
    up = int(np.clip(round(5.0 * uplink_share), 1, 4))
    return "D" * max(4 - up, 1) + "S" * (up < 4) + "U" * up


def _layers(radio: Radio) -> Ints:
    """The number of layers with which the whole carrier carries most, ``[C]``."""
    best = [radio.full_bps("down", layers=each) for each in range(1, radio.budget.downlink_layers + 1)]
    return 1 + np.argmax(np.stack(best), axis=0)
