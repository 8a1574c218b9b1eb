"""Unicast: every client gets a copy of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedwave.core.registry import register
from fedwave.core.types import Bools
from fedwave.wireless.downlinks.downlink import Cast, Downlink, Listeners


@register("downlink", "unicast")
@dataclass(frozen=True)
class Unicast(Downlink):
    """A copy for each client, at the client's own rate, shared out by the cell's scheduler.

    A cell with n clients is busy for ``sum_k bits / rate_k``, which grows with n.
    """

    csi: ClassVar[str] = "each client's own channel, as its rate table assumes"

    def cast(self, bits: float, listening: Bools, listeners: Listeners) -> Cast:
        """Nothing is sent to all."""
        return Cast.nobody(listeners)
