"""Who is asked to take part in a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedwave.core.config import Count
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Ints


@dataclass(frozen=True)
class Sampler:
    """Base of all samplers.

    Parameters
    ----------
    cohort : clients asked in a round.
    """

    cohort: Count = 10

    def select(self, available: Bools, key: Key) -> Ints:
        """Ids of the round's clients, ascending, out of ``available [N]``."""
        raise NotImplementedError


@register("sampler", "uniform")
@dataclass(frozen=True)
class Uniform(Sampler):
    """``cohort`` of the available clients, without replacement; all of them where they are fewer."""

    cite: ClassVar[str] = "McMahan et al., AISTATS 2017, Algorithm 1"

    def select(self, available: Bools, key: Key) -> Ints:
        """The available clients with the smallest draws; a client's draw does not depend on the others."""
        candidates = np.flatnonzero(available)
        if len(candidates) <= self.cohort:
            return candidates
        draws = key.uniform(candidates)[:, 0]
        return np.sort(candidates[np.argpartition(draws, self.cohort)[: self.cohort]])
