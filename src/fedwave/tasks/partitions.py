"""Who holds which rows: i.i.d., skewed by label, quantity or feature, or by a column of the data. NumPy only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedwave.core.config import Count, Positive
from fedwave.core.errors import BadInput, unknown
from fedwave.core.keys import Key
from fedwave.core.registry import name_of, register
from fedwave.core.types import Floats, Ints


@dataclass(frozen=True)
class Partition(ABC):
    """A rule that gives every row to exactly one client and every client at least one row."""

    @abstractmethod
    def owners(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, int]:
        """The client of each row, ``[rows]``, and the number of clients."""

    def split(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, Ints]:
        """The partition as ``(order, offsets)``: client c holds ``order[offsets[c]:offsets[c + 1]]``, ascending.

        Parameters
        ----------
        labels : class index of each row ``[rows]``, or ``None`` where rows have no class.
        columns : values to group by, ``[rows]`` each.
        key : the partition is a function of it and of the arguments.

        Raises
        ------
        BadInput : a client would hold no data, or the rows lack what the rule needs.
        """
        owner, clients = self.owners(rows, labels=labels, columns=columns, key=key)
        count = np.bincount(owner, minlength=clients)
        if rows == 0 or count.min() == 0:
            empty = int(np.argmin(count)) if clients else 0
            raise BadInput(f"partition {name_of(self)}: client {empty} of {clients} holds no data ({rows} rows in all)")
        offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        return np.argsort(owner, kind="stable").astype(np.int64), offsets


def class_indices(labels: Sequence[str], classes: Sequence[str]) -> Ints:
    """Place of each label in the sorted ``classes``."""
    return np.searchsorted(np.asarray(classes), np.asarray(labels)).astype(np.int64)


def _classes(partition: Partition, labels: Ints | None) -> Ints:
    if labels is None:
        raise BadInput(
            f"partition {name_of(partition)} needs labelled rows, and these have no label: use iid or column"
        )
    return np.asarray(labels)


def _column(partition: Partition, name: str, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    if name not in columns:
        raise unknown("column of the data", name, columns)
    for row, value in enumerate(columns[name]):
        if value is None or value == "" or value != value:  # the last: not a number
            raise BadInput(f"partition {name_of(partition)}: row {row} has no {name!r}, so it belongs to no client")
    return columns[name]


@register("partition", "iid")
@dataclass(frozen=True)
class IID(Partition):
    """Rows dealt at random; clients' sizes differ by at most one.

    Parameters
    ----------
    clients : number of clients.
    """

    clients: Count = 20

    cite: ClassVar[str] = "McMahan et al., AISTATS 2017, Section 3 (the IID division)"

    def owners(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, int]:
        """See :meth:`Partition.owners`."""
        return key.numpy().permutation(rows) % self.clients, self.clients


@register("partition", "dirichlet")
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Label skew: each class is dealt to the clients in proportions drawn from Dir(alpha).

    The per-class form of Yurochkin et al. (ICML 2019, section 4) of the label-Dirichlet idea of Hsu, Qi and Brown
    (arXiv 1909.06335), which draws per client instead: here every row is used once and sizes are unequal.
    Clients left with fewer than ``min_samples`` rows are then topped up with rows drawn at random from the largest
    clients, those above a common level giving what exceeds it, so that the rest of the draw is untouched.

    Parameters
    ----------
    alpha : concentration; small is skewed.
    clients : number of clients.
    min_samples : rows that each client holds at least.
    """

    alpha: Positive = 0.5
    clients: Count = 20
    min_samples: Count = 1

    cite: ClassVar[str] = "Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019"

    cite: ClassVar[str] = (
        "Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019, Section 4; after "
        "Hsu, Qi & Brown, arXiv 1909.06335"
    )

    def owners(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, int]:
        """See :meth:`Partition.owners`."""
        classes = _classes(self, labels)
        _enough(self, rows, self.clients, self.min_samples)
        rng = key.numpy()
        owner = np.empty(rows, dtype=np.int64)
        for value in np.unique(classes):
            members = rng.permutation(np.flatnonzero(classes == value))
            owner[members] = _deal(len(members), rng.dirichlet(np.full(self.clients, self.alpha)))
        return _top_up(owner, self.clients, self.min_samples, rng), self.clients


@register("partition", "quantity")
@dataclass(frozen=True)
class Quantity(Partition):
    """Quantity skew: rows dealt at random, a share of them drawn from Dir(alpha) for each client.

    Li et al., "Federated learning on non-IID data silos: an experimental study", ICDE 2022. Clients left with
    fewer than ``min_samples`` rows are topped up as in :class:`Dirichlet`.

    Parameters
    ----------
    alpha : concentration; small makes few clients hold most of the rows.
    clients : number of clients.
    min_samples : rows that each client holds at least.
    """

    alpha: Positive = 0.5
    clients: Count = 20
    min_samples: Count = 1

    cite: ClassVar[str] = "Li et al., Federated Learning on Non-IID Data Silos: An Experimental Study, ICDE 2022"

    cite: ClassVar[str] = "Li et al., Federated Learning on Non-IID Data Silos: An Experimental Study, ICDE 2022"

    def owners(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, int]:
        """See :meth:`Partition.owners`."""
        _enough(self, rows, self.clients, self.min_samples)
        rng = key.numpy()
        owner = np.empty(rows, dtype=np.int64)
        owner[rng.permutation(rows)] = _deal(rows, rng.dirichlet(np.full(self.clients, self.alpha)))
        return _top_up(owner, self.clients, self.min_samples, rng), self.clients


@register("partition", "feature")
@dataclass(frozen=True)
class Feature(Partition):
    """Feature skew: rows sorted by ``column`` and cut into equal contiguous shares, one for each client.

    Clients then differ in what their inputs look like (covariate shift: Kairouz et al., "Advances and open problems in
    federated learning", 2021, section 3.1). Numbers, also those written as text, sort by size, anything else
    alphabetically; rows of equal value are dealt at random.

    Parameters
    ----------
    column : name of the column that rows are sorted by.
    clients : number of clients.
    """

    column: str
    clients: Count = 20

    cite: ClassVar[str] = "Kairouz et al., Advances and Open Problems in Federated Learning, 2021"

    cite: ClassVar[str] = "Kairouz et al., Advances and Open Problems in Federated Learning, 2021, Section 3.1"

    def owners(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, int]:
        """See :meth:`Partition.owners`."""
        values = _column(self, self.column, columns)
        try:
            sortable = np.asarray([float(value) for value in values])
        except (TypeError, ValueError):
            sortable = np.asarray([str(value) for value in values])
        shuffled = key.numpy().permutation(rows)
        owner = np.empty(rows, dtype=np.int64)
        owner[shuffled[np.argsort(sortable[shuffled], kind="stable")]] = np.arange(rows) * self.clients // max(rows, 1)
        return owner, self.clients


def _enough(partition: Partition, rows: int, clients: int, least: int) -> None:
    if rows < clients * least:
        raise BadInput(
            f"partition {name_of(partition)}: {clients} clients with min_samples = {least} need {clients * least} "
            f"rows, the data has {rows}: client {rows // least} would go short"
        )


def _deal(places: int, shares: Floats) -> Ints:
    """The client of each of ``places`` rows in a line, who get the given shares of it (a row goes by its midpoint)."""
    middle = (np.arange(places) + 0.5) / places
    return np.minimum(np.searchsorted(np.cumsum(shares), middle), len(shares) - 1)


def _top_up(owner: Ints, clients: int, least: int, rng: np.random.Generator) -> Ints:
    """Move rows from the largest clients to those with fewer than ``least``; ``owner`` is changed in place."""
    count = np.bincount(owner, minlength=clients)
    missing = np.maximum(least - count, 0)
    need = int(missing.sum())
    if need == 0:
        return owner
    gives = np.maximum(count - _level(count, need, least), 0)
    for donor in np.flatnonzero(gives)[: max(int(gives.sum()) - need, 0)]:  # the level is whole: trim the surplus
        gives[donor] -= 1
    shuffled = rng.permutation(len(owner))
    grouped = shuffled[np.argsort(owner[shuffled], kind="stable")]
    place_in_client = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    given = grouped[place_in_client < gives[owner[grouped]]]
    owner[rng.permutation(given)] = np.repeat(np.arange(clients), missing)
    return owner


def _level(count: Ints, need: int, least: int) -> int:
    """The highest level such that what clients hold above it amounts to at least ``need``."""
    low, high = least, int(count.max())
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.maximum(count - middle, 0).sum()) >= need:
            low = middle
        else:
            high = middle - 1
    return low


@register("partition", "shards")
@dataclass(frozen=True)
class Shards(Partition):
    """Rows sorted by label, cut into equal shards, ``shards_per_client`` of them to each client.

    McMahan et al. (AISTATS 2017, section 3): their pathological non-IID MNIST has 100 clients with 2 shards each.

    Parameters
    ----------
    clients : number of clients.
    shards_per_client : few shards are few classes.
    """

    clients: Count = 20
    shards_per_client: Count = 2

    cite: ClassVar[str] = (
        "McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017"
    )

    cite: ClassVar[str] = "McMahan et al., AISTATS 2017, Section 3 (the pathological non-IID division)"

    def owners(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, int]:
        """See :meth:`Partition.owners`."""
        classes = _classes(self, labels)
        shards = self.clients * self.shards_per_client
        if rows < shards:
            raise BadInput(f"partition shards: {shards} shards need as many rows, the data has {rows}")
        rng = key.numpy()
        shuffled = rng.permutation(rows)
        ordered = shuffled[np.argsort(classes[shuffled], kind="stable")]
        owner = np.empty(rows, dtype=np.int64)
        owner[ordered] = (rng.permutation(shards) // self.shards_per_client)[np.arange(rows) * shards // rows]
        return owner, self.clients


@register("partition", "column")
@dataclass(frozen=True)
class Column(Partition):
    """One client for each distinct value of ``column``, in sorted order: the data's own clients.

    Parameters
    ----------
    column : name of the column that says whose row it is.
    """

    column: str = "topic"

    cite: ClassVar[str] = "Caldas et al., LEAF: A Benchmark for Federated Settings, arXiv 1812.01097 (data with users)"

    def owners(
        self, rows: int, *, labels: Ints | None, columns: Mapping[str, Sequence[Any]], key: Key
    ) -> tuple[Ints, int]:
        """See :meth:`Partition.owners`."""
        values = _column(self, self.column, columns)
        distinct, owner = np.unique(np.asarray([str(value) for value in values]), return_inverse=True)
        return owner.astype(np.int64), len(distinct)
