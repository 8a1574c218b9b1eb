"""Replies through the uplink transforms: what the server decodes, what a client must remember, what is on the air."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core import tree
from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Ints, Leaves, Schema, Spec, at_rank

if TYPE_CHECKING:
    from torch import Tensor

    from fedwave.methods.method import Method
    from fedwave.transforms.chain import Chain

METHOD = "method/"  # prefix of a method's own leaves in a client's memory; residuals have their part's name


def memory_leaves(method: Method, up: Chain, spec: Spec) -> Leaves:
    """What every client keeps on its device: the method's memory, and error feedback of each part."""
    leaves = {METHOD + name: leaf for name, leaf in method.memory(spec).items()}
    for part, content in method.uplink(spec).items():
        kept = up.memory_leaves(content.leaves) if content.increment else {}
        leaves |= {f"{part}/{name}": leaf for name, leaf in kept.items()}
    return leaves


def encode(
    up: Chain, schema: Schema, parts: Any, residual: tree.Tree, cohort: Cohort, key: Key
) -> tuple[Any, tree.Tree, tree.Tree]:
    """What the server decodes, the residuals if heard, and if lost. Ranks go apart: sizes follow from them."""
    import torch

    if not up.transforms:
        return parts, {}, {}
    decoded = {name: tree.map(torch.zeros_like, leaves) for name, leaves in parts.items()}
    heard, lost = tree.map(torch.clone, residual), tree.map(torch.clone, residual)
    for rank in np.unique(cohort.rank):
        at = torch.as_tensor(np.flatnonzero(cohort.rank == rank))
        for name, part in at_rank(schema, int(rank)).items():
            mine = _trim(tree.take(parts[name], at), part.leaves)
            kept = up.memory_leaves(part.leaves) if part.increment else {}
            memory = _trim(_residual(tree.take(residual, at), name), kept)
            encoded = up.encode(mine, memory, _keys(key, name, cohort.ids[at.numpy()]))
            _place(decoded[name], at, encoded.decode())
            _place(heard, at, {f"{name}/{n}": encoded.memory_if_heard[n] for n in kept})
            _place(lost, at, {f"{name}/{n}": encoded.memory_if_lost[n] for n in kept})
    return decoded, heard, lost


def pack(up: Chain, schema: Schema, parts: Any, residual: tree.Tree, cohort: Cohort, key: Key) -> bytes:
    """The bytes that a cohort of one puts on the air, in schema order."""
    data = b""
    for name, part in at_rank(schema, int(cohort.rank[0])).items():
        values = _trim(parts[name], part.leaves)
        encoded = up.encode(values, _residual(residual, name), _keys(key, name, cohort.ids))
        data += up.pack(encoded, part.leaves, 0)
    return data


def _keys(key: Key, part: str, ids: Ints) -> list[Key]:
    purpose = key.fold("encode", part)
    return [purpose.fold(int(client)) for client in ids]


def _residual(residual: tree.Tree, part: str) -> tree.Tree:
    prefix = part + "/"
    return {name[len(prefix) :]: value for name, value in residual.items() if name.startswith(prefix)}


def _trim(values: tree.Tree, leaves: dict[str, Any]) -> tree.Tree:
    """Cut stacked values to the leaf shapes of a smaller rank."""
    return {n: values[n][(slice(None), *(slice(s) for s in leaf.shape))] for n, leaf in leaves.items() if n in values}


def _place(target: tree.Tree, rows: Tensor, values: tree.Tree) -> None:
    """Write values of a smaller rank back into stacked rows, zero beyond."""
    for name, value in values.items():
        padded = target[name].new_zeros((len(rows), *target[name].shape[1:]))
        padded[(slice(None), *(slice(s) for s in value.shape[1:]))] = value
        target[name][rows] = padded
