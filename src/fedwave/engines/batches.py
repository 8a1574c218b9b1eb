"""Which rows each client sees at each local step: one index array per group, no per-client Python."""

from __future__ import annotations

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
