"""The learner of a user's own module: its data as rows, its cost by measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.types import Ints, Leaf, Spec
from fedwave.tasks.custom import Problem
from fedwave.tasks.data import HELD_OUT
from fedwave.tasks.learner import Batch, Learner
from fedwave.tasks.learners.weights import adopt, write_weights
from fedwave.tasks.task import Division

_NAMES = ("x", "y", "z")
_PROBED = 2  # rows that the cost is measured on: with one, a product over rows could pass for one over a row
COUNTED = "arithmetic and memory were measured on the module by torch: products, convolutions and attention only"


@dataclass(frozen=True)
class Data:
    """Rows 0 ... ``trained`` - 1 to train on, those after them held out; ``columns`` of the training rows."""

    parts: tuple[Any, ...]
    starts: Ints
    index: Ints
    trained: int
    columns: dict[str, list[Any]]

    def gather(self, rows: Ints) -> Batch:
        """Tensors of the given rows, ``[n, ...]`` each."""
        at = self.index[rows]
        part = np.searchsorted(self.starts, at, side="right") - 1
        if len(self.parts) == 1 and isinstance(self.parts[0], dict):
            place = torch.as_tensor(at)
            return {name: value[place] for name, value in self.parts[0].items()}
        return default_collate([_item(self.parts[p], int(i - self.starts[p])) for p, i in zip(part, at, strict=True)])


def _item(part: Any, row: int) -> dict[str, Any]:
    if isinstance(part, dict):
        return {name: value[row] for name, value in part.items()}
    item = part[row]
    if isinstance(item, Mapping):
        return dict(item)
    return dict(zip(_NAMES, item if isinstance(item, (tuple, list)) else (item,), strict=False))


def read(problem: Problem, source: str, fraction: float) -> Data:
    """The problem's rows. Raises :class:`BadInput` where they are of unequal number, absent, or lack an input."""
    own = _clients(problem.data)
    clients = [_part(rows, f"{source}: data of client {number}") for number, rows in enumerate(own or [problem.data])]
    if own and all(isinstance(part, dict) for part in clients):
        clients_of = np.repeat(np.arange(len(clients)), [_size(part) for part in clients])
        clients = [{name: torch.cat([part[name] for part in clients]) for name in clients[0]}]
    else:
        clients_of = np.repeat(np.arange(len(clients)), [_size(part) for part in clients])
    parts = [*clients, *([] if problem.eval_data is None else [_part(problem.eval_data, f"{source}: eval_data")])]
    if problem.eval_data is not None and all(isinstance(part, dict) for part in parts):
        parts = [{name: torch.cat([part[name] for part in parts]) for name in parts[0]}]
    total, rows = sum(map(_size, parts)), len(clients_of)
    kept, held = np.arange(rows), np.arange(rows, total)
    if problem.eval_data is None:
        drawn = HELD_OUT.fold("custom").uniform(np.arange(rows))[:, 0]
        out = np.argsort(drawn, kind="stable")[: int(np.ceil(fraction * rows))]
        kept, held = np.setdiff1d(kept, out), np.sort(out)
    if not len(kept) or not len(held):
        raise BadInput(f"{source}: {rows} rows cannot be divided with eval_fraction = {fraction}; give eval_data")
    columns = _columns(problem, parts, rows, source)
    columns |= {"client": [f"{client:09d}" for client in clients_of]} if own else {}
    starts = np.concatenate([[0], np.cumsum([_size(part) for part in parts])[:-1]]).astype(np.int64)
    data = Data(
        tuple(parts),
        starts,
        np.concatenate([kept, held]),
        len(kept),
        {n: [v[i] for i in kept] for n, v in columns.items()},
    )
    batch = data.gather(np.zeros(1, dtype=np.int64))
    for name in problem.inputs:
        if name not in batch:
            raise BadInput(
                f"{source}: the data have no {name!r} to call the model with (they have: {', '.join(batch)})"
            )
    return data


def _clients(data: Any) -> list[Any] | None:
    """The clients' own data, where ``data`` is a list of them; a list of tuples is a list of rows."""
    if not isinstance(data, list) or (data and isinstance(data[0], tuple)):
        return None
    if not data:
        raise BadInput("data: the list of the clients' data is empty")
    return list(data)


def _part(rows: Any, source: str) -> Any:
    """Tables become tensors of equal length; data sets stay as they are."""
    if not isinstance(rows, Mapping):
        if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
            raise BadInput(f"{source} must be arrays by name or a data set with len and [i], got {rows!r:.60}")
        if not len(rows):
            raise BadInput(f"{source} holds no rows")
        return rows
    tensors = {name: torch.as_tensor(value) for name, value in rows.items()}
    sizes = {name: len(value) if value.dim() else 0 for name, value in tensors.items()}
    if not sizes or min(sizes.values()) == 0 or len(set(sizes.values())) > 1:
        raise BadInput(f"{source} must hold arrays with one entry per row, as many each, got {sizes}")
    return {n: v.float() if v.dtype == torch.float64 else v for n, v in tensors.items()}


def _size(part: Any) -> int:
    return len(next(iter(part.values()))) if isinstance(part, dict) else len(part)


def _columns(problem: Problem, parts: Sequence[Any], rows: int, source: str) -> dict[str, list[Any]]:
    columns = {name: list(values) for name, values in problem.columns.items()}
    for name, values in columns.items():
        if len(values) != rows:
            raise BadInput(f"{source}: column {name!r} has {len(values)} values, the data have {rows} rows")
    if isinstance(parts[0], dict):
        columns |= {name: value[:rows].tolist() for name, value in parts[0].items() if value.dim() == 1}
    return columns


# ---- cost ----------------------------------------------------------------------------------------------------------


def make(problem: Problem, seed: int) -> nn.Module:
    """The module with initial values that follow from the seed; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(seed).fold("initial").value >> 1)
        model = problem.model()
    if not isinstance(model, nn.Module):
        raise BadInput(f"the model of a custom task must make a torch.nn.Module, got {model!r:.60}")
    return model.eval()


def _call(problem: Problem, model: nn.Module, batch: Batch) -> Any:
    """What the module gives. Torch's fused attention for inference is off: it reads weights past the layers' own
    forward, where a stack of clients has its own.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return model(*(batch[name] for name in problem.inputs))
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def measure(problem: Problem, data: Data, source: str) -> Spec:
    """Shapes and cost of the module, on torch's meta device, or on the CPU where it cannot be built there."""
    batch = data.gather(np.zeros(_PROBED, dtype=np.int64))
    try:
        with torch.device("meta"):
            model = make(problem, 0)
        return _measured(problem, model, {name: value.to("meta") for name, value in batch.items()}, source)
    except BadInput:
        raise
    except Exception:  # what needs values (a loop over data, a loaded file) cannot run on the meta device
        return _measured(problem, make(problem, 0), batch, source)


def _measured(problem: Problem, model: nn.Module, batch: Batch, source: str) -> Spec:
    _refuse(model, source)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise BadInput(f"{source}: no parameter of the model requires grad, so there is nothing to train")
    own = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other storage takes its place
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor), FlopCounterMode(display=False) as count:
        output = _call(problem, model, batch)
        forward = count.get_total_flops()
        losses = problem.loss(output, batch)
        _check_losses(losses, source)
        losses.sum().backward()
    total = count.get_total_flops()
    activations = sum(storage.nbytes() for storage in kept.values()) / _PROBED
    frozen = [t for t in [*model.parameters(), *model.buffers()] if not t.requires_grad]
    one = isinstance(output, Tensor) and output.dim() > 0 and output.shape[0] == _PROBED
    return Spec(
        trainable={name: Leaf(tuple(value.shape)) for name, value in trained.items()},
        model_parameters=sum(value.numel() for value in model.parameters()),
        base_bytes=sum(value.numel() * value.element_size() for value in frozen),
        forward_flops=forward / _PROBED,
        backward_flops=(total - forward) / _PROBED,
        activation_bytes=activations,
        output=Leaf(tuple(output.shape[1:])) if one else None,
        inference_bytes=activations,
        assumptions=(COUNTED,),
    )


def _check_losses(losses: Any, source: str) -> None:
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else losses
    if shape != (_PROBED,):
        raise BadInput(
            f"{source}: the loss must give one value for each row, [n]; for {_PROBED} rows it gave {shape!r:.60} "
            f"(use reduction='none' and average over everything but the rows)"
        )


def _refuse(model: nn.Module, source: str) -> None:
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            not module.track_running_stats or any(p.requires_grad for p in module.parameters())
        ):
            raise Refused(
                f"{source}: {path or 'the model'} ({type(module).__name__}) mixes the rows of different clients when "
                f"it is trained; use GroupNorm or LayerNorm, or freeze it with requires_grad_(False)"
            )


# ---- training ------------------------------------------------------------------------------------------------------


class CustomLearner(Learner):
    """Rows of a :class:`Problem` through its module and loss."""

    def __init__(self, problem: Problem, data: Data, spec: Spec, division: Division, seed: int) -> None:
        self.spec, self._problem, self._data = spec, problem, data
        self.model = make(problem, seed)
        named = dict(self.model.named_parameters())
        self.leaf_paths, self.base_paths = {name: name for name in spec.trainable}, {}
        self.initial = {name: named[name].detach().clone().float() for name in spec.trainable}
        adopt(self.model, self.leaf_paths, self.initial)
        self._rest = {n: v for n, v in self.model.state_dict().items() if n not in self.initial}
        self.order, self.offsets, self.public_rows = division.order, division.offsets, division.public
        self.eval_rows = np.arange(data.trained, len(data.index))

    def batch(self, rows: Ints) -> Batch:
        """The problem's columns, and ``weight``: a padding row is a copy of row 0 that weighs nothing."""
        rows, device = np.asarray(rows), self.device
        gathered = tree_map(
            lambda value: value.to(device) if isinstance(value, Tensor) else value,
            self._data.gather(np.maximum(rows, 0)),
        )
        return gathered | {"weight": torch.as_tensor(rows >= 0, dtype=torch.float32, device=device)}

    def predict(self, batch: Batch) -> Any:
        """What the module gives."""
        return _call(self._problem, self.model, batch)

    def row_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The problem's loss of each row; see :meth:`Learner.row_losses`."""
        return self._weighed(self._problem.loss(self.predict(batch), batch), batch), batch["weight"]

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Half the mean squared difference of each row."""
        return 0.5 * (predicted - target).square().flatten(1).mean(1)

    def score(self, batch: Batch) -> tuple[dict[str, float], float]:
        """See :meth:`Learner.score`; the problem's metrics beside the loss."""
        output = self.predict(batch)
        found = {"loss": self._problem.loss(output, batch)}
        found |= {} if self._problem.metrics is None else self._problem.metrics(output, batch)
        sums = {name: float(self._weighed(value, batch).double().sum()) for name, value in found.items()}
        return sums, float(batch["weight"].sum())

    def export(
        self, folder: Path, params: dict[str, Tensor], base: list[dict[str, tuple[Tensor, Tensor]]] | None = None
    ) -> None:
        """``model.safetensors``: the module's ``state_dict``."""
        write_weights(folder, self._rest | params)

    @staticmethod
    def _weighed(values: Tensor, batch: Batch) -> Tensor:
        return torch.where(batch["weight"] > 0, values.float(), 0.0)
