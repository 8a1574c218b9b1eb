"""Image classification with a small multilayer perceptron, from scratch."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedwave.core.config import Count, Fraction, Index, part
from fedwave.core.errors import BadInput, Refused
from fedwave.core.registry import name_of, register
from fedwave.core.types import Ints, Leaf, Leaves, Spec
from fedwave.tasks.adapters import Adapter, Full, Head
from fedwave.tasks.data import HELD_OUT
from fedwave.tasks.partitions import Dirichlet, Partition
from fedwave.tasks.task import Division, Learner, Progress, Task, divide


class Images(NamedTuple):
    """Flattened images ``x [n, d]`` float32 in [0, 1] and their classes ``y [n]``, training and held out."""

    x: NDArray[np.float32]
    y: Ints
    eval_x: NDArray[np.float32]
    eval_y: Ints

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.y.max(), self.eval_y.max())) + 1


@register("task", "images")
@dataclass(frozen=True)
class ImageClassification(Task):
    """Softmax classification of flattened images by an MLP with ReLU.

    Parameters
    ----------
    data : ``"digits"`` (scikit-learn, 8 x 8, 10 classes; 1,437 to train, 360 held out) or an .npz file with arrays
        ``x [n, ...]`` (integers are bytes: divided by 255) and ``y [n]``.
    eval_data : an .npz file of held-out images; by default ``eval_fraction`` of the data, stratified by class.
    eval_samples : most held-out images to use, 0 for all.
    hidden : widths of the hidden layers.
    adapter : ``full``, or ``head`` to train the last layer over frozen random features.
    """

    data: str = "digits"
    model: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (128,)
    eval_data: str | None = None
    eval_fraction: Fraction = 0.2
    eval_samples: Index = 0
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=Full)
    partition: Annotated[Partition, part("partition")] = field(
        default_factory=lambda: Dirichlet(alpha=0.5, clients=100)
    )
    batch_size: Count = 10

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, (Full, Head)):
            raise Refused(
                f"task images trains a small network: adapter must be full or head, got {name_of(self.adapter)!r}"
            )

    def images(self) -> Images:
        """The data, read now."""
        images = load(self.data, self.eval_data, self.eval_fraction)
        if not 0 < self.eval_samples < len(images.eval_y):
            return images
        kept = np.argsort(HELD_OUT.fold("subset").bits(np.arange(len(images.eval_y)), 1)[:, 0])[: self.eval_samples]
        return images._replace(eval_x=images.eval_x[np.sort(kept)], eval_y=images.eval_y[np.sort(kept)])

    def widths(self) -> tuple[int, ...]:
        """Widths of all layers, input and output included."""
        images = self.images()
        return (images.x.shape[1], *self.hidden, images.classes)

    def layers(self) -> Leaves:
        """Every parameter of the network, named as in its ``nn.Sequential`` (ReLUs take the odd places)."""
        widths = self.widths()
        leaves: Leaves = {}
        for index, (wide, out) in enumerate(zip(widths, widths[1:], strict=False)):
            leaves |= {f"{2 * index}.weight": Leaf((out, wide)), f"{2 * index}.bias": Leaf((out,))}
        return leaves

    def spec(self) -> Spec:
        """See :meth:`Task.spec`. Backward costs two forward passes, or one of its layer for ``head``."""
        widths, leaves = self.widths(), self.layers()
        head = isinstance(self.adapter, Head)
        products = [2.0 * wide * out for wide, out in zip(widths, widths[1:], strict=False)]
        trainable = dict(list(leaves.items())[-2:]) if head else leaves
        parameters = sum(leaf.size for leaf in leaves.values())
        return Spec(
            trainable=trainable,
            model_parameters=parameters,
            base_bytes=4 * (parameters - sum(leaf.size for leaf in trainable.values())),
            forward_flops=sum(products),
            backward_flops=products[-1] if head else 2.0 * sum(products),
            activation_bytes=4.0 * (widths[-2] + widths[-1] if head else sum(widths)),
            output=Leaf((widths[-1],)),
            inference_bytes=4.0 * max(a + b for a, b in zip(widths, widths[1:], strict=False)),
            assumptions=("arithmetic counts matrix products only",),
        )

    def samples(self, seed: int, *, public: int = 0) -> Ints:
        """See :meth:`Task.samples`."""
        return self.division(seed, public).samples

    def division(self, seed: int, public: int = 0) -> Division:
        """Who holds which training image."""
        labels = self.images().y
        columns = {"label": labels.tolist()}
        return divide(len(labels), labels=labels, columns=columns, partition=self.partition, seed=seed, public=public)

    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """See :meth:`Task.build`."""
        from fedwave.tasks.learners.images import image_learner

        return image_learner(self, seed, self.division(seed, public))


def load(data: str, eval_data: str | None, fraction: float) -> Images:
    """Images of ``data``, and held-out ones: from ``eval_data``, else a fixed stratified ``fraction``."""
    x, y = _digits() if data == "digits" else _npz(data)
    if eval_data is not None:
        eval_x, eval_y = _npz(eval_data)
        if eval_x.shape[1] != x.shape[1]:
            raise BadInput(f"{eval_data}: images have {eval_x.shape[1]} values, those of {data} have {x.shape[1]}")
        return Images(x, y, eval_x, eval_y)
    held = stratified(y, fraction)
    if held.all() or not held.any():
        raise BadInput(f"{data}: {len(y)} images cannot be divided with eval_fraction = {fraction}; name eval_data")
    return Images(x[~held], y[~held], x[held], y[held])


def stratified(labels: Ints, fraction: float) -> NDArray[np.bool_]:
    """Mask of ``ceil(fraction n)`` rows, each class's share (largest remainders first), in a fixed keyed order."""
    classes, index = np.unique(labels, return_inverse=True)
    size = np.bincount(index)
    total = int(np.ceil(fraction * len(labels) - 1e-9))
    exact = size * total / len(labels)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: total - int(quota.sum())]] += 1
    draw = HELD_OUT.fold("stratified").bits(np.arange(len(labels)), 1)[:, 0]
    held = np.zeros(len(labels), dtype=bool)
    for value in range(len(classes)):
        members = np.flatnonzero(index == value)
        held[members[np.argsort(draw[members], kind="stable")[: quota[value]]]] = True
    return held


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.float32], Ints]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput("data 'digits' needs the package 'scikit-learn': install it, or name an .npz file") from None
    x, y = load_digits(return_X_y=True)
    return (np.asarray(x) / 16.0).astype(np.float32), np.asarray(y).astype(np.int64)


def _npz(name: str) -> tuple[NDArray[np.float32], Ints]:
    path = Path(name).expanduser()
    if path.suffix != ".npz" or not path.is_file():
        raise BadInput(f"data {name!r} must be 'digits' or an existing .npz file")
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is not an .npz file of plain arrays: {error}") from None
    for key in ("x", "y"):
        if key not in arrays:
            raise BadInput(f"{path} must hold the arrays x and y, it has: {', '.join(sorted(arrays))}")
    x, y = arrays["x"], arrays["y"]
    if len(x) != len(y) or y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or len(y) == 0 or y.min() < 0:
        raise BadInput(
            f"{path}: y must hold one integer class >= 0 for each of the {len(x)} images, got {y.dtype} {y.shape}"
        )
    scale = 255.0 if np.issubdtype(x.dtype, np.integer) else 1.0
    flat = (x.reshape(len(x), -1) / scale).astype(np.float32)
    if not np.isfinite(flat).all():
        raise BadInput(f"{path}: x holds values that are not finite")
    return flat, y.astype(np.int64)
