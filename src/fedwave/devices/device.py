"""One device class: what it computes, holds, draws. The roofline lives here."""

from __future__ import annotations

from dataclasses import dataclass

from fedwave.core.config import Fraction, NonNegative, Positive


@dataclass(frozen=True)
class Device:
    """A class of device, in plain numbers; a ``[fleet.device.NAME]`` table gives one inline.

    Parameters
    ----------
    peak_flops : peak FLOP/s in fp32 on the processor that the training framework uses (phones: the CPU).
    memory_bytes : RAM, or the accelerator's own memory.
    memory_bandwidth_bytes_s : peak memory bandwidth.
    active_power_w : drawn while training.
    idle_power_w : drawn while waiting in a round; 0 where no figure is known.
    battery_j : a full battery; absent: on mains.
    storage_bytes : room for the base model; absent: not limited.
    training_efficiency : share of the peak that training reaches; an assumption, 0.1-0.4 is usual.
    memory_share : share of the memory that one application may take; an assumption.
    """

    peak_flops: Positive
    memory_bytes: Positive
    memory_bandwidth_bytes_s: Positive
    active_power_w: Positive
    idle_power_w: NonNegative = 0.0
    battery_j: Positive | None = None
    storage_bytes: Positive | None = None
    training_efficiency: Fraction = 0.2
    memory_share: Fraction = 0.5
    __pydantic_config__ = {"extra": "forbid"}

    @property
    def usable_memory_bytes(self) -> float:
        """What training may use of the memory."""
        return self.memory_share * self.memory_bytes

    def seconds(self, flops: float, traffic_bytes: float = 0.0) -> float:
        """Roofline time, max(FLOPs / (efficiency x peak), bytes / bandwidth).

        Source: Williams, Waterman & Patterson 2009, "Roofline", with the compute roof lowered to what training reaches.
        """
        compute_s = flops / (self.training_efficiency * self.peak_flops)
        return max(compute_s, traffic_bytes / self.memory_bandwidth_bytes_s)

    def joules(self, flops: float, traffic_bytes: float = 0.0) -> float:
        """Active power x roofline time."""
        return self.active_power_w * self.seconds(flops, traffic_bytes)
