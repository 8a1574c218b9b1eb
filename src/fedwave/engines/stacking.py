"""Client stacking by leaf swap: modules that own trainable parameters give way to twins with ``[K, ...]`` parameters.

The rest of an ordinary Hugging Face, PEFT or torch model is untouched: rows of all clients pass through it together,
``[K * b, ...]`` in client order, and only the twins know which rows belong to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

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

    def spread(self, x: Tensor, layer: str) -> Tensor:
        """``x`` with the rows of all clients first: ``[1, ...]`` is shared by all rows. Raises :class:`Refused`."""
        rows = self.k * self.rows
        if self.k == 1:
            return x  # everything is this client's
        if x.shape[0] == 1:
            return x.expand(rows, *x.shape[1:])
        if x.shape[0] % rows:
            raise Refused(
                f"{layer} that is trained gets an input of shape {tuple(x.shape)} in a batch of {rows} rows: "
                "it does not say which rows are whose, so clients cannot be stacked; set engine.max_clients = 1"
            )
        return x

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
        x = self.stack.spread(x, "a linear layer")
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
        self.padding_idx, self.stack = embedding.padding_idx, stack

    def forward(self, ids: Tensor) -> Tensor:
        """Row ``ids + slot * vocabulary`` of the joined table; the padding row learns nothing, as in torch."""
        k, ids = self.stack.k, self.stack.spread(ids, "an embedding")
        slot = torch.arange(k, device=ids.device).repeat_interleave(ids.shape[0] // k)
        joined = self.weight.reshape(k * self.num_embeddings, self.embedding_dim)
        out = F.embedding(ids + (slot * self.num_embeddings).view(-1, *[1] * (ids.dim() - 1)), joined)
        return out if self.padding_idx is None else torch.where((ids == self.padding_idx)[..., None], out.detach(), out)


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
        k, params = self.stack.k, {name: self.__dict__[_attribute(name)] for name in self._names}
        leaves, tree = tree_flatten((args, kwargs))
        first = next(i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.dim())
        leaves[first] = self.stack.spread(leaves[first], f"a {type(self._template[0]).__name__}")
        rows = leaves[first].shape[0]
        axes = [0 if isinstance(x, Tensor) and x.dim() and x.shape[0] == rows else None for x in leaves]
        split = [x if axis is None else x.reshape(k, -1, *x.shape[1:]) for x, axis in zip(leaves, axes, strict=True)]

        def one(params: dict[str, Tensor], *leaves: Any) -> Any:
            args, kwargs = tree_unflatten(leaves, tree)
            return torch.func.functional_call(self._template[0], params, args, kwargs)

        out = torch.func.vmap(one, in_dims=(0, *axes))(params, *split)
        return tree_map(lambda x: x.reshape(-1, *x.shape[2:]), out)


class Looped(Vmapped):
    """A module that ``vmap`` has no rule for, called for one client after another.

    Recurrent layers keep the rows of their states in the second axis; all else has them in the first.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``module_k(x_k)`` client by client. Raises :class:`Refused` where rows do not come first."""
        k, module = self.stack.k, self._template[0]
        if k > 1 and not module.batch_first:
            raise Refused(
                f"a {type(module).__name__} that is trained must have batch_first = True for clients to be stacked; "
                "set it, or engine.max_clients = 1"
            )
        leaves, tree = tree_flatten((args, kwargs))
        leaves[0] = self.stack.spread(leaves[0], f"a {type(module).__name__}")
        rows, recurrent = leaves[0].shape[0], isinstance(module, nn.RNNBase)
        states = [recurrent and number > 0 for number in range(len(leaves))]
        split = [_chunks(x, k, int(state), rows) for x, state in zip(leaves, states, strict=True)]
        found = []
        for client in range(k):
            own = {name: self.__dict__[_attribute(name)][client] for name in self._names}
            inputs, options = tree_unflatten([x[client] for x in split], tree)
            found.append(tree_flatten(torch.func.functional_call(module, own, inputs, options)))
        joined = [
            torch.cat(values, dim=int(recurrent and number > 0)) if isinstance(values[0], Tensor) else values[0]
            for number, values in enumerate(zip(*(leaves for leaves, _ in found), strict=True))
        ]
        return tree_unflatten(joined, found[0][1])


def _chunks(x: Any, k: int, axis: int, rows: int) -> Sequence[Any]:
    """``x`` for each of ``k`` clients: its share of the rows, or all of it where it has none."""
    apart = isinstance(x, Tensor) and x.dim() > axis and x.shape[axis] == rows
    return x.chunk(k, axis) if apart else [x] * k


def _attribute(name: str) -> str:
    return "leaf__" + name.replace(".", "__")


def _swap(model: nn.Module, leaf_of: dict[int, str], stack: Stack) -> nn.Module:
    """Replace every module that owns leaves, the outermost first; returns the model (a twin where it is a leaf)."""
    twins: dict[int, nn.Module] = {}  # a module may stand at several places
    for path, module in list(model.named_modules(remove_duplicate=False)):
        owned = {name: leaf_of[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in leaf_of}
        if not owned or _inside_twin(model, path):
            continue
        twin = twins[id(module)] = twins.get(id(module)) or _twin(module, owned, leaf_of, stack)
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
    kind = Looped if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) else Vmapped
    twin = kind(module, stack, list(inner))
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
