"""Fine-tuning of causal language models. Torch-free; see ``learners.language`` for the training half."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from fedwave.core.config import Count, part
from fedwave.core.errors import BadInput, Refused
from fedwave.core.registry import name_of, register
from fedwave.core.types import DTYPE_BITS, Ints, Leaf, Spec
from fedwave.models import sources
from fedwave.tasks.adapters import Adapter, Full, Lora
from fedwave.tasks.data import Table
from fedwave.tasks.partitions import Column, Partition
from fedwave.tasks.task import Division, Learner, Progress
from fedwave.tasks.text import TextTask, class_indices
from fedwave.tasks.tokens import Tokenizer, TokenRows, dialogue_rows, language_rows


@register("task", "causal-lm")
@dataclass(frozen=True)
class CausalLM(TextTask):
    """Next-token prediction with a pretrained causal language model.

    Rows with ``prompt`` and ``response`` are put into the model's chat template and only the response is learned; rows
    with ``text`` are learned as they are. The loss is in nats per learned token.

    Parameters
    ----------
    adapter : ``lora`` or ``full``.
    dtype : of the frozen weights; with ``"bfloat16"`` the forward pass runs under autocast. Trainable values are
        always float32.
    chunk : long texts become several rows of ``max_tokens``; otherwise they are truncated.
    label_field : classes for label-skewed partitions, where the data has that column.
    """

    model: str = "smollm2-135m"
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=lambda: Lora(rank=8, alpha=16.0))
    partition: Annotated[Partition, part("partition")] = field(default_factory=lambda: Column("topic"))
    batch_size: Count = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    chunk: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, (Lora, Full)):
            raise Refused(
                f"task causal-lm has no head of its own: adapter must be lora or full, got {name_of(self.adapter)!r}"
            )

    def form(self, table: Table) -> list[str]:
        """Prompts, or texts where the table has no dialogues; see :meth:`TextTask.form`."""
        if _is_dialogue(table):
            table.strings("response")
            return table.strings("prompt")
        if self.text_field not in table.columns:
            raise BadInput(
                f"{table.source} must have the fields prompt and response, or {self.text_field}; "
                f"it has: {', '.join(sorted(table.columns))}"
            )
        return table.strings(self.text_field)

    def spec(self) -> Spec:
        """See :meth:`Task.spec`."""
        arch = self.architecture()
        if arch.kind != "causal-lm":
            raise Refused(f"task causal-lm needs a causal language model; {self.model!r} is an {arch.kind}")
        body = {name: Leaf(tuple(shape)) for name, shape in arch.parameters.items()}
        return self.tuned(arch, body=body, head={}, head_flops=0.0, bytes_per_value=DTYPE_BITS[self.dtype] // 8)

    def rows(self, tok: Tokenizer, table: Table) -> TokenRows:
        """The table as token rows."""
        texts = self.form(table)
        if _is_dialogue(table):
            rows = dialogue_rows(tok, texts, table.columns["response"], most=self.max_tokens)
        else:
            rows = language_rows(tok, texts, most=self.max_tokens, chunk=self.chunk)
        if not len(rows):
            raise BadInput(f"{table.source}: no row has anything to learn within max_tokens = {self.max_tokens}")
        return rows

    def division(self, table: Table, document: Ints, seed: int, public: int) -> Division:
        """Who holds which token row; row i is part of row ``document[i]`` of the table."""
        labels = None
        if self.label_field in table.columns:
            names = table.labels(self.label_field)
            labels = class_indices(names, sorted(set(names)))
        return self.divide_rows(table, document, labels=labels, seed=seed, public=public)

    def samples(self, seed: int, *, public: int = 0) -> Ints:
        """See :meth:`Task.samples`. Where the model is not on this machine, so that nothing can be tokenised, each row
        of the data counts as one sample: none is left out for its length and none is cut into several.
        """
        train, _ = self.tables()
        try:
            folder = sources.resolve(self.model, fetch=False)
        except BadInput:
            document = np.arange(len(train))
        else:
            document = self.rows(Tokenizer(folder), train).document
        return self.division(train, document, seed, public).samples

    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """See :meth:`Task.build`."""
        from fedwave.tasks.learners.language import LanguageLearner

        return LanguageLearner(self, seed, public)


def _is_dialogue(table: Table) -> bool:
    return "prompt" in table.columns and "response" in table.columns
