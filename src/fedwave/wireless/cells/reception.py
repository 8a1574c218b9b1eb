"""The downlink of a round: one transmission for many or a copy for each, and what of it was on the air."""

from __future__ import annotations

import numpy as np

from fedwave.core.types import Floats
from fedwave.wireless.downlinks.downlink import Downlink, Listeners, seconds_of, split_common
from fedwave.wireless.downlinks.unicast import Unicast
from fedwave.wireless.flow import Transfer
from fedwave.wireless.radio import Radio


class Reception:
    """A :data:`~fedwave.wireless.flow.Transfer` to clients at ``radio``; what all have in common may be sent once.

    Over its calls it adds up ``air_bits`` and ``air_s``, the bits on the air and the seconds of whole carriers that
    they took. The deadline cuts off what is on the air.

    Parameters
    ----------
    copies : transfer of a copy for each client, by the cells' scheduler.
    share : ``[S]`` of each cell's carrier that the clients may have, 0 to 1.
    until_s : the deadline, infinite where there is none.
    """

    def __init__(self, downlink: Downlink, radio: Radio, copies: Transfer, share: Floats, until_s: float) -> None:
        self.downlink, self.radio, self.copies, self.share, self.until_s = downlink, radio, copies, share, until_s
        self.air_s, self.air_bits = 0.0, 0.0

    def __call__(self, start_s: Floats, bits: Floats) -> Floats:
        """When each transfer ends."""
        if isinstance(self.downlink, Unicast):
            return self._copy(start_s, bits)
        shared, own = split_common(start_s, bits)
        heard = listeners(self.radio)
        share = self.share[: heard.cells]
        got = self.downlink.finish(start_s, shared, own, heard.on_share(share), self.copies)
        in_time = self._in_time(start_s, got.end_s)
        everything, copies = float(got.sent_bits.sum()), float((got.unicast_bits * in_time).sum())
        common = everything - float(got.unicast_bits.sum())
        sent = copies + common * float(in_time[got.received_bits > 0.0].max(initial=0.0))
        self.air_bits += sent
        self.air_s += float((got.airtime_s * share).sum()) * (sent / everything if everything > 0.0 else 0.0)
        return got.end_s

    def _copy(self, start_s: Floats, bits: Floats) -> Floats:
        end_s = self.copies(start_s, bits)
        sent = np.where(np.isfinite(end_s), bits, 0.0) * self._in_time(start_s, end_s)
        self.air_bits += float(sent.sum())
        self.air_s += float(seconds_of(sent, self.radio.down_full_bps).sum())
        return end_s

    def _in_time(self, start_s: Floats, end_s: Floats) -> Floats:
        """Share of each transfer that is through by the deadline, as if it went on evenly; 0 where it has no link."""
        in_time = np.isfinite(end_s).astype(float)
        late = np.flatnonzero((end_s > self.until_s) & (in_time > 0.0))
        in_time[late] = np.maximum(self.until_s - start_s[late], 0.0) / (end_s[late] - start_s[late])
        return in_time


def listeners(radio: Radio) -> Listeners:
    """The clients as a common transmission finds them: no beam of their own, one layer."""
    budget = radio.budget
    slots = 1000 * radio.carrier.subcarrier_khz // 15
    return Listeners(
        cell=radio.cell,
        full_rate_bps=radio.down_full_bps,
        cast_rate_bps=radio.full_bps("down", -budget.array_gain_db, layers=1),
        sinr=10.0 ** ((radio.down_sinr_db() - budget.array_gain_db - budget.implementation_loss_db) / 10.0),
        symbol_hz=radio.carrier.prbs * 132.0 * slots * budget.tdd_downlink_share * (1.0 - budget.protocol_overhead),
    )
