"""Image classification: small networks from scratch, or a pretrained vision transformer. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedwave.core.config import Count, Fraction, Index, part
from fedwave.core.errors import BadInput, Refused
from fedwave.core.registry import name_of, register
from fedwave.core.types import Ints, Spec
from fedwave.models import sources
from fedwave.tasks import networks, pictures
from fedwave.tasks.adapters import Adapter, Full, Head
from fedwave.tasks.data import HELD_OUT, Source, subset
from fedwave.tasks.partitions import Dirichlet, Partition, class_indices
from fedwave.tasks.pictures import Pictures
from fedwave.tasks.pretrained import Pretrained
from fedwave.tasks.task import Division, Learner, Progress, Task, divide

BUILT_IN = {"mlp": (128,), "cnn": (32, 64)}
"""The networks trained from scratch, and their usual widths."""


class Images(NamedTuple):
    """Training and held-out images, the class index of each, ``y [n]`` and ``eval_y [m]``, and the classes' names."""

    train: Pictures
    held: Pictures
    y: Ints
    eval_y: Ints
    classes: list[str]


@register("task", "images")
@dataclass(frozen=True)
class ImageClassification(Source, Task):
    """Softmax classification of images.

    Images are scaled to the side that the model wants (bilinear, antialiased, the whole image: no cropping), from bytes
    to [0, 1], and for a pretrained model normalised with the mean and deviation of its ``preprocessor_config.json``.

    Parameters
    ----------
    data : ``"digits"`` (scikit-learn, 8 x 8, 10 classes; 1,437 to train, 360 held out), an .npz file with arrays
        ``x [n, height, width(, channels)]`` or flat (integers are bytes) and ``y [n]``, a folder with one sub-folder of
        images per class, or a hub id; see :class:`Source` for the fields around it. Images are held out by class.
    model : ``"mlp"`` or ``"cnn"``, trained from scratch, or a vision transformer: hub id, folder, or a name that
        ``fedwave models`` knows. Its class token, or the mean of its patches, feeds a linear head that starts at zero.
    hidden : widths of the hidden layers of an MLP, channels of the convolutions of a CNN; by default 128 and 32, 64.
    image_size : side in pixels that images are scaled to; 0: the pretrained model's own, else the images' own (where
        they differ, the first one's).
    image_field, label_field : names of the columns of a hub set.
    pooling : what a pretrained model's output feeds to the head.
    partition : who holds which images.
    batch_size : images of a local step.
    adapter : ``full``; ``head`` to train the last layer alone; ``lora`` in a pretrained model, the head too.
    partition : who holds which images.
    batch_size : images of a local step.
    """

    data: str = "digits"
    model: str = "mlp"
    hidden: tuple[Count, ...] | None = None
    image_size: Index = 0
    image_field: str = "image"
    label_field: str = "label"
    eval_fraction: Fraction = 0.2
    pooling: Literal["cls", "mean"] = "cls"
    adapter: Annotated[Adapter, part("adapter")] = field(default_factory=Full)
    partition: Annotated[Partition, part("partition")] = field(
        default_factory=lambda: Dirichlet(alpha=0.5, clients=100)
    )
    batch_size: Count = 10

    def __post_init__(self) -> None:
        if self.built_in and not isinstance(self.adapter, (Full, Head)):
            raise Refused(
                f"task images trains a small network with model = {self.model!r}: adapter must be full or head, "
                f"got {name_of(self.adapter)!r} (a pretrained model takes lora)"
            )
        if self.hidden is not None and not self.built_in:
            raise Refused(f"hidden: the layers of the pretrained model {self.model!r} are given; leave it out")

    @property
    def built_in(self) -> bool:
        """The model is one of fedwave's own small networks."""
        return self.model in BUILT_IN

    @property
    def pretrained(self) -> Pretrained:
        """The pretrained model and what of it is trained."""
        return self.once("_pretrained", lambda: Pretrained(self.model, self.adapter))

    def ranks(self, device_names: tuple[str, ...], device: Ints) -> Ints:
        """See :meth:`Task.ranks`."""
        return self.adapter.ranks(device_names, device)

    def prepare(self, progress: Progress | None = None) -> None:
        """See :meth:`Task.prepare`."""
        if not self.built_in:
            sources.resolve(self.model)
        self.images(progress)

    def images(self, progress: Progress | None = None) -> Images:
        """The data: classes now, pixels as they are asked for."""
        return self.once("_images", lambda: self._read(progress))

    def _read(self, progress: Progress | None) -> Images:
        train, held = self._load(self.data, progress)
        if self.eval_data is not None:
            rows, own = self._load(self.eval_data, progress)
            held = rows if own is None else own
        if held is None:
            out = stratified(np.asarray(train.labels), self.eval_fraction)
            if out.all() or not out.any():
                raise BadInput(
                    f"{self.data}: {len(out)} images cannot be divided with eval_fraction = {self.eval_fraction}; "
                    f"name eval_data"
                )
            train, held = train.take(np.flatnonzero(~out)), train.take(np.flatnonzero(out))
        held = held.take(subset(len(held), self.eval_samples))
        if not self.flat(train):
            _ = train.extent, held.extent  # both must be pictures
        elif math.prod(train.shape) != math.prod(held.shape):
            raise BadInput(
                f"{held.source}: images have {math.prod(held.shape)} values, those of {train.source} have "
                f"{math.prod(train.shape)}; set image_size"
            )
        return _indexed(train, held)

    def flat(self, images: Pictures) -> bool:
        """An MLP takes arrays of any shape as they are."""
        return self.model == "mlp" and not self.image_size and not images.lazy

    def _load(self, data: str, progress: Progress | None) -> tuple[Pictures, Pictures | None]:
        return pictures.load(
            self,
            data,
            image_field=self.image_field,
            label_field=self.label_field,
            column=getattr(self.partition, "column", None),
            progress=progress,
        )

    def size(self) -> tuple[int, int, int]:
        """Height, width and channels of the images as the model sees them.

        Raises
        ------
        Refused : the pretrained model is no image encoder, or its patches do not fill ``image_size``.
        """
        if self.built_in:
            high, wide, channels = self.images().train.extent
            return (self.image_size or high, self.image_size or wide, channels)
        if self.pretrained.architecture.kind != "image-encoder":
            kind = self.pretrained.architecture.kind
            raise Refused(
                f"task images needs an image encoder (a vision transformer); {self.model!r} is a {kind} model"
            )
        config = sources.config(self.model)
        side, patch = self.image_size or config["image_size"], config["patch_size"]
        if side % patch:
            raise Refused(f"image_size {side} is no multiple of the model's patches of {patch} pixels")
        return side, side, config.get("num_channels") or 3

    def tokens(self) -> int:
        """Tokens that a pretrained model makes of an image: its patches and the class token."""
        side, _, _ = self.size()
        return (side // sources.config(self.model)["patch_size"]) ** 2 + 1

    def network(self) -> list[networks.Layer]:
        """Layers of a built-in model."""
        classes, widths = len(self.images().classes), BUILT_IN[self.model] if self.hidden is None else self.hidden
        if self.model == "cnn":
            return networks.cnn(self.size(), widths, classes)
        return networks.mlp(self.inputs(), widths, classes)

    def inputs(self) -> int:
        """Values of an image as a built-in model sees it."""
        train = self.images().train
        return math.prod(train.shape if self.flat(train) else self.size())

    def spec(self) -> Spec:
        """See :meth:`Task.spec`."""
        if self.built_in:
            return networks.spec(self.network(), self.inputs(), head_only=isinstance(self.adapter, Head))
        return self.pretrained.classifier(self.tokens(), len(self.images().classes))

    def samples(self, seed: int, *, public: int = 0) -> Ints:
        """See :meth:`Task.samples`."""
        return self.division(seed, public).samples

    def division(self, seed: int, public: int = 0) -> Division:
        """Who holds which training image."""
        images = self.images()
        names = [images.classes[value] for value in images.y]
        columns = {"label": names, self.label_field: names, **images.train.columns}
        return divide(len(names), labels=images.y, columns=columns, partition=self.partition, seed=seed, public=public)

    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """See :meth:`Task.build`; ``progress`` follows the decoding of image files, and the one pass of ``head``."""
        from fedwave.tasks.learners.images import image_learner

        return image_learner(self, seed, public, progress)


def _indexed(train: Pictures, held: Pictures) -> Images:
    """Classes as indices: 0 ... largest where they are numbers, else their sorted names."""
    if isinstance(train.labels, np.ndarray) and isinstance(held.labels, np.ndarray):
        classes = [str(value) for value in range(int(max(train.labels.max(), held.labels.max())) + 1)]
        return Images(train, held, train.labels, held.labels, classes)
    names = [[str(value) for value in part.labels] for part in (train, held)]
    classes = sorted({*names[0], *names[1]})
    if len(classes) < 2:
        raise BadInput(f"{train.source}: images must be of at least two classes, these are all {classes[0]!r}")
    return Images(train, held, class_indices(names[0], classes), class_indices(names[1], classes), classes)


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
