"""Where images come from: scikit-learn's digits, arrays, folders of files, the hub. Torch-free, decoded when needed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwave.core.errors import BadInput, unknown
from fedwave.core.types import Ints
from fedwave.tasks import hub
from fedwave.tasks.data import Source
from fedwave.tasks.task import Progress

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_HELD_OUT = ("test", "validation", "val")
Reader = Callable[[Ints], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class Pictures:
    """Images with their classes.

    Parameters
    ----------
    source : for error messages.
    labels : class of each image: indices ``[n]``, or names.
    shape : ``(height, width, channels)`` of the first image, or as an array file has it.
    read : the pixels of some images, each of its own size where they are files; integers are bytes, floats in [0, 1].
    columns : values that a partition may group images by.
    lazy : the images are decoded as they are read; otherwise they are one array in memory.
    index : the images of ``read`` that these are, in their order.
    """

    source: str
    labels: Ints | list[str]
    shape: tuple[int, ...]
    read: Reader
    lazy: bool
    index: Ints
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def pixels(self, rows: Ints) -> Sequence[NDArray[Any]]:
        """The given images."""
        return self.read(self.index[rows])

    def take(self, rows: Ints) -> Pictures:
        """The given images, in that order."""
        labels = self.labels[rows] if isinstance(self.labels, np.ndarray) else [self.labels[row] for row in rows]
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, labels=labels, index=self.index[rows], columns=columns)

    @property
    def extent(self) -> tuple[int, int, int]:
        """Height, width and channels; flat images are grey squares. Raises :class:`BadInput` where they are not."""
        if len(self.shape) == 3 and self.shape[2] in (1, 2, 3, 4):
            return self.shape[0], self.shape[1], self.shape[2]
        if len(self.shape) == 2:
            return (*self.shape, 1)
        side = round(self.shape[0] ** 0.5)
        if len(self.shape) == 1 and side * side == self.shape[0]:
            return side, side, 1
        raise BadInput(
            f"{self.source}: images of shape {self.shape} are no pictures; x must be [n, height, width] or "
            f"[n, height, width, channels] with 1 to 4 channels"
        )


def load(
    source: Source,
    data: str,
    *,
    image_field: str,
    label_field: str,
    column: str | None = None,
    progress: Progress | None = None,
) -> tuple[Pictures, Pictures | None]:
    """Training images of ``data`` and its own held-out ones, where it comes with some.

    ``data`` is ``"digits"``, an .npz file, a folder with a sub-folder of images per class (or of such folders ``train``
    and ``test``), or a hub id. ``column`` is what a partition groups hub rows by.
    """
    path = Path(data).expanduser()
    if data == "digits":
        return _digits(), None
    if path.suffix == ".npz":
        return _npz(path), None
    if path.is_dir():
        return _folder(path)
    if hub.is_id(data):
        train, held = source.hub_rows(data, progress)
        fields = (image_field, label_field, column)
        return _hub(train, *fields), None if held is None else _hub(held, *fields)
    raise BadInput(
        f"data {data!r} must be 'digits', an existing .npz file, a folder with one sub-folder of images per class, "
        f"or a hub id such as 'org/name'"
    )


@lru_cache(maxsize=1)
def _digits() -> Pictures:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput("data 'digits' needs the package 'scikit-learn': install it, or name an .npz file") from None
    x, y = load_digits(return_X_y=True)
    values = (np.asarray(x) / 16.0).astype(np.float32).reshape(-1, 8, 8)
    return _array("digits", values, np.asarray(y).astype(np.int64), {})


def _array(source: str, x: NDArray[Any], y: Ints, columns: dict[str, list[Any]]) -> Pictures:
    return Pictures(source, y, x.shape[1:], lambda rows: x[rows], False, np.arange(len(y)), columns)  # type: ignore[arg-type]


def _npz(path: Path) -> Pictures:
    """Arrays ``x [n, ...]`` and ``y [n]``; any other array of n values is a column to partition by."""
    if not path.is_file():
        raise BadInput(f"data {str(path)!r} must be 'digits' or an existing .npz file")
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is not an .npz file of plain arrays: {error}") from None
    for key in ("x", "y"):
        if key not in arrays:
            raise BadInput(f"{path} must hold the arrays x and y, it has: {', '.join(sorted(arrays))}")
    x, y = arrays.pop("x"), arrays.pop("y")
    if len(x) != len(y) or y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or len(y) == 0 or y.min() < 0:
        raise BadInput(
            f"{path}: y must hold one integer class >= 0 for each of the {len(x)} images, got {y.dtype} {y.shape}"
        )
    if not np.issubdtype(x.dtype, np.integer):
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise BadInput(f"{path}: x holds values that are not finite")
    return _array(str(path), x, y.astype(np.int64), {n: v.tolist() for n, v in arrays.items() if v.shape == y.shape})


def _folder(root: Path) -> tuple[Pictures, Pictures | None]:
    if not (root / "train").is_dir():
        return _classes(root), None
    held = next((root / name for name in _HELD_OUT if (root / name).is_dir()), None)
    return _classes(root / "train"), None if held is None else _classes(held)


def _classes(root: Path) -> Pictures:
    """A class for each sub-folder of ``root``: the images anywhere below it."""
    files: list[Path] = []
    labels: list[str] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        mine = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
        if not mine:
            raise BadInput(f"{folder}, the folder of a class, holds no images ({', '.join(_ENDINGS)})")
        files += mine
        labels += [folder.name] * len(mine)
    if not files:
        raise BadInput(f"{root} has no sub-folders of images, one per class")
    return _opened(str(root), labels, lambda row: files[row], {})


def _hub(rows: hub.HubRows, image_field: str, label_field: str, column: str | None) -> Pictures:
    for name in (image_field, label_field, column):
        if name is not None and name not in rows.features:
            raise BadInput(f"{rows.source}: {unknown('field', name, rows.features)}")
    labels = rows.column(label_field)
    for row, value in enumerate(labels, 1):
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise BadInput(f"{rows.source}, row {row}: {label_field!r} must be a string or integer, got {value!r}")
    columns = {} if column is None else {column: rows.column(column)}
    return _opened(rows.source, [str(value) for value in labels], lambda row: rows.rows[int(row)][image_field], columns)


def _opened(source: str, labels: list[str], image: Callable[[int], Any], columns: dict[str, list[Any]]) -> Pictures:
    def read(rows: Ints) -> list[NDArray[Any]]:
        return [_decoded(image(row), f"{source}, image {row + 1}") for row in rows]

    shape = read(np.arange(1))[0].shape
    return Pictures(source, labels, shape, read, True, np.arange(len(labels)), columns)


def _decoded(image: Any, place: str) -> NDArray[Any]:
    """``[height, width, channels]`` of a path, an encoded image of the hub, or a Pillow image; grey or RGB."""
    try:
        import PIL.Image
    except ImportError:
        raise BadInput("images in files need the package 'pillow': install it, or save them as an .npz file") from None
    if isinstance(image, dict):
        image = io.BytesIO(image["bytes"]) if image.get("bytes") else image.get("path")
    try:
        if not isinstance(image, PIL.Image.Image):
            place = str(image) if isinstance(image, Path) else place
            with PIL.Image.open(image) as opened:
                opened.load()
                image = opened
        grey = image.mode in ("1", "L", "LA")
        pixels = np.array(image.convert("L" if grey else "RGB"))
    except (OSError, ValueError, AttributeError, SyntaxError) as error:
        raise BadInput(f"{place} cannot be read as an image: {error}") from None
    return pixels[:, :, None] if grey else pixels
