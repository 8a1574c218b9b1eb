"""Flat trees of tensors: ``{leaf name: tensor}``. Written against tensor methods alone, so that no torch is imported.

Stacked trees carry the client axis first, ``[K, ...]``; reductions named "per client" keep that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Tree = dict[str, Any]


def map(fn: Callable[..., Any], first: Mapping[str, Any], *rest: Mapping[str, Any]) -> Tree:
    """``{name: fn(first[name], rest[0][name], ...)}``."""
    return {name: fn(value, *(other[name] for other in rest)) for name, value in first.items()}


def sub(a: Mapping[str, Any], b: Mapping[str, Any]) -> Tree:
    """Leafwise ``a - b``."""
    return map(lambda x, y: x - y, a, b)


def add(a: Mapping[str, Any], b: Mapping[str, Any], scale: float = 1.0) -> Tree:
    """Leafwise ``a + scale * b``."""
    return map(lambda x, y: x + scale * y, a, b)


def dot(a: Mapping[str, Any], b: Mapping[str, Any]) -> Any:
    """Inner product per client, ``[K]``."""
    return sum((a[name] * b[name]).reshape(len(a[name]), -1).sum(1) for name in a)


def sqdist(a: Mapping[str, Any], b: Mapping[str, Any]) -> Any:
    """Squared Euclidean distance per client, ``[K]``."""
    difference = sub(a, b)
    return dot(difference, difference)


def scale_rows(a: Mapping[str, Any], factor: Any) -> Tree:
    """Each client's row times its factor ``[K]``."""
    return map(lambda x: x * factor.reshape((-1,) + (1,) * (x.dim() - 1)), a)


def expand(a: Mapping[str, Any], k: int) -> Tree:
    """Give unstacked leaves a client axis of length ``k`` (a view)."""
    return map(lambda x: x[None].expand(k, *x.shape), a)


def take(a: Mapping[str, Any], index: Any) -> Tree:
    """Index the client axis of every leaf."""
    return map(lambda x: x[index], a)


def select(a: Mapping[str, Any], names: Any) -> Tree:
    """The leaves called ``names``, in that order."""
    return {name: a[name] for name in names}
