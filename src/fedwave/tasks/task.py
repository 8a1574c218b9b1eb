"""The task base: a torch-free description that builds a :class:`~fedwave.tasks.learner.Learner` to train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Ints, Spec
from fedwave.tasks.learner import Learner
from fedwave.tasks.partitions import Partition

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Task(ABC):
    """What is learned. The fields of a task are the keys of the job's ``[task]`` table."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Rows of one local step; every task has it as a field."""

    @abstractmethod
    def spec(self) -> Spec:
        """Shapes, sizes and arithmetic of the task; no tensor, no torch."""

    @abstractmethod
    def samples(self, seed: int, *, public: int = 0) -> Ints:
        """Samples held by each client, ``[N]``, when ``public`` rows are set aside; reads data, no torch."""

    def ranks(self, device_names: tuple[str, ...], device: Ints) -> Ints:
        """LoRA rank of each client, ``[N]``, from its device (an index into ``device_names``); 0 without LoRA."""
        return np.zeros(len(device), dtype=np.int64)

    def prepare(self, progress: Progress | None = None) -> None:  # noqa: B027 (a hook: some tasks need nothing)
        """Bring what training needs, and planning does not, to this machine (model weights), and read the data.

        ``progress`` is called with (done, in all) where that takes long.
        """

    def once(self, name: str, make: Callable[[], T]) -> T:
        """``make()`` at the first call for ``name``, and the same value ever after: planning and building read once."""
        kept = vars(self)  # a cache beside the fields: equality and job files know nothing of it
        if name not in kept:
            kept[name] = make()
        return kept[name]

    def inherit(self, other: Task) -> None:  # noqa: B027 (a hook: most tasks read little)
        """Take over what ``other`` has read, where it would be the same here: a plan tries many similar jobs."""

    @abstractmethod
    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """Model, data and partition, ready to train.

        Parameters
        ----------
        seed : the job's seed: partition, public rows and initial values follow from it.
        public : rows set aside as the server's unlabelled public set.
        progress : called with (rows done, rows in all) where building takes long (cached features).
        """

    def again(self, seed: int, *, public: int = 0) -> Callable[[], Learner]:
        """:meth:`build` for another process or machine, which prepares first; it takes along keys, and no data."""
        keys = {key.name: getattr(self, key.name) for key in fields(self)}
        return partial(_build_anew, type(self), keys, seed, public)


def _build_anew(kind: type[Task], keys: dict[str, Any], seed: int, public: int) -> Learner:
    task = kind(**keys)
    task.prepare()
    return task.build(seed, public=public)


@dataclass(frozen=True)
class Division:
    """Who holds which row: client c has ``order[offsets[c]:offsets[c + 1]]``; ``public`` rows belong to nobody."""

    order: Ints
    offsets: Ints
    public: Ints

    @property
    def samples(self) -> Ints:
        """Rows of each client, ``[N]``."""
        return np.diff(self.offsets)


def divide(
    rows: int,
    *,
    labels: Ints | None,
    columns: Mapping[str, Sequence[Any]],
    partition: Partition,
    seed: int,
    public: int = 0,
) -> Division:
    """Set ``public`` of the ``rows`` aside, then hand the others to the clients of ``partition``.

    Parameters
    ----------
    labels : class of each row ``[rows]``, or ``None`` where rows have no class.
    columns : values that a partition may group rows by, ``[rows]`` each.

    Raises
    ------
    BadInput : more public rows than rows, or a client without data.
    """
    if public >= rows:
        raise BadInput(f"{public} public rows are asked for, the training data has {rows} and the clients need some")
    root = Key(seed)
    drawn = np.argsort(root.fold("public").bits(np.arange(rows), 1)[:, 0], kind="stable")
    aside, kept = np.sort(drawn[:public]), np.sort(drawn[public:])
    order, offsets = partition.split(
        len(kept),
        labels=None if labels is None else np.asarray(labels)[kept],
        columns={name: [values[i] for i in kept] for name, values in columns.items()},
        key=root.fold("partition"),
    )
    return Division(order=kept[order], offsets=offsets, public=aside)
