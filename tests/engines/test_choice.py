"""How many clients are stacked: small steps together, large ones alone, within budget and memory, as the user says."""

import numpy as np
import pytest

from fedwave.core.types import Leaf, Spec
from fedwave.engines.choice import choose


def chosen(tokens=64, flops=42e6, batch=4, leaves=75_268, **rest):
    """A MiniLM with LoRA unless said otherwise; ``flops`` are of a token, forward and backward."""
    spec = Spec({"a": Leaf((leaves,))}, 0, 0, flops * tokens / 3, 2 * flops * tokens / 3, 0.0)
    settings = {
        "copies": 5,
        "modules": 240,
        "device": "cpu",
        "token_budget": 4096,
        "max_clients": 0,
        "held": np.full(100, 50),
    }
    return choose(spec, tokens=np.full(10, tokens), batch_size=batch, **settings | rest)


@pytest.mark.parametrize(("batch", "slots"), [(1, 64), (4, 16), (16, 1)])
def test_tokens_of_a_step_decide(batch, slots):
    choice = chosen(batch=batch)
    assert choice.slots == slots
    assert ("one client at a time" in choice.why) == (slots == 1)


def test_the_user_decides():
    assert chosen(batch=16, max_clients=4).slots == 4
    assert chosen(batch=1, max_clients=1).slots == 1
    assert "engine.max_clients = 4" in chosen(max_clients=4).why


def test_limits():
    assert chosen(held=np.full(5, 50)).slots == 5
    assert chosen(batch=1, leaves=20_000_000).slots == 5  # 400 MB a client
    assert chosen(held=np.full(100, 1), batch=4).slots == 64  # a step holds one row, whatever the batch
    assert chosen(tokens=5000, flops=1e3, batch=1).slots == 1


@pytest.mark.parametrize(
    ("settings", "slots", "limit"),
    [
        ({"max_clients": 4}, 4, "as engine.max_clients = 4 says"),
        ({"max_clients": 500}, 16, "what a pass of engine.token_budget = 4096 holds"),
        ({"max_clients": 500, "held": np.full(5, 50)}, 5, "all there are"),
        ({"max_clients": 500, "batch": 1, "leaves": 20_000_000}, 5, "what memory holds"),
        ({}, 16, "what a pass of engine.token_budget = 4096 holds"),
    ],
)
def test_names_the_limit_that_binds(settings, slots, limit):
    choice = chosen(**settings)
    assert choice.slots == slots and f"clients stacked, {limit}: a client's step" in choice.why


def test_a_gpu_stacks_larger_steps():
    assert chosen(batch=16, device="cuda").slots == 4


def test_costs_are_in_tokens():
    """240 modules of 4e6 FLOP at 42e6 a token are 23 tokens; 160 x 75,268 are 0.29."""
    budget, start, lane = chosen().costs
    assert (budget, round(start, 1), round(lane, 2)) == (4096, 22.9, 0.29)
