"""FedCS: as many clients as the deadline has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.scheduler import Asked, Scheduler, needs_deadline
from fedwave.wireless.sharing.rates import Rates


@register("scheduler", "fedcs")
@dataclass(frozen=True)
class FedCS(Scheduler):
    """Admits the client that adds the least time to the round, again and again, until the deadline is reached.

    Uploads follow each other on the whole carrier, in the order of admission, so a client adds
    ``max(received + compute, end of the last upload) + upload - end of the last upload``: Nishio and Yonetani 2019,
    Algorithm 3. The paper sends the model to all at once; here one is received after the other, in the same order, so a
    multicast leaves slack. Times are those of mean rates and of the devices' own word; connecting is not in them, and a
    client that is late because of it is lost as any other. Where limited power cannot use the whole carrier, one at
    a time is wasteful, and ``equal_finish`` with the same deadline gets more updates in.
    """

    cite: ClassVar[str] = (
        "Nishio, Yonetani, Client Selection for Federated Learning with Heterogeneous Resources in Mobile Edge, "
        "IEEE ICC 2019"
    )

    def admit(self, asked: Asked, key: Key) -> Bools:
        """Cell by cell, ``[C]``. Raises :class:`Refused` where the job has no deadline."""
        needs_deadline("fedcs", asked.deadline_s)
        admitted = np.zeros(len(asked), dtype=bool)
        linked = ((asked.up_bps > 0.0) | (asked.up_bits <= 0.0)) & ((asked.down_bps > 0.0) | (asked.down_bits <= 0.0))
        send_s = _seconds(asked.up_bits, asked.up_bps)
        receive_s = _seconds(asked.down_bits, asked.down_bps)
        by_id = np.argsort(asked.ids, kind="stable")
        for cell in np.unique(asked.cell):
            own = by_id[(asked.cell == cell)[by_id] & linked[by_id]]
            order = least_marginal(asked.compute_s[own], send_s[own], receive_s[own], asked.deadline_s)
            admitted[own[order]] = True
        return admitted

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """Places in the queue: the first has the largest."""
        order = least_marginal(ready_s, bits / rates.full_bps, np.zeros(len(bits)), np.inf)
        claim = np.zeros(len(bits))
        claim[order] = np.arange(len(bits), 0, -1)
        return claim

    def shares(self, weight: Floats, active: Bools) -> Floats:
        """The whole carrier for the first in the queue that is ready."""
        out = np.zeros(weight.shape)
        out[np.arange(len(weight)), np.argmax(weight, axis=1)] = 1.0
        return np.where(active, out, 0.0)


def least_marginal(ready_s: Floats, send_s: Floats, receive_s: Floats, until_s: float) -> Ints:
    """Positions in the order in which they are admitted; those that would end after ``until_s`` are not.

    Parameters
    ----------
    ready_s : ``[C]`` from the end of a client's reception to the start of its upload.
    send_s, receive_s : ``[C]`` on the whole carrier, one client after the other in each direction.
    """
    order: list[int] = []
    waits = np.ones(len(send_s), dtype=bool)
    received, last = 0.0, -np.inf
    while waits.any():
        end = np.where(waits, np.maximum(received + receive_s + ready_s, last) + send_s, np.inf)
        k = int(np.argmin(end))
        if not end[k] <= until_s or np.isinf(end[k]):
            break
        order.append(k)
        waits[k] = False
        received, last = received + float(receive_s[k]), float(end[k])
    return np.array(order, dtype=np.int64)


def _seconds(bits: Floats, bps: Floats) -> Floats:
    return np.divide(bits, bps, out=np.zeros(len(bits)), where=bps > 0.0)
