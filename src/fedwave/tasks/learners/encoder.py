"""The learner of text classification: an encoder with a head, or the head alone over cached features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwave.core.keys import Key
from fedwave.models import sources
from fedwave.tasks.adapters import Full, Lora
from fedwave.tasks.learner import Learner
from fedwave.tasks.learners.classes import Base, ClassLearner
from fedwave.tasks.learners.pretrained import Prepared, load, peft_layout, whole, with_lora, write_lora, write_whole
from fedwave.tasks.learners.store import Tokens, Vectors
from fedwave.tasks.learners.weights import adopt, linear, write_weights
from fedwave.tasks.task import Progress
from fedwave.tasks.text import class_indices
from fedwave.tasks.tokens import Tokenizer, join, text_rows

if TYPE_CHECKING:
    from fedwave.tasks.text_classification import TextClassification

FEATURE_BATCH = 64


class Pooled(nn.Module):
    """Encoder and pooling: ``[n, T]`` token ids and their mask to ``[n, d]``."""

    def __init__(self, encoder: nn.Module, *, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.encoder, self.pooling, self.normalize = encoder, pooling, normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One vector a row."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask[:, :, None].to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        return F.normalize(pooled, dim=-1) if self.normalize else pooled


class Classifier(nn.Module):
    """Pooled encoder and linear head."""

    def __init__(self, pooled: Pooled, head: nn.Linear) -> None:
        super().__init__()
        self.pooled, self.head = pooled, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        return self.head(self.pooled(input_ids, attention_mask))


def classifier(task: TextClassification, seed: int, public: int, progress: Progress | None) -> Learner:
    """Learner of ``task``; with the ``head`` adapter the encoder runs over all rows now and is then let go."""
    from transformers import AutoModel

    folder, spec = sources.resolve(task.model), task.spec()
    tok = Tokenizer(folder)
    train, held = task.tables()
    classes = task.classes(train, held)
    rows = join(*(text_rows(tok, task.form(table), most=task.max_tokens) for table in (train, held)))
    tokens = Tokens(rows.flat, rows.offsets, tok.pad)
    encoder: Any = load(AutoModel, folder, torch.float32)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # the pre-training head of BERT and kin; nothing here reads it
    pooled = Pooled(encoder, pooling=task.pooling, normalize=task.normalize).eval().requires_grad_(False)
    head_leaves = {name: torch.zeros(spec.trainable[name].shape) for name in ("head.weight", "head.bias")}
    head = linear(spec.trainable["head.weight"].shape[1], len(classes))
    store: Tokens | Vectors = tokens
    model: nn.Module = head
    layout, config = peft_layout(encoder), encoder.config
    if isinstance(task.adapter, (Lora, Full)):
        found = with_lora(encoder, spec, Key(seed)) if isinstance(task.adapter, Lora) else whole(encoder)
        prepared = _under(found, "pooled.encoder.")
        paths = prepared.leaf_paths | {name: name for name in head_leaves}
        initial, base_paths = prepared.initial | head_leaves, prepared.base_paths
        model = Classifier(pooled, head)
    else:
        store = Vectors(features(pooled, tokens, len(rows), progress))
        paths, base_paths, initial = {name: name.removeprefix("head.") for name in head_leaves}, {}, head_leaves
    adopt(model, paths, initial)

    def export(to: Path, params: dict[str, Tensor], base: Base) -> None:
        body = {name: value for name, value in params.items() if name not in head_leaves}
        write_weights(to, {name: params[name] for name in head_leaves}, "head.safetensors")
        how = {"classes": classes, "pooling": task.pooling, "normalize": task.normalize, "model": task.model}
        (to / "head.json").write_text(json.dumps(how, indent=1) + "\n", encoding="utf-8")
        if isinstance(task.adapter, Lora):
            names = {"task_type": "FEATURE_EXTRACTION", "targets": task.peft_targets(), "model_name": task.model}
            write_lora(to, body, base, spec=spec, layout=layout, **names)
        elif body:
            write_whole(to, body, config, folder)

    return ClassLearner(
        spec,
        model=model,
        leaf_paths=paths,
        base_paths=base_paths,
        initial=initial,
        store=store,
        labels=np.concatenate([class_indices(table.labels(task.label_field), classes) for table in (train, held)]),
        division=task.division(train, classes, seed, public),
        eval_rows=np.arange(len(train), len(train) + len(held)),
        exporter=export,
    )


def _under(prepared: Prepared, prefix: str) -> Prepared:
    """The same leaves in a model that holds the prepared one at ``prefix``."""
    leaf, base = ({name: prefix + path for name, path in paths.items()} for paths in prepared[:2])
    return Prepared(leaf, base, prepared.initial)


def features(pooled: Pooled, tokens: Tokens, rows: int, progress: Progress | None = None) -> Tensor:
    """Pooled output of every row, ``[rows, d]``, without gradients, rows of like length together."""
    order = np.argsort(tokens.lengths(np.arange(rows)), kind="stable")
    device = next(pooled.parameters()).device
    found: Tensor | None = None
    with torch.no_grad():
        for start in range(0, rows, FEATURE_BATCH):
            index = order[start : start + FEATURE_BATCH]
            value = pooled(**tokens.gather(index, device)).cpu()
            found = torch.empty(rows, value.shape[1]) if found is None else found
            found[torch.as_tensor(index)] = value
            if progress is not None:
                progress(min(start + FEATURE_BATCH, rows), rows)
    assert found is not None
    return found
