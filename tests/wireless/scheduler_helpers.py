"""Cohorts for the scheduler tests."""

from __future__ import annotations

import numpy as np

from fedwave.wireless.scheduler import Asked
from fedwave.wireless.sharing.rates import USERS

HARMONIC = np.array([np.sum(1.0 / np.arange(1, n + 1)) for n in USERS])  # E[max of n unit exponentials]


def asked_of(count, rng, *, deadline_s=100.0, round=0, cells=2, memory=None, **fields):
    """A cohort as a scheduler sees it, with the memory of ``memory``'s scheduler at its first values."""
    initial = {} if memory is None else memory.initial
    snr = 10.0 ** rng.uniform(-1.0, 2.5, count)
    up_bps = 1e6 * np.log2(1.0 + snr)
    values = {
        "ids": rng.permutation(1000)[:count],
        "cell": rng.integers(0, cells, count),
        "samples": rng.integers(1, 50, count),
        "down_bits": np.full(count, 1e6),
        "up_bits": np.full(count, 1e6),
        "compute_s": rng.uniform(0.1, 5.0, count),
        "compute_j": rng.uniform(0.1, 5.0, count),
        "down_bps": 4.0 * up_bps,
        "up_bps": up_bps,
        "snr": snr,
        "fading": rng.exponential(1.0, count),
        "radio_j": 1e6 / up_bps,
        "deadline_s": deadline_s,
        "memory": {name: np.full(count, value) for name, value in initial.items()},
        "round": round,
    }
    return Asked(**{**values, **fields})
