"""Small rounds for the network tests."""

from __future__ import annotations

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Compute, Phase, Work, World

STATIC, ROUND = Key(7).fold("static"), Key(7).fold("round", 0)


def cohort_of(ids):
    ids = np.asarray(ids, dtype=np.int64)
    zeros = np.zeros(len(ids), dtype=np.int64)
    return Cohort(0, ids, np.ones(len(ids)), zeros, zeros, zeros, zeros, zeros, zeros, zeros)


def work_of(count, *, down=1e6, up=4e6, phases=1):
    phase = Phase(np.full(count, float(down)), np.zeros(count), np.full(count, float(up)))
    return Work((phase,) * phases, np.zeros(count), np.zeros(count))


def compute_of(count, *, seconds=1.0, watts=5.0, idle_w=0.5, phases=1, fits=None, powered=None):
    spent = np.broadcast_to(np.asarray(seconds, dtype=float), (phases, count)).copy()
    yes = np.ones(count, dtype=bool)
    return Compute(
        spent,
        watts * spent,
        np.zeros(count),
        yes if fits is None else np.asarray(fits),
        yes if powered is None else np.asarray(powered),
        np.full(count, idle_w),
    )


def world_of(position_m):
    n = len(position_m)
    return World(0, 0.0, np.full(n, np.inf), np.asarray(position_m, dtype=float), np.full(n, -1), np.zeros(0))


def deliver(network, world, ids, work=None, compute=None, *, key=ROUND, deadline_s=None, **kwargs):
    work = work or work_of(len(ids))
    compute = compute or compute_of(len(ids), phases=len(work.phases))
    return network.deliver(
        world, cohort_of(ids), work, compute, key, static_key=STATIC, deadline_s=deadline_s, **kwargs
    )
