"""Twins: modules that hold one set of trained parameters per client and take the rows of all clients at once.

A twin stands where an ordinary module stood. Its rows come in client order, ``[K * b, ...]``, and go out the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fedwave.core.errors import Refused

if TYPE_CHECKING:
    from fedwave.engines.stacked.stacking import Stack


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
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(x.device.type):  # which would not reach the backward pass of a function
            kind = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
        y = _Affine.apply(x.reshape(weight.shape[0], -1, self.in_features), weight, bias)
        return y.view(*x.shape[:-1], self.out_features)


class _Affine(torch.autograd.Function):
    """``x W^T + b`` of each client, with a weight gradient that lies as the weight does.

    Autograd's own comes out transposed, and the optimiser would copy it at every step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = _product(x, weight.transpose(1, 2))
        return y if bias is None else y.add_(bias[:, None])

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(grad[0], weight) if to_x else None,
            _product(grad[0].transpose(1, 2), x) if to_weight else None,
            grad[0].sum(1) if to_bias else None,
        )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a_k b_k``, contiguous. A CPU's library is slow at narrow results, so those are made lying on their side."""
    if a.device.type == "cpu" and 4 * b.shape[2] <= a.shape[1]:
        return torch.bmm(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2).contiguous()
    return torch.bmm(a, b)


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


class ClientConv(nn.Module):
    """Convolution with one kernel per client; input rows ``[k * b, c_in, ...]`` in client order."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, stack: Stack) -> None:
        super().__init__()
        self.stack, self.groups, self.bias = stack, conv.groups, None
        self._convolve: Callable[..., Tensor] = F.conv1d if isinstance(conv, nn.Conv1d) else F.conv2d
        self._how = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}

    def forward(self, x: Tensor) -> Tensor:
        """The clients' channels side by side, ``[b, k * c_in, ...]``, as groups of one convolution."""
        k, x = self.stack.k, self.stack.spread(x, "a convolution")
        apart = x.reshape(k, -1, *x.shape[1:]).transpose(0, 1)
        bias = None if self.bias is None else self.bias.flatten()
        y = self._convolve(apart.flatten(1, 2), self.weight.flatten(0, 1), bias, groups=k * self.groups, **self._how)
        return y.unflatten(1, (k, -1)).transpose(0, 1).flatten(0, 1)


class Vmapped(nn.Module):
    """Any other module that owns trainable parameters, mapped over clients by ``torch.func.vmap``.

    Where ``vmap`` has no rule for what the module does, it is called for one client after another instead.
    """

    def __init__(self, module: nn.Module, stack: Stack, names: list[str]) -> None:
        super().__init__()
        self._template, self._names, self.stack = [module], names, stack
        self._looped = isinstance(module, (nn.RNNBase, nn.MultiheadAttention))
        for name in names:
            setattr(self, attribute(name), None)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_template"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``module_k(x_k)`` for all clients."""
        params = {name: self.__dict__[attribute(name)] for name in self._names}
        if self.stack.k == 1:
            own = {name: value[0] for name, value in params.items()}
            return torch.func.functional_call(self._template[0], own, args, kwargs)
        if not self._looped:
            try:
                return self._mapped(params, args, kwargs)
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self._looped = True  # vmap has no rule for it; a fault of the module's own is raised again below
        return self._one_after_another(params, args, kwargs)

    def _mapped(self, params: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
        k = self.stack.k
        leaves, tree, rows = self._inputs(args, kwargs)
        axes = [0 if isinstance(x, Tensor) and x.dim() and x.shape[0] == rows else None for x in leaves]
        split = [x if axis is None else x.reshape(k, -1, *x.shape[1:]) for x, axis in zip(leaves, axes, strict=True)]

        def one(params: dict[str, Tensor], *leaves: Any) -> Any:
            args, kwargs = tree_unflatten(leaves, tree)
            return torch.func.functional_call(self._template[0], params, args, kwargs)

        out = torch.func.vmap(one, in_dims=(0, *axes), randomness="different")(params, *split)
        return tree_map(lambda x: x.reshape(-1, *x.shape[2:]), out)

    def _one_after_another(self, params: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
        """Recurrent layers keep the rows of their states in the second axis; all else has them in the first."""
        k, module = self.stack.k, self._template[0]
        if not getattr(module, "batch_first", True):
            raise Refused(
                f"a {type(module).__name__} that is trained must have batch_first = True for clients to be stacked; "
                "set it, or engine.max_clients = 1"
            )
        leaves, tree, rows = self._inputs(args, kwargs)
        recurrent = isinstance(module, nn.RNNBase)
        states = [recurrent and number > 0 for number in range(len(leaves))]
        split = [_chunks(x, k, int(state), rows) for x, state in zip(leaves, states, strict=True)]
        found = []
        for client in range(k):
            own = {name: value[client] for name, value in params.items()}
            inputs, options = tree_unflatten([x[client] for x in split], tree)
            found.append(tree_flatten(torch.func.functional_call(module, own, inputs, options)))
        joined = [
            torch.cat(values, dim=int(recurrent and number > 0)) if isinstance(values[0], Tensor) else values[0]
            for number, values in enumerate(zip(*(leaves for leaves, _ in found), strict=True))
        ]
        return tree_unflatten(joined, found[0][1])

    def _inputs(self, args: Any, kwargs: Any) -> tuple[list[Any], Any, int]:
        """The call's arguments as a flat list, their structure, and the rows of the first tensor among them."""
        leaves, tree = tree_flatten((args, kwargs))
        first = next(i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.dim())
        leaves[first] = self.stack.spread(leaves[first], f"a {type(self._template[0]).__name__}")
        return leaves, tree, leaves[first].shape[0]


def _chunks(x: Any, k: int, axis: int, rows: int) -> Sequence[Any]:
    """``x`` for each of ``k`` clients: its share of the rows, or all of it where it has none."""
    apart = isinstance(x, Tensor) and x.dim() > axis and x.shape[axis] == rows
    return x.chunk(k, axis) if apart else [x] * k


def attribute(name: str) -> str:
    """The attribute of a :class:`Vmapped` that holds the parameter ``name`` of its module."""
    return "leaf__" + name.replace(".", "__")


def fast(module: nn.Module) -> Callable[[Any, Stack], nn.Module] | None:
    """The twin made for just this type of layer; ``None`` where :class:`Vmapped` must do."""
    if type(module) is nn.Linear:
        return ClientLinear
    if type(module) is nn.Embedding and module.max_norm is None:
        return ClientEmbedding
    if type(module) in (nn.Conv1d, nn.Conv2d) and module.padding_mode == "zeros":
        return ClientConv
    return None
