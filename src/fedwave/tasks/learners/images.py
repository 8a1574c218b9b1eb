"""The learner of image classification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from fedwave.core.keys import Key
from fedwave.tasks.learner import Learner
from fedwave.tasks.learners.classes import Base, ClassLearner
from fedwave.tasks.learners.store import Vectors
from fedwave.tasks.learners.weights import adopt, linear, uniform, write_weights
from fedwave.tasks.task import Division

if TYPE_CHECKING:
    from fedwave.tasks.images import ImageClassification


def image_learner(task: ImageClassification, seed: int, division: Division) -> Learner:
    """MLP with PyTorch's default linear initialisation (uniform within 1 / sqrt(inputs)), drawn from the seed."""
    images, spec, widths = task.images(), task.spec(), task.widths()
    modules: list[nn.Module] = []
    for wide, out in zip(widths, widths[1:], strict=False):
        modules += [linear(wide, out), nn.ReLU()]
    model = nn.Sequential(*modules[:-1])
    start: dict[str, Tensor] = {}
    for number, (name, leaf) in enumerate(task.layers().items()):  # weight and bias of a layer in turn
        start[name] = uniform(Key(seed), name, leaf.shape, widths[number // 2] ** -0.5)
    model.load_state_dict(start)
    paths = {name: name for name in spec.trainable}
    initial = {name: start[name] for name in paths}
    adopt(model, paths, initial)
    rows = len(images.y)

    def export(folder: Path, params: dict[str, Tensor], base: Base) -> None:
        write_weights(folder, start | params)

    return ClassLearner(
        spec,
        model=model,
        leaf_paths=paths,
        initial=initial,
        store=Vectors(np.concatenate([images.x, images.eval_x])),
        labels=np.concatenate([images.y, images.eval_y]),
        division=division,
        eval_rows=np.arange(rows, rows + len(images.eval_y)),
        exporter=export,
    )
