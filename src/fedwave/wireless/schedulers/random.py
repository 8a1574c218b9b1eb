"""Random: a draw decides who takes part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.config import Fraction
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
from fedwave.wireless.scheduler import Asked, Scheduler, best_of
from fedwave.wireless.sharing.rates import Rates


@register("scheduler", "random")
@dataclass(frozen=True)
class Random(Scheduler):
    """A part of each cell's clients, drawn anew every round whatever their channels (RS of Yang et al.).

    On the air, blocks that go to an active transfer at random give each the same number on average over the many slots
    of an upload: equal shares.

    Parameters
    ----------
    share : of each cell's clients in a round that is let on the air, rounded up.
    """

    share: Fraction = 0.5

    cite: ClassVar[str] = (
        "Yang et al., Scheduling Policies for Federated Learning in Wireless Networks, IEEE Trans. Commun. 68(1), 2020"
    )

    def admit(self, asked: Asked, key: Key) -> Bools:
        """Those with the largest draws, ``[C]``."""
        return best_of(key.uniform(asked.ids)[:, 0], asked, self.share)

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """One each."""
        return np.ones(len(bits))
