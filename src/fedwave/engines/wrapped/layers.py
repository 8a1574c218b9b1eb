"""A model's list of layers: where its frozen part ends, how to stop there, and how to play it back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedwave.core.errors import BadInput, Refused
from fedwave.tasks.learner import Learner

_COMPILED = 64  # variants of one layer's code


def layers_path(model: nn.Module) -> str | None:
    """Path of the model's longest list of layers; ``None`` where it has none."""
    lists = {p: len(m) for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1}
    outer = [path for path in lists if not any(path.startswith(other + ".") for other in lists)]
    return max(outer, key=lists.__getitem__, default=None)


def compile_layers(model: nn.Module) -> None:
    """Have ``torch.compile`` take care of each layer of ``model`` (of all of it where it has no list of layers).

    Layers are alike, so that one is compiled and the others find its code: PyTorch's regional compilation. Sizes are
    symbols in it, because passes differ in rows, tokens and clients.

    Raises :class:`BadInput` where nothing can be compiled.
    """
    _check_compiler(next((value.device for value in model.parameters()), torch.device("cpu")))
    # Layers with adapters and without, with one client and several, in training and not: more than torch's limit of 8.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _COMPILED)
    for text in ("`torch.jit", "The .grad attribute of a Tensor that is not a leaf"):
        warnings.filterwarnings("ignore", message=re.escape(text))  # torch's, of its own doing while it compiles
    path = layers_path(model)
    for part in [model] if path is None else cast(nn.ModuleList, model.get_submodule(path)):
        part.compile(dynamic=True)


class _Probe(nn.Module):
    """Not of torch's own modules, which are compiled only as parts of others."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() + 1.0


def _check_compiler(device: torch.device) -> None:
    """Compile next to nothing, to know before the first round whether that works."""
    probe = _Probe()
    probe.compile(dynamic=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe(torch.ones(4, device=device))
    except Exception as error:  # whatever a backend or its toolchain raises
        cause = getattr(error, "inner_exception", error)
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise BadInput(
            f"engine.compile: torch.compile does not work here ({reason}); install what it needs (a C++ compiler on a "
            "CPU), or set engine.compile=false"
        ) from None


def frozen_layers(learner: Learner) -> tuple[str, int]:
    """Path of the model's list of layers, and how many of them lie below the first that holds a leaf.

    Raises :class:`Refused` where the model has no such list or nothing in it is frozen.
    """
    path = layers_path(learner.model)
    if path is None:
        raise Refused("prefix cache: the model has no list of layers, so no frozen prefix; leave the cache off")
    inside = [leaf[len(path) + 1 :] for leaf in learner.leaf_paths.values() if leaf.startswith(path + ".")]
    layers = len(cast(nn.ModuleList, learner.model.get_submodule(path)))
    cut = min((int(rest.partition(".")[0]) for rest in inside), default=layers)
    if not cut:
        raise Refused("prefix cache: the first layer is trained, so nothing is frozen; adapt the last layers alone")
    return path, cut


def output_of(layer: nn.Module, run: Callable[[], Any]) -> Any:
    """What ``layer`` makes in the forward pass ``run``, which ends there; ``None`` where it is not reached."""
    caught: list[Any] = []

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.append(output)
        raise _Caught

    hook = layer.register_forward_hook(catch)
    try:
        run()
    except _Caught:
        pass
    finally:
        hook.remove()
    return caught[0] if caught else None


@contextmanager
def played(layers: nn.ModuleList, twins: list[Skipped], output: Tensor) -> Iterator[None]:
    """``output`` in the place of what the first layers make, as many as there are ``twins`` of them."""
    real = list(layers[: len(twins)])
    twins[-1].output = output
    try:
        for number, twin in enumerate(twins):
            layers[number] = twin
        yield
    finally:
        for number, layer in enumerate(real):
            layers[number] = layer
        twins[-1].output = None


class _Caught(Exception):
    """The output is known; the rest of the forward pass is not needed."""


class Skipped(nn.Module):
    """Stands for a frozen layer during playback: passes its input on, or ``output`` in its place."""

    output: Tensor | None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer, self.output = [layer], None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # some models read a layer's kind of attention
            return getattr(self.__dict__["_layer"][0], name)

    def forward(self, *args: Any, hidden_states: Any = None, **kwargs: Any) -> Any:
        """The kept activations, or what came in."""
        passed = args[0] if args else hidden_states
        if self.output is not None and passed.shape != self.output.shape:
            raise Refused(
                f"prefix cache: kept activations {tuple(self.output.shape)} for a batch of {tuple(passed.shape)}"
            )
        return passed if self.output is None else self.output
