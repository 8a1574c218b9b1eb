"""What there is: one row per registered plug-in, catalogue model or device."""

from __future__ import annotations

from typing import Any

from fedwave.core import registry
from fedwave.core.errors import unknown

_KINDS = {
    "adapters": "adapter", "engines": "engine", "methods": "method", "networks": "network", "optimizers": "optimizer",
    "partitions": "partition", "samplers": "sampler", "schedulers": "scheduler", "tasks": "task",
    "transforms": "transform", "uplinks": "uplink",
}  # fmt: skip


def rows(kind: str) -> list[dict[str, Any]]:
    """Rows of ``kind``: name, one line, source. Raises :class:`BadInput` for an unknown kind."""
    if kind == "devices":
        from fedwave.devices import catalogue as devices

        return devices.rows()
    if kind == "models":
        from fedwave.models import catalogue as fms

        return fms.rows()
    if kind == "channels":
        from fedwave.wireless import channel

        return channel.rows()
    if kind not in _KINDS:
        raise unknown("kind", kind, [*_KINDS, "channels", "devices", "models"])
    return [_row(_KINDS[kind], name) for name in registry.names(_KINDS[kind])]


def _row(kind: str, name: str) -> dict[str, Any]:
    cls = registry.lookup(kind, name)
    return {"name": name, "what": (cls.__doc__ or "").strip().split("\n")[0], "source": getattr(cls, "cite", "")}
