"""Stacked optimisers against torch's own, one client at a time: any steps made, any layout of the gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import config

CASES = {
    "plain": ({"name": "sgd", "lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (
        {"name": "sgd", "lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adamw": (
        {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
@settings(deadline=None, max_examples=25)
@given(starts=st.lists(st.integers(0, 4), min_size=1, max_size=4), transposed=st.booleans())
def test_each_client_as_if_alone(name, starts, transposed):
    """Client k joins at time ``starts[k]``; from then on all make a step at each time."""
    table, make = CASES[name]
    rule, k = config.build("optimizer", table), len(starts)
    torch.manual_seed(0)
    params = {"w": torch.randn(k, 3, 2), "t": torch.randn(k)}
    plain = [[torch.nn.Parameter(value[slot].clone()) for value in params.values()] for slot in range(k)]
    optimizers = [make(parameters) for parameters in plain]
    state, made = rule.init(params), np.zeros(k, dtype=np.int64)
    for time in range(6):
        here = np.flatnonzero(np.array(starts) <= time)
        grads = {"w": torch.randn(k, 2, 3).mT if transposed else torch.randn(k, 3, 2), "t": torch.randn(k)}
        made[here] += 1
        if not len(here):
            continue
        some = {n: x[here] for n, x in params.items()}
        slots = {slot: {n: x[here] for n, x in leaves.items()} for slot, leaves in state.items()}
        rule.update(some, {n: x[here] if not transposed else x[here].mT.contiguous().mT if x.dim() > 2 else x[here]
                           for n, x in grads.items()}, slots, made[here])  # fmt: skip
        for n, value in some.items():
            params[n][here] = value
        for slot, leaves in slots.items():
            for n, value in leaves.items():
                state[slot][n][here] = value
        for slot in here:
            for parameter, grad in zip(plain[slot], grads.values(), strict=True):
                parameter.grad = grad[slot].clone()
            optimizers[slot].step()
    for slot in range(k):
        for parameter, value in zip(plain[slot], params.values(), strict=True):
            torch.testing.assert_close(value[slot], parameter.detach(), atol=1e-6, rtol=1e-5)
