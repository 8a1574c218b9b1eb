"""Fluid sharing of carriers: when each transfer ends, event by event."""

from __future__ import annotations

import numpy as np

from fedwave.core.types import Floats
from fedwave.wireless.sharing.lane import serve_each
from fedwave.wireless.sharing.lockstep import serve_together
from fedwave.wireless.sharing.queue import Progress, Queue, Shares

_CONNECTED = 400
_LANES = 4  # a step of all cells together costs as much as about so many steps of one cell


def share(
    queue: Queue,
    shares: Shares,
    *,
    blocks: Floats,
    begin_s: float = -np.inf,
    until_s: float = np.inf,
    connected: int = _CONNECTED,
    diversity: bool = False,
) -> Progress:
    """Serve the queue from ``begin_s`` to ``until_s``.

    Cells do not compete with each other: they are served one after the other, or all in lockstep where that is cheaper.

    Parameters
    ----------
    shares : how active transfers divide a cell.
    blocks : ``[S]`` resource blocks of each cell that may be given out; fractional where others hold some.
    connected : transfers that a cell serves at once; the others wait in order of arrival (TS 38.331 sets no number:
        it is what a base station's licence and control channel allow).
    diversity : devices are served at their fading peaks (:meth:`Rates.gain_among`): with a share s of the carrier
        as the best of 1 / s equal ones would be.
    """
    progress, blocks = Progress.of(queue), np.asarray(blocks, dtype=float)
    can = np.isfinite(queue.ready_s) & (queue.bits > 0.0) & (queue.rates.full_bps > 0.0) & (queue.ready_s < until_s)
    index = np.flatnonzero(can & (blocks[queue.cell] > 0.0))
    if not len(index):
        return progress
    longest = int(np.bincount(queue.cell[index]).max())
    serve = serve_each if len(index) <= _LANES * longest else serve_together
    serve(
        queue,
        index,
        shares,
        progress,
        blocks=blocks,
        begin_s=begin_s,
        until_s=until_s,
        connected=connected,
        diversity=diversity,
    )
    return progress
