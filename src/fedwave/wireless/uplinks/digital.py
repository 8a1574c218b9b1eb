"""How the updates of a round share the uplink."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from fedwave.core.registry import register


class Uplink(ABC):  # noqa: B024 - a kind, not an interface: the network knows what each of them does
    """Base of the ways in which updates go up."""


@register("uplink", "digital")
@dataclass(frozen=True)
class Digital(Uplink):
    """Coded bits on resource blocks of each client's own, shared out by the scheduler."""
