"""Who gets how many resource blocks when: fluid sharing of a carrier by the clients of a round.

A scheduler sees each client's rate as a function of its grant (:class:`~fedwave.wireless.sharing.rates.Rates`). Grants
are averages over time and may be fractional: a client alternates between two grants, or between one and none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput, Infeasible, Refused
from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.sharing.fluid import share
from fedwave.wireless.sharing.queue import Progress, Queue, by_cell
from fedwave.wireless.sharing.rates import Rates

_TOLERANCE = 1e-9  # relative, on time and on shares
_STEPS = 60
_LEAST = np.array(np.finfo(float).tiny)


@dataclass(frozen=True)
class Asked:
    """What a scheduler knows of a round's cohort before anything is sent, ``[C]`` each.

    Parameters
    ----------
    ids, cell : client numbers, serving cells.
    samples : data that each client holds.
    down_bits, up_bits : what each would receive and send.
    compute_s, compute_j : what each device says that its training takes.
    down_bps, up_bps : mean rates with the whole carrier.
    snr : mean uplink SINR with the whole carrier, linear; ``fading``: the power gain of this moment, mean 1.
    radio_j : radio energy of an upload on the whole carrier.
    deadline_s : when the server stops waiting; infinite: it does not.
    memory : what :meth:`Scheduler.remember` returned when the client was asked last (:attr:`Scheduler.initial` before).
    round : number of the round.
    """

    ids: Ints
    cell: Ints
    samples: Ints
    down_bits: Floats
    up_bits: Floats
    compute_s: Floats
    compute_j: Floats
    down_bps: Floats
    up_bps: Floats
    snr: Floats
    fading: Floats
    radio_j: Floats
    deadline_s: float
    memory: Mapping[str, Floats]
    round: int

    def __len__(self) -> int:
        return len(self.ids)


class Scheduler(ABC):
    """How the resource blocks of a cell are shared, and who of a cohort is let on the air at all.

    ``diversity``: it serves each client at its fading peaks, so rates grow with the number of active clients.
    ``initial``: names and first values of what it remembers of each client from round to round.
    """

    diversity: ClassVar[bool] = False
    initial: ClassVar[Mapping[str, float]] = {}

    def admit(self, asked: Asked, key: Key) -> Bools:
        """Who takes part in the round, ``[C]``; the others are told before they receive anything. By default all."""
        return np.ones(len(asked), dtype=bool)

    def remember(self, asked: Asked, admitted: Bools, heard: Bools, spent_j: Floats) -> dict[str, Floats]:
        """What to remember of the cohort, ``[C]`` each, once the round is over; ``spent_j`` is each device's energy."""
        return {}

    def backoff_db(
        self,
        ready_s: Floats,
        bits: Floats,
        snr: Floats,
        rates_at: Callable[[Floats], Rates],
        until_s: float,
        power_w: Floats,
    ) -> Floats:
        """By how much each upload of one cell lowers its transmit power, ``[C]`` >= 0; by default not at all.

        Parameters
        ----------
        ready_s, bits, until_s : as for :meth:`weights`.
        snr : ``[C]`` linear, at full power over the whole carrier, less the implementation loss.
        rates_at : rates of these transfers when their power is lowered by ``[C]`` dB.
        power_w : ``[C]`` radiated at full power over the whole carrier, on average over time: as the rates, it has the
            uplink's share of the time in it.
        """
        return np.zeros(len(bits))

    @property
    def chooses(self) -> bool:
        """Whether :meth:`admit` or :meth:`remember` is more than the default."""
        return type(self).admit is not Scheduler.admit or type(self).remember is not Scheduler.remember

    @property
    def lowers_power(self) -> bool:
        """Whether :meth:`backoff_db` is more than the default."""
        return type(self).backoff_db is not Scheduler.backoff_db

    @abstractmethod
    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """Claim of each transfer of one cell, ``[C]``, or ``[C, ...]`` where :meth:`shares` reads more than a number.

        It is fixed while the set of transfers is; see :meth:`serve`.
        """

    def shortfall(self, ids: Ints, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> str:
        """Why the uploads of clients ``ids`` in one cell cannot all end by ``until_s``; empty: they can, or unknown."""
        return ""

    def shares(self, weight: Floats, active: Bools) -> Floats:
        """Share of the carrier of each transfer, ``[cells, slots]``; by default in proportion to the claims.

        ``weight [cells, slots, ...]`` is 0 where ``active [cells, slots]`` is false.
        """
        total = np.add.reduce(weight, axis=1, keepdims=True)
        return weight / np.maximum(total, _LEAST)  # where nobody is active all claims are 0

    def serve(
        self,
        ready_s: Floats,
        bits: Floats,
        rates: Rates,
        *,
        cell: Ints,
        blocks: Floats,
        until_s: float = np.inf,
        begin_s: float = -np.inf,
        horizon_s: float = np.inf,
        connected: int = 400,
    ) -> Progress:
        """Serve the transfers of all cells from ``begin_s`` to ``horizon_s``.

        Parameters
        ----------
        ready_s : ``[C]`` when a transfer can start; infinite or NaN where it never does (its end is infinite).
        bits : ``[C]`` size, >= 0 (0 ends when it starts).
        rates : of the clients. One whose rate is 0 with all blocks never ends and takes nothing from the others.
        cell : ``[C]`` serving cell; ``blocks [S]`` what each cell may give out.
        until_s : the deadline, which a scheduler may take into account; transfers go on past it.
        connected : transfers that a cell serves at once.
        """
        ready, bits = np.asarray(ready_s, dtype=float), np.asarray(bits, dtype=float)
        weight: Floats | None = None
        index = np.flatnonzero(np.isfinite(ready) & (bits > 0.0) & (rates.full_bps > 0.0))
        for each, members in by_cell(cell, index):
            if blocks[each] > 0.0:
                begin = np.maximum(ready[members], begin_s)
                own = rates.take(members).within(float(blocks[each]))
                claim = self.weights(begin, bits[members], own, until_s)
                weight = np.zeros((len(bits), *claim.shape[1:])) if weight is None else weight
                weight[members] = claim
        queue = Queue(ready, bits, rates, np.asarray(cell), np.zeros(len(bits)) if weight is None else weight)
        return share(
            queue,
            self.shares,
            blocks=blocks,
            begin_s=begin_s,
            until_s=horizon_s,
            connected=connected,
            diversity=self.diversity,
        )

    def finish(self, ready_s: Floats, bits: Floats, rates: Rates | Floats, until_s: float = np.inf) -> Floats:
        """When each transfer of one cell ends, ``[C]`` seconds; ``rates`` may be those of 1 to M blocks, ``[C, M]``."""
        if not isinstance(rates, Rates):
            rates = Rates.usable(rates)
        cell, blocks = np.zeros(len(rates.rows), dtype=np.int64), np.array([rates.blocks])
        return self.serve(ready_s, bits, rates, cell=cell, blocks=blocks, until_s=until_s).end_s


def best_of(score: Floats, asked: Asked, share: float) -> Bools:
    """``[C]``: the ``ceil(share n)`` of each cell's n clients with the largest score; of equals those of lower id."""
    order = np.lexsort((asked.ids, -score, asked.cell))
    _, start, count = np.unique(asked.cell[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(start, count)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order] = rank < np.repeat(np.ceil(share * count - _TOLERANCE), count)
    return chosen


def needs_deadline(scheduler: str, deadline_s: float) -> None:
    """Raise :class:`Refused` where a scheduler that plans towards a deadline has none."""
    if not np.isfinite(deadline_s):
        raise Refused(
            f"scheduler {scheduler!r} plans towards a deadline and the job has none: set federation.deadline_s"
        )


def equal_finish_shares(
    bits: ArrayLike, snr_full_band: ArrayLike, bandwidth_hz: float, *, deadline_s: float = np.inf
) -> tuple[Floats, float]:
    """Bandwidth shares ``[K]`` with which all Shannon uploads end together, and when (seconds).

    A device's power is fixed, so its spectral density rises as its share falls: ``rate_k = s B log2(1 + snr_k / s)``.
    Bisection on the finish time until the smallest sufficient shares add up to 1. No bits, no share.

    Parameters
    ----------
    bits : ``[K]``, >= 0.
    snr_full_band : ``[K]``, linear, > 0: the SNR when the power is spread over the whole band.
    bandwidth_hz : B, > 0.
    deadline_s : by when all must have ended.

    Raises
    ------
    BadInput : a negative size or bandwidth, or an SNR that is not positive where there are bits to send.
    Infeasible : no shares meet the deadline.
    """
    bits, snr = np.broadcast_arrays(
        np.atleast_1d(np.asarray(bits, dtype=float)), np.asarray(snr_full_band, dtype=float)
    )
    if not (np.isfinite(bandwidth_hz) and bandwidth_hz > 0.0):
        raise BadInput(f"bandwidth_hz: must be finite and positive, got {bandwidth_hz!r}")
    wrong = ~(np.isfinite(bits) & (bits >= 0.0)) | ((bits > 0.0) & ~(snr > 0.0))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise BadInput(f"device {k} needs bits >= 0 and a positive snr, got {bits[k]:g} bits at snr {snr[k]:g}")
    send = bits > 0.0
    shares = np.zeros(len(bits))
    if not send.any():
        return shares, 0.0
    size, gain = bits[send] / bandwidth_hz, snr[send]  # in bit/Hz
    low = float(np.max(size / np.log2(1.0 + gain)))  # the whole band for one
    equal = 1.0 / len(size)
    high = float(np.max(size / (equal * np.log2(1.0 + gain / equal))))
    for _ in range(200):
        middle = 0.5 * (low + high)
        fits = _least_shares(size / middle, gain).sum() <= 1.0
        low, high = (low, middle) if fits else (middle, high)
        if high - low <= 1e-14 * high:
            break
    if high > deadline_s:
        worst = int(np.flatnonzero(send)[np.argmax(size / np.log2(1.0 + gain))])
        alone = float(np.max(size / np.log2(1.0 + gain)))
        raise Infeasible(
            f"no bandwidth shares end all uploads by {deadline_s:g} s: the smallest common finish time is {high:.6g} "
            f"s, and device {worst} needs {alone:.6g} s with the whole band"
        )
    shares[send] = _least_shares(size / high, gain)
    return shares, high


def _least_shares(efficiency: Floats, snr: Floats) -> Floats:
    """Share ``s`` in (0, 1] with ``s log2(1 + snr / s) = efficiency``; needs ``efficiency <= log2(1 + snr)``.

    With ``y = snr / s`` it is ``ln(1 + y) = a y``, a = efficiency ln 2 / snr: Newton from the right of the root of a
    concave function, where it converges without overshoot. The start follows from ln z <= z - 1 at z = a (1 + y) / 2.
    """
    a = efficiency * np.log(2.0) / snr
    y = 1.0 + 2.0 / a * (np.log(2.0 / a) - 1.0)
    for _ in range(_STEPS):
        step = (np.log1p(y) - a * y) / (1.0 / (1.0 + y) - a)
        y = np.maximum(y - step, snr)
        if np.all(np.abs(step) <= 1e-15 * y):
            break
    return snr / y
