"""Randomness as a function of (seed, purpose, round, client): no state, so no order to depend on.

A :class:`Key` is a 64-bit hash. ``fold`` derives a child key; ``uniform`` and ``normal`` draw, for each of
many ids at once, from that id's own counter-based stream. Results are independent of cohort size, of packing and
of a resume because a draw depends on its arguments alone.

The mixer is the SplitMix64 finaliser (Steele, Lea & Flood, OOPSLA 2014), applied to key, id and counter in turn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedwave.core.errors import BadInput

if TYPE_CHECKING:
    import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 finaliser, elementwise; wraps modulo 2**64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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
        stream = _mix(rows * _GOLDEN + np.uint64(self.value))
        counter = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN
        return _mix(_mix(stream[:, None] + counter[None, :]))

    def uniform(self, ids: ArrayLike, n: int = 1) -> NDArray[np.float64]:
        """``[len(ids), n]`` uniform in the open interval (0, 1), 53 bits each."""
        return ((self.bits(ids, n) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

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
