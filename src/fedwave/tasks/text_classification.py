"""Classification of texts by a pretrained encoder and a linear head. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np

from fedwave.core.config import Count, part
from fedwave.core.errors import BadInput, Refused
from fedwave.core.registry import register
from fedwave.core.types import Ints, Leaf, Leaves, Spec
from fedwave.tasks.adapters import Adapter, Head, Lora
from fedwave.tasks.data import Table
from fedwave.tasks.partitions import Dirichlet, Partition
from fedwave.tasks.task import Division, Learner, Progress
from fedwave.tasks.text import POOLER, TextTask, class_indices

HEAD_ONLY = "the encoder runs once on each row and its output is kept on the device: rounds are charged the head only"


@register("task", "text-classification")
@dataclass(frozen=True)
class TextClassification(TextTask):
    """Encoder, pooling over the tokens, L2 normalisation, linear head that starts at zero.

    Parameters
    ----------
    adapter : ``lora`` (in the encoder, and the head), ``head`` (the encoder's output is computed once and kept), or
        ``full``.
    pooling : ``"mean"`` over a row's tokens, or the first token's output, ``"cls"``.
    normalize : scale the pooled vector to unit length (as MiniLM sentence encoders do).
    """

    model: str = "minilm"
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=Lora)
    partition: Annotated[Partition, part("partition")] = field(default_factory=lambda: Dirichlet(alpha=0.5, clients=20))
    batch_size: Count = 16
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True

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
        arch = self.architecture()
        if arch.kind != "encoder":
            raise Refused(f"task text-classification needs a text encoder; {self.model!r} is a {arch.kind} model")
        classes, hidden = len(self.classes(*self.tables())), int(arch.hidden)
        head: Leaves = {"head.weight": Leaf((classes, hidden)), "head.bias": Leaf((classes,))}
        body = {name: Leaf(tuple(shape)) for name, shape in arch.parameters.items() if not name.startswith(POOLER)}
        turn = 2.0 * hidden * classes
        whole = self.tuned(arch, body=body, head=head, head_flops=turn, bytes_per_value=4, output=Leaf((classes,)))
        if not isinstance(self.adapter, Head):
            return whole
        return replace(
            whole,
            trainable=head,
            base_bytes=4 * (whole.model_parameters - sum(leaf.size for leaf in head.values())),
            forward_flops=turn,
            backward_flops=turn,
            activation_bytes=4.0 * (hidden + classes),
            assumptions=(HEAD_ONLY,),
        )

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
