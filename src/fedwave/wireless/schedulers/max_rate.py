"""Max rate: as many bits as the carrier can take, whoever sends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
from fedwave.wireless.scheduler import Scheduler
from fedwave.wireless.sharing.rates import USERS, Rates

_EDGES = np.concatenate([[0.0], 1.0 / USERS[::-1]])  # shares of the carrier between which a rate is taken as linear
_WIDTHS = np.diff(_EDGES)
_SAME = 1e-9  # relative; slopes that are this close share what is left


@register("scheduler", "max_rate")
@dataclass(frozen=True)
class MaxRate(Scheduler):
    """Largest sum of rates at every instant: ``max sum_k R_k(s_k)`` over shares with ``sum_k s_k <= 1``.

    ``R_k(s)`` is the rate with a share s of the carrier at the client's fading peaks (the best of 1/s moments), made
    concave; the carrier is filled in the order of its slopes. Where the rate grows in proportion to the grant that is
    the max-C/I rule, all blocks to the best channel of the moment; a power-limited uplink saturates, so that others are
    let on as well. The weak wait: throughput is bought with fairness.
    """

    cite: ClassVar[str] = "Knopp, Humblet, Information Capacity and Power Control in Single-cell Multiuser, ICC 1995"
    diversity: ClassVar[bool] = True

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """Slopes of each transfer's rate, ``[C, segments]``, never rising with the share."""
        device = np.repeat(np.arange(len(bits))[:, None], len(_EDGES), axis=1)
        share = np.broadcast_to(_EDGES, device.shape)
        peaks = rates.gain_among(device, 1.0 / np.maximum(share, _EDGES[1]))
        return concave_slopes(rates.at(device, share * rates.blocks) * peaks, _EDGES)

    def shares(self, weight: Floats, active: Bools) -> Floats:
        """Segments in the order of their slopes until the carrier is full; equal slopes share what is left."""
        slope = weight.reshape(len(weight), -1)
        width = np.where(slope > 0.0, np.tile(_WIDTHS, weight.shape[1]), 0.0)
        order = np.argsort(-slope, axis=1, kind="stable")
        filled = np.cumsum(np.take_along_axis(width, order, axis=1), axis=1)
        last = np.minimum((filled < 1.0 - 1e-12).sum(axis=1), slope.shape[1] - 1)
        level = np.take_along_axis(slope, np.take_along_axis(order, last[:, None], axis=1), axis=1)
        above, same = slope > level * (1.0 + _SAME), np.abs(slope - level) <= level * _SAME
        left = 1.0 - np.where(above, width, 0.0).sum(axis=1, keepdims=True)
        tied = np.where(same, width, 0.0).sum(axis=1, keepdims=True)
        part = np.minimum(np.divide(left, tied, out=np.zeros_like(left), where=tied > 0.0), 1.0)
        return np.where(above, width, np.where(same, width * part, 0.0)).reshape(weight.shape).sum(axis=2)


def concave_slopes(values: Floats, edges: Floats) -> Floats:
    """Slopes ``[C, G]`` of the least concave function above ``values [C, G + 1]`` at ``edges [G + 1]``, rising.

    The slope over a segment is the least, over starts before it, of the largest mean slope to an end after it (the
    min-max formula of isotonic regression).
    """
    count = len(edges) - 1
    slopes = np.full((len(values), count), np.inf)
    for start in range(count):
        mean = (values[:, start + 1 :] - values[:, start : start + 1]) / (edges[start + 1 :] - edges[start])
        best = np.maximum.accumulate(mean[:, ::-1], axis=1)[:, ::-1]  # to any end at or after a segment's own
        slopes[:, start:] = np.minimum(slopes[:, start:], best)
    return slopes
