"""The jobs behind the cells: overrides that ``fedwave plan`` takes, so that every cell can be planned by itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fedwave.core.config import build
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment, override
from fedwave.planner.map.axes import entry
from fedwave.planner.map.recipes import JOB, Recipe, inline
from fedwave.wireless.network import Network

# The task of each kind of model, and the built-in data that stand in where the job's task cannot train it.
_TASKS = {
    "decoder": ("causal-lm", {"data": "chatterbot"}),
    "text encoder": ("text-classification", {"data": "chatterbot", "text_field": "prompt", "label_field": "topic"}),
    "image encoder": ("images", {"data": "digits"}),
}
_KEPT = {"causal-lm": ("batch_size", "max_tokens", "dtype"), "text-classification": ("batch_size", "max_tokens"),
         "images": ("batch_size",)}  # fmt: skip


class Jobs:
    """A job's table, its number of clients, and the overrides of any cell.

    Raises :class:`BadInput` where the job's task has no model.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.table: dict[str, Any] = experiment.to_table()
        self.task = str(self.table["task"]["name"])
        if self.task not in _KEPT:
            allowed = ", ".join(_KEPT)
            raise BadInput(f"plan --map: task.name must be one of {allowed} to be asked of other models: {self.task!r}")
        self._network = experiment.network
        self.clients, self.rounds = len(experiment.setting().population), experiment.rounds

    def overrides(self, model: str, recipe: Recipe, network: str, device: str) -> list[str]:
        """Of one cell, for ``fedwave plan JOB.toml``."""
        texts = [*self.task_overrides(model), *recipe.overrides]
        texts += [] if network == JOB else [f'network="{network}"']
        return [*texts, f"fleet.mix={inline({device: 1.0})}"]

    def experiment(self, model: str, recipe: Recipe, network: str, device: str) -> Experiment:
        """The job of one cell. Raises :class:`BadInput` where there is no such job."""
        table = copy.deepcopy(self.table)
        for text in self.overrides(model, recipe, network, device):
            override(table, text)
        return Experiment.parse(table)

    def network(self, name: str) -> Network:
        """A network of the axis."""
        return self._network if name == JOB else build("network", name)

    def assumptions(self, models: tuple[str, ...]) -> list[str]:
        """Which models are trained on something other than the job's task."""
        found = {}
        for model in models:
            task, own = _TASKS[_kind(model)]
            if task != self.task:
                found[_kind(model)] = (
                    f"{_kind(model)}s: task {task} on {own['data']}, dealt to {self.clients} clients"
                    + (", images at the size that the model wants" if task == "images" else "")
                )
        return list(found.values())

    def task_overrides(self, model: str) -> list[str]:
        """The job's task where it takes the model, else the usual task of its kind with the job's rows and steps."""
        task, own = _TASKS[_kind(model)]
        if task == self.task:
            return [f"task.model={inline(model)}"]
        job: Mapping[str, Any] = self.table["task"]
        kept = {key: job[key] for key in _KEPT[task] if key in job}
        dealt = {"name": "iid", "clients": self.clients}
        adapter = job.get("adapter", {"name": "full"})
        return [f"task={inline({'name': task, 'model': model, **own, **kept, 'partition': dealt, 'adapter': adapter})}"]


def _kind(model: str) -> str:
    kind = entry(model).kind
    return kind if kind in _TASKS else "decoder"
