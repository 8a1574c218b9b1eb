"""Block error rates of every MCS from Sionna's curves, and our extension of them below Sionna's lowest MCS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedwave.core.types import Floats, Ints
from fedwave.wireless.link import mcs_table, transport_block_bits

# Resource elements of the reference grid in a slot and resource block: 12 symbols less 12 DM-RS elements down, 14 less
# 24 up; one layer.
SYMBOLS = {"down": 12, "up": 14}
DMRS_RE_PER_PRB = {"down": 12, "up": 24}
RE_PER_PRB = {direction: 12 * SYMBOLS[direction] - DMRS_RE_PER_PRB[direction] for direction in SYMBOLS}

SMALLEST_BITS = 24  # transport block, TS 38.214 Table 5.1.3.2-1
BLER_TARGET = 0.1  # of InnerLoopLinkAdaptation in Sionna, and of the CQI in TS 38.214 5.2.2.1

LOW_DB, HIGH_DB, STEP_DB = -30.0, 30.0, 0.1  # effective SINR; Sionna's curves span -5 to 30 dB in steps of 0.1 dB
_SIONNA_LOW_DB = -5.0
_FADE_DB = 1.8  # Sionna's curves of table 1 have a point every 1.79 dB; below the first, success falls to 0 within that
_PDSCH = 1


@dataclass(frozen=True)
class Codes:
    """The MCS of one table, with block error rates of an allocation of ``prbs`` resource blocks.

    Parameters
    ----------
    tbs_bits : ``[I]`` transport block sizes.
    beta : ``[I]`` EESM parameter.
    bler : ``[I, N]`` transport block error rate by effective SINR, ``LOW_DB`` to ``HIGH_DB`` in steps of ``STEP_DB``.
    threshold_db : ``[I]`` effective SINR from which the error rate meets the target; infinite where it never does
        (MCS 27 of table 2 with large blocks: Sionna's curve ends at 25 dB with 15 %).
    first_mcs : lowest MCS that has a curve of its own in Sionna; those below rest on the extension.
    """

    tbs_bits: Floats
    beta: Floats
    bler: Floats
    threshold_db: Floats
    first_mcs: int


def shift_db(efficiency: float, reference: float) -> float:
    """How much less SINR an MCS needs than the reference one: ``10 lg[(2^SE - 1) / (2^SE_ref - 1)]``, negative.

    The gap to capacity is taken to be that of the reference. MCS 0 of table 1 from its MCS 3: -3.61 dB.
    """
    return float(10.0 * np.log10(np.expm1(efficiency * np.log(2.0)) / np.expm1(reference * np.log(2.0))))


def code_blocks(tbs_bits: Ints, rate: Floats) -> tuple[Ints, Ints]:
    """Code block size with CRC and number of code blocks, TS 38.212 5.2.2 and 7.2.

    Parameters
    ----------
    tbs_bits, rate : transport block size and code rate; broadcast.
    """
    tbs = np.asarray(tbs_bits, dtype=np.int64)
    with_crc = tbs + np.where(tbs > 3824, 24, 16)
    second_graph = (tbs <= 292) | ((tbs <= 3824) & (rate <= 0.67)) | (rate <= 0.25)
    limit = np.where(second_graph, 3840, 8448)
    count = np.where(with_crc <= limit, 1, -(-with_crc // (limit - 24)))
    return np.where(count == 1, with_crc, (with_crc + 24 * count) // count), count


@lru_cache(maxsize=1)
def _sionna() -> Any:
    """Sionna's ``PHYAbstraction`` with its default tables."""
    from sionna.sys import PHYAbstraction

    return PHYAbstraction(device="cpu")


@lru_cache(maxsize=8)
def _curves(table: int) -> tuple[Floats, int]:
    """Code block error rates ``[I, CBS, N]`` on our grid, extended downwards, and the first MCS of Sionna's own."""
    qm, rate = mcs_table(table)
    own = _sionna().bler_table_interp[_PDSCH, table - 1, : len(qm)].numpy().astype(float)
    first = int(np.argmax(np.isfinite(own[:, 0, 0])))
    donor, reference = own[first], qm[first] * rate[first] / 1024.0
    if table == 2:  # the lowest curve of tables 1 and 3 is nearer to what is missing than that of table 2
        donor, reference = _lowest_curve()
    grid = grid_db()
    out = np.empty((len(qm), own.shape[1], len(grid)))
    for i in range(len(qm)):
        extended = i < first
        shift = shift_db(qm[i] * rate[i] / 1024.0, reference) if extended else 0.0
        out[i] = _on_grid(donor if extended else own[i], grid - shift)
    return out, first


def _lowest_curve() -> tuple[Floats, float]:
    """Curve and efficiency of MCS 3 of table 1: QPSK at 251/1024."""
    qm, rate = mcs_table(1)
    return _sionna().bler_table_interp[_PDSCH, 0, 3].numpy().astype(float), qm[3] * rate[3] / 1024.0


def _on_grid(curve: Floats, at_db: Floats) -> Floats:
    """Sionna's curve ``[CBS, 351]`` at ``at_db``; below -5 dB its success falls linearly to nothing within 1.8 dB."""
    place = np.clip((at_db - _SIONNA_LOW_DB) / STEP_DB, 0.0, curve.shape[1] - 1.0)
    low = np.minimum(place.astype(np.int64), curve.shape[1] - 2)
    value = curve[:, low] + (place - low) * (curve[:, low + 1] - curve[:, low])
    success = (1.0 - value) * np.clip(1.0 + (at_db - _SIONNA_LOW_DB) / _FADE_DB, 0.0, 1.0)
    return 1.0 - success


def grid_db() -> Floats:
    """Effective SINRs of the curves."""
    return LOW_DB + STEP_DB * np.arange(round((HIGH_DB - LOW_DB) / STEP_DB) + 1)


def betas(table: int) -> Floats:
    """Sionna's EESM parameters ``[I]``; for table 3, which has none, those of table 1 at the same modulation and rate.

    The six lowest MCS of table 3 take that of the lowest MCS of table 1; the parameters hardly vary there.
    """
    known = {t: _sionna()._sinr_effective_fun.beta_tensor[t - 1].numpy().astype(float) for t in (1, 2)}
    qm, rate = mcs_table(table)
    if table in known:
        return known[table][: len(qm)]
    first = dict(zip(zip(*(column.tolist() for column in mcs_table(1)), strict=True), known[1], strict=False))
    return np.array([first.get(mcs, known[1][0]) for mcs in zip(qm.tolist(), rate.tolist(), strict=True)])


def transport_blocks(direction: str, table: int, prbs: int) -> Ints:
    """Transport block sizes ``[I]`` on the reference grid."""
    qm, rate = mcs_table(table)
    return transport_block_bits(prbs, SYMBOLS[direction], DMRS_RE_PER_PRB[direction], 0, qm, rate, 1)


@lru_cache(maxsize=256)
def codes(direction: str, table: int, prbs: int) -> Codes:
    """The MCS of a table with ``prbs`` blocks granted.

    The curves are Sionna's of the PDSCH in both directions (its PUSCH curves are for transform precoding); those of
    code blocks above 2,000 bits are those of 2,000 bits, as in Sionna. Where the smallest transport block is more than
    an MCS is for (low MCS of table 3 with 1 to 3 blocks), its curve is shifted by what that takes.
    """
    qm, rate = mcs_table(table)
    tbs = transport_blocks(direction, table, prbs)
    size, count = code_blocks(tbs, rate / 1024.0)
    curves, first = _curves(table)
    row = _sionna().get_idx_from_grid(size.astype(np.float32), "cbs").numpy()
    block = np.clip(curves[np.arange(len(tbs)), row], 0.0, 1.0)
    efficiency = qm * rate / 1024.0
    for i in np.flatnonzero((tbs == SMALLEST_BITS) & (tbs > efficiency * RE_PER_PRB[direction] * prbs)):
        carried = SMALLEST_BITS / (RE_PER_PRB[direction] * prbs)
        block[i] = np.interp(grid_db() - shift_db(carried, efficiency[i]), grid_db(), block[i])
    bler = -np.expm1(count[:, None] * np.log1p(-np.minimum(block, 1.0 - 1e-12)))
    meets = bler <= BLER_TARGET
    # from the first point at which the target is met for good; Monte Carlo noise in the curves lies well above it
    index = bler.shape[1] - np.argmin(meets[:, ::-1], axis=1)
    low, high = np.take_along_axis(bler, np.stack([index - 1, np.minimum(index, bler.shape[1] - 1)], axis=1), axis=1).T
    part = np.clip((low - BLER_TARGET) / np.maximum(low - high, 1e-12), 0.0, 1.0)
    threshold = np.where(index < bler.shape[1], LOW_DB + STEP_DB * (index - 1 + part), np.inf)
    return Codes(tbs.astype(float), betas(table), bler, threshold, first)
