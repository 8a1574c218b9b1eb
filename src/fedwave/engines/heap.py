"""The C library's heap: what a step frees, the next one needs again."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT, FROM_HEAP = 2**29, 2**25  # bytes; glibc takes no larger value for the second


def keep_freed() -> None:
    """Let glibc keep up to ``KEPT`` freed bytes, and serve requests up to ``FROM_HEAP`` bytes from them.

    By its own rules it gives a step's activations and gradients back to the kernel, which then zeroes each page anew:
    an eighth to a third of a small model's round. Does nothing where ``MALLOC_...`` variables or another C library
    have a say.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT)
        mallopt(_MMAP_THRESHOLD, FROM_HEAP)
