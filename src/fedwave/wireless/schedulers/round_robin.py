"""Round robin: equal shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.registry import register
from fedwave.core.types import Floats
from fedwave.wireless.scheduler import Scheduler


@register("scheduler", "round_robin")
@dataclass(frozen=True)
class RoundRobin(Scheduler):
    """Equal resource blocks for every active transfer at every instant (processor sharing)."""

    cite: ClassVar[str] = "Kleinrock, Time-shared Systems: A Theoretical Treatment, JACM 14(2), 1967"

    def weights(self, ready_s: Floats, bits: Floats, rows: Floats, until_s: float) -> Floats:
        """One each."""
        return np.ones(len(bits))
