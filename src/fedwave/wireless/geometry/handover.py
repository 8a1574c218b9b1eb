"""The serving cell along a path, for many clients at once: handover, radio link failure, re-establishment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from fedwave.core.config import Decibel, Loss, NonNegative
from fedwave.core.errors import BadInput
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.budget import Row, job_rows, sourced

SinrDb = Callable[[Ints], Floats]  # cell [C] -> each client's downlink SINR there in dB, [C]


@dataclass(frozen=True)
class Link:
    """The connection of each client, ``[C]`` each.

    Parameters
    ----------
    serving : serving cell; of a client that searches or is lost, the last one.
    candidate : cell for which event A3 holds, -1: none; ``above_s`` for how long.
    out_s : time on timer T310, 0: not running.
    search_s : time on timer T311 since a radio link failure; NaN: connected.
    pending_s : interruption still to come.
    lost : no cell was found in time. This is for good.
    handovers, failures : handovers made and radio link failures so far.
    """

    serving: Ints
    candidate: Ints
    above_s: Floats
    out_s: Floats
    search_s: Floats
    pending_s: Floats
    lost: Bools
    handovers: Ints
    failures: Ints

    @classmethod
    def start(cls, serving: Ints) -> Link:
        """Connected to ``serving [C]``."""
        cell = np.array(serving, dtype=np.int64)
        none, zero = np.full(len(cell), -1), np.zeros(len(cell))
        count = np.zeros(len(cell), dtype=np.int64)
        return cls(cell, none, zero, zero, zero + np.nan, zero, count > 0, count, count)

    def __len__(self) -> int:
        return len(self.serving)

    @property
    def connected(self) -> Bools:
        """``[C]``: has a serving cell (an interruption may be going on)."""
        return np.isnan(self.search_s) & ~self.lost

    def take(self, index: Ints) -> Link:
        """Some of the clients."""
        return Link(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True)
class Handover:
    """Rules of mobility in connected mode, with a source per value.

    *Handover* (event A3, TS 38.331 5.5.4.4): when ``M_n - hysteresis > M_serving + offset`` has held for a cell n for
    the time to trigger, the client moves to the strongest cell, unless T310 runs out first. The loss of the report or
    of the command is not modelled, nor are measurement errors and filtering: path loss and shadowing vary slowly.

    *Radio link failure* (TS 38.331 5.3.10): T310 starts when the SINR of the serving cell falls below Q_out, stops when
    it is above Q_in or at a handover. When it runs out, T311 starts and the client searches: as soon as the strongest
    cell has a SINR of Q_in, it re-establishes its connection there; when T311 runs out, it is lost.
    N310 = N311 = 1, their defaults (TS 38.331 9.2.3).

    Raises
    ------
    BadInput : negative times or margins, ``q_in_db`` below ``q_out_db``.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    a3_offset_db: Loss = sourced(2.0, "dB", "assumption: a3-Offset")
    a3_hysteresis_db: Loss = sourced(1.0, "dB", "assumption: hysteresis of event A3")
    time_to_trigger_s: NonNegative = sourced(0.16, "s", "assumption: timeToTrigger, a value of TS 38.331")
    interruption_s: NonNegative = sourced(
        0.062, "s", "TS 38.133 6.1.1.2.2, known FR1 cell: T_IU 20, T_processing 20, T_delta 20 (SMTC), T_margin 2 ms"
    )
    q_out_db: Decibel = sourced(-8.0, "dB", "TR 36.839, simulation assumptions")
    q_in_db: Decibel = sourced(-6.0, "dB", "TR 36.839, simulation assumptions")
    t310_s: NonNegative = sourced(1.0, "s", "default of TS 38.331 9.2.3")
    t311_s: NonNegative = sourced(30.0, "s", "default of TS 38.331 9.2.3")
    reestablishment_s: NonNegative = sourced(
        0.3, "s", "TS 38.133 6.2.1: 50 + max(200, 5 SMTC) + 15 ms access; assumption: system information takes 35 ms"
    )

    def __post_init__(self) -> None:
        """Refuse rules that contradict themselves."""
        for field in fields(self):
            value, signed = getattr(self, field.name), field.name.startswith("q_")
            if not np.isfinite(value) or (value < 0.0 and not signed):
                raise BadInput(f"{field.name}: must be finite{'' if signed else ' and >= 0'}, got {value!r}")
        if self.q_in_db < self.q_out_db:
            raise BadInput(f"q_in_db: {self.q_in_db:g} must not be below q_out_db, {self.q_out_db:g}")

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each entry."""
        return job_rows(self)

    def step(self, link: Link, received: Floats, sinr_db: SinrDb, dt_s: float) -> tuple[Link, Floats]:
        """The links ``dt_s`` later, and the seconds of it without data ``[C]`` (0 to ``dt_s``). O(C cells).

        ``received`` and ``sinr_db`` hold for the whole step, and events take place within it at their times: while they
        do not change, one step or many come to the same. A client makes at most one handover in a step, to the
        strongest cell, so a step should be short against the time in which shadow fading changes (37 m take 4.4 s at
        30 km/h). Time on T310 counts as time with data: what the link carries at that SINR is not decided here. An
        interruption that a step has no room for is carried over. Of a lost client all time is without data.

        Parameters
        ----------
        received : ``[C, cells]`` linear received power of each cell, any unit, finite, >= 0 (the coupling gain, where
            all cells send with the same power).
        sinr_db : downlink SINR of each client at a cell, ``(cell [C]) -> [C]`` dB, ``-inf`` allowed.
        dt_s : > 0, finite.

        Raises
        ------
        BadInput : shapes that do not fit, values outside their range.
        """
        strongest = _strongest(link, received, dt_s)
        best_db, serving_db = _decibel(sinr_db, strongest), _decibel(sinr_db, link.serving)
        connected = link.connected

        moved, after_s = self._handover(link, received, strongest, serving_db, connected, dt_s)
        serving_db = np.where(moved.handovers > link.handovers, best_db, serving_db)
        moved, left_s = self._radio_link(moved, serving_db, connected, after_s)
        fails = connected & ~moved.connected
        before_s = np.where(fails, np.minimum(moved.pending_s, after_s - left_s), 0.0)

        searching = fails | (~connected & ~link.lost)
        found = searching & (best_db >= self.q_in_db)
        lost = link.lost | (searching & ~found & (moved.search_s + left_s >= self.t311_s))
        pending = np.where(found, self.reestablishment_s, np.where(searching | lost, np.inf, moved.pending_s))
        silent_s = np.minimum(pending, left_s)
        after = replace(
            moved,
            serving=np.where(found, strongest, moved.serving),
            search_s=np.where(searching & ~found & ~lost, moved.search_s + left_s, np.nan),
            pending_s=np.where(np.isfinite(pending), pending - silent_s, 0.0),
            lost=lost,
        )
        return after, before_s + silent_s

    def _handover(
        self, link: Link, received: Floats, strongest: Ints, sinr_db: Floats, connected: Bools, dt_s: float
    ) -> tuple[Link, Floats]:
        """Those whose time to trigger ends before the step and before T310; and what is left of the step, ``[C]``."""
        each = np.arange(len(link))
        threshold = received[each, link.serving] * 10.0 ** ((self.a3_offset_db + self.a3_hysteresis_db) / 10.0)
        same = (link.candidate >= 0) & (received[each, link.candidate] > threshold)
        candidate = np.where(same, link.candidate, strongest)
        enters = connected & (same | (received[each, strongest] > threshold)) & (strongest != link.serving)
        above = np.where(same, link.above_s, 0.0)
        wait = np.maximum(self.time_to_trigger_s - above, 0.0)
        failing = np.where(self._out_of_sync(link, sinr_db), np.maximum(self.t310_s - link.out_s, 0.0), np.inf)
        go = enters & (wait <= dt_s) & (wait <= failing)
        return replace(
            link,
            serving=np.where(go, strongest, link.serving),
            candidate=np.where(enters & ~go, candidate, -1),
            above_s=np.where(enters & ~go, above + dt_s, 0.0),
            out_s=np.where(go, 0.0, link.out_s),
            pending_s=np.where(go, link.pending_s + self.interruption_s, link.pending_s),
            handovers=link.handovers + go,
        ), np.where(go, dt_s - wait, dt_s)

    def _radio_link(self, link: Link, sinr_db: Floats, connected: Bools, left_s: Floats) -> tuple[Link, Floats]:
        """Timer T310; and what is left of the step after a failure, ``[C]``."""
        out = connected & self._out_of_sync(link, sinr_db)
        wait = np.maximum(self.t310_s - link.out_s, 0.0)
        fails = out & (wait <= left_s)
        return replace(
            link,
            candidate=np.where(fails, -1, link.candidate),
            above_s=np.where(fails, 0.0, link.above_s),
            out_s=np.where(out & ~fails, link.out_s + left_s, 0.0),
            search_s=np.where(fails, 0.0, link.search_s),
            failures=link.failures + fails,
        ), np.where(fails, left_s - wait, left_s)

    def _out_of_sync(self, link: Link, sinr_db: Floats) -> Bools:
        """Below Q_out, or not yet above Q_in again while T310 runs."""
        return (sinr_db < self.q_out_db) | ((link.out_s > 0.0) & (sinr_db < self.q_in_db))


def _strongest(link: Link, received: Floats, dt_s: float) -> Ints:
    """The strongest cell of each client, once the arguments are found to fit."""
    if not 0.0 < dt_s < np.inf:
        raise BadInput(f"dt_s: must be positive and finite, got {dt_s!r}")
    if np.ndim(received) != 2 or received.shape[0] != len(link) or received.shape[1] < 1:
        raise BadInput(f"received: must be [{len(link)}, cells], got an array {np.shape(received)}")
    if not ((link.serving >= 0) & (link.serving < received.shape[1])).all():
        raise BadInput(f"serving: must be a cell from 0 to {received.shape[1] - 1} for every client")
    if not ((received >= 0.0) & (received < np.inf)).all():
        raise BadInput("received: must be finite and >= 0 for every client and cell")
    return received.argmax(axis=1)


def _decibel(sinr_db: SinrDb, cell: Ints) -> Floats:
    value = np.asarray(sinr_db(cell), dtype=float)
    if value.shape != cell.shape or np.isnan(value).any():
        raise BadInput(f"sinr_db: must be {len(cell)} numbers in dB, one per client")
    return value
