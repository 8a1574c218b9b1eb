"""Fine-tuning of causal language models. Torch-free; see ``learners.language`` for the training half."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from fedwave.core.config import Count, part
from fedwave.core.errors import BadInput, Refused
from fedwave.core.registry import name_of, register
from fedwave.core.types import DTYPE_BITS, Ints, Spec
from fedwave.models import sources
from fedwave.tasks.adapters import Adapter, Beside, Full, Lora
from fedwave.tasks.data import Table
from fedwave.tasks.partitions import Column, Partition, class_indices
from fedwave.tasks.pretrained import LOGITS
from fedwave.tasks.task import Division, Learner, Progress
from fedwave.tasks.text import FULL_LENGTH, TextTask
from fedwave.tasks.tokens import Tokenizer, TokenRows, dialogue_rows, language_rows


@register("task", "causal-lm")
@dataclass(frozen=True)
class CausalLM(TextTask):
    """Next-token prediction with a pretrained causal language model.

    Rows with a prompt and a response are put into the model's chat template and only the response is learned; rows
    with ``text`` are learned as they are. The loss is in nats per learned token.

    Parameters
    ----------
    adapter : ``lora``, ``dora``, ``ia3``, ``prompt``, ``prefix`` or ``full``.
    dtype : of the frozen weights; with ``"bfloat16"`` the forward pass runs under autocast. Trainable values are
        always float32.
    chunk : long texts become several rows of ``max_tokens``; otherwise they are truncated.
    prompt_field, response_field : names of the columns of dialogues.
    label_field : classes for label-skewed partitions, where the data has that column.
    """

    model: str = "smollm2-135m"
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=lambda: Lora(rank=8, alpha=16.0))
    partition: Annotated[Partition, part("partition")] = field(default_factory=lambda: Column("topic"))
    batch_size: Count = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    chunk: bool = True
    prompt_field: str = "prompt"
    response_field: str = "response"

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, (Beside, Full)):
            raise Refused(f"task causal-lm has no head of its own, so adapter cannot be {name_of(self.adapter)!r}")

    def form(self, table: Table) -> list[str]:
        """Prompts, or texts where the table has no dialogues; see :meth:`TextTask.form`."""
        if self._is_dialogue(table):
            table.strings(self.response_field)
            return table.strings(self.prompt_field)
        if self.text_field not in table.columns:
            raise BadInput(
                f"{table.source} must have the fields {self.prompt_field} and {self.response_field}, or "
                f"{self.text_field}; it has: {', '.join(sorted(table.columns))}"
            )
        return table.strings(self.text_field)

    def spec(self) -> Spec:
        """See :meth:`Task.spec`."""
        arch = self.pretrained.architecture
        if arch.kind != "causal-lm":
            raise Refused(f"task causal-lm needs a causal language model; {self.model!r} is an {arch.kind}")
        width = DTYPE_BITS[self.dtype] // 8
        return self.pretrained.spec(self.max_tokens, bytes_per_value=width, assumptions=(*FULL_LENGTH, LOGITS))

    def prepare(self, progress: Progress | None = None) -> None:
        """See :meth:`TextTask.prepare`; the rows are tokenised too."""
        super().prepare(progress)
        self.token_rows(sources.resolve(self.model), progress)

    def token_rows(self, folder: Path, progress: Progress | None = None) -> tuple[TokenRows, TokenRows]:
        """Training and held-out rows as tokens of the model in ``folder``."""

        def make() -> tuple[TokenRows, TokenRows]:
            tok = Tokenizer(folder)
            train, held = self.tables()
            return self.rows(tok, train, progress), self.rows(tok, held, progress)

        return self.once("_token_rows", make)

    def rows(self, tok: Tokenizer, table: Table, progress: Progress | None = None) -> TokenRows:
        """The table as token rows."""
        texts = self.form(table)
        if self._is_dialogue(table):
            answers = table.columns[self.response_field]
            rows = dialogue_rows(tok, texts, answers, most=self.max_tokens, progress=progress)
        else:
            rows = language_rows(tok, texts, most=self.max_tokens, chunk=self.chunk, progress=progress)
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
            document = self.token_rows(folder)[0].document
        return self.division(train, document, seed, public).samples

    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """See :meth:`Task.build`."""
        from fedwave.tasks.learners.language import LanguageLearner

        return LanguageLearner(self, seed, public, progress)

    def _is_dialogue(self, table: Table) -> bool:
        return self.prompt_field in table.columns and self.response_field in table.columns
