"""Averages over fading of what link adaptation and retransmissions make of a mean SINR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwave.core.types import Floats, Ints
from fedwave.wireless.phy.build.codes import BLER_TARGET, LOW_DB, STEP_DB, Codes
from fedwave.wireless.phy.build.draws import ATTEMPTS, X_COUNT, X_LOW_DB, X_STEP_DB

SINR_LOW_DB, SINR_HIGH_DB, SINR_STEP_DB = -20.0, 45.0, 0.5
_MAX_OFFSET = round(20.0 / SINR_STEP_DB)  # of the outer loop
SAME_STATE = 32  # draws of about the same power that stand for one state of the channel that link adaptation saw
_NEVER = 1e-4  # share of the slots that may be left out of an average
_GOLDEN = 0.6180339887498949


def sinr_grid_db() -> Floats:
    """Mean SINRs of the tables."""
    return SINR_LOW_DB + SINR_STEP_DB * np.arange(round((SINR_HIGH_DB - SINR_LOW_DB) / SINR_STEP_DB) + 1)


@dataclass(frozen=True)
class Averages:
    """Averages over fading ``[S]`` on the grid of mean SINRs, or every so manyth of it.

    Parameters
    ----------
    first_bits : ``E[TBS (1 - BLER)]`` of a slot, the first transmission alone.
    harq_bits : payload per slot with chase combining, slots of retransmissions counted.
    bler : of first transmissions.
    attempts, residual : transmissions of a block, and blocks lost after the last.
    extended : share of ``first_bits`` that MCS below Sionna's lowest carry.
    """

    first_bits: Floats
    harq_bits: Floats
    bler: Floats
    attempts: Floats
    residual: Floats
    extended: Floats


def needed_db(curve: Floats, codes: Codes) -> Floats:
    """Mean SINR ``[R, I]`` from which each MCS meets the target on the draws of ``curve [R, X]``."""
    beta_db = 10.0 * np.log10(codes.beta)
    out = np.empty((len(curve), len(beta_db)))
    rows = np.arange(len(curve))
    for i, wanted in enumerate(codes.threshold_db - beta_db):
        high = np.clip((curve < wanted).sum(axis=1), 1, X_COUNT - 1)
        below, above = curve[rows, high - 1], curve[rows, high]
        part = np.minimum((wanted - below) / (above - below), 1e3)
        out[:, i] = X_LOW_DB + X_STEP_DB * (high - 1 + part) + beta_db[i]
    return out


def choose(curve: Floats, codes: Codes) -> Ints:
    """Highest MCS that meets the target ``[R, S]`` at each mean SINR; -1 where none does."""
    needed = needed_db(curve, codes)
    reach = np.minimum.accumulate(needed[:, ::-1], axis=1)
    grid = len(sinr_grid_db())
    index = np.clip(np.ceil((reach - SINR_LOW_DB) / SINR_STEP_DB - 1e-9), 0, grid).astype(np.int64)
    flat = np.bincount((index + (grid + 1) * np.arange(len(curve))[:, None]).ravel(), minlength=len(curve) * (grid + 1))
    return np.cumsum(flat.reshape(len(curve), grid + 1)[:, :grid], axis=1) - 1


class Link:
    """Error rates of draws at every so manyth SINR of the grid; ``curve [R, X]`` may be rows of any channel."""

    def __init__(self, codes: Codes, every: int = 1) -> None:
        self.codes = codes
        beta_db = 10.0 * np.log10(codes.beta)
        place = np.clip((sinr_grid_db()[::every] - beta_db[:, None] - X_LOW_DB) / X_STEP_DB, 0.0, X_COUNT - 1.001)
        self._low = np.floor(place).astype(np.int32)
        self._part = (place - self._low).astype(np.float32)
        self._beta_db = beta_db.astype(np.float32)
        self._bler = codes.bler.astype(np.float32).ravel()
        self._width = codes.bler.shape[1]

    def effective_db(self, curve: Any, mcs: Ints) -> Any:
        """EESM's effective SINR ``[R, S]`` in dB of MCS ``mcs [R, S]``."""
        place = mcs * np.int32(mcs.shape[1]) + np.arange(mcs.shape[1], dtype=np.int32)
        at = self._low.take(place) + np.int32(X_COUNT) * np.arange(len(mcs), dtype=np.int32)[:, None]
        flat = curve.ravel()
        base = flat.take(at)
        return base + self._part.take(place) * (flat.take(at + 1) - base) + self._beta_db.take(mcs)

    def error(self, effective_db: Any, mcs: Ints) -> Any:
        """Transport block error rate ``[R, S]``."""
        place = np.clip((effective_db - LOW_DB) * (1.0 / STEP_DB), 0.0, self._width - 1.001)
        low = place.astype(np.int32)
        place -= low
        low += mcs * np.int32(self._width)
        base = self._bler.take(low)
        low += 1
        return base + place * (self._bler.take(low) - base)


def _outer_loop(link: Link, seen: Any, curve: Any, weight: Floats, every: int) -> Any:
    """MCS ``[R, H]`` after the offset with which the target holds on average, where an MCS met it.

    The offset is a multiple of the SINR step; two neighbours take turns so that the average is the target.
    """
    columns = np.arange(0, seen.shape[1], every)
    weights = weight[:, None] * (seen[:, columns] >= 0)
    weights /= np.maximum(weights.sum(axis=0), 1e-12)

    def average(offset: Ints) -> Floats:
        mcs = np.maximum(seen[:, np.maximum(columns - offset, 0)], 0)
        return (link.error(link.effective_db(curve, mcs), mcs) * weights).sum(axis=0)

    low, high = np.full(len(columns), -1), np.full(len(columns), _MAX_OFFSET)
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 0)
        fine = average(middle) <= BLER_TARGET
        low, high = np.where(fine, low, middle), np.where(fine, middle, high)
    low, inner, high = np.maximum(low, 0), low >= 0, np.maximum(high, 0)
    above, below = average(low), average(high)
    share = np.clip((BLER_TARGET - below) / np.maximum(above - below, 1e-9), 0.0, 1.0) * inner
    turn = (np.arange(len(seen)) * _GOLDEN % 1.0)[:, None] < share
    return np.where(turn, seen[:, np.maximum(columns - low, 0)], seen[:, np.maximum(columns - high, 0)])


def served(count: int, users: int) -> Floats:
    """Share ``[count]`` of the slots of each draw, sorted by rank, if the best of ``users`` equal links is served.

    The best of n falls among the lowest share q of ranks with probability q^n.
    """
    return np.diff(np.linspace(0.0, 1.0, count + 1) ** users)


def averages(curves: Any, codes: Codes, users: int = 1, every: int = 1) -> Averages:
    """Averages over fading of one allocation, served when it is the best off of ``users`` equal links.

    Link adaptation takes the highest MCS whose error rate on the channel that it saw is at most the target, else the
    lowest. Where the channel has aged since, an offset keeps the error rate at the target on average over the slots in
    which it is served and some MCS met the target. A state of the channel that was seen lasts long against a block and
    its retransmissions, so payload per slot is the mean over states of E[payload] / E[attempts]; draws of about the
    same power stand for one.

    Parameters
    ----------
    curves : ``[1 + ATTEMPTS, R, X]`` or, for a channel that does not change, ``[1, R, X]``; rows sorted by power.
    every : every so manyth SINR of the grid.
    """
    weight = served(curves.shape[1], users)
    start = int(np.searchsorted(np.cumsum(weight), _NEVER)) // SAME_STATE * SAME_STATE  # rows that count
    curves, weight = curves[:, start:].astype(np.float32), weight[start:] / weight[start:].sum()
    link, seen = Link(codes, every), choose(curves[0], codes).astype(np.int32)
    aged = len(curves) > 1
    mcs = np.maximum(_outer_loop(link, seen, curves[1], weight, every) if aged else seen[:, ::every], 0)
    errors = _attempts(link, curves[1:] if aged else np.broadcast_to(curves, (ATTEMPTS, *curves.shape[1:])), mcs)
    bits = codes.tbs_bits.astype(np.float32).take(mcs)
    first = bits * (1.0 - errors[0])
    sent = np.sum(errors[:-1], axis=0) + np.float32(1.0)
    total = weight @ first
    ours = weight @ (first * (mcs < codes.first_mcs))
    harq = _per_slot(bits * (1.0 - errors[-1]), sent, first, weight, SAME_STATE if aged else 1)
    extended = ours / np.maximum(total, 1e-12)
    return Averages(total, harq, weight @ errors[0], weight @ sent, weight @ errors[-1], extended)


def _attempts(link: Link, curves: Any, mcs: Any) -> list[Any]:
    """Error rates ``[R, H]`` after 1, 2, ... attempts with chase combining: effective SINRs add up, linearly."""
    effective, errors = np.zeros(mcs.shape, dtype=np.float32), []
    for curve in curves:
        effective = effective + np.exp(link.effective_db(curve, mcs) * np.float32(np.log(10.0) / 10.0))
        errors.append(link.error(10.0 * np.log10(effective), mcs))
    return errors


def _per_slot(received: Any, sent: Any, first: Any, weight: Floats, draws: int) -> Floats:
    """Payload per slot ``[H]``, averaged over states, which ``draws`` rows each stand for.

    In no state less than without combining: where a block that failed once is likely to fail again (its channel is
    still bad), sending the bits anew as RLC does is worth as much.
    """
    received, sent, first = (
        value.reshape(-1, draws, value.shape[1]).mean(axis=1, dtype=float) for value in (received, sent, first)
    )
    return weight.reshape(-1, draws).sum(axis=1) @ np.maximum(received / sent, first)
