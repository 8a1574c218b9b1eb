"""Which rows each client sees at each local step, and in which passes they are computed: no per-client Python."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Ints


def plan_rows(order: Ints, offsets: Ints, *, ids: Ints, steps: Ints, batch_size: int, key: Key) -> Ints:
    """Rows ``[T, K, b]`` of every step; -1 where a client has no more rows in that batch or has done its steps.

    Each epoch is a fresh permutation of the client's rows (a function of key, epoch and client id), cut into batches of
    ``batch_size``; the last batch of an epoch is what is left.

    Parameters
    ----------
    order, offsets : CSR partition: client c holds ``order[offsets[c]:offsets[c + 1]]``.
    ids, steps : clients ``[K]`` and their numbers of local steps ``[K]``.
    """
    held = offsets[ids + 1] - offsets[ids]
    per_epoch = -(-held // batch_size)
    width = int(min(batch_size, held.max()))
    epochs = int((-(-steps // per_epoch)).max())
    shuffled = np.stack([_permutations(held, ids, key.fold("order", epoch)) for epoch in range(epochs)])
    t = np.arange(int(steps.max()))[:, None]
    epoch, chunk = np.divmod(t, per_epoch[None, :])
    place = chunk[:, :, None] * batch_size + np.arange(width)
    valid = (place < held[None, :, None]) & (t < steps[None, :])[:, :, None]
    flat = np.where(valid, place, 0)
    local = shuffled[np.minimum(epoch, epochs - 1)[:, :, None], np.arange(len(ids))[None, :, None], flat]
    return np.where(valid, order[np.minimum(offsets[ids][None, :, None] + local, len(order) - 1)], -1)


def _permutations(held: Ints, ids: Ints, key: Key) -> Ints:
    """``[K, max held]``: row k starts with a permutation of ``range(held[k])``."""
    draws = key.uniform(ids, int(held.max()))
    draws[np.arange(draws.shape[1])[None, :] >= held[:, None]] = 2.0
    return np.argsort(draws, axis=1, kind="stable")


# ---- passes: the rows of one step, cut into forward passes ---------------------------------------------------------

CANDIDATES = 16  # lengths at which the sorted rows may be cut


class Costs(NamedTuple):
    """What a forward and backward pass costs, in tokens.

    Parameters
    ----------
    budget : tokens, padding included, that one pass may hold.
    start : what a pass costs beside its tokens: launching its operations.
    lane : what a lane costs whose leaves must be gathered.
    """

    budget: int
    start: float = 0.0
    lane: float = 0.0


class Pass(NamedTuple):
    """One forward pass: ``place [L, c]`` flat indices of rows, -1 for filling; ``slots [L]``, whose leaves a lane uses.

    ``slots`` is ``None`` where lane l is slot l, for all of them, so that nothing need be gathered.
    """

    place: Ints
    slots: Ints | None


def cut_passes(rows: Ints, lengths: Ints, costs: Costs) -> list[Pass]:
    """The rows of a step in passes of like length, so that little of them is padding; each row is in one pass.

    A pass is made of lanes, equally many rows of one slot each: a lane per row, or a lane per slot where gathering
    each row's own leaves would cost more than the rows that fill up the lanes.

    Parameters
    ----------
    rows, lengths : ``[K, b]`` row numbers (-1: none) and their tokens.
    """
    one = _whole(rows, lengths, costs)
    if one is not None:
        return [one]
    flat = np.flatnonzero(rows.reshape(-1) >= 0)
    tokens = lengths.reshape(-1)[flat]
    order = np.argsort(tokens, kind="stable")
    flat, tokens = flat[order], tokens[order]
    edges = _cut(tokens, costs)
    groups = [(flat[a:b], int(tokens[b - 1])) for a, b in pairwise(edges)]
    return [one for group, longest in groups for one in _lanes(group, longest, rows.shape, costs)]


def _whole(rows: Ints, lengths: Ints, costs: Costs) -> Pass | None:
    """What the search below finds where everybody has rows of one length that fit one pass, as in most steps."""
    real = rows >= 0
    count = real.sum(axis=1)
    if not count.all():
        return None
    wide, tokens = int(count.max(initial=0)), int(lengths[0].max(initial=1))
    padded, needed = len(rows) * wide * tokens, count.sum() * (tokens + costs.lane)
    real, place = real[:, :wide], np.arange(rows.size).reshape(rows.shape)[:, :wide]
    if padded > min(needed, costs.budget) or real.sum() < count.sum() or (lengths[:, :wide][real] != tokens).any():
        return None
    return Pass(place if real.all() else np.where(real, place, -1), None)


def _cut(tokens: Ints, costs: Costs) -> list[int]:
    """Edges of groups of the sorted rows: the least padded tokens plus ``start`` per pass, by dynamic programming."""
    steps = np.flatnonzero(np.diff(tokens)) + 1
    if len(steps) > CANDIDATES:
        steps = steps[np.linspace(0, len(steps) - 1, CANDIDATES).round().astype(np.int64)]
    ends = np.concatenate([[0], steps, [len(tokens)]])
    best, came = np.zeros(len(ends)), np.zeros(len(ends), dtype=np.int64)
    for j in range(1, len(ends)):
        padded = (ends[j] - ends[:j]) * tokens[ends[j] - 1]
        cost = best[:j] + padded + costs.start * -(-padded // costs.budget)
        came[j], best[j] = cost.argmin(), cost.min()
    edges, at = [int(ends[-1])], len(ends) - 1
    while at:
        low, high, at = int(ends[came[at]]), edges[0], int(came[at])
        most = max(1, costs.budget // int(tokens[high - 1]))
        parts = -(-(high - low) // most)
        edges = [low + (high - low) * p // parts for p in range(parts)] + edges
    return edges


def _lanes(flat: Ints, tokens: int, shape: tuple[int, ...], costs: Costs) -> list[Pass]:
    """The passes of one group: a single one with a lane per row, or those with a lane per slot."""
    flat = np.sort(flat)
    slots, first, count = np.unique(flat // shape[1], return_index=True, return_counts=True)
    wide, everyone = int(count.max()), len(slots) == shape[0]
    by_slot = len(slots) * wide * tokens + (0.0 if everyone else costs.lane * len(slots))
    if len(flat) * (tokens + costs.lane) < by_slot:
        return [Pass(flat[:, None], flat // shape[1])]
    column = np.arange(wide)
    place = np.where(column < count[:, None], flat[np.minimum(first[:, None] + column, len(flat) - 1)], -1)
    chunk = max(1, costs.budget // (len(slots) * tokens))
    return [Pass(place[:, at : at + chunk], None if everyone else slots) for at in range(0, wide, chunk)]
