"""The edge server: what aggregation and its own training cost on its device, and its way to the cloud."""

from __future__ import annotations

from dataclasses import dataclass

from fedwave.core.config import NonNegative, Positive


@dataclass(frozen=True)
class Cloud:
    """The ``[server.cloud]`` table: the model is kept there. After each round the sum goes up and the model comes down.

    Parameters
    ----------
    rate_mbps : of the link, in either direction.
    latency_s : one way.
    """

    rate_mbps: Positive = 1000.0
    latency_s: NonNegative = 0.02
    __pydantic_config__ = {"extra": "forbid"}

    def seconds(self, bits: float) -> float:
        """There and back with ``bits`` in all."""
        return 2.0 * self.latency_s + 1e-6 * bits / self.rate_mbps


@dataclass(frozen=True)
class Server:
    """The ``[server]`` table.

    Parameters
    ----------
    device : name in the device catalogue; its roofline gives the server's seconds and joules.
    cloud : the way to the cloud, whose energy is not charged; absent: the edge server keeps the model itself.
    """

    device: str = "nvidia-l4"
    cloud: Cloud | None = None
    __pydantic_config__ = {"extra": "forbid"}

    def cost(self, flops: float) -> tuple[float, float]:
        """Seconds and joules of ``flops`` on the server, with two bytes of memory traffic a FLOP: sums stream."""
        from fedwave.devices import catalogue

        device = catalogue.lookup(self.device)
        return device.seconds(flops, 2.0 * flops), device.joules(flops, 2.0 * flops)
