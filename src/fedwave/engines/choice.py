"""How many clients to stack: a rule on tokens, model size and device, never a timing, so that runs can be repeated."""

from __future__ import annotations

from typing import NamedTuple

from fedwave.core.types import Ints, Spec
from fedwave.engines.stacked.batches import Costs

# Arithmetic that could have been done while the operations of one of the model's modules were launched. CPU: MiniLM
# with LoRA, 240 modules on one AVX-512 core, loses 15 to 20 ms a pass at 65 GFLOP/s. Elsewhere: an estimate for GPUs.
START_FLOPS = {"cpu": 4e6}
START_FLOPS_ELSEWHERE = 2e10
PAYS = 20.0  # clients are stacked where a client's step is worth less than so many starts
LANE_FLOPS = 160.0  # arithmetic in the time in which a value is gathered and its gradient scattered: 16 bytes
LEAF_BYTES = 2**31  # what stacked leaves, their gradients and optimiser states may hold


class Choice(NamedTuple):
    """``slots`` clients are stacked, passes are cut by ``costs``; ``why`` is a sentence for the log."""

    slots: int
    costs: Costs
    why: str


def choose(
    spec: Spec,
    *,
    tokens: Ints,
    held: Ints,
    batch_size: int,
    copies: int,
    modules: int,
    device: str,
    token_budget: int,
    max_clients: int,
) -> Choice:
    """Slots and costs for a task.

    Parameters
    ----------
    tokens : of each training row (1 where rows have no length).
    held : rows of each client ``[N]``.
    copies : tensors as large as the trainable leaves that a client in training needs.
    modules : of the model, the inner ones included.
    device : torch's name of the device's type.
    token_budget : tokens of one pass.
    max_clients : 0: the rule decides; else as many as said, where the budget holds them.
    """
    per_row = float(tokens.mean()) if len(tokens) else 1.0
    longest = int(tokens.max()) if len(tokens) else 1
    rows = float(held.clip(max=batch_size).mean()) if len(held) else 1.0
    step = max(rows * per_row, 1.0)
    flops = max((spec.forward_flops + spec.backward_flops) / longest, 1.0)
    start = modules * START_FLOPS.get(device, START_FLOPS_ELSEWHERE)
    costs = Costs(token_budget, start / flops, LANE_FLOPS * spec.trainable_parameters / flops)
    by_tokens = max(1, int(token_budget // step))
    by_memory = max(1, LEAF_BYTES // (4 * copies * max(spec.trainable_parameters, 1)))
    slots = min(by_tokens, by_memory, max(len(held), 1), max_clients or by_tokens)
    size = f"a client's step is {step:.0f} tokens and {step * flops:.1e} FLOP on {device}"
    if not max_clients and step * flops > PAYS * start:
        return Choice(1, costs, f"{_clients(1)}: {size}, more than {PAYS * start:.0e}, so that stacking would not pay")
    limits = {
        max(len(held), 1): "all there are",
        by_memory: "what memory holds",
        by_tokens: f"what a pass of engine.token_budget = {token_budget} holds",
        max_clients: f"as engine.max_clients = {max_clients} says",
    }
    return Choice(slots, costs, f"{_clients(slots)}, {limits[slots]}: {size}")


def _clients(slots: int) -> str:
    return "one client at a time" if slots == 1 else f"{slots} clients stacked"
