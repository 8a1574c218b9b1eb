"""Short transfers: what a few coherence times of fading make of the mean rate."""

from __future__ import annotations

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints
from fedwave.wireless.radio import Radio


def short_term_factor(radio: Radio, bits: Floats, direction: str, ids: Ints, key: Key) -> Floats:
    """Factor ``[C]`` on the mean rate of each transfer: its own draw of the fading; mean 1, near 1 for long ones.

    A transfer of n coherence times ``9 / (16 pi f_D)`` (Rappaport, Wireless Communications, eq. 5.40.b) sees ``1 + n``
    independent states of the channel. One state moves the rate by ``slope x spread of the power gain over the band``;
    the gain of one path varies by its mean (Rayleigh), that of a band by ``1 / (1 + bandwidth x delay spread)`` of it.
    The average over the states is taken as lognormal.

    Parameters
    ----------
    bits : size; how long it lasts follows from the rate with the whole carrier, so sharing makes it steadier still.
    direction : "up" or "down".
    """
    full = radio.up_full_bps if direction == "up" else radio.down_full_bps
    linked = (full > 0.0) & (bits > 0.0)
    seconds = np.divide(bits, full, out=np.zeros(len(bits)), where=linked)
    states = 1.0 + seconds / radio.coherence_time_s
    sigma2 = np.log1p(np.where(linked, radio.variance(direction), 0.0) / states)
    normal = key.normal(ids)[:, 0]
    return np.exp(np.sqrt(sigma2) * normal - 0.5 * sigma2)
