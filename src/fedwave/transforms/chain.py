"""Transforms one after another, with exact sizes, error feedback and serialisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedwave.core import tree
from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.registry import name_of
from fedwave.core.types import Leaf, Leaves
from fedwave.transforms.packing import pack_raw, pack_side, unpack_raw, unpack_side
from fedwave.transforms.transform import Tensors, Transform, is_real, rows

if TYPE_CHECKING:
    from torch import Tensor

_RESIDUAL = "residual/"


@dataclass(frozen=True)
class Encoded:
    """A part of ``K`` clients' payloads on its way.

    ``raw`` are the values that travel as they are, ``sides`` each transform's packed buffers. ``memory_if_heard`` and
    ``memory_if_lost`` are the clients' new residuals ``{name: [K, ...]}`` (empty without error feedback), to be kept
    once it is known whether the update arrived.
    """

    raw: dict[str, Tensor]
    sides: tuple[dict[str, Tensor], ...]
    memory_if_heard: dict[str, Tensor]
    memory_if_lost: dict[str, Tensor]
    _decoded: dict[str, Tensor] = field(repr=False)

    def decode(self) -> dict[str, Tensor]:
        """The values as the receiver has them, ``{leaf: [K, ...]}``."""
        return self._decoded


@dataclass(frozen=True)
class Chain:
    """The transforms of one direction, in the order in which the sender applies them.

    Error feedback spans the chain from the first transform that is not additive to the end: with ``v`` the value that
    enters there and ``e`` the client's residual, ``x = v + e`` is encoded and ``e' = x - decode(encode(x))`` is kept,
    or ``e' = x`` where the update was lost. What stands before (a ``clip``) is meant, not an error: it is not fed back.

    Parameters
    ----------
    transforms : any number; an empty chain sends raw values.

    Raises
    ------
    Refused : a transform stands after one that leaves it no values.
    """

    transforms: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        for before, after in zip(self.transforms, self.transforms[1:], strict=False):
            if before.final:
                raise Refused(
                    f"transform {name_of(after)!r} stands after {name_of(before)!r}, which leaves it no values: "
                    f"put {name_of(before)!r} last"
                )

    @classmethod
    def of(cls, transforms: Iterable[Transform], direction: str) -> Chain:
        """The chain of a job's transforms that work on ``direction`` (``"up"`` or ``"down"``)."""
        return cls(tuple(transform for transform in transforms if transform.direction == direction))

    @property
    def additive(self) -> bool:
        """Encoded values may be summed (in the air, under secure aggregation)."""
        return all(transform.additive for transform in self.transforms)

    @property
    def stateful(self) -> bool:
        """Some transform keeps error feedback."""
        return any(transform.stateful for transform in self.transforms)

    def bits(self, leaves: Leaves) -> int:
        """Exact size in bits of one client's part: packed side buffers, each of whole bytes, and the raw rest."""
        total = 0
        for transform in self.transforms:
            leaves, buffers = transform.shapes(leaves)
            total += 8 * sum(buffer.bytes for buffer in buffers.values())
        return total + sum(leaf.bits for leaf in leaves.values())

    def memory_leaves(self, leaves: Leaves) -> Leaves:
        """The residuals ``residual/<leaf>`` that a client keeps, at least float32; empty without error feedback."""
        if not self.stateful:
            return {}
        return {
            _RESIDUAL + name: Leaf(leaf.shape, _wide(leaf.dtype), leaf.rank_axis)
            for name, leaf in leaves.items()
            if is_real(leaf)
        }

    def encode(self, values: Tensors, memory: Mapping[str, Tensor] | None, keys: Sequence[Key]) -> Encoded:
        """Encode ``{leaf: [K, ...]}``.

        Parameters
        ----------
        values : the part's values, client axis first.
        memory : the clients' residuals as in :meth:`memory_leaves`; what is missing counts as zero.
        keys : one key per client, of this round and part.
        """
        start = next((i for i, transform in enumerate(self.transforms) if not transform.additive), len(self.transforms))
        head, tail = Chain(self.transforms[:start]), Chain(self.transforms[start:])
        values, head_sides, head_stages = head._forward(values, keys, 0)
        exact = _with_residual(values, memory or {}) if self.stateful else {}
        sent = {name: exact[name].to(value.dtype) if name in exact else value for name, value in values.items()}
        raw, tail_sides, tail_stages = tail._forward(sent, keys, start)
        decoded = tail._backward(raw, tail_sides, tail_stages)
        heard, lost = _residuals(exact, decoded, memory or {})
        decoded = head._backward(decoded, head_sides, head_stages)
        return Encoded(raw, (*head_sides, *tail_sides), heard, lost, decoded)

    def pack(self, encoded: Encoded, leaves: Leaves, client: int) -> bytes:
        """The bytes that the client at position ``client`` sends: ``bits(leaves) / 8`` of them, in schema order."""
        data = b""
        for transform, side in zip(self.transforms, encoded.sides, strict=True):
            leaves, buffers = transform.shapes(leaves)
            data += pack_side(buffers, side, client)
        return data + pack_raw(leaves, encoded.raw, client)

    def unpack(self, data: bytes, leaves: Leaves) -> dict[str, Tensor]:
        """One client's values ``{leaf: [...]}`` from its bytes; raises :class:`BadInput` where the length is wrong."""
        if 8 * len(data) != self.bits(leaves):
            raise BadInput(f"an encoded part has {len(data)} bytes where its schema has {self.bits(leaves) // 8}")
        stages, sides = [], []
        for transform in self.transforms:
            stages.append(leaves)
            leaves, buffers = transform.shapes(leaves)
            side, data = unpack_side(buffers, data)
            sides.append(side)
        values = self._backward(unpack_raw(leaves, data), sides, stages)
        return tree.map(lambda value: value[0], values)

    def _forward(self, values: Tensors, keys: Sequence[Key], offset: int) -> tuple[Any, list[Any], list[Leaves]]:
        """Encoded values, side buffers of each transform, and the leaves that went into it."""
        sides, stages = [], []
        for place, transform in enumerate(self.transforms, offset):
            stages.append(_leaves_of(values))
            values, side = transform.encode(values, [key.fold("transform", place) for key in keys])
            sides.append(side)
        return dict(values), sides, stages

    def _backward(self, values: Any, sides: list[Any], stages: list[Leaves]) -> dict[str, Tensor]:
        for transform, side, leaves in zip(self.transforms[::-1], sides[::-1], stages[::-1], strict=True):
            values = transform.decode(values, side, leaves)
        return values


def _leaves_of(values: Tensors) -> Leaves:
    return {name: Leaf(tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")) for name, x in values.items()}


def _wide(dtype: str) -> str:
    """Residuals of half-precision leaves are kept in float32: small remainders must add up."""
    return "float32" if dtype in ("bfloat16", "float16") else dtype


def _with_residual(values: Tensors, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``x = v + e`` of the floating-point leaves, in the residual's dtype."""
    import torch

    exact = {}
    for name, leaf in _leaves_of(values).items():
        if is_real(leaf):
            exact[name] = values[name].to(getattr(torch, _wide(leaf.dtype)))
            if _RESIDUAL + name in memory:
                exact[name] = exact[name] + memory[_RESIDUAL + name].to(exact[name])
    return exact


def _residuals(exact: Tensors, decoded: Tensors, memory: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """New residuals if heard and if lost; a client with a value that is not finite keeps the one it had."""
    import torch

    heard, lost = {}, {}
    if exact:
        finite = torch.stack([rows(x).isfinite().all(1) for x in exact.values()]).all(0)
        for name, x in exact.items():
            old = memory.get(_RESIDUAL + name, x.new_zeros(())).to(x)
            mask = finite.reshape(-1, *(1,) * (x.dim() - 1))
            heard[_RESIDUAL + name] = (x - decoded[name].to(x)).where(mask, old)
            lost[_RESIDUAL + name] = x.where(mask, old)
    return heard, lost
