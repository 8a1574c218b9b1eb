"""Client stacking by leaf swap: modules that own trainable parameters give way to twins with ``[K, ...]`` parameters.

The rest of an ordinary Hugging Face, PEFT or torch model is untouched: rows of all clients pass through it together,
``[K * b, ...]`` in client order, and only the twins know which rows belong to whom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedwave.core.errors import Refused


class Stack:
    """The stacked parameters of one model: ``[slots, ...]`` each, of which the first ``k`` are bound to the twins."""

    def __init__(self, model: nn.Module, leaf_paths: dict[str, str], slots: int) -> None:
        _refuse_coupling(model)
        parameters = dict(model.named_parameters())
        self.slots, self.k = slots, 0
        self.rows = 1  # rows per client in the forward pass at hand, set by whoever runs it
        self.names = list(leaf_paths)
        self.full: dict[str, Tensor] = {}
        self.params: dict[str, Tensor] = {}
        for name, path in leaf_paths.items():
            value = parameters[path].detach()
            self.full[name] = value.new_empty((slots, *value.shape), dtype=torch.float32)
        leaf_of = {id(parameters[path]): name for name, path in leaf_paths.items()}
        self._twins: list[tuple[nn.Module, dict[str, str]]] = []
        self.model = _swap(model, leaf_of, self)
        self.trains: set[str] = set(self.names)

    def register(self, twin: nn.Module, leaves: dict[str, str]) -> None:
        """Remember that ``twin`` holds leaf ``name`` under attribute ``attr``: ``{attr: name}``."""
        self._twins.append((twin, leaves))

    def bind(self, k: int) -> None:
        """Give the twins views of the first ``k`` slots; gradients are then ``[k, ...]``, updates land in ``full``."""
        if k == self.k:
            return
        self.k = k
        self.params = {
            name: value[:k].detach().requires_grad_(name in self.trains) for name, value in self.full.items()
        }
        for twin, leaves in self._twins:
            for attribute, name in leaves.items():
                setattr(twin, attribute, self.params[name])

    def train_only(self, names: set[str]) -> None:
        """Let gradients flow into ``names`` alone."""
        if names != self.trains:
            self.trains, self.k = set(names), 0


class ClientLinear(nn.Module):
    """Linear layer with one weight per client; input rows ``[k * b, ..., d_in]`` in client order."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, stack: Stack) -> None:
        super().__init__()
        self.in_features, self.out_features, self.stack = linear.in_features, linear.out_features, stack
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """``y_k = x_k W_k^T + b_k``."""
        rows = x.reshape(self.stack.k, -1, self.in_features)
        weight = self.weight.transpose(1, 2)
        y = torch.bmm(rows, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], rows, weight)
        return y.view(*x.shape[:-1], self.out_features)


class ClientEmbedding(nn.Module):
    """Embedding with one table per client; ids ``[k * b, s]``, or ``[1, s]`` for all."""

    weight: Tensor

    def __init__(self, embedding: nn.Embedding, stack: Stack) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.stack = stack

    def forward(self, ids: Tensor) -> Tensor:
        """Row ``ids + slot * vocabulary`` of the joined table."""
        k = self.stack.k
        per_client = ids.expand(k, *ids.shape[1:]) if ids.shape[0] == 1 else ids
        slot = torch.arange(k, device=ids.device).repeat_interleave(per_client.shape[0] // k)
        joined = self.weight.reshape(k * self.num_embeddings, self.embedding_dim)
        out = F.embedding(per_client + (slot * self.num_embeddings).view(-1, *[1] * (ids.dim() - 1)), joined)
        return out.repeat_interleave(self.stack.rows, 0) if ids.shape[0] == 1 else out


class Vmapped(nn.Module):
    """Any other module that owns trainable parameters, mapped over clients by ``torch.func.vmap``."""

    def __init__(self, module: nn.Module, stack: Stack, names: list[str]) -> None:
        super().__init__()
        self._template, self._names, self.stack = [module], names, stack
        for name in names:
            setattr(self, _attribute(name), None)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_template"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``module_k(x_k)`` for all clients at once."""
        k, rows = self.stack.k, self.stack.k * self.stack.rows
        params = {name: self.__dict__[_attribute(name)] for name in self._names}

        def split(x: Any) -> Any:
            return x.reshape(k, -1, *x.shape[1:]) if isinstance(x, Tensor) and x.dim() and x.shape[0] == rows else x

        def axis(x: Any) -> int | None:
            return 0 if isinstance(x, Tensor) and x.dim() and x.shape[0] == rows else None

        def one(params: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return torch.func.functional_call(self._template[0], params, args, kwargs)

        mapped = torch.func.vmap(
            one, in_dims=(0, tuple(axis(x) for x in args), {name: axis(x) for name, x in kwargs.items()})
        )
        out = mapped(params, tuple(split(x) for x in args), {name: split(x) for name, x in kwargs.items()})
        return out.reshape(-1, *out.shape[2:])


def _attribute(name: str) -> str:
    return "leaf__" + name.replace(".", "__")


def _swap(model: nn.Module, leaf_of: dict[int, str], stack: Stack) -> nn.Module:
    """Replace every module that owns leaves, the outermost first; returns the model (a twin where it is a leaf)."""
    for path, module in list(model.named_modules()):
        owned = {name: leaf_of[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in leaf_of}
        if not owned or _inside_twin(model, path):
            continue
        twin = _twin(module, owned, leaf_of, stack)
        if not path:
            return twin
        parent = model.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], twin)
    return model


def _inside_twin(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return True
    return False


def _twin(module: nn.Module, owned: dict[str, str], leaf_of: dict[int, str], stack: Stack) -> nn.Module:
    whole = set(owned) == {name for name, _ in module.named_parameters(recurse=False)}
    fast: dict[type, Callable[..., nn.Module]] = {nn.Linear: ClientLinear, nn.Embedding: ClientEmbedding}
    plain = not (isinstance(module, nn.Embedding) and module.max_norm is not None)
    if whole and plain and type(module) in fast:
        twin = fast[type(module)](module, stack)
        stack.register(twin, owned)
        return twin
    inner = {name: leaf_of[id(p)] for name, p in module.named_parameters() if id(p) in leaf_of}
    twin = Vmapped(module, stack, list(inner))
    stack.register(twin, {_attribute(name): leaf for name, leaf in inner.items()})
    return twin


def _refuse_coupling(model: nn.Module) -> None:
    """Raise :class:`Refused` for layers through which one client's rows would change another's result."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise Refused(
                f"{path} ({type(module).__name__}) in training mode mixes the rows of different clients; "
                "use GroupNorm or LayerNorm, or freeze it in eval mode"
            )
    config = getattr(model, "config", None)
    if getattr(config, "router_aux_loss_coef", 0) and getattr(config, "output_router_logits", False):
        raise Refused(
            "the model's mixture-of-experts auxiliary loss mixes the rows of different clients; "
            "set output_router_logits = false in its config"
        )
