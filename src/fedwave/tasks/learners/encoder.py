"""Classification by a pretrained encoder with a head, or by the head alone over kept features; the learner of texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwave.core.keys import Key
from fedwave.core.types import Ints, Spec
from fedwave.models import sources
from fedwave.tasks.adapters import Beside, Full
from fedwave.tasks.learner import Learner
from fedwave.tasks.learners.beside import put_beside, write_beside
from fedwave.tasks.learners.classes import Base, ClassLearner
from fedwave.tasks.learners.pretrained import Prepared, load, peft_layout, whole, write_whole
from fedwave.tasks.learners.store import Store, Tokens, Vectors
from fedwave.tasks.learners.weights import adopt, linear, write_weights
from fedwave.tasks.partitions import class_indices
from fedwave.tasks.pretrained import Pretrained
from fedwave.tasks.task import Division, Progress
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

    def __init__(self, pooled: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.pooled, self.head = pooled, head

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        return self.head(self.pooled(*inputs))


class Rows(NamedTuple):
    """The rows of a task, training rows first and then ``held_out`` others, with their classes and owners."""

    store: Store
    labels: Ints
    held_out: int
    division: Division


def classifier(task: TextClassification, seed: int, public: int, progress: Progress | None) -> Learner:
    """Learner of a text ``task``."""
    from transformers import AutoModel

    folder = sources.resolve(task.model)
    tok = Tokenizer(folder)
    train, held = task.tables()
    classes = task.classes(train, held)
    both = (train, held)
    tokens = join(*(text_rows(tok, task.form(table), most=task.max_tokens, progress=progress) for table in both))
    encoder: Any = load(AutoModel, folder, torch.float32)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # the pre-training head of BERT and kin; nothing here reads it
    pooled = Pooled(encoder, pooling=task.pooling, normalize=task.normalize)

    def describe(to: Path) -> None:
        how = {"classes": classes, "pooling": task.pooling, "normalize": task.normalize, "model": task.model}
        (to / "head.json").write_text(json.dumps(how, indent=1) + "\n", encoding="utf-8")

    rows = Rows(
        store=Tokens(tokens.flat, tokens.offsets, tok.pad),
        labels=np.concatenate([class_indices(table.labels(task.label_field), classes) for table in both]),
        held_out=len(held),
        division=task.division(train, classes, seed, public),
    )
    return encoder_learner(
        task.spec(), task.pretrained, folder, encoder, pooled, rows, seed=seed, describe=describe, progress=progress
    )


def encoder_learner(
    spec: Spec,
    pretrained: Pretrained,
    folder: Path,
    encoder: nn.Module,
    pooled: nn.Module,
    rows: Rows,
    *,
    seed: int,
    describe: Callable[[Path], None],
    progress: Progress | None,
) -> Learner:
    """A linear head, started at zero, over a pretrained encoder; with the ``head`` adapter over its kept outputs.

    Parameters
    ----------
    pooled : holds ``encoder`` under that name and turns what ``rows.store`` gathers into one vector a row. With the
        ``head`` adapter it runs over all rows now and is then let go.
    describe : writes beside an exported head what is needed to use it.
    """
    pooled = pooled.eval().requires_grad_(False)
    head_leaves = {name: torch.zeros(spec.trainable[name].shape) for name in ("head.weight", "head.bias")}
    head, store = linear(*reversed(spec.trainable["head.weight"].shape)), rows.store
    layout, config, adapter = peft_layout(encoder), encoder.config, pretrained.adapter
    if isinstance(adapter, (Beside, Full)):
        if isinstance(adapter, Beside):
            pooled.encoder, found = put_beside(adapter, encoder, spec, Key(seed))
        else:
            found = whole(encoder)
        prepared = _under(found, "pooled.encoder.")
        paths = prepared.leaf_paths | {name: name for name in head_leaves}
        initial, base_paths = prepared.initial | head_leaves, prepared.base_paths
        model: nn.Module = Classifier(pooled, head)
    else:
        store = Vectors(features(pooled, rows.store, len(rows.labels), progress))
        paths, base_paths, initial = {name: name.removeprefix("head.") for name in head_leaves}, {}, head_leaves
        model = head
    adopt(model, paths, initial)

    def export(to: Path, params: dict[str, Tensor], base: Base) -> None:
        body = {name: value for name, value in params.items() if name not in head_leaves}
        write_weights(to, {name: params[name] for name in head_leaves}, "head.safetensors")
        describe(to)
        if isinstance(adapter, Beside):
            names = {"task_type": "FEATURE_EXTRACTION", "targets": pretrained.peft_targets()}
            write_beside(adapter, to, body, base, spec=spec, layout=layout, model_name=pretrained.name, **names)
        elif body:
            write_whole(to, body, config, folder)

    trained = len(rows.labels) - rows.held_out
    return ClassLearner(
        spec,
        model=model,
        leaf_paths=paths,
        base_paths=base_paths,
        initial=initial,
        store=store,
        labels=rows.labels,
        division=rows.division,
        eval_rows=np.arange(trained, len(rows.labels)),
        exporter=export,
    )


def _under(prepared: Prepared, prefix: str) -> Prepared:
    """The same leaves in a model that holds the prepared one at ``prefix``."""
    leaf, base = ({name: prefix + path for name, path in paths.items()} for paths in prepared[:2])
    return Prepared(leaf, base, prepared.initial)


def features(pooled: nn.Module, store: Store, rows: int, progress: Progress | None = None) -> Tensor:
    """Pooled output of every row, ``[rows, d]``, without gradients, rows of like length together."""
    order = np.argsort(store.lengths(np.arange(rows)), kind="stable")
    device = next(pooled.parameters()).device
    found: Tensor | None = None
    with torch.no_grad():
        for start in range(0, rows, FEATURE_BATCH):
            index = order[start : start + FEATURE_BATCH]
            value = pooled(**store.gather(index, device)).cpu()
            found = torch.empty(rows, value.shape[1]) if found is None else found
            found[torch.as_tensor(index)] = value
            if progress is not None:
                progress(min(start + FEATURE_BATCH, rows), rows)
    assert found is not None
    return found
