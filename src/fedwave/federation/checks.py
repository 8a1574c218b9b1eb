"""What a user is told of a run that cannot work, or works less well than it looks: one sentence each, once."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedwave.core.errors import Infeasible
from fedwave.federation.setting import Setting, demand
from fedwave.results.format import si


def check_memory(setting: Setting) -> None:
    """Note the clients whose devices cannot hold the training; raise :class:`Infeasible` where none can."""
    need, device = demand(setting), setting.population.device
    if need.fits.all():
        return
    reason = "; ".join(
        f"{setting.fleet.names[i]} has {si(setting.fleet.classes[i].usable_memory_bytes, 'B')} for it and needs "
        f"{si(float(need.peak_bytes[(device == i) & ~need.fits].max()), 'B')}"
        for i in np.unique(device[~need.fits])
    )
    if not need.fits.any():
        raise Infeasible(f"the training fits into the memory of no client's device: {reason}")
    warnings.warn(
        f"{np.sum(~need.fits)} of {len(device)} clients cannot hold the training, "
        f"so their updates are lost to memory: {reason}",
        stacklevel=2,
    )


def check_network(setting: Setting) -> None:
    """Note what makes the network work badly whatever is sent."""
    for sentence in setting.network.notes(setting.key.fold("scenario")):
        warnings.warn(sentence, stacklevel=2)


def check_heard(records: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`Infeasible` naming the main reason where no update of the whole run counted."""
    if not records or any(record["delivered"] for record in records):
        return
    causes: Counter[str] = Counter()
    for record in records:
        causes.update(record["status"])
    asked = sum(record["clients"] for record in records)
    reason = "no client answered a call"
    if causes:
        name, count = causes.most_common(1)[0]
        reason = f"{count} of {asked} were lost to {name.replace('_', ' ')}"
    rounds = f"{len(records)} round{'s' if len(records) > 1 else ''}"
    raise Infeasible(f"in {rounds} no client's update counted, so the model is the initial one: {reason}")


class Notes:
    """Each kind of trouble once a run: a round without any update, a reply that is not finite."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def take(self, record: Mapping[str, Any]) -> list[str]:
        """Sentences about what is new in ``record``."""
        found, dropped = {}, record["lost"].get("not_finite", [])
        if dropped:
            who = f"clients {', '.join(map(str, dropped))}" if len(dropped) > 1 else f"client {dropped[0]}"
            found["not finite"] = f"the update of {who} is not finite and does not count"
        if record.get("shortfall"):
            found["shortfall"] = f"the deadline cannot be kept: {record['shortfall']}"
        if not record["delivered"]:
            causes = (f"{name.replace('_', ' ')} {count}" for name, count in record["status"].items())
            reason = ", ".join(causes) or "no client answered"
            found["nobody"] = f"no update counts ({reason}), so the model stays as it is"
        new = [text for kind, text in found.items() if kind not in self._known]
        self._known |= set(found)
        return [f"round {record['round']}: {text}; later rounds like it are not noted" for text in new]
