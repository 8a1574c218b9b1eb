"""Memory that does not suffice: the passes shrink, a warning says so, and the result is that of enough memory."""

import contextlib

import numpy as np
import pytest
import torch

from fedwave.core.errors import Infeasible
from fedwave.core.keys import Key
from fedwave.engines.cohort import CohortEngine
from fedwave.engines.stacked.memory import halved, is_out_of_memory, with_less
from fedwave.methods.fedavg import FedAvg
from fedwave.methods.fedkseed import FedKSeed
from fedwave.results.memory_store import MemoryStore
from fedwave.transforms.chain import Chain

from .test_refill import alone, assert_same, cohort_of, delivered, texts, trained  # noqa: F401


def short_of_memory(make, tokens, *, backward=False, kind=torch.OutOfMemoryError, axis=None):
    """Learners whose model takes at most so many tokens at a time (or ``axis`` of them), in one of both passes."""

    class Guard(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, size):
            ctx.size = size
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            check(ctx.size)
            return grad, None

    def check(size):
        if size > tokens:
            raise kind("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")

    def made():
        learner = make()
        losses = learner.row_losses

        def row_losses(batch):
            size = batch["input_ids"].numel() if axis is None else batch["input_ids"].shape[axis]
            if not backward:
                check(size)
            loss, weight = losses(batch)
            return Guard.apply(loss, size), weight

        learner.row_losses = row_losses
        return learner

    return made


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_halves_and_goes_on(texts, backward, kind):  # noqa: F811
    if backward and kind is MemoryError:
        pytest.skip("torch's backward pass raises errors of torch")
    ids, steps = np.arange(7), [5, 1, 4, 2, 6, 1, 3]
    small = short_of_memory(texts, 100, backward=backward, kind=kind)
    with pytest.warns(UserWarning, match="going on with") as said:
        found, _ = trained(small, "sgd", ids, steps, 4, max_clients=5, token_budget=1024)
    assert_same(found, alone(texts, "sgd", ids, steps, 4))
    budgets = [str(one.message) for one in said if "engine.token_budget" in str(one.message)]
    assert len(budgets) == len(set(budgets)) <= 5  # what was learned is kept, it is not found out at every step


def test_not_a_single_row(texts):  # noqa: F811
    with pytest.warns(UserWarning, match="going on"), pytest.raises(Infeasible, match="a single row"):
        trained(short_of_memory(texts, 24, axis=1), "sgd", np.arange(3), [1, 1, 1], 4, max_clients=2)


def test_a_method_without_gradients_shrinks_too(texts):  # noqa: F811
    """FedKSeed moves the leaves between two losses: only the loss is computed anew, not the step."""
    found = []
    for make in (texts, short_of_memory(texts, 100)):
        learner, method = make(), FedKSeed()
        session = CohortEngine(max_clients=4).start(method, learner, up=Chain(), batch_size=4)
        cohort = cohort_of(learner, np.arange(4), [2, 2, 2, 2])
        message = method.broadcast(learner.spec, method.init(learner.spec, session.initial, session, Key(0)), cohort)
        with pytest.warns(UserWarning, match="going on") if found else contextlib.nullcontext():
            found.append(session.run(message, MemoryStore(None, {}), cohort, delivered(np.arange(4)), Key(0)))
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=1e-5)


def test_evaluation_in_smaller_batches(texts):  # noqa: F811
    learner = texts()
    session = CohortEngine().start(FedAvg(), learner, up=Chain(), batch_size=4)
    whole, score = session.evaluate(session.initial, []), learner.score

    def small(batch):
        if len(batch["label"]) > 5:
            raise torch.OutOfMemoryError("no")
        return score(batch)

    learner.score = small
    learner.eval_batch = 10
    with pytest.warns(UserWarning, match="10 held-out rows: going on with 5"):
        assert session.evaluate(session.initial, []) == pytest.approx(whole)


def test_the_trial_of_a_stack_falls_back(texts):  # noqa: F811
    with pytest.warns(UserWarning, match="one by one: memory does not hold two clients of two rows"):
        session = CohortEngine(max_clients=5).start(FedAvg(), short_of_memory(texts, 8)(), up=Chain(), batch_size=4)
    assert session.stack.slots == 1 and "two clients" in session.choice.why


def test_other_errors_pass():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        with_less(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not match")), lambda: "no")
    assert halved(9, "tokens", "k")[0] == 4
