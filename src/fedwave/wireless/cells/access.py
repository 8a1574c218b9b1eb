"""Random access and connection set-up: preamble contention of all who connect at once, occasion by occasion."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.config import Count, Fraction, NonNegative, Positive
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.budget import Row, job_rows, sourced

_STUDY = "3GPP TR 37.868, RACH capacity study"
_DRAWS = 3  # per attempt: which preamble, heard or not, backoff
_ATTEMPTS = 256  # room for attempts in an id's stream of draws
_DRAWN_AHEAD = 4096  # up to so many attempts all draws are made at once, because devices try again one by one


@dataclass(frozen=True)
class Outcome:
    """Of everyone who asked, ``[C]``: seconds until connected or given up, connected or not, preambles sent."""

    seconds: Floats
    connected: Bools
    attempts: Ints


@dataclass(frozen=True)
class RandomAccess:
    """Four-step random access (TS 38.321 5.1) and RRC set-up of devices that connect at the same time.

    A device sends one of ``preambles`` in the next occasion. It is answered when nobody else of its cell sent the same
    one, the site heard it, and there are grants left; otherwise it notices, backs off and tries again, at most
    ``max_attempts`` times. Access barring (TS 38.331 5.3.14.5) comes first where ``barring_factor`` is below 1: it is
    what a network sets against a crowd that nothing else would let through.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    preambles: Count = sourced(54, "", f"contention-based preambles of a cell, {_STUDY}")
    period_s: Positive = sourced(0.01, "s", "assumption: one occasion a frame; TR 37.868 has one every 5 ms")
    max_attempts: Count = sourced(10, "", f"preambleTransMax, {_STUDY}")
    backoff_s: NonNegative = sourced(0.02, "s", f"backoff indicator, uniform from 0, {_STUDY}")
    grants: Count = sourced(15, "", f"answers per occasion: 3 in each of 5 response subframes, {_STUDY}")
    ramping: bool = sourced(True, "", f"attempt i is heard with probability 1 - exp(-i), {_STUDY}")
    response_s: NonNegative = sourced(0.008, "s", "assumption: preamble 1 ms, processing 2 ms, response window 5 ms")
    contention_s: NonNegative = sourced(0.015, "s", "assumption: Msg3, Msg4 and processing")
    rrc_s: NonNegative = sourced(0.06, "s", "assumption: RRC set-up, security, bearer; 0.1 s with an idle cell")
    barring_factor: Fraction = sourced(1.0, "", "assumption: no barring; probability to be let through")
    barring_time_s: NonNegative = sourced(4.0, "s", "uac-BarringTime, a value of TS 38.331; times 0.7 to 1.3")

    def __post_init__(self) -> None:
        """Refuse more attempts than there are draws, and barring that keeps nearly everybody out for ever."""
        if self.max_attempts > _ATTEMPTS:
            raise BadInput(f"max_attempts: must be at most {_ATTEMPTS}, got {self.max_attempts}")
        if self.barring_factor < 0.01:
            raise BadInput(f"barring_factor: must be at least 0.01, got {self.barring_factor:g}")

    def rows(self) -> list[Row]:
        """``(name, value, unit, source)`` of each entry."""
        return job_rows(self)

    @property
    def idle_s(self) -> float:
        """Mean seconds to connect when nobody else does and the first preamble is heard."""
        return 0.5 * self.period_s + self.response_s + self.contention_s + self.rrc_s

    def connect(self, arrival_s: ArrayLike, ids: Ints, key: Key, *, cell: Ints | None = None) -> Outcome:
        """What becomes of devices that start to connect at ``arrival_s``; draws are of (key, id) alone.

        Each device ends connected, or not connected once its attempts are used up. How many connected devices a cell
        then serves at once is for the network's scheduler to say.

        Parameters
        ----------
        arrival_s : ``[C]``, finite.
        ids : ``[C]`` who asks.
        cell : ``[C]`` whom a device contends with (``None``: everybody), 0 to S - 1.

        Raises
        ------
        BadInput : an arrival that is not finite.
        """
        arrival = np.asarray(arrival_s, dtype=float)
        if not np.isfinite(arrival).all():
            raise BadInput("arrival_s: every arrival must be finite")
        cells = np.zeros(len(arrival), dtype=np.int64) if cell is None else np.asarray(cell, dtype=np.int64)
        contest = _Contest(self, arrival + self._barred_s(ids, key), ids, cells, key)
        contest.run()
        return Outcome(contest.end_s - arrival, contest.through, contest.attempts)

    def for_links(self, ids: Ints, key: Key, *, cell: Ints | None = None) -> Callable[[Floats, Bools], Any]:
        """``(now_s [C], asks [C]) -> (seconds [C], connected [C])``: how ``Links.access`` asks; calls in time order."""
        calls = itertools.count()

        def access(now_s: Floats, asks: Bools) -> tuple[Floats, Bools]:
            seconds, connected = np.zeros(len(ids)), np.zeros(len(ids), dtype=bool)
            place, call = asks.nonzero()[0], next(calls)
            if not len(place):
                return seconds, connected
            own = None if cell is None else cell[place]
            outcome = self.connect(now_s[place], ids[place], key.fold("access", call), cell=own)
            seconds[place], connected[place] = outcome.seconds, outcome.connected
            return seconds, connected

        return access

    def _barred_s(self, ids: Ints, key: Key) -> Floats:
        """Seconds until a device is let through: barred, it waits (0.7 + 0.6 u) of the barring time, and asks again."""
        waited, outside = np.zeros(len(ids)), np.ones(len(ids), dtype=bool)
        if self.barring_factor >= 1.0:
            return waited
        for turn in itertools.count():
            who = np.flatnonzero(outside)
            if not len(who):
                return waited
            draw = key.fold("barring", turn).uniform(ids[who], 2)
            barred = draw[:, 0] >= self.barring_factor
            waited[who] += np.where(barred, self.barring_time_s * (0.7 + 0.6 * draw[:, 1]), 0.0)
            outside[who] = barred
        raise AssertionError("unreachable")


def alone_probability(contenders: ArrayLike, preambles: int) -> Floats:
    """Probability that nobody else of ``contenders`` (>= 1) took a device's preamble, ``(1 - 1 / P)^(n - 1)``."""
    return (1.0 - 1.0 / preambles) ** (np.asarray(contenders, dtype=float) - 1.0)


def _first(preamble: Ints, cell: Ints, who: Bools, most: int) -> Bools:
    """The first ``most`` of ``who`` in each cell, by preamble; no two of them have the same."""
    order = np.lexsort((preamble, cell, ~who))[: who.sum()]
    start = np.searchsorted(cell[order], cell[order], side="left")
    chosen = np.zeros(len(who), dtype=bool)
    chosen[order] = np.arange(len(order)) - start < most
    return chosen


@dataclass
class _Contest:
    """All cells in lockstep over the occasions that somebody uses."""

    rules: RandomAccess
    ready_s: Floats
    ids: Ints
    cell: Ints
    key: Key
    queue: dict[int, list[Ints]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.ids)
        self.end_s, self.through = self.ready_s.copy(), np.zeros(count, dtype=bool)
        self.attempts = np.zeros(count, dtype=np.int64)
        self.code, self.heard, self.backoff_s = self.attempts.copy(), self.through.copy(), np.zeros(count)
        most, everyone = self.rules.max_attempts, np.arange(count)
        self.ahead = None
        if count * most <= _DRAWN_AHEAD:
            self.ahead = self._tries(everyone.repeat(most), np.arange(count * most) % most)
        self._book(everyone, self.ready_s)

    def run(self) -> None:
        """Occasion after occasion until nobody tries any more."""
        while self.order:
            occasion = heapq.heappop(self.order)
            self._step(occasion * self.rules.period_s, self._at(occasion))

    def _at(self, occasion: int) -> Ints:
        parts = self.queue.pop(occasion)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _tries(self, who: Ints, attempt: Ints) -> tuple[Ints, Bools, Floats]:
        """Of attempts (from 0): preamble, numbered over all cells; heard or not; backoff should it not be answered.

        A device's draws are those of (key, id, attempt): in which occasion it is makes no difference.
        """
        rules = self.rules
        draw = self.key.uniform(self.ids[who] * _ATTEMPTS + attempt, _DRAWS)
        code = self.cell[who] * rules.preambles + np.floor(draw[:, 0] * rules.preambles).astype(np.int64)
        heard = draw[:, 1] < -np.expm1(-1.0 - attempt) if rules.ramping else np.ones(len(who), dtype=bool)
        return code, heard, draw[:, 2] * rules.backoff_s

    def _book(self, who: Ints, ready_s: Floats) -> None:
        """Put devices down for the first occasion that is not before ``ready_s``, with the draws of that attempt."""
        attempt = self.attempts[who]
        if self.ahead is None:
            tries = self._tries(who, attempt)
        else:
            place = who * self.rules.max_attempts + attempt
            tries = tuple(values.take(place) for values in self.ahead)
        self.code[who], self.heard[who], self.backoff_s[who] = tries
        occasions = np.ceil(ready_s / self.rules.period_s - 1e-9).astype(np.int64)
        if len(who) == 1:
            return self._join(int(occasions[0]), who)
        by_time = occasions.argsort(kind="stable")
        who, occasions = who[by_time], occasions[by_time]
        first = [0, *((occasions[1:] != occasions[:-1]).nonzero()[0] + 1).tolist()][: len(who)]
        for begin, end in itertools.zip_longest(first, first[1:]):
            self._join(int(occasions[begin]), who[begin:end])

    def _join(self, occasion: int, who: Ints) -> None:
        if occasion not in self.queue:
            heapq.heappush(self.order, occasion)
        self.queue.setdefault(occasion, []).append(who)

    def _step(self, now_s: float, who: Ints) -> None:
        rules = self.rules
        attempts = self.attempts[who] + 1
        answered = self._answered(who)
        self.attempts[who], self.through[who] = attempts, answered
        end_s = now_s + rules.response_s + np.where(answered, rules.contention_s + rules.rrc_s, 0.0)
        self.end_s[who] = end_s
        again = (~answered & (attempts < rules.max_attempts)).nonzero()[0]
        if len(again):
            who = who[again]
            self._book(who, end_s[again] + self.backoff_s[who])

    def _answered(self, who: Ints) -> Bools:
        """Alone on the preamble, heard by the site, and within the cell's grants."""
        code, good = self.code[who], self.heard[who]
        if len(who) > 1:
            good &= np.bincount(code)[code] == 1
        if np.count_nonzero(good) > self.rules.grants:
            # Preambles are answered in order of their index, which is drawn anew at each attempt.
            good &= _first(code, self.cell[who], good, self.rules.grants)
        return good
