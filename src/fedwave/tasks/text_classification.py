"""Classification of texts by a pretrained encoder and a linear head. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from fedwave.core.config import Count, part
from fedwave.core.errors import BadInput, Refused
from fedwave.core.registry import register
from fedwave.core.types import Ints, Spec
from fedwave.tasks.adapters import Adapter, Lora
from fedwave.tasks.data import Table
from fedwave.tasks.partitions import Dirichlet, Partition, class_indices
from fedwave.tasks.task import Division, Learner, Progress
from fedwave.tasks.text import FULL_LENGTH, TextTask


@register("task", "text-classification")
@dataclass(frozen=True)
class TextClassification(TextTask):
    """Encoder, pooling over the tokens, L2 normalisation, linear head that starts at zero.

    Parameters
    ----------
    adapter : ``lora``, ``dora``, ``ia3`` or ``prompt`` (in the encoder, and the head), ``head`` (the encoder's output
        is computed once and kept), or ``full``.
    pooling : ``"mean"`` over a row's tokens, or the first token's output, ``"cls"``.
    normalize : scale the pooled vector to unit length (as MiniLM sentence encoders do).
    """

    model: str = "minilm"
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=Lora)
    partition: Annotated[Partition, part("partition")] = field(default_factory=lambda: Dirichlet(alpha=0.5, clients=20))
    batch_size: Count = 16
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True

    cite: ClassVar[str] = "Reimers & Gurevych, Sentence-BERT, EMNLP 2019 (pooling over the tokens)"

    def form(self, table: Table) -> list[str]:
        """Texts, the labels being checked too; see :meth:`TextTask.form`."""
        table.labels(self.label_field)
        return table.strings(self.text_field)

    def classes(self, train: Table, held: Table) -> list[str]:
        """Every label of the training and held-out rows, sorted."""
        classes = sorted({*train.labels(self.label_field), *held.labels(self.label_field)})
        if len(classes) < 2:
            raise BadInput(f"{train.source}: {self.label_field!r} must have at least two classes, it has {classes}")
        return classes

    def spec(self) -> Spec:
        """See :meth:`Task.spec`."""
        arch = self.pretrained.architecture
        if arch.kind != "encoder":
            raise Refused(f"task text-classification needs a text encoder; {self.model!r} is a {arch.kind} model")
        return self.pretrained.classifier(self.max_tokens, len(self.classes(*self.tables())), assumptions=FULL_LENGTH)

    def division(self, train: Table, classes: list[str], seed: int, public: int) -> Division:
        """Who holds which training row."""
        labels = class_indices(train.labels(self.label_field), classes)
        return self.divide_rows(train, np.arange(len(train)), labels=labels, seed=seed, public=public)

    def samples(self, seed: int, *, public: int = 0) -> Ints:
        """See :meth:`Task.samples`."""
        train, held = self.tables()
        return self.division(train, self.classes(train, held), seed, public).samples

    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """See :meth:`Task.build`; with ``head``, ``progress`` follows the one pass of the encoder over all rows."""
        from fedwave.tasks.learners.encoder import classifier

        return classifier(self, seed, public, progress)
