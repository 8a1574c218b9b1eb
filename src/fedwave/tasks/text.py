"""What the text tasks share: a pretrained model, rows of text, an adapter. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import Annotated

from fedwave.core.config import Count, part
from fedwave.core.types import Ints
from fedwave.models import sources
from fedwave.tasks.adapters import Adapter, Lora
from fedwave.tasks.data import Source, Table, normalised, split
from fedwave.tasks.partitions import IID, Partition
from fedwave.tasks.pretrained import Pretrained
from fedwave.tasks.task import Division, Progress, Task, divide

FULL_LENGTH = ("every row is charged as max_tokens long",)


@dataclass(frozen=True)
class TextTask(Source, Task):
    """A task on text with a pretrained model.

    Parameters
    ----------
    model : hub id, folder, or a name that ``fedwave models`` knows.
    data : local .jsonl, .json, .csv or .parquet file, hub id (``"org/name"``, ``"org/name:config"``), or
        ``"chatterbot"``; see :class:`Source` for the fields around it. Rows are held out by a hash of their text.
    text_field, label_field : names of the columns.
    adapter : what of the model is trained.
    partition : who holds which rows.
    adapter : which part of the model is trained.
    partition : who holds which rows.
    batch_size : rows of a local step.
    max_tokens : longer rows are cut.
    """

    model: str = "minilm"
    text_field: str = "text"
    label_field: str = "label"
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=Lora)
    partition: Annotated[Partition, part("partition")] = field(default_factory=IID)
    batch_size: Count = 16
    max_tokens: Count = 64

    @abstractmethod
    def form(self, table: Table) -> list[str]:
        """The text that a row is recognised by; raises :class:`BadInput` where a row lacks what the task needs."""

    @property
    def pretrained(self) -> Pretrained:
        """The model and what of it is trained."""
        return self.once("_pretrained", lambda: Pretrained(self.model, self.adapter))

    def ranks(self, device_names: tuple[str, ...], device: Ints) -> Ints:
        """See :meth:`Task.ranks`."""
        return self.adapter.ranks(device_names, device)

    def inherit(self, other: Task) -> None:
        """See :meth:`Task.inherit`: tables and tokens, and the model's shapes."""
        if not isinstance(other, TextTask) or type(other) is not type(self) or other.model != self.model:
            return
        vars(self.pretrained)["architecture"] = other.pretrained.architecture
        names = {one.name for one in fields(self)}
        changed = {name for name in names if getattr(self, name) != getattr(other, name)}
        if changed <= {"adapter", "batch_size", "dtype"}:
            kept = {name: value for name, value in vars(other).items() if name not in names and name != "_pretrained"}
            vars(self).update(kept)

    def prepare(self, progress: Progress | None = None) -> None:
        """See :meth:`Task.prepare`. A run calls it before :meth:`samples`, which depends on the tokenizer."""
        sources.resolve(self.model)
        self.tables(progress)

    def tables(self, progress: Progress | None = None) -> tuple[Table, Table]:
        """Training and held-out rows, their fields checked."""
        return self.once("_tables", lambda: self._read(progress))

    def _read(self, progress: Progress | None) -> tuple[Table, Table]:
        train, held = split(self, lambda table: [normalised(text) for text in self.form(table)], progress)
        for table in (train, held):
            self.form(table)
        return train, held

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
