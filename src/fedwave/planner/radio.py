"""What the rehearsed rounds ask of the air: rates over places, resource blocks, what is left to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwave.core.types import Floats
from fedwave.federation.setting import Turn

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Spread:
    """Quantiles over clients and rounds."""

    p5: float
    p50: float
    p95: float


@dataclass(frozen=True)
class Air:
    """The radio of a plan.

    Parameters
    ----------
    sinr_db, carrier_bps : uplink SINR, and rate with the whole carrier; ``None`` where the network has no such thing.
    up_bps, down_bps : bits over the seconds from asking to the end, waiting and signalling included.
    block_s : uplink resource blocks x seconds of a round.
    share : of the blocks that there are in the cells in use while a round lasts; ``left_share`` is for others.
    others : what background traffic gets, a table per 5QI flow.
    """

    sinr_db: Spread | None
    carrier_bps: Spread | None
    up_bps: Spread | None
    down_bps: Spread | None
    block_s: float
    share: float
    others: tuple[dict[str, Any], ...] = ()

    @property
    def left_share(self) -> float:
        """Of the blocks, for others."""
        return 1.0 - self.share


def air(turns: Sequence[Turn]) -> Air:
    """Of the rehearsed rounds."""
    deliveries = [turn.delivery for turn in turns]
    used = float(sum(d.block_s.sum() for d in deliveries if d.block_s is not None))
    there = float(sum(d.carrier_block_s for d in deliveries))
    return Air(
        sinr_db=_spread([d.sinr_db for d in deliveries]),
        carrier_bps=_spread([d.up_bps for d in deliveries if d.up_bps is not None]),
        up_bps=_spread([_rate(turn.delivery.up_sent_bits, turn.delivery.uplink_s) for turn in turns]),
        down_bps=_spread([_rate(turn.delivery.down_sent_bits, turn.delivery.downlink_s) for turn in turns]),
        block_s=used / max(len(deliveries), 1),
        share=min(used / there, 1.0) if there > 0.0 else 0.0,
        others=deliveries[-1].qos if deliveries else (),
    )


def _rate(bits: Floats, seconds: Floats) -> Floats:
    sends = (bits > 0.0) & (np.nan_to_num(seconds) > 0.0)
    return bits[sends] / seconds[sends]


def _spread(values: Sequence[Floats]) -> Spread | None:
    """Of all finite values; ``None`` where there are none."""
    joined = np.concatenate([np.asarray(value, dtype=float).ravel() for value in values]) if values else np.zeros(0)
    joined = joined[np.isfinite(joined)]
    return Spread(*np.quantile(joined, QUANTILES).tolist()) if len(joined) else None
