"""What the text tasks share: a pretrained model, rows of text, an adapter. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np

from fedwave.core.config import Count, Fraction, Index, part
from fedwave.core.types import Ints, Leaf, Leaves, Spec
from fedwave.models import shapes, sources
from fedwave.tasks.adapters import Adapter, Lora
from fedwave.tasks.data import Table, normalised, split
from fedwave.tasks.partitions import IID, Partition
from fedwave.tasks.task import Division, Task, divide

POOLER = "pooler."
"""Prefix of the pre-training head of BERT and kin, which is left out of the model: nothing here reads it."""


ASSUMPTIONS = (
    "every row is charged as max_tokens long",
    "activations are those of attention that keeps its scores (eager); memory-efficient kernels keep less",
    "a forward pass without gradients holds one layer's activations at a time",
)
FROZEN_BACKWARD = (
    "backward through frozen weights costs one forward pass (input gradients only), down to the first layer"
)


class Adapted(NamedTuple):
    """LoRA beside a model: its leaves, and the frozen weights that it adapts, module -> (d_out, d_in)."""

    leaves: Leaves
    bases: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class TextTask(Task):
    """A task on text with a pretrained model.

    Parameters
    ----------
    model : hub id, folder, or a name that ``fedwave models`` knows.
    data : local .jsonl, .json, .csv or .parquet file, hub id, or ``"chatterbot"``.
    eval_data : held-out rows; by default the set's own, else ``eval_fraction`` of the rows by a hash of their text.
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

    def prepare(self) -> None:
        """See :meth:`Task.prepare`. A run calls it before :meth:`samples`, which depends on the tokenizer."""
        sources.resolve(self.model)

    def tables(self) -> tuple[Table, Table]:
        """Training and held-out rows, their fields checked."""
        train, held = split(
            self.data,
            self.eval_data,
            fraction=self.eval_fraction,
            group=lambda table: [normalised(text) for text in self.form(table)],
            most=self.eval_samples,
        )
        for table in (train, held):
            self.form(table)
        return train, held

    def architecture(self) -> Any:
        """Shapes of the model, from its config alone."""
        return shapes.architecture(sources.config(self.model))

    def adapted(self, arch: Any) -> Adapted:
        """LoRA leaves that the adapter puts into the model; raises :class:`BadInput` for unknown targets."""
        chosen = self.adapter.targets if isinstance(self.adapter, Lora) else None
        targets = chosen or shapes.default_targets(sources.config(self.model))
        leaves = {
            name: Leaf(tuple(shape), rank_axis=axis)
            for name, (shape, axis) in shapes.lora_leaves(arch, targets, self.adapter.max_rank).items()
            if not name.startswith(POOLER)
        }
        modules = [name.removesuffix(".lora_A.weight") for name in leaves if name.endswith(".lora_A.weight")]
        return Adapted(leaves, {module: tuple(arch.linears[module]) for module in modules})

    def tuned(
        self,
        arch: Any,
        *,
        body: Leaves,
        head: Leaves,
        head_flops: float,
        bytes_per_value: int,
        output: Leaf | None = None,
    ) -> Spec:
        """The spec of a pretrained ``body`` under LoRA or trained in full, and a ``head`` that is always trained.

        Backward through the trained part costs twice its forward pass, through frozen weights once (Kaplan et al. 2020,
        section 2.1, counts both input and weight gradients).
        """
        tokens = self.max_tokens
        forward = float(shapes.forward_flops(arch, tokens))
        activations = float(shapes.activation_bytes(arch, tokens, bytes_per_value)) + 4.0 * _size(head)
        lora = self.adapted(arch) if isinstance(self.adapter, Lora) else None
        trained = (body if lora is None else lora.leaves) | head
        beside = head_flops + (0.0 if lora is None else 2.0 * tokens * _size(lora.leaves))
        return Spec(
            trainable=trained,
            model_parameters=_size(body) + _size(head) + (0 if lora is None else _size(lora.leaves)),
            base_bytes=0 if lora is None else bytes_per_value * _size(body),
            forward_flops=forward + beside,
            backward_flops=(2.0 if lora is None else 1.0) * forward + 2.0 * beside,
            activation_bytes=activations,
            inference_bytes=activations / max(arch.layers, 1),
            output=output,
            bases={} if lora is None else lora.bases,
            lora_scale=self.adapter.scale if isinstance(self.adapter, Lora) else 1.0,
            max_rank=self.adapter.max_rank,
            assumptions=ASSUMPTIONS + (() if lora is None else (FROZEN_BACKWARD,)),
        )

    def peft_targets(self) -> list[str]:
        """``target_modules`` of the exported adapter: last names if they select just its modules, else paths."""
        arch = self.architecture()
        bases = self.adapted(arch).bases
        short = sorted({module.rpartition(".")[2] for module in bases})
        selected = {module for module in arch.linears if module.rpartition(".")[2] in short}
        return short if selected == set(bases) else list(bases)

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


def _size(leaves: Leaves) -> int:
    return sum(leaf.size for leaf in leaves.values())


def class_indices(labels: list[str], classes: list[str]) -> Ints:
    """Place of each label in the sorted ``classes``."""
    return np.searchsorted(np.asarray(classes), np.asarray(labels)).astype(np.int64)
