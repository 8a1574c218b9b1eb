"""Proportional fair: everybody at their own best moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedwave.core.config import Fraction
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Bools, Floats
from fedwave.wireless.scheduler import Asked, Scheduler, best_of
from fedwave.wireless.sharing.rates import Rates


@register("scheduler", "proportional_fair")
@dataclass(frozen=True)
class ProportionalFair(Scheduler):
    """Blocks go where the rate of the moment is largest against the client's own average.

    On mean rates that is round robin: equal shares maximise the sum of log rates. What fading adds is that each is
    served at its peaks, so n active transfers get 1/n of the carrier each and more than 1/n of their rate:
    multi-user diversity, from the goodput tables. Clients are taken to fade independently and alike.

    With a ``share`` below 1 the same rule admits clients to the round: ``R_k / T_k``, the rate of the moment over the
    remembered throughput ``T_k <- (1 - 1/window) T_k + R_k / window``, ``R_k`` = 0 where it was not admitted (and not
    where it was not heard: one that never is would be chosen ever again). A client that was never asked counts with its
    mean rate, so that at first it is fading over its mean, PF of Yang et al., IEEE Trans. Commun. 68(1), 2020. Once a
    client has trained, the moment in which it was chosen may have passed.

    Parameters
    ----------
    share : of each cell's clients in a round that is let on the air, rounded up.
    window : rounds over which throughput is averaged, > 1.
    """

    share: Fraction = 1.0
    window: Annotated[float, Field(gt=1, allow_inf_nan=False, strict=True)] = 10.0

    cite: ClassVar[str] = (
        "Viswanath, Tse, Laroia, Opportunistic Beamforming Using Dumb Antennas, IEEE Trans. Inf. Theory 48(6), 2002"
    )
    diversity: ClassVar[bool] = True
    initial: ClassVar[Mapping[str, float]] = {"throughput_bps": 0.0}  # 0: never asked

    def admit(self, asked: Asked, key: Key) -> Bools:
        """Those whose moment is best, ``[C]``; never one without a link before one with."""
        average = _average_bps(asked)
        score = np.divide(_now_bps(asked), average, out=np.zeros(len(asked)), where=average > 0.0)
        return best_of(score, asked, self.share)

    def remember(self, asked: Asked, admitted: Bools, heard: Bools, spent_j: Floats) -> dict[str, Floats]:
        """Throughput per client, averaged over ``window`` rounds."""
        served = np.where(admitted, _now_bps(asked), 0.0)
        return {"throughput_bps": _average_bps(asked) * (1.0 - 1.0 / self.window) + served / self.window}

    def weights(self, ready_s: Floats, bits: Floats, rates: Rates, until_s: float) -> Floats:
        """One each."""
        return np.ones(len(bits))


def _now_bps(asked: Asked) -> Floats:
    """The mean rate, scaled by what this moment's fading makes of ``log2(1 + SINR)``."""
    mean = np.log1p(asked.snr)
    return asked.up_bps * np.divide(
        np.log1p(asked.snr * asked.fading), mean, out=np.zeros(len(asked)), where=mean > 0.0
    )


def _average_bps(asked: Asked) -> Floats:
    known = asked.memory["throughput_bps"]
    return np.where(known > 0.0, known, asked.up_bps)
