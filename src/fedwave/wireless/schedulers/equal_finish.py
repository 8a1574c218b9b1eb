"""Equal finish: the smallest time in which all are done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedwave.core.registry import register
from fedwave.core.types import Floats, Ints
from fedwave.wireless.scheduler import Scheduler
from fedwave.wireless.sharing.min_max import claims_in_time, shortfall
from fedwave.wireless.sharing.rates import Rates


@register("scheduler", "equal_finish")
@dataclass(frozen=True)
class EqualFinish(Scheduler):
    """Smallest common finish time: more blocks for weak channels, large payloads and late starters.

    The claims are the constant shares over ``[ready_k, T]`` of the smallest ``T`` at which they fit into the band: the
    min-max solution of Shi et al., "Joint device scheduling and resource allocation for latency constrained wireless
    federated learning", IEEE TWC 2021. Such a static allocation leaves the share of a late starter idle; here the
    active transfers take it up in proportion, so nobody ends after ``T``, and those that start together end at ``T``
    (a little earlier where a quantised rate leaves blocks over). Constant shares are optimal for concave rates; the
    steps of the coding tables break that, which costs a few percent against alternating ones at worst. Where that
    ``T`` lies past the deadline, as many transfers as can be in time are kept, those that need the fewest blocks first,
    and the others wait for what is left: otherwise all would be late together.
    ``shortfall`` says why not all can be in time.
    """

    cite: ClassVar[str] = (
        "Shi et al., Joint Device Scheduling and Resource Allocation for Latency Constrained Wireless Federated "
        "Learning, IEEE TWC 2021"
    )

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """Blocks per transfer in the min-max solution of those that can be in time."""
        return claims_in_time(ready_s, bits, rates, until_s)

    def shortfall(self, ids: Ints, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> str:
        """See :meth:`Scheduler.shortfall`: no constant grants are enough."""
        return shortfall(ids, ready_s, bits, rates, until_s)
