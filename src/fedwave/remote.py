"""One client away from the simulator: from bytes to bytes, with the job, its data and nothing else."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.types import Cohort
from fedwave.engines.wire import message_from_bytes, tree_from_bytes
from fedwave.experiment import Experiment
from fedwave.results.memory_store import MemoryStore
from fedwave.simulation import build_session

if TYPE_CHECKING:
    from fedwave.engines.cohort import Session
    from fedwave.federation.setting import Setting


def reply(job: str, message: bytes, memory: bytes, *, client: int, round: int) -> bytes:
    """The payload that ``client`` puts on the air in ``round``.

    Parameters
    ----------
    job : the experiment as TOML; its ``task.data`` names a file on this device.
    message : the broadcast (:func:`fedwave.engines.wire.message_to_bytes`).
    memory : the client's row of memory, empty where it has none.
    """
    experiment = Experiment.parse(tomllib.loads(job))
    setting = experiment.setting()
    return reply_in(build_session(experiment, setting), setting, message, memory, client=client, round=round)


def reply_in(session: Session, setting: Setting, message: bytes, memory: bytes, *, client: int, round: int) -> bytes:
    """:func:`reply` with a session that is already resident."""
    store = MemoryStore(None, session.memory_leaves)
    if memory:
        store.put([client], {name: value[None] for name, value in tree_from_bytes(memory).items()})
    cohort = cohort_of_one(setting, client, round)
    return session.reply_bytes(message_from_bytes(message), store, cohort, setting.key.fold("round", round))


def cohort_of_one(setting: Setting, client: int, round: int) -> Cohort:
    """The cohort as the client knows it: itself."""
    ids = np.array([client])
    samples = setting.population.samples[ids]
    steps, rows = setting.method.amount(samples, setting.batch_size)
    return Cohort(
        round=round, ids=ids, weight=np.ones(1), samples=samples, steps=steps, rows=rows,
        rank=setting.population.rank[ids], device=setting.population.device[ids],
        last_round=np.full(1, -1), site=np.zeros(1, dtype=np.int64),
    )  # fmt: skip
