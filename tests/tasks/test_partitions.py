"""Partitions: disjoint, complete, deterministic, and skewed as they claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import config, registry
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.tasks.partitions import IID, Column, Dirichlet, Feature, Partition, Quantity, Shards
from fedwave.tasks.task import divide

CLASSES = 7


def labels_of(rows: int, seed: int) -> np.ndarray:
    return (Key(seed).fold("labels").uniform(np.arange(rows))[:, 0] * CLASSES).astype(np.int64)


def split(partition: Partition, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = labels_of(rows, seed)
    columns = {
        "topic": [f"t{value}" for value in labels],
        "loudness": Key(seed).uniform(np.arange(rows))[:, 0].tolist(),
    }
    return partition.split(rows, labels=labels, columns=columns, key=Key(seed))


@settings(max_examples=60, deadline=None)
@given(
    partition=st.one_of(
        st.builds(IID, clients=st.integers(1, 40)),
        st.builds(Dirichlet, alpha=st.floats(0.01, 100), clients=st.integers(1, 20), min_samples=st.integers(1, 6)),
        st.builds(Shards, clients=st.integers(1, 20), shards_per_client=st.integers(1, 4)),
        st.builds(Quantity, alpha=st.floats(0.01, 100), clients=st.integers(1, 20), min_samples=st.integers(1, 6)),
        st.builds(Feature, st.sampled_from(["topic", "loudness"]), clients=st.integers(1, 40)),
        st.just(Column("topic")),
    ),
    rows=st.integers(120, 400),
    seed=st.integers(0, 2**32),
)
def test_every_row_has_one_client_and_every_client_a_row(partition: Partition, rows: int, seed: int) -> None:
    order, offsets = split(partition, rows, seed)
    assert np.array_equal(np.sort(order), np.arange(rows))
    assert offsets[0] == 0 and offsets[-1] == rows
    assert np.diff(offsets).min() >= getattr(partition, "min_samples", 1)
    again = split(partition, rows, seed)
    assert np.array_equal(order, again[0]) and np.array_equal(offsets, again[1])


def test_iid_sizes_differ_by_at_most_one() -> None:
    sizes = np.diff(split(IID(clients=7), 100, 0)[1])
    assert sorted(sizes) == [14] * 5 + [15] * 2  # 100 = 5 x 14 + 2 x 15


def test_shards_give_a_client_few_classes() -> None:
    # Shards of 10 rows of 10 classes of 20 rows: a shard never spans two classes, so 2 shards are at most 2 classes.
    labels = np.repeat(np.arange(10), 20)
    order, offsets = Shards(clients=10).split(200, labels=labels, columns={}, key=Key(1))
    assert np.diff(offsets).tolist() == [20] * 10
    assert max(len(set(labels[order[a:b]])) for a, b in zip(offsets, offsets[1:], strict=False)) <= 2


def test_small_alpha_skews_and_large_alpha_does_not() -> None:
    def share_of_largest_class(alpha: float) -> float:
        labels = labels_of(4000, 0)
        order, offsets = Dirichlet(alpha=alpha, clients=10).split(4000, labels=labels, columns={}, key=Key(0))
        counts = [
            np.bincount(labels[order[a:b]], minlength=CLASSES) for a, b in zip(offsets, offsets[1:], strict=False)
        ]
        return float(np.mean([count.max() / count.sum() for count in counts]))

    assert share_of_largest_class(0.05) > 0.6
    assert share_of_largest_class(1000.0) < 1.3 / CLASSES  # near the uniform share, 1 / CLASSES


def test_dirichlet_shares_have_the_variance_of_a_dirichlet() -> None:
    # A class's share at a client is Beta(alpha, (N - 1) alpha): mean 1/N, variance (N - 1) / (N^2 (N alpha + 1)).
    clients, alpha, classes, per_class = 5, 0.7, 400, 200
    labels = np.repeat(np.arange(classes), per_class)
    partition = Dirichlet(alpha=alpha, clients=clients)
    order, offsets = partition.split(len(labels), labels=labels, columns={}, key=Key(3))
    owner = np.empty(len(labels), dtype=np.int64)
    owner[order] = np.repeat(np.arange(clients), np.diff(offsets))
    share = np.stack([np.bincount(owner[labels == c], minlength=clients) for c in range(classes)]) / per_class
    expected = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert share.var() == pytest.approx(expected, rel=0.1)


def test_topping_up_takes_from_the_largest_clients_only() -> None:
    # One class at alpha 0.01: nearly all rows at one client, which then gives every other client its 3 rows.
    sizes = np.diff(
        Dirichlet(alpha=0.01, clients=8, min_samples=3).split(100, labels=np.zeros(100, int), columns={}, key=Key(0))[1]
    )
    assert sorted(sizes) == [3] * 7 + [79]


def test_quantity_shares_have_the_variance_of_a_dirichlet_and_labels_stay_mixed() -> None:
    # A client's share is Beta(alpha, (N - 1) alpha): mean 1/N, variance (N - 1) / (N^2 (N alpha + 1)).
    clients, alpha, rows = 10, 0.5, 5000
    shares = [
        np.diff(Quantity(alpha=alpha, clients=clients).split(rows, labels=None, columns={}, key=Key(seed))[1]) / rows
        for seed in range(300)
    ]
    assert np.var(shares) == pytest.approx((clients - 1) / (clients**2 * (clients * alpha + 1)), rel=0.1)
    labels = labels_of(rows, 0)
    order, offsets = Quantity(alpha=alpha, clients=clients).split(rows, labels=labels, columns={}, key=Key(0))
    largest = int(np.argmax(np.diff(offsets)))
    mine = np.bincount(labels[order[offsets[largest] : offsets[largest + 1]]], minlength=CLASSES)
    assert mine.max() / mine.sum() < 1.3 / CLASSES


@pytest.mark.parametrize("values", [[3, 10, 1, 2, 30, 20], ["3", "10", "1", "2.0", "3e1", "20"]])
def test_feature_shares_are_contiguous_in_size(values: list) -> None:
    # By size: rows 2, 3 | 0, 1 | 5, 4.
    order, offsets = Feature("f", clients=3).split(6, labels=None, columns={"f": values}, key=Key(0))
    assert [sorted(order[a:b]) for a, b in zip(offsets, offsets[1:], strict=False)] == [[2, 3], [0, 1], [4, 5]]


def test_feature_sorts_words_and_deals_equal_values_at_random() -> None:
    order, offsets = Feature("f", clients=2).split(4, labels=None, columns={"f": ["b", "a", "b", "a"]}, key=Key(0))
    assert sorted(order[:2]) == [1, 3] and offsets.tolist() == [0, 2, 4]
    first = [
        tuple(Feature("f", clients=2).split(8, labels=None, columns={"f": [1] * 8}, key=Key(seed))[0][:4])
        for seed in range(5)
    ]
    assert len(set(first)) > 1


def test_ten_thousand_clients() -> None:
    order, offsets = split(Dirichlet(alpha=0.1, clients=10_000, min_samples=2), 40_000, 0)
    assert len(offsets) == 10_001 and np.diff(offsets).min() >= 2 and len(np.unique(order)) == 40_000


def test_columns_are_clients_in_sorted_order() -> None:
    order, offsets = Column("who").split(5, labels=None, columns={"who": ["b", "a", "b", "c", "a"]}, key=Key(0))
    assert order.tolist() == [1, 4, 0, 2, 3] and offsets.tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (IID(clients=9), "client 8 of 9 holds no data"),
        (Dirichlet(clients=5, min_samples=2), "need 10 rows, the data has 8: client 4 would go short"),
        (Shards(clients=5), "10 shards need as many rows, the data has 8"),
        (
            Quantity(clients=5, min_samples=2),
            "partition quantity.*need 10 rows, the data has 8: client 4 would go short",
        ),
        (Feature("topic", clients=9), "partition feature: client [0-9] of 9 holds no data"),
        (Feature("pitch"), "unknown column of the data 'pitch'.*known: loudness, topic"),
        (Column("speaker"), "unknown column of the data 'speaker'.*known: loudness, topic"),
    ],
)
def test_clients_without_data_are_named(partition: Partition, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        split(partition, 8, 0)


def test_label_skew_needs_labels_and_columns_need_values() -> None:
    with pytest.raises(BadInput, match="partition dirichlet needs labelled rows"):
        Dirichlet().split(50, labels=None, columns={}, key=Key(0))
    with pytest.raises(BadInput, match="partition feature: row 0 has no 'f'"):
        Feature("f").split(2, labels=None, columns={"f": [float("nan"), 1.0]}, key=Key(0))
    with pytest.raises(BadInput, match="row 1 has no 'who'"):
        Column("who").split(2, labels=None, columns={"who": ["a", None]}, key=Key(0))


def test_public_rows_are_taken_before_the_clients_and_follow_the_seed() -> None:
    def public(seed: int) -> list[int]:
        division = divide(60, labels=None, columns={}, partition=IID(clients=4), seed=seed, public=10)
        assert not set(division.order) & set(division.public) and division.samples.sum() == 50
        return division.public.tolist()

    assert public(0) == public(0) != public(1)
    with pytest.raises(BadInput, match="60 public rows"):
        divide(60, labels=None, columns={}, partition=IID(), seed=0, public=60)


@pytest.mark.parametrize("name", registry.names("partition"))
def test_a_job_writes_and_reads_a_partition(name: str) -> None:
    partition = config.build("partition", {"name": name, **({"column": "f"} if name == "feature" else {})})
    assert config.build("partition", config.dump(partition)) == partition
