"""What the text tasks share: a pretrained model, rows of text, an adapter. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np

from fedwave.core import ports
from fedwave.core.config import Count, Fraction, Index, part
from fedwave.core.types import Ints, Leaf, Leaves
from fedwave.tasks import data as sources
from fedwave.tasks.adapters import Adapter, Lora
from fedwave.tasks.data import Table, normalised
from fedwave.tasks.partitions import IID, Partition
from fedwave.tasks.task import Division, Task, divide


class Adapted(NamedTuple):
    """LoRA beside a model: its leaves, and the frozen weights that it adapts, module -> (d_out, d_in)."""

    leaves: Leaves
    bases: dict[str, tuple[int, int]]

    def flops(self, tokens: int) -> float:
        """Forward arithmetic of the factors A and B for one row of ``tokens``."""
        return 2.0 * tokens * sum(leaf.size for leaf in self.leaves.values())


@dataclass(frozen=True)
class TextTask(Task):
    """A task on text with a pretrained model.

    Parameters
    ----------
    model : hub id, folder, or a name that ``fedwave models`` knows.
    data : local .jsonl, .json, .csv or .parquet file, hub id, or ``"chatterbot"``.
    eval_data : held-out rows; by default the set's own, else ``eval_fraction`` of the rows by a keyed hash of their text.
    eval_samples : most held-out rows to use, 0 for all.
    text_field, label_field : names of the columns.
    batch_size : rows of a local step.
    max_tokens : longer rows are cut.
    """

    model: str = "minilm"
    data: str = "chatterbot"
    eval_data: str | None = None
    eval_fraction: Fraction = 0.1
    eval_samples: Index = 0
    text_field: str = "text"
    label_field: str = "label"
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=Lora)
    partition: Annotated[Partition, part("partition")] = field(default_factory=IID)
    batch_size: Count = 16
    max_tokens: Count = 64

    @abstractmethod
    def form(self, table: Table) -> list[str]:
        """The text that a row is recognised by; raises :class:`BadInput` where a row lacks what the task needs."""

    def ranks(self, device_names: tuple[str, ...], device: Ints) -> Ints:
        """See :meth:`Task.ranks`."""
        return self.adapter.ranks(device_names, device)

    def tables(self) -> tuple[Table, Table]:
        """Training and held-out rows, their fields checked."""
        train, held = sources.split(
            self.data,
            self.eval_data,
            fraction=self.eval_fraction,
            group=lambda table: [normalised(text) for text in self.form(table)],
            most=self.eval_samples,
        )
        self.form(train), self.form(held)
        return train, held

    def targets(self) -> list[str]:
        """Modules that LoRA adapts: the adapter's, else its model family's query and value projections."""
        chosen = self.adapter.targets if isinstance(self.adapter, Lora) else None
        return list(chosen or ports.default_targets(ports.model_config(self.model)))

    def adapted(self, arch: Any) -> Adapted:
        """The LoRA leaves that the adapter puts into the model; raises :class:`BadInput` for targets it does not have."""
        shapes = ports.lora_leaves(arch, self.targets(), self.adapter.max_rank)
        leaves = {name: Leaf(tuple(shape), rank_axis=axis) for name, (shape, axis) in shapes.items()}
        modules = [name.removesuffix(".lora_A.weight") for name in leaves if name.endswith(".lora_A.weight")]
        return Adapted(leaves, {module: tuple(arch.linears[module]) for module in modules})

    def divide_rows(self, table: Table, document: Ints, *, labels: Ints | None, seed: int, public: int) -> Division:
        """Who holds which row, where row i is part of row ``document[i]`` of the table."""
        return divide(
            len(document),
            labels=None if labels is None else labels[document],
            columns={name: [values[row] for row in document] for name, values in table.columns.items()},
            partition=self.partition,
            seed=seed,
            public=public,
        )


def class_indices(labels: list[str], classes: list[str]) -> Ints:
    """Place of each label in the sorted ``classes``."""
    return np.searchsorted(np.asarray(classes), np.asarray(labels)).astype(np.int64)
