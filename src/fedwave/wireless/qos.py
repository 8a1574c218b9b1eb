"""Standardised 5G QoS characteristics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_LATE = 0.02  # TS 23.501 5.7.3.4: 98 percent of packets within the budget when there is no congestion


@dataclass(frozen=True)
class Qos:
    """QoS characteristics of a 5QI.

    ``level``: 1 is served first; ``budget_ms`` between device and core, of which the core takes ``core_ms``.
    """

    resource: Literal["GBR", "non-GBR", "delay-critical GBR"]
    level: int
    budget_ms: float
    core_ms: float
    error_rate: float

    @property
    def guaranteed(self) -> bool:
        """The bit rate is guaranteed."""
        return self.resource != "non-GBR"

    @property
    def late_share(self) -> float:
        """Packets that may exceed the budget: 2 %; the packet error rate where late counts as lost (delay-critical)."""
        return self.error_rate if self.resource == "delay-critical GBR" else _LATE


# 3GPP TS 23.501 Table 5.7.4-1: priority level, packet delay budget, packet error rate. The core's part of the budget is
# the static value of notes 13 (20 ms), 7 (10 ms), 4, 5 and 6 (1, 2 and 5 ms) of the table; assumption: which of these
# notes applies to 5 to 9, 69, 70, 79, 80, 84 and 85.
FIVE_QI = {
    1: Qos("GBR", 20, 100.0, 20.0, 1e-2),
    2: Qos("GBR", 40, 150.0, 20.0, 1e-3),
    3: Qos("GBR", 30, 50.0, 20.0, 1e-3),
    4: Qos("GBR", 50, 300.0, 20.0, 1e-6),
    5: Qos("non-GBR", 10, 100.0, 20.0, 1e-6),
    6: Qos("non-GBR", 60, 300.0, 20.0, 1e-6),
    7: Qos("non-GBR", 70, 100.0, 20.0, 1e-3),
    8: Qos("non-GBR", 80, 300.0, 20.0, 1e-6),
    9: Qos("non-GBR", 90, 300.0, 20.0, 1e-6),
    65: Qos("GBR", 7, 75.0, 10.0, 1e-2),
    66: Qos("GBR", 20, 100.0, 20.0, 1e-2),
    67: Qos("GBR", 15, 100.0, 20.0, 1e-3),
    69: Qos("non-GBR", 5, 60.0, 10.0, 1e-6),
    70: Qos("non-GBR", 55, 200.0, 10.0, 1e-6),
    79: Qos("non-GBR", 65, 50.0, 20.0, 1e-2),
    80: Qos("non-GBR", 68, 10.0, 2.0, 1e-6),
    82: Qos("delay-critical GBR", 19, 10.0, 1.0, 1e-4),
    83: Qos("delay-critical GBR", 22, 10.0, 1.0, 1e-4),
    84: Qos("delay-critical GBR", 24, 30.0, 5.0, 1e-5),
    85: Qos("delay-critical GBR", 21, 5.0, 2.0, 1e-5),
}
