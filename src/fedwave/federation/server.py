"""The edge server's device: what aggregation and the server's own training cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Server:
    """The ``[server]`` table.

    Parameters
    ----------
    device : name in the device catalogue; its roofline gives the server's seconds and joules.
    """

    device: str = "nvidia-l4"
    __pydantic_config__ = {"extra": "forbid"}

    def cost(self, flops: float) -> tuple[float, float]:
        """Seconds and joules of ``flops`` on the server, with two bytes of memory traffic a FLOP: sums stream."""
        from fedwave.devices import catalogue

        device = catalogue.lookup(self.device)
        return device.seconds(flops, 2.0 * flops), device.joules(flops, 2.0 * flops)
