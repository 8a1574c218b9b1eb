"""Averages over fading of what link adaptation and retransmissions make of a mean SINR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless.phy.build.codes import BLER_TARGET, LOW_DB, STEP_DB, Codes
from fedwave.wireless.phy.build.draws import ATTEMPTS, X_COUNT, X_LOW_DB, X_STEP_DB

SINR_LOW_DB, SINR_HIGH_DB, SINR_STEP_DB = -20.0, 45.0, 0.5
_MAX_OFFSET = round(20.0 / SINR_STEP_DB)  # of the outer loop
_SAME_STATE = 32  # draws of about the same power that stand for one state of the channel that link adaptation saw
_GOLDEN = 0.6180339887498949


def sinr_grid_db() -> Floats:
    """Mean SINRs of the tables."""
    return SINR_LOW_DB + SINR_STEP_DB * np.arange(round((SINR_HIGH_DB - SINR_LOW_DB) / SINR_STEP_DB) + 1)


@dataclass(frozen=True)
class Averages:
    """Averages over fading ``[S]`` on the grid of mean SINRs.

    Parameters
    ----------
    first_bits : ``E[TBS (1 - BLER)]`` of a slot, the first transmission alone.
    harq_bits : payload per slot with chase combining, slots of retransmissions counted.
    bler : of first transmissions.
    attempts, residual : transmissions of a block, and blocks lost after the last.
    extended : share of ``first_bits`` that MCS below Sionna's lowest carry.
    best_bits : ``[U, S]`` as ``harq_bits``, of the one with the strongest channel among ``users`` equal links.
    """

    first_bits: Floats
    harq_bits: Floats
    bler: Floats
    attempts: Floats
    residual: Floats
    extended: Floats
    best_bits: Floats


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
    """Error rates of draws; ``curve [R, X]`` may be rows of any channel."""

    def __init__(self, codes: Codes) -> None:
        self.codes = codes
        beta_db = 10.0 * np.log10(codes.beta)
        place = np.clip((sinr_grid_db() - beta_db[:, None] - X_LOW_DB) / X_STEP_DB, 0.0, X_COUNT - 1.001)
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


def _outer_loop(link: Link, seen: Ints, met: Bools, curve: Any) -> Ints:
    """MCS ``[R, S]`` after the offset with which the target holds on average, where an MCS met it.

    The offset is a multiple of the SINR step; two neighbours take turns so that the average is the target.
    """
    columns, weight = np.arange(seen.shape[1]), 1.0 / np.maximum(met.sum(axis=0), 1)

    def average(offset: Ints) -> Floats:
        mcs = np.maximum(seen[:, np.maximum(columns - offset, 0)], 0)
        return (link.error(link.effective_db(curve, mcs), mcs) * met).sum(axis=0) * weight

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


def best_of(states: Floats, users: Sequence[int]) -> Floats:
    """Mean ``[U, S]`` over the best of ``users`` draws from ``states [N, S]``, which are sorted by rank.

    The best of n falls among the lowest share q of ranks with probability q^n.
    """
    rank = np.linspace(0.0, 1.0, len(states) + 1)[:, None] ** np.asarray(users, dtype=float)
    return np.diff(rank, axis=0).T @ states


def averages(curves: Any, codes: Codes, users: Sequence[int] = (1,)) -> Averages:
    """Averages over fading of one allocation.

    Link adaptation takes the highest MCS whose error rate on the channel that it saw is at most the target, else the
    lowest. Where the channel has aged since, an offset keeps the error rate at the target on average over the slots in
    which some MCS met it. A state of the channel that was seen lasts long against a block and its retransmissions, so
    payload per slot is the mean over states of E[payload] / E[attempts]; draws of about the same power stand for one.

    Parameters
    ----------
    curves : ``[1 + ATTEMPTS, R, X]`` or, for a channel that does not change, ``[1, R, X]``; rows sorted by power.
    """
    link = Link(codes)
    seen = choose(curves[0], codes).astype(np.int32)
    met = seen >= 0
    curves = curves.astype(np.float32)
    mcs = np.maximum(_outer_loop(link, seen, met, curves[1]) if len(curves) > 1 else seen, 0)
    bits = codes.tbs_bits.astype(np.float32).take(mcs)
    effective, errors = np.zeros(mcs.shape, dtype=np.float32), []
    for k in range(ATTEMPTS):
        if len(curves) > 1 or k == 0:
            one = np.exp(link.effective_db(curves[min(k + 1, len(curves) - 1)], mcs) * np.float32(np.log(10.0) / 10.0))
        effective = effective + one
        errors.append(link.error(10.0 * np.log10(effective), mcs))
    first = bits * (1.0 - errors[0])
    sent = 1.0 + sum(errors[:-1])
    total = first.mean(axis=0, dtype=float)
    ours = (first * (mcs < codes.first_mcs)).mean(axis=0, dtype=float)
    means = (value.mean(axis=0, dtype=float) for value in (errors[0], sent, errors[-1]))
    per_slot = _per_slot(bits * (1.0 - errors[-1]), sent, first, 1 if len(curves) == 1 else _SAME_STATE)
    return Averages(total, per_slot.mean(axis=0), *means, ours / np.maximum(total, 1e-12), best_of(per_slot, users))


def _per_slot(received: Any, sent: Any, first: Any, draws: int) -> Floats:
    """Payload per slot ``[N, S]`` of each state, which ``draws`` rows stand for.

    Never less than without combining: where a block that failed once is likely to fail again (its channel is still
    bad), sending the bits anew as RLC does is worth as much.
    """
    received, sent, first = (
        value.reshape(-1, draws, value.shape[1]).mean(axis=1, dtype=float) for value in (received, sent, first)
    )
    return np.maximum(received / sent, first)
