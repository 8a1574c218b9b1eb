"""Randomness as a function of (seed, purpose, round, client): no state, so no order to depend on.

A :class:`Key` is a 64-bit hash. ``fold`` derives a child key; ``uniform`` and ``normal`` draw, for each of
many ids at once, from that id's own counter-based stream. Results are independent of cohort size, of packing and
of a resume because a draw depends on its arguments alone.

The mixer is the SplitMix64 finaliser (Steele, Lea & Flood, OOPSLA 2014), applied to key, id and counter in turn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedwave.core.errors import BadInput

if TYPE_CHECKING:
    import torch


def _word(value: int) -> NDArray[np.uint64]:
    """An array without axes, which NumPy combines with others faster than with a scalar."""
    return np.array(value, dtype=np.uint64)


_GOLDEN = _word(0x9E3779B97F4A7C15)
_MIX = ((_word(30), _word(0xBF58476D1CE4E5B9)), (_word(27), _word(0x94D049BB133111EB)))
_LAST, _SURPLUS = _word(31), _word(11)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 finaliser, elementwise and in place; wraps modulo 2**64."""
    shifted = np.empty_like(x)
    for shift, factor in _MIX:
        np.right_shift(x, shift, out=shifted)
        np.bitwise_xor(x, shifted, out=x)
        np.multiply(x, factor, out=x)
    np.right_shift(x, _LAST, out=shifted)
    return np.bitwise_xor(x, shifted, out=x)


@lru_cache(maxsize=64)
def _counter(n: int) -> NDArray[np.uint64]:
    return np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN


@dataclass(frozen=True)
class Key:
    """A point in the tree of random streams.

    Parameters
    ----------
    value : unsigned 64-bit integer; the job's seed at the root.

    Raises
    ------
    BadInput : a value outside 0 ... 2**64 - 1.
    """

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < 2**64:
            raise BadInput(f"a key or seed must be an integer from 0 to 2**64 - 1, got {self.value!r}")

    def fold(self, *parts: str | int) -> Key:
        """Child key named by ``parts`` (a purpose, a round, a client)."""
        text = repr((self.value, parts)).encode()
        return Key(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))

    def bits(self, ids: ArrayLike, n: int) -> NDArray[np.uint64]:
        """``[len(ids), n]`` random 64-bit words, row i a function of (key, ids[i]) only."""
        rows = np.atleast_1d(np.asarray(ids)).astype(np.uint64)
        stream = _mix(rows * _GOLDEN + _word(self.value))
        return _mix(_mix(stream[:, None] + _counter(n)))

    def uniform(self, ids: ArrayLike, n: int = 1) -> NDArray[np.float64]:
        """``[len(ids), n]`` uniform in the open interval (0, 1), 53 bits each."""
        words = self.bits(ids, n)
        unit = np.right_shift(words, _SURPLUS, out=words).astype(np.float64)
        unit += 0.5
        unit *= 2.0**-53
        return unit

    def normal(self, ids: ArrayLike, n: int = 1) -> NDArray[np.float64]:
        """``[len(ids), n]`` standard normal (Box-Muller, one output per pair of uniforms)."""
        u = self.uniform(ids, 2 * n)
        return np.sqrt(-2.0 * np.log(u[:, :n])) * np.cos(2.0 * np.pi * u[:, n:])

    def numpy(self) -> np.random.Generator:
        """A NumPy generator (Philox) for draws that are not per client."""
        return np.random.Generator(np.random.Philox(key=self.value))

    def torch(self, device: str = "cpu") -> torch.Generator:
        """A torch generator seeded by this key."""
        import torch

        return torch.Generator(device=device).manual_seed(self.value >> 1)
