"""Values to bytes and back, for proof and for real links; the simulation itself only counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.types import Leaf, Leaves
from fedwave.transforms.transform import Buffer, Buffers

if TYPE_CHECKING:
    from torch import Tensor


def pack_buffer(buffer: Buffer, values: Tensor) -> bytes:
    """One client's side buffer ``[count]`` as ``buffer.bytes`` bytes, least significant bit first."""
    if buffer.real:
        return values.cpu().numpy().astype("<f4").tobytes()
    codes = values.cpu().numpy().astype(np.uint64)
    bits = (codes[:, None] >> np.arange(buffer.width, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()


def unpack_buffer(buffer: Buffer, data: bytes) -> Tensor:
    """Inverse of :func:`pack_buffer`: ``[count]`` float32, or int64 for integer codes."""
    import torch

    if buffer.real:
        return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=buffer.count * buffer.width, bitorder="little")
    weights = np.int64(1) << np.arange(buffer.width, dtype=np.int64)
    return torch.from_numpy(bits.reshape(buffer.count, buffer.width).astype(np.int64) @ weights)


def pack_side(buffers: Buffers, side: Mapping[str, Tensor], client: int) -> bytes:
    """The side buffers ``{name: [K, count]}`` of the client at position ``client``, one after another."""
    return b"".join(pack_buffer(buffer, side[name][client]) for name, buffer in buffers.items())


def unpack_side(buffers: Buffers, data: bytes) -> tuple[dict[str, Tensor], bytes]:
    """Inverse of :func:`pack_side`, with a client axis of one; and the bytes that follow."""
    side: dict[str, Tensor] = {}
    for name, buffer in buffers.items():
        side[name], data = unpack_buffer(buffer, data[: buffer.bytes])[None], data[buffer.bytes :]
    return side, data


def pack_raw(leaves: Leaves, raw: Mapping[str, Tensor], client: int) -> bytes:
    """The raw leaves ``{name: [K, ...]}`` of the client at position ``client``, each in its own dtype."""
    import torch

    values = (raw[name][client].detach().cpu().contiguous().reshape(-1) for name in leaves)
    return b"".join(value.view(torch.uint8).numpy().tobytes() for value in values)


def unpack_raw(leaves: Leaves, data: bytes) -> dict[str, Tensor]:
    """Inverse of :func:`pack_raw`, with a client axis of one."""
    raw: dict[str, Tensor] = {}
    for name, leaf in leaves.items():
        length = leaf.bits // 8
        raw[name], data = _read(leaf, data[:length])[None], data[length:]
    return raw


def _read(leaf: Leaf, data: bytes) -> Tensor:
    import torch

    dtype = getattr(torch, leaf.dtype)
    if not data:  # torch refuses to read an empty buffer
        return torch.zeros(leaf.shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(leaf.shape)
