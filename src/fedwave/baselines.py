"""What federation is compared with: each client training alone on its own data."""

from __future__ import annotations

from dataclasses import replace

from fedwave.core.types import Message
from fedwave.experiment import Experiment
from fedwave.federation.samplers import Uniform
from fedwave.federation.setting import prepare
from fedwave.methods.local import Local
from fedwave.results.memory_store import MemoryStore
from fedwave.simulation import build_session
from fedwave.wireless.networks.ideal import Ideal


def alone(experiment: Experiment, *, clients: int, steps: int) -> list[dict[str, float]]:
    """Held-out metrics of ``clients`` randomly chosen clients after ``steps`` local steps without any exchange.

    Optimiser, clipping, adapter and data are the experiment's; the held-out set is that of all clients.
    """
    method = experiment.method
    lonely = replace(
        experiment,
        method=Local(local_steps=steps, local_optimizer=method.local_optimizer, clip_norm=method.clip_norm),
        sampler=Uniform(cohort=clients), network=Ideal(), transform=(), rounds=1,
    )  # fmt: skip
    setting = lonely.setting()
    session = build_session(lonely, setting)
    store = MemoryStore(None, session.memory_leaves)
    turn = prepare(setting, setting.world())
    session.run(Message(shared={}), store, turn.cohort, turn.delivery, turn.key)
    rows, known = store.get(turn.cohort.ids)
    models = [
        {name.removeprefix("method/"): value[k] for name, value in rows.items()} for k in range(len(known)) if known[k]
    ]
    return [session.evaluate(model, []) for model in models]
