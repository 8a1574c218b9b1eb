"""Goodput of each user from explicit channel impulse responses: fading, effective SINR, MCS, transport block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints
from fedwave.wireless.reference.backend import DEVICE, PDSCH, link_adaptation, require_sionna
from fedwave.wireless.reference.carrier import Carrier, check_adaptation, mean_sinr
from fedwave.wireless.reference.fading import Channel

_VALUES = 8_000_000  # of a batch handed to Sionna at once
_GOLDEN = 0.6180339887498949  # fractional parts of its multiples cover the band evenly


@dataclass(frozen=True)
class LinkRates:
    """Rates in bit/s of a user that is granted ``grants [G]`` blocks in every slot of the direction.

    ``trace_bps [U, G, T]`` : expected in each slot of the direction, ``TBS (1 - BLER) x slots per second x share``.
    ``mcs [U, G, T]`` : chosen in it. ``bler [U, G]`` : share of blocks lost.
    """

    grants: Ints
    trace_bps: Floats
    mcs: Ints
    bler: Floats

    @property
    def mean_bps(self) -> Floats:
        """``[U, G]`` mean over the slots."""
        return self.trace_bps.mean(axis=2)

    @property
    def useful_blocks(self) -> Ints:
        """``[U]``: the grant beyond which a user's rate does not grow."""
        return self.grants[np.argmax(self.mean_bps, axis=1)]


def link_rates(
    sinr_db: ArrayLike,
    grants: ArrayLike,
    *,
    carrier: Carrier,
    fading: Channel,
    key: Key,
    slots: int = 400,
    spacing: int = 1,
    mcs_table: int = 2,
    bler_target: float = 0.1,
) -> LinkRates:
    """Rates over a realised channel, user by user and grant by grant: the fidelity "link".

    A grant is a run of adjacent blocks whose place in the band changes from slot to slot. Per slot: EESM over its
    blocks, the highest MCS with an error rate of at most ``bler_target`` (else the lowest with a curve), and the
    expected goodput of the transport block. The channel of the slot is known exactly; errors are paid as capacity.

    Parameters
    ----------
    sinr_db : mean over fading per block, ``[U, M]`` (column m - 1: granted m blocks) or ``[U, 1]``.
    grants : ``[G]`` blocks, 1 to M.
    slots, spacing : T slots, every ``spacing``-th of the direction. The mean needs a span of many coherence times.

    Raises
    ------
    BadInput : Sionna is missing, or a value is out of range.
    """
    mean = mean_sinr(sinr_db, carrier.prbs)
    grid = np.atleast_1d(np.asarray(grants, dtype=np.int64))
    check_adaptation(mcs_table, bler_target)
    if grid.ndim != 1 or not len(grid) or (grid < 1).any() or (grid > carrier.prbs).any():
        raise BadInput(f"grants: one or more of 1 to {carrier.prbs} blocks are needed")
    if slots < 1 or spacing < 1:
        raise BadInput(f"{'slots' if slots < 1 else 'spacing'}: {min(slots, spacing)} must be at least 1")
    torch = require_sionna("link")
    users = np.arange(len(mean))
    power = fading.gains(key, users, carrier, first=0, slots=slots, spacing=spacing, fidelity="link")
    link = _Link(carrier, mcs_table, bler_target)
    goodput, bler = np.empty((2, len(mean), len(grid), slots))
    mcs = np.empty((len(mean), len(grid), slots), dtype=np.int64)
    for column, blocks in enumerate(grid):
        snr = torch.as_tensor(10.0 ** (mean[:, blocks - 1] / 10.0), dtype=torch.float32)
        free = carrier.prbs - blocks + 1
        begin = (np.arange(slots) * _GOLDEN % 1.0 * free).astype(np.int64)
        granted = np.take_along_axis(power, (begin[:, None] + np.arange(blocks))[:, :, None], axis=1)  # [T, m, U]
        out = link.goodput(torch.as_tensor(granted) * snr)
        goodput[:, column], mcs[:, column], bler[:, column] = (value.numpy().T for value in out)
    return LinkRates(grid, goodput * (carrier.share / carrier.slot_s), mcs, bler.mean(axis=2))


class _Link:
    """Expected goodput of whole slots, through Sionna."""

    def __init__(self, carrier: Carrier, mcs_table: int, bler_target: float) -> None:
        self.table = mcs_table
        self.phy, self.illa, self.blocks = link_adaptation(carrier.data_elements, bler_target)

    def goodput(self, sinr: Any) -> tuple[Any, Any, Any]:
        """Bits, MCS and error rate, ``[T, U]`` each, of SINR ``[T, m, U]``; in batches that fit memory."""
        import torch

        _, blocks, users = sinr.shape
        batch = max(1, _VALUES // (29 * blocks * users))
        with torch.no_grad():
            parts = [self._batch(part[:, None, :, :, None]) for part in torch.split(sinr, batch)]
        bits, mcs, bler = (torch.cat(column) for column in zip(*parts, strict=True))
        return bits, mcs, bler

    def _batch(self, sinr: Any) -> tuple[Any, Any, Any]:
        from sionna.phy.nr.utils import MCSDecoderNR

        mcs = self.illa(sinr=sinr, mcs_table_index=self.table, mcs_category=PDSCH)
        bler = self.phy(mcs, sinr=sinr, mcs_table_index=self.table, mcs_category=PDSCH)[3].clamp(0.0, 1.0)
        order, rate = MCSDecoderNR(device=DEVICE)(mcs, self.table, PDSCH)
        bits = self.blocks.transport_block_size(order, rate, order * sinr.shape[2])[0]
        return bits * (1.0 - bler), mcs, bler
