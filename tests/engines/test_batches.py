"""Which rows a client sees: epochs are permutations, batches are disjoint, nobody depends on the others."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import config
from fedwave.core.keys import Key
from fedwave.engines.stacked.batches import plan_rows


@st.composite
def plans(draw):
    """A CSR partition with shuffled row numbers, some of its clients, their steps, a batch size."""
    held = np.array(draw(st.lists(st.integers(1, 9), min_size=1, max_size=6)))
    order = np.array(draw(st.permutations(range(int(held.sum())))))
    ids = np.array(draw(st.lists(st.integers(0, len(held) - 1), min_size=1, max_size=len(held), unique=True)))
    steps = np.array(draw(st.lists(st.integers(1, 12), min_size=len(ids), max_size=len(ids))))
    return order, np.concatenate([[0], np.cumsum(held)]), ids, steps, draw(st.integers(1, 10))


def rows_of(plan, slot):
    return [batch[batch >= 0].tolist() for batch in plan[:, slot]]


@settings(deadline=None, max_examples=150)
@given(plans(), st.integers(0, 2**32))
def test_epochs_are_permutations(plan, seed):
    order, offsets, ids, steps, size = plan
    rows = plan_rows(order, offsets, ids=ids, steps=steps, batch_size=size, key=Key(seed))
    assert rows.shape[:2] == (steps.max(), len(ids))
    for slot, client in enumerate(ids):
        own = order[offsets[client] : offsets[client + 1]]
        per_epoch = -(-len(own) // size)
        batches = rows_of(rows, slot)
        for t, batch in enumerate(batches):
            valid = rows[t, slot] >= 0
            assert (valid == (np.arange(rows.shape[2]) < valid.sum())).all()  # -1 only at the end
            if t >= steps[slot]:
                assert batch == []
                continue
            last = t % per_epoch == per_epoch - 1
            assert len(batch) == (len(own) - (per_epoch - 1) * size if last else size)
        done = [row for batch in batches for row in batch]
        for epoch in range(0, len(done), len(own)):
            part = done[epoch : epoch + len(own)]
            assert len(set(part)) == len(part)  # batches are disjoint within an epoch
            assert set(part) <= set(own.tolist())
            if len(part) == len(own):
                assert sorted(part) == sorted(own.tolist())


@settings(deadline=None, max_examples=100)
@given(plans(), st.integers(0, 2**32))
def test_a_client_does_not_depend_on_its_group(plan, seed):
    order, offsets, ids, steps, size = plan
    together = plan_rows(order, offsets, ids=ids, steps=steps, batch_size=size, key=Key(seed))
    for slot, client in enumerate(ids):
        alone = plan_rows(
            order, offsets, ids=np.array([client]), steps=steps[slot : slot + 1], batch_size=size, key=Key(seed)
        )
        assert rows_of(together, slot)[: steps[slot]] == rows_of(alone, 0)


@settings(deadline=None, max_examples=100)
@given(plans(), st.integers(1, 4))
def test_rows_touched_are_those_that_the_plan_charges(plan, epochs):
    """``Method.amount`` (what FLOPs are charged for) equals the rows drawn, for epochs and for steps."""
    order, offsets, ids, _, size = plan
    held = np.diff(offsets)[ids]
    for how in ({"local_epochs": epochs}, {"local_steps": 3 * epochs - 2}):
        steps, touched = config.build("method", {"name": "fedavg", **how}).amount(held, size)
        rows = plan_rows(order, offsets, ids=ids, steps=steps, batch_size=size, key=Key(1))
        assert (rows >= 0).sum((0, 2)).tolist() == touched.tolist()


def test_epochs_rounds_and_clients_differ():
    order, offsets = np.arange(40), np.array([0, 20, 40])
    both = {"ids": np.array([0, 1]), "steps": np.array([2, 2]), "batch_size": 20}
    first, second = (plan_rows(order, offsets, **both, key=Key(0).fold("round", r)) for r in range(2))
    seen = [tuple(first[0, 0]), tuple(first[1, 0]), tuple(first[0, 1] - 20), tuple(second[0, 0])]
    assert len(set(seen)) == 4


def test_shuffles_are_uniform():
    """The row that comes first is each of 4 rows in a quarter of 4000 rounds, within 4 standard errors (0.027)."""
    key, hits = Key(5), np.zeros(4)
    for r in range(4000):
        rows = plan_rows(
            np.arange(4), np.array([0, 4]), ids=np.array([0]), steps=np.array([1]), batch_size=4, key=key.fold(r)
        )
        hits[rows[0, 0, 0]] += 1
    assert abs(hits / 4000 - 0.25).max() < 0.028
