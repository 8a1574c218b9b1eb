"""A cohort cut into shards: who trains whom elsewhere, what is told and what comes back, and how it travels."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedwave.core import tree
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Delivery, Ints, Leaves, Message
from fedwave.engines.cohort import CohortEngine, Session
from fedwave.engines.fold import Fold
from fedwave.methods.method import Method
from fedwave.results.memory_store import MemoryStore
from fedwave.tasks.learner import Learner
from fedwave.transforms.chain import Chain

Packed = tuple[bytes, list[np.ndarray]]


@dataclass(frozen=True)
class Shard:
    """What a worker must know of the ``S`` clients that it trains in a round.

    Parameters
    ----------
    cohort, delivery : of these clients alone.
    own : parts of the message for each of them, ``{part: {leaf: [S, ...]}}``.
    known : ids of those who remember something.
    memory : what they remember, ``{name: [len(known), ...]}``.
    """

    cohort: Cohort
    delivery: Delivery
    own: dict[str, tree.Tree] | None
    known: Ints
    memory: tree.Tree


@dataclass(frozen=True)
class Trained:
    """What became of a shard: its fold, and the rows of memory that changed, ``{name: [len(changed), ...]}``."""

    fold: Fold
    changed: Ints
    memory: tree.Tree


def split(positions: Ints, steps: Ints, workers: int) -> list[Ints]:
    """``positions`` cut into at most ``workers`` shards of like many steps; a function of its arguments.

    Longest first, each to the worker with the fewest steps so far: no shard has more than 4/3 of the least possible
    (Graham, SIAM J. Appl. Math. 17(2), 1969). A shard keeps the order of the cohort.
    """
    workers = min(workers, len(positions))
    load = [(0, worker) for worker in range(workers)]  # a heap
    shards: list[list[int]] = [[] for _ in range(workers)]
    for position in positions[np.argsort(-steps[positions], kind="stable")]:
        sofar, worker = load[0]
        shards[worker].append(int(position))
        heapreplace(load, (sofar + int(steps[position]), worker))
    return [np.array(sorted(shard), dtype=np.int64) for shard in shards]


def cut(at: Ints, message: Message, store: MemoryStore, cohort: Cohort, delivery: Delivery) -> Shard:
    """The shard of the clients at positions ``at``."""
    mine = cohort.take(at)
    own = None if message.own is None else {part: tree.take(leaves, at) for part, leaves in message.own.items()}
    memory, known = store.get(mine.ids) if store.leaves else ({}, np.zeros(len(at), dtype=bool))
    return Shard(mine, delivery.take(at), own, mine.ids[known], tree.take(memory, torch.as_tensor(known)))


class Recipe(NamedTuple):
    """What a worker makes its session of."""

    engine: CohortEngine
    method: Method
    up: Chain
    batch_size: int
    again: Callable[[], Learner]

    def session(self) -> tuple[Session, list[str]]:
        """The session, and what was warned of while it started (the learner's warnings were heard already)."""
        learner = self.again()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            session = self.engine.start(self.method, learner, up=self.up, batch_size=self.batch_size)
        return session, [str(warning.message) for warning in caught]


class Trainer:
    """A session that trains shards, in whatever process it is; made with the first one.

    ``applied`` counts the changes of the base that its model has.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.applied = recipe, 0
        self._session: Session | None = None

    def train(self, told: Packed, changes: Sequence[Packed], shard: Packed) -> tuple[Packed, list[str]]:
        """What became of a shard, packed, and what was warned of.

        Parameters
        ----------
        told : (message without base changes and own parts, key of the round).
        changes : of the base, all from number ``applied`` on.
        shard : a :class:`Shard`.
        """
        notes: list[str] = []
        if self._session is None:
            self._session, notes = self.recipe.session()
        message, key = unpack(told)
        message.base = [{}] * self.applied + [unpack(change) for change in changes]  # those it has are not looked at
        trained = _train(self._session, message, unpack(shard), key)
        self.applied = len(message.base)
        return pack(trained), notes


def _train(session: Session, message: Message, shard: Shard, key: Key) -> Trained:
    store = _Noting(session.memory_leaves)
    if len(shard.known):
        store.put(shard.known, shard.memory)
    store.changed.clear()
    fold = session.fold(replace(message, own=shard.own), store, shard.cohort, shard.delivery, key)
    changed = np.array(store.changed, dtype=np.int64)
    return Trained(fold, changed, store.get(changed)[0] if len(changed) else {})


class _Noting(MemoryStore):
    """A shard's client memory; ``changed`` are the ids whose row was put."""

    def __init__(self, leaves: Leaves) -> None:
        super().__init__(None, leaves)
        self.changed: list[int] = []

    def put(self, ids: Sequence[int] | Ints, rows: Any) -> None:
        super().put(ids, rows)
        self.changed += [int(client) for client in ids]


# ---- tensors on their way ------------------------------------------------------------------------------------------


def pack(value: Any) -> Packed:
    """``value`` pickled with its tensors apart, as arrays of bytes, which shared memory takes without another copy."""
    file = io.BytesIO()
    packer = _Packer(file, protocol=5)
    packer.dump(value)
    return file.getvalue(), packer.arrays


def unpack(packed: Packed) -> Any:
    """The inverse of :func:`pack`; tensors are copies of their own."""
    data, arrays = packed
    return _Unpacker(io.BytesIO(data), arrays).load()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol=protocol)
        self.arrays: list[np.ndarray] = []

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return None
        value = obj.detach().cpu().contiguous()
        self.arrays.append(value.reshape(-1).view(torch.uint8).numpy())
        return len(self.arrays) - 1, value.dtype, tuple(value.shape)


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: list[np.ndarray]) -> None:
        super().__init__(file)
        self.arrays = arrays

    def persistent_load(self, pid: Any) -> Tensor:
        number, dtype, shape = pid
        value = torch.empty(shape, dtype=dtype)
        value.reshape(-1).view(torch.uint8).numpy()[:] = self.arrays[number]
        return value
