"""Writing that survives a crash: whole files or none, and one sentence where the disk says no."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedwave.core.errors import BadInput


class DiskError(BadInput):
    """The disk is full, or a place on it cannot be written or read."""


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn an error of the operating system (full disk, read-only folder) into :class:`DiskError` naming ``path``."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise DiskError(f"{path} cannot be written or read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DiskError(f"{path} cannot be written or read: {error}") from error


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
