"""Round robin: equal shares, and turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.config import Fraction
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
from fedwave.wireless.scheduler import Asked, Scheduler, best_of
from fedwave.wireless.sharing.rates import Rates


@register("scheduler", "round_robin")
@dataclass(frozen=True)
class RoundRobin(Scheduler):
    """Equal resource blocks for every active transfer at every instant (processor sharing).

    With a ``share`` below 1 the clients of a cell take turns from round to round: those go first whose last turn lies
    back longest, which is RR of Yang et al., "Scheduling policies for federated learning in wireless networks", IEEE
    Trans. Commun. 68(1), 2020.

    Parameters
    ----------
    share : of each cell's clients in a round that is let on the air, rounded up.
    """

    share: Fraction = 1.0

    cite: ClassVar[str] = "Kleinrock, Time-shared Systems: A Theoretical Treatment, JACM 14(2), 1967"
    initial: ClassVar[Mapping[str, float]] = {"turn": -1.0}

    def admit(self, asked: Asked, key: Key) -> Bools:
        """Whose turn it is, ``[C]``."""
        return best_of(-asked.memory["turn"], asked, self.share)

    def remember(self, asked: Asked, admitted: Bools, heard: Bools, spent_j: Floats) -> dict[str, Floats]:
        """The round of each client's last turn."""
        return {"turn": np.where(admitted, float(asked.round), asked.memory["turn"])}

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """One each."""
        return np.ones(len(bits))
