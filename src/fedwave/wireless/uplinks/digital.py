"""How the updates of a round share the uplink."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fedwave.core.registry import register
from fedwave.core.types import Floats
from fedwave.wireless.scheduler import Scheduler


class Uplink(ABC):
    """Base of uplink modes."""

    @abstractmethod
    def finish(
        self, start_s: Floats, bits: Floats, rates_bps: Floats, scheduler: Scheduler, until_s: float = np.inf
    ) -> Floats:
        """When each client's update is in, ``[C]`` seconds; arguments as in :meth:`Scheduler.finish`."""


@register("uplink", "digital")
@dataclass(frozen=True)
class Digital(Uplink):
    """Coded bits on resource blocks of each client's own, shared out by the scheduler."""

    def finish(
        self, start_s: Floats, bits: Floats, rates_bps: Floats, scheduler: Scheduler, until_s: float = np.inf
    ) -> Floats:
        """The scheduler's finish times."""
        return scheduler.finish(start_s, bits, rates_bps, until_s)
