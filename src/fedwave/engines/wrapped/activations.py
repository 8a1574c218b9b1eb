"""Kept activations: blocks of rows in one file, each sealed by a hash of what went in and what came out."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedwave.core.errors import Refused
from fedwave.core.types import Bools, Ints

SEAL = 16  # bytes


class Layout:
    """Which rows are computed together and where their tokens lie, end to end without padding.

    Blocks never cross clients and hold rows of like length. A block is always computed as a whole, so that what is kept
    of a row does not depend on who asked for it first.

    Parameters
    ----------
    rows : every row, each once, ``[R]``.
    owner : of each of them, ``[R]``; the smallest owner's come first.
    tokens : of each of them, >= 1, ``[R]``.
    block_tokens : padded tokens that a block holds at most (one row at least).
    """

    def __init__(self, rows: Ints, owner: Ints, tokens: Ints, *, block_tokens: int) -> None:
        sort = np.lexsort((tokens, owner))
        self.rows, tokens = rows[sort], tokens[sort]
        starts, owners = [0], owner[sort].tolist()
        for at, length in enumerate(tokens.tolist()):
            if owners[at] != owners[starts[-1]] or (at - starts[-1] + 1) * length > block_tokens:
                starts.append(at)
        self.first = np.unique([*starts, len(rows)])  # of each block, and the end
        size = int(rows.max()) + 1
        self.block, self.start, self.tokens = (np.full(size, fill, dtype=np.int64) for fill in (-1, 0, 1))
        self.block[self.rows] = np.repeat(np.arange(len(self)), np.diff(self.first))
        self.start[self.rows] = np.cumsum(tokens) - tokens
        self.tokens[self.rows] = tokens
        self.ends = np.cumsum(tokens)[self.first[1:] - 1]  # tokens up to the end of each block

    def __len__(self) -> int:
        return len(self.first) - 1

    def rows_of(self, block: int) -> Ints:
        """Rows of ``block`` in the order in which they are kept."""
        return self.rows[self.first[block] : self.first[block + 1]]

    def span(self, block: int) -> slice:
        """Tokens of ``block``."""
        return slice(int(self.ends[block - 1]) if block else 0, int(self.ends[block]))

    def digest(self) -> bytes:
        """Equal for equal layouts."""
        parts = (self.rows, self.first, self.tokens[self.rows])
        return hashlib.blake2b(b"".join(np.ascontiguousarray(x).tobytes() for x in parts), digest_size=SEAL).digest()


class Activations:
    """The values of every token of a layout in a memory-mapped file, computed at the first use of their block.

    A block counts only while its seal fits both its inputs and the bytes on disk: changed samples, torn writes and
    damaged files are computed again. Nothing is replaced once it is kept: under random or cyclic visits no rule of
    replacement finds more than what is there first, and the file stays the same whatever the order of the visits.

    Parameters
    ----------
    path : of the file; other files of its folder with the same suffix, the longest unused first, are deleted where
        they would exceed the budget together.
    budget_bytes : of the folder. Blocks from the end of the layout that do not fit are never kept.
    compute : rows of a block to the values of its tokens, ``[tokens, width]``.
    inputs : rows of a block to the bytes from which they are computed.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        width: int,
        dtype: str,
        budget_bytes: int,
        compute: Callable[[Ints], NDArray],
        inputs: Callable[[Ints], bytes],
    ) -> None:
        self.layout, self._compute, self._inputs = layout, compute, inputs
        token_bytes = width * np.dtype(dtype).itemsize
        head = SEAL * len(layout)
        size = head + layout.ends * token_bytes
        self.blocks = int(np.searchsorted(size, budget_bytes, side="right"))
        if not self.blocks:
            raise Refused(
                f"prefix cache: its budget of {budget_bytes} bytes does not hold the first block of {int(size[0])} "
                "bytes; raise the budget or leave the cache off"
            )
        if self.blocks < len(layout):
            warnings.warn(
                f"prefix cache: {int(layout.first[self.blocks])} of {len(layout.rows)} rows fit its budget of "
                f"{budget_bytes} bytes (all need {int(size[-1])}); the others are computed at every visit",
                stacklevel=2,
            )
        tokens, whole = int(layout.ends[self.blocks - 1]), int(size[self.blocks - 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path, budget_bytes - whole)
        if path.exists() and path.stat().st_size > budget_bytes:
            path.unlink()  # never cut short, because another process may have it mapped
        with path.open("ab") as file:
            file.truncate(max(whole, path.stat().st_size))
        path.touch()
        self._path, self._head = path, head
        self.values = np.memmap(path, dtype=dtype, mode="r", offset=head, shape=(tokens, width))
        self._seals = np.memmap(path, dtype=np.uint8, mode="r", shape=(self.blocks, SEAL))
        self._token_bytes, self._stuck = token_bytes, False
        self.open: Bools = np.zeros(len(layout), dtype=bool)  # blocks whose seal was seen to fit
        self.computed = 0  # blocks that were computed here, not found

    def ready(self, rows: Ints) -> Bools:
        """Make sure that the blocks of ``rows [n]`` are kept where they may be; says which rows are."""
        wanted = np.unique(self.layout.block[rows])
        for block in wanted[(wanted < self.blocks) & ~self.open[wanted]].tolist():
            self._prepare(block)
        return self.open[self.layout.block[rows]]

    def _prepare(self, block: int) -> None:
        rows, span = self.layout.rows_of(block), self.layout.span(block)
        inputs = self._inputs(rows)
        if self._seals[block].tobytes() == _seal(inputs, self.values[span].tobytes()):
            self.open[block] = True
        elif not self._stuck:
            values = self._compute(rows).tobytes()
            self.computed += 1
            self._write({self._head + span.start * self._token_bytes: values, block * SEAL: _seal(inputs, values)})
            self.open[block] = not self._stuck

    def _write(self, parts: dict[int, bytes]) -> None:
        """Put bytes at their places; written, not mapped, so that a full disk is an error that can be told."""
        try:
            with self._path.open("r+b") as file:
                for at, data in parts.items():
                    file.seek(at)
                    file.write(data)
        except OSError as error:
            self._stuck = True
            warnings.warn(
                f"prefix cache: {error}; rows that are not kept yet are computed at every visit", stacklevel=2
            )


def _seal(inputs: bytes, values: bytes) -> bytes:
    return hashlib.blake2b(values, digest_size=SEAL, key=hashlib.blake2b(inputs, digest_size=SEAL).digest()).digest()


def _make_room(path: Path, spare: int) -> None:
    """Delete files beside ``path``, the longest unused first, until the rest of them take ``spare`` bytes or less."""
    others = []
    for other in path.parent.glob(f"*{path.suffix}"):
        with contextlib.suppress(FileNotFoundError):  # another process may make room too
            others += [(other, other.stat())] if other != path else []
    others.sort(key=lambda entry: -entry[1].st_mtime)
    for other, stat in others:
        spare -= stat.st_size
        if spare < 0:
            warnings.warn(f"prefix cache: {other.name} ({stat.st_size} bytes) makes room in the budget", stacklevel=2)
            other.unlink(missing_ok=True)
