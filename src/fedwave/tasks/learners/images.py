"""The learners of image classification: a small network from scratch, or a pretrained vision transformer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.types import Ints
from fedwave.models import sources
from fedwave.tasks import networks
from fedwave.tasks.learner import Learner
from fedwave.tasks.learners.classes import Base, ClassLearner
from fedwave.tasks.learners.encoder import Rows, encoder_learner
from fedwave.tasks.learners.pretrained import load
from fedwave.tasks.learners.store import Vectors
from fedwave.tasks.learners.weights import adopt, linear, uniform, write_weights
from fedwave.tasks.pictures import Pictures
from fedwave.tasks.task import Progress

if TYPE_CHECKING:
    from fedwave.tasks.images import ImageClassification

_DECODED = 64  # image files read at a time
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601-7, section 2.5.1: what image libraries call grey
_PLAIN = (0.5, 0.5)  # mean and deviation of ViT's own preprocessor, where a folder has none (an assumption)


def image_learner(task: ImageClassification, seed: int, public: int, progress: Progress | None) -> Learner:
    """Learner of ``task``."""
    return _scratch(task, seed, public, progress) if task.built_in else _pretrained(task, seed, public, progress)


# ---- a small network -----------------------------------------------------------------------------------------------


def _scratch(task: ImageClassification, seed: int, public: int, progress: Progress | None) -> Learner:
    """Layers with PyTorch's default initialisation (uniform within 1 / sqrt(inputs)), drawn from the seed."""
    images, spec, layers = task.images(), task.spec(), task.network()
    model, start = nn.Sequential(*map(_module, layers)), _initial(layers, Key(seed))
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
        store=Vectors(torch.cat([_values(task, part, progress) for part in (images.train, images.held)])),
        labels=np.concatenate([images.y, images.eval_y]),
        division=task.division(seed, public),
        eval_rows=np.arange(rows, rows + len(images.eval_y)),
        exporter=export,
    )


def _module(layer: networks.Layer) -> nn.Module:
    match layer.kind:
        case "linear":
            return linear(layer.weight[1], layer.weight[0])
        case "conv":
            out, into, *kernel = layer.weight
            return nn.utils.skip_init(nn.Conv2d, into, out, tuple(kernel), padding="same")
        case "norm":
            return nn.GroupNorm(math.gcd(8, layer.weight[0]), layer.weight[0])
        case "pool":
            return nn.MaxPool2d(2)
        case "flatten":
            return nn.Flatten()
        case "relu":
            return nn.ReLU()


def _initial(layers: Sequence[networks.Layer], key: Key) -> dict[str, Tensor]:
    start: dict[str, Tensor] = {}
    for name, leaf in networks.leaves(layers).items():
        layer = layers[int(name.partition(".")[0])]
        if layer.kind == "norm":
            start[name] = torch.full(leaf.shape, float(name.endswith("weight")))
        else:
            start[name] = uniform(key, name, leaf.shape, layer.inputs**-0.5)
    return start


def _values(task: ImageClassification, images: Pictures, progress: Progress | None) -> Tensor:
    """All images in memory, float32: ``[n, values]`` for an MLP, ``[n, channels, height, width]`` for a CNN."""
    rows = np.arange(len(images))
    if task.flat(images):
        return _unit(torch.as_tensor(np.asarray(images.pixels(rows)))).reshape(len(rows), -1)
    high, wide, channels = task.size()
    values = torch.empty(len(rows), channels, high, wide)
    for start in range(0, len(rows), _DECODED):
        part = rows[start : start + _DECODED]
        values[start : start + len(part)] = fit(images, part, (high, wide), channels)
        if progress is not None:
            progress(start + len(part), len(rows))
    return values.flatten(1) if task.model == "mlp" else values


# ---- a vision transformer ------------------------------------------------------------------------------------------


class PooledImage(nn.Module):
    """Vision transformer and pooling: ``[n, channels, side, side]`` to ``[n, d]``."""

    def __init__(self, encoder: nn.Module, *, pooling: str, tokens: int, rescaled: bool) -> None:
        super().__init__()
        self.encoder, self.pooling, self.tokens = encoder, pooling, tokens
        # ViT and kin say so when their position embeddings are to be scaled; DINOv2 does it by itself.
        self._options = {"interpolate_pos_encoding": True} if rescaled and _has_option(encoder) else {}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """One vector a row."""
        hidden = self.encoder(pixel_values=pixel_values, **self._options).last_hidden_state
        if hidden.dim() != 3 or hidden.shape[1] != self.tokens:
            raise Refused(
                f"task images needs a vision transformer that makes a class token and {self.tokens - 1} patches of an "
                f"image; this model's output is of shape {tuple(hidden.shape)}"
            )
        return hidden[:, 0] if self.pooling == "cls" else hidden[:, 1:].mean(1)


def _has_option(encoder: nn.Module) -> bool:
    import inspect

    return "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters


class Pixels:
    """Images decoded, scaled and normalised as they are asked for; a padding row is all zeros."""

    names = ("pixel_values",)

    def __init__(self, parts: Sequence[Pictures], size: tuple[int, int, int], mean: Tensor, std: Tensor) -> None:
        self._parts, self._size = parts, size
        self._mean, self._std = mean.view(-1, 1, 1), std.view(-1, 1, 1)

    def gather(self, rows: Ints, device: torch.device) -> dict[str, Tensor]:
        """``pixel_values [n, channels, side, side]``."""
        rows = np.asarray(rows)
        high, wide, channels = self._size
        values, start = torch.zeros(len(rows), channels, high, wide), 0
        for part in self._parts:
            mine = (rows >= start) & (rows < start + len(part))
            if mine.any():
                pixels = fit(part, rows[mine] - start, (high, wide), channels)
                values[torch.as_tensor(mine)] = (pixels - self._mean) / self._std
            start += len(part)
        return {"pixel_values": values.to(device)}

    def lengths(self, rows: Ints) -> Ints:
        """1 for every row: images are all of one size."""
        return np.ones(len(rows), dtype=np.int64)


def _pretrained(task: ImageClassification, seed: int, public: int, progress: Progress | None) -> Learner:
    from transformers import AutoModel

    folder, size, images = sources.resolve(task.model), task.size(), task.images()
    mean, std = _normalisation(folder, size[2])
    encoder: Any = load(AutoModel, folder, torch.float32)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    rescaled = size[0] != sources.config(task.model)["image_size"]
    pooled = PooledImage(encoder, pooling=task.pooling, tokens=task.tokens(), rescaled=rescaled)

    def describe(to: Path) -> None:
        how = {"classes": images.classes, "pooling": task.pooling, "model": task.model, "image_size": size[0]}
        how |= {"image_mean": mean.tolist(), "image_std": std.tolist()}
        (to / "head.json").write_text(json.dumps(how, indent=1) + "\n", encoding="utf-8")

    rows = Rows(
        store=Pixels((images.train, images.held), size, mean, std),
        labels=np.concatenate([images.y, images.eval_y]),
        held_out=len(images.eval_y),
        division=task.division(seed, public),
    )
    return encoder_learner(
        task.spec(), task.pretrained, folder, encoder, pooled, rows, seed=seed, describe=describe, progress=progress
    )


def _normalisation(folder: Path, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, ``[channels]``, from the model's ``preprocessor_config.json``."""
    file = folder / "preprocessor_config.json"
    table = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if table.get("do_normalize", True) is False:
        return torch.zeros(channels), torch.ones(channels)
    found = [table.get(key, [plain]) for key, plain in zip(("image_mean", "image_std"), _PLAIN, strict=True)]
    values = [list(value) if isinstance(value, (list, tuple)) else [value] for value in found]
    if any(len(value) not in (1, channels) for value in values):
        raise BadInput(f"{file}: image_mean and image_std must have {channels} values, got {values}")
    return torch.tensor(values[0]).expand(channels), torch.tensor(values[1]).expand(channels)


# ---- pixels --------------------------------------------------------------------------------------------------------


def fit(images: Pictures, rows: Ints, size: tuple[int, int], channels: int) -> Tensor:
    """``[n, channels, height, width]`` in [0, 1]: the whole of each image, bilinear with antialiasing."""
    pixels = images.pixels(rows)
    if isinstance(pixels, np.ndarray):
        return _scaled(pixels.reshape(len(rows), *images.extent), size, channels, images.source)
    return torch.cat([_scaled(image[None], size, channels, images.source) for image in pixels])


def _scaled(pixels: NDArray[Any], size: tuple[int, int], channels: int, source: str) -> Tensor:
    x = _channels(_unit(torch.as_tensor(pixels)).permute(0, 3, 1, 2), channels, source)
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _unit(x: Tensor) -> Tensor:
    """Floats in [0, 1]: integers are bytes."""
    return x.float() if x.is_floating_point() else x.float() / 255.0


def _channels(x: Tensor, channels: int, source: str) -> Tensor:
    """Grey to colour by repetition, colour to grey by its luma; an alpha channel is left out."""
    have = x.shape[1]
    if have == channels:
        return x
    if have in (2, 4):
        return _channels(x[:, : have - 1], channels, source)
    if have == 1:
        return x.expand(-1, channels, -1, -1)
    if channels == 1:
        return (x * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    raise BadInput(f"{source}: images have {have} channels, the model takes {channels}")
