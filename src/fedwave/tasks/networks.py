"""Small image networks as planning sees them: a list of layers, their leaves and arithmetic. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fedwave.core.errors import BadInput
from fedwave.core.types import Leaf, Leaves, Spec

Kind = Literal["linear", "conv", "norm", "relu", "pool", "flatten"]


@dataclass(frozen=True)
class Layer:
    """One layer of an ``nn.Sequential``.

    Parameters
    ----------
    weight : shape of its weight, ``()`` where it has none; there is a bias of the first dimension beside it.
    values : values that it gives for one image, as far as they are kept for the backward pass (ReLU works in place).
    products : multiply-adds for one image.
    """

    kind: Kind
    weight: tuple[int, ...] = ()
    values: int = 0
    products: int = 0

    @property
    def inputs(self) -> int:
        """Values that one output is a product over."""
        return math.prod(self.weight[1:])


def mlp(inputs: int, widths: Sequence[int], classes: int) -> list[Layer]:
    """Linear layers with ReLU between them, over flat images of ``inputs`` values."""
    layers: list[Layer] = []
    for into, out in zip([inputs, *widths], [*widths, classes], strict=True):
        layers += [Layer("linear", (out, into), out, out * into), Layer("relu")]
    return layers[:-1]


def cnn(shape: tuple[int, int, int], channels: Sequence[int], classes: int) -> list[Layer]:
    """Blocks of 3 x 3 convolution, group normalisation, ReLU and 2 x 2 max pooling, then a linear head.

    Group normalisation, because batch statistics differ between clients with different data and mix the rows of a
    stacked group (Hsieh et al., "The non-IID data quagmire", ICML 2020).

    Parameters
    ----------
    shape : height, width and channels of an image.

    Raises
    ------
    BadInput : more blocks than the image can be halved.
    """
    high, wide, into = shape
    layers: list[Layer] = []
    for out in channels:
        pixels = high * wide
        layers += [
            Layer("conv", (out, into, 3, 3), out * pixels, 9 * into * out * pixels),
            Layer("norm", (out,), out * pixels),
            Layer("relu"),
            Layer("pool", (), out * (high // 2) * (wide // 2)),
        ]
        high, wide, into = high // 2, wide // 2, out
        if not high * wide:
            raise BadInput(
                f"hidden: {len(channels)} blocks halve an image of {shape[0]} x {shape[1]} pixels to nothing"
            )
    inputs = high * wide * into
    return [*layers, Layer("flatten"), Layer("linear", (classes, inputs), classes, classes * inputs)]


def leaves(layers: Sequence[Layer]) -> Leaves:
    """Every parameter, named as in the ``nn.Sequential``."""
    found: Leaves = {}
    for index, layer in enumerate(layers):
        if layer.weight:
            found |= {f"{index}.weight": Leaf(layer.weight), f"{index}.bias": Leaf(layer.weight[:1])}
    return found


def spec(layers: Sequence[Layer], inputs: int, *, head_only: bool) -> Spec:
    """Backward costs two forward passes, or one of the last layer where only that is trained."""
    every, products = leaves(layers), [2.0 * layer.products for layer in layers]
    trainable = dict(list(every.items())[-2:]) if head_only else every
    parameters = sum(leaf.size for leaf in every.values())
    head, kept = layers[-1], [inputs, *(layer.values for layer in layers if layer.values)]
    return Spec(
        trainable=trainable,
        model_parameters=parameters,
        base_bytes=4 * (parameters - sum(leaf.size for leaf in trainable.values())),
        forward_flops=sum(products),
        backward_flops=products[-1] if head_only else 2.0 * sum(products),
        activation_bytes=4.0 * (head.inputs + head.values if head_only else sum(kept)),
        output=Leaf((head.values,)),
        inference_bytes=4.0 * max(_neighbours(kept)),
        assumptions=("arithmetic counts matrix products and convolutions only",),
    )


def _neighbours(values: Sequence[int]) -> Iterator[int]:
    """What a layer reads and writes."""
    return (before + after for before, after in zip(values, values[1:], strict=False))
