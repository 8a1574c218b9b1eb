"""What to do when memory does not suffice: the same rows in passes half as large, which gives the same result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from fedwave.core.errors import Infeasible

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is a failed allocation, of Python's or of torch's on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def with_less(run: Callable[[], T], halve: Callable[[], str]) -> T:
    """``run()``; whenever memory does not suffice, once more after ``halve()``, whose sentence is a warning.

    ``run`` must have changed nothing when it fails. ``halve`` raises where it can do no more.
    """
    while True:
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler: there the error's traceback still holds the tensors of the failed attempt.
        warnings.warn(halve(), stacklevel=2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def halved(now: int, unit: str, key: str) -> tuple[int, str]:
    """Half of ``now`` units and the sentence that says so. Raises :class:`Infeasible` where there is no half."""
    if now < 2:
        raise Infeasible(
            f"this machine's memory does not hold a single row in training; shorten rows (task.max_tokens), give it "
            f"fewer clients at a time (engine.max_clients) or more memory ({key} is down to {now})"
        )
    return now // 2, f"memory does not hold a pass of {now} {unit}: going on with {now // 2} ({key})"
