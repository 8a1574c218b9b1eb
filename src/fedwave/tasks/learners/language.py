"""The learner of causal language models: the loss is computed at the learned positions only."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fedwave.core.errors import Refused
from fedwave.core.keys import Key
from fedwave.core.types import Ints
from fedwave.models import sources
from fedwave.tasks.adapters import Beside
from fedwave.tasks.learner import Batch, Learner
from fedwave.tasks.learners.beside import put_beside, write_beside
from fedwave.tasks.learners.next_token import cross_entropy
from fedwave.tasks.learners.pretrained import load, peft_layout, whole, write_whole
from fedwave.tasks.learners.store import Tokens
from fedwave.tasks.learners.weights import adopt
from fedwave.tasks.task import Progress
from fedwave.tasks.tokens import Tokenizer, join

if TYPE_CHECKING:
    from fedwave.tasks.causal_lm import CausalLM


class LanguageLearner(Learner):
    """Next-token cross-entropy in nats, summed over each row's learned tokens.

    Rows are padded on the right, where a causal model's real tokens never look; so no attention mask is needed.
    """

    eval_batch = 16

    def __init__(self, task: CausalLM, seed: int, public: int, progress: Progress | None = None) -> None:
        from transformers import AutoModelForCausalLM

        folder = sources.resolve(task.model)
        (train, _), (rows, held_rows) = task.tables(), task.token_rows(folder, progress)
        self._task, self._folder, self.spec = task, folder, task.spec()
        adapter = task.adapter if isinstance(task.adapter, Beside) else None
        dtype = getattr(torch, task.dtype) if adapter else torch.float32
        self.model: nn.Module = load(AutoModelForCausalLM, folder, dtype)
        self._config: Any = self.model.config
        self._opaque = False
        self._opaque = self._does_more()
        self._peft_layout = peft_layout(self.model)
        if adapter:
            self.model, prepared = put_beside(adapter, self.model, self.spec, Key(seed))
        else:
            prepared = whole(self.model)
        self.leaf_paths, self.base_paths, self.initial = prepared
        adopt(self.model, self.leaf_paths, self.initial)
        self._rows_apart = any(value.requires_grad for value in self.model.get_output_embeddings().parameters())  # type: ignore[operator]
        division = task.division(train, rows.document, seed, public)
        self.order, self.offsets, self.public_rows = division.order, division.offsets, division.public
        self.eval_rows = np.arange(len(rows), len(rows) + len(held_rows))
        self.dropped = len(train) - len(np.unique(rows.document))
        both = join(rows, held_rows)
        self._store = Tokens(both.flat, both.offsets, Tokenizer(folder).pad)
        self._first = np.append(both.first_target, 0)

    def lengths(self, rows: Ints) -> Ints:
        """See :meth:`Learner.lengths`."""
        return self._store.lengths(rows)

    def batch(self, rows: Ints) -> Batch:
        """``input_ids [n, T]``, ``place [n, P]`` of the learned tokens in them, ``learned [n, P]`` (0 for filling).

        ``flat`` are the places of the ones in ``learned``, found here because a GPU would have to be waited for.
        """
        rows, device = np.asarray(rows), self.device
        first = self._first[rows]
        count = np.where(rows >= 0, self._store.lengths(rows) - first, 0)
        step = np.arange(max(int(count.max()), 1))
        learned = step < count[:, None]
        return {
            "input_ids": self._store.gather(rows, device)["input_ids"],
            "place": torch.as_tensor(np.where(learned, first[:, None] + step, 0)).to(device),
            "learned": torch.as_tensor(learned).to(device),
            "flat": torch.as_tensor(np.flatnonzero(learned)).to(device),
        }

    def row_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over each row's learned tokens; see :meth:`Learner.row_losses`."""
        learned, place, flat = batch["learned"], batch["place"], batch["flat"]
        wanted = batch["input_ids"].gather(1, place)
        before = (place - 1).clamp(min=0)[:, :, None]
        with self._autocast():
            if self._rows_apart:
                losses = self._losses(self._at(batch["input_ids"], before), wanted) * learned
            else:
                chosen = self._at(batch["input_ids"], before).flatten(0, 1).index_select(0, flat)
                found = self._losses(chosen, wanted.flatten().index_select(0, flat))
                losses = found.new_zeros(learned.numel()).index_copy(0, flat, found).view(learned.shape)
        return losses.sum(1), learned.sum(1).float()

    def _losses(self, chosen: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy at each place from what :meth:`_at` gave."""
        vocab = self._config.get_text_config().vocab_size
        return cross_entropy(self._score, chosen, wanted, vocab=vocab, trained=self._rows_apart)

    def _at(self, ids: Tensor, before: Tensor) -> Tensor:
        """What the output layer gets at the places ``before [n, P, 1]``, ``[n, P, d]``; or their logits."""
        if self._opaque:
            found = self.model(input_ids=ids, use_cache=False).logits
        else:
            backbone = getattr(self.model, self.model.base_model_prefix)  # type: ignore[arg-type]
            found = backbone(input_ids=ids, use_cache=False).last_hidden_state
        return found.gather(1, before.expand(-1, -1, found.shape[-1]))

    def _score(self, hidden: Tensor) -> Tensor:
        """Logits; Gemma 2 caps what its output layer gives, Cohere multiplies and Granite divides it by a number."""
        if self._opaque:
            return hidden
        logits, config = self.model.get_output_embeddings()(hidden), self._config  # type: ignore[operator]
        if factor := getattr(config, "logit_scale", None):
            logits = logits * factor
        if divisor := getattr(config, "logits_scaling", None):
            logits = logits / divisor
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def _does_more(self) -> bool:
        """Whether the model makes its logits in another way than :meth:`_score`; then they exist for all tokens."""
        ids, before = (
            torch.tensor([[3, 2]]),
            torch.ones(1, 1, 1, dtype=torch.long),
        )  # 0 is often padding, of embedding zero
        with torch.no_grad():
            mine = self._score(self._at(ids, before)).float()
            own = self.model(input_ids=ids, use_cache=False).logits[:, 1:].float()
        close = 1e-3 if self._task.dtype == "float32" else 0.05
        return mine.shape != own.shape or bool((mine - own).abs().max() > close * own.abs().max())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._task.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self._task.dtype))

    def predict(self, batch: Batch) -> Tensor:
        """Refused: the output of a language model has no fixed size."""
        raise Refused("task causal-lm has no prediction of fixed size, so methods that send or distil logits refuse it")

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Refused, as :meth:`predict`."""
        return self.predict({})

    def export(
        self, folder: Path, params: dict[str, Tensor], base: list[dict[str, tuple[Tensor, Tensor]]] | None = None
    ) -> None:
        """See :meth:`Learner.export`."""
        task = self._task
        if not isinstance(task.adapter, Beside):
            return write_whole(folder, params, self._config, self._folder)
        write_beside(
            task.adapter,
            folder,
            params,
            base or [],
            spec=self.spec,
            task_type="CAUSAL_LM",
            targets=task.pretrained.peft_targets(),
            model_name=task.model,
            layout=self._peft_layout,
        )
