"""One NR link: grid, modulation and coding, transport blocks, peak rate. Exact where 3GPP is exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedwave.core.errors import BadInput
from fedwave.core.types import Floats, Ints

# TS 38.214 Table 5.1.3.2-1.
_TBS = np.array(
    [
        *(24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184, 192, 208),
        *(224, 240, 256, 272, 288, 304, 320, 336, 352, 368, 384, 408, 432, 456, 480, 504, 528, 552, 576, 608, 640),
        *(672, 704, 736, 768, 808, 848, 888, 928, 984, 1032, 1064, 1128, 1160, 1192, 1224, 1256, 1288, 1320, 1352),
        *(1416, 1480, 1544, 1608, 1672, 1736, 1800, 1864, 1928, 2024, 2088, 2152, 2216, 2280, 2408, 2472, 2536),
        *(2600, 2664, 2728, 2792, 2856, 2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824),
    ],
    dtype=np.int64,
)

# Modulation order and 1024 x code rate per MCS index: TS 38.214 Tables 5.1.3.1-1 (64QAM), 5.1.3.1-2 (256QAM) and
# 5.1.3.1-3 (64QAM with low spectral efficiency).
_QM = {
    1: [2] * 10 + [4] * 7 + [6] * 12,
    2: [2] * 5 + [4] * 6 + [6] * 9 + [8] * 8,
    3: [2] * 15 + [4] * 6 + [6] * 8,
}
_RATE = {
    1: [
        *(120, 157, 193, 251, 308, 379, 449, 526, 602, 679),
        *(340, 378, 434, 490, 553, 616, 658),
        *(438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948),
    ],
    2: [
        *(120, 193, 308, 449, 602),
        *(378, 434, 490, 553, 616, 658),
        *(466, 517, 567, 616, 666, 719, 772, 822, 873),
        *(682.5, 711, 754, 797, 841, 885, 916.5, 948),
    ],
    3: [
        *(30, 40, 50, 64, 78, 99, 120, 157, 193, 251, 308, 379, 449, 526, 602),
        *(340, 378, 434, 490, 553, 616),
        *(438, 466, 517, 567, 616, 666, 719, 772),
    ],
}

# Resource blocks per channel bandwidth (MHz) and subcarrier spacing (kHz): TS 38.101-1 Table 5.3.2-1.
_BANDWIDTHS_MHZ = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100)
_PRBS = {
    15: dict(zip(_BANDWIDTHS_MHZ, (25, 52, 79, 106, 133, 160, 188, 216, 242, 270), strict=False)),
    30: dict(zip(_BANDWIDTHS_MHZ, (11, 24, 38, 51, 65, 78, 92, 106, 119, 133, 162, 189, 217, 245, 273), strict=True)),
    60: dict(zip(_BANDWIDTHS_MHZ[1:], (11, 18, 24, 31, 38, 44, 51, 58, 65, 79, 93, 107, 121, 135), strict=True)),
}

# The same for FR2: TS 38.101-2 Table 5.3.2-1.
_PRBS_FR2 = {60: {50: 66, 100: 132, 200: 264}, 120: {50: 32, 100: 66, 200: 132, 400: 264}}
FR2_FROM_GHZ = 24.25  # TS 38.104 Table 5.1-1

_OVERHEAD = {("down", "FR1"): 0.14, ("down", "FR2"): 0.18, ("up", "FR1"): 0.08, ("up", "FR2"): 0.10}


def resource_blocks(bandwidth_mhz: float, subcarrier_khz: int, carrier_ghz: float = 3.5) -> int:
    """Resource blocks of a channel, TS 38.101-1 (FR1) and 38.101-2 (FR2, from 24.25 GHz on) Tables 5.3.2-1.

    Raises :class:`BadInput` where there is no such channel.
    """
    grids = _PRBS_FR2 if carrier_ghz >= FR2_FROM_GHZ else _PRBS
    if subcarrier_khz not in grids:
        spacings = ", ".join(str(spacing) for spacing in grids)
        raise BadInput(f"subcarrier_khz: {subcarrier_khz!r} is not one of {spacings} at {carrier_ghz:g} GHz")
    known = grids[subcarrier_khz]
    if bandwidth_mhz not in known:
        allowed = ", ".join(str(width) for width in known)
        raise BadInput(f"bandwidth_mhz: {bandwidth_mhz:g} MHz has no {subcarrier_khz} kHz grid (allowed: {allowed})")
    return known[int(bandwidth_mhz)]


def slots_per_second(subcarrier_khz: int) -> int:
    """``1000 x 2^mu`` slots of 14 symbols, TS 38.211 4.3.2."""
    return 1000 * subcarrier_khz // 15


def mcs_table(table: int) -> tuple[Ints, Floats]:
    """Modulation order and 1024 x code rate by MCS index, TS 38.214 5.1.3.1.

    Table 1 (64QAM), 2 (256QAM) or 3 (64QAM, low spectral efficiency); they serve the uplink without transform precoding
    as well (TS 38.214 6.1.4.1).
    """
    if table not in _QM:
        raise BadInput(f"mcs table must be 1 (64QAM), 2 (256QAM) or 3 (64QAM, low spectral efficiency), got {table!r}")
    return np.array(_QM[table], dtype=np.int64), np.array(_RATE[table])


def transport_block_bits(
    prbs: ArrayLike,
    symbols: ArrayLike,
    dmrs_re_per_prb: ArrayLike,
    overhead_re_per_prb: ArrayLike,
    qm: ArrayLike,
    code_rate_x1024: ArrayLike,
    layers: ArrayLike,
    scaling: ArrayLike = 1.0,
) -> NDArray[np.int64]:
    """Transport block size in bits, TS 38.214 5.1.3.2 steps 1 to 4, in exact integer arithmetic; 0 without resources.

    Parameters (all broadcast)
    ----------
    prbs, symbols : allocated resource blocks; OFDM symbols in the slot (1 to 14).
    dmrs_re_per_prb, overhead_re_per_prb : resource elements of a block that carry no data.
    qm, code_rate_x1024 : modulation order; 1024 x target code rate (multiples of 0.5).
    layers, scaling : 1 to 4 layers; 1, 0.5 or 0.25.
    """
    per_prb = 12 * np.asarray(symbols, dtype=np.int64) - np.asarray(dmrs_re_per_prb) - np.asarray(overhead_re_per_prb)
    elements = np.clip(per_prb, 0, 156) * np.asarray(prbs, dtype=np.int64)
    # N_info = elements R Qm v S as an integer over 8192: R in halves of 1/1024, S in quarters.
    rate_x2048 = np.rint(2.0 * np.asarray(code_rate_x1024, dtype=float)).astype(np.int64)
    scaling_x4 = np.rint(4.0 * np.asarray(scaling, dtype=float)).astype(np.int64)
    info = (elements * rate_x2048 * np.asarray(qm) * np.asarray(layers) * scaling_x4).astype(np.int64)
    small = _small_block(info // 8192)
    large = _large_block(np.maximum(info, 3824 * 8192), rate_x2048 <= 512)
    return np.where(info == 0, 0, np.where(info <= 3824 * 8192, small, large))


def _log2_floor(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """``floor(log2 x)`` of positive integers below 2^53, exactly."""
    return np.frexp(x.astype(float))[1].astype(np.int64) - 1


def _small_block(info: NDArray[np.int64]) -> NDArray[np.int64]:
    """Step 3: quantise down, then the next size of the table. ``info`` is floor(N_info), which changes nothing here."""
    n = np.maximum(3, _log2_floor(np.maximum(info, 1)) - 6)
    quantised = np.maximum(24, (info >> n) << n)
    return _TBS[np.minimum(np.searchsorted(_TBS, quantised), len(_TBS) - 1)]


def _large_block(info_x8192: NDArray[np.int64], low_rate: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Step 4: quantise to the nearest (ties up), then equal code blocks in whole bytes."""
    rest = info_x8192 - 24 * 8192
    n = _log2_floor(rest // 8192) - 5
    unit = np.int64(8192) << n
    quantised = np.maximum(3840, ((rest + unit // 2) // unit) << n)
    limit = np.where(low_rate, 3816, np.where(quantised > 8424, 8424, quantised + 24))
    blocks = -(-(quantised + 24) // limit)
    return 8 * blocks * (-(-(quantised + 24) // (8 * blocks))) - 24


def peak_rate_bps(
    prbs: ArrayLike,
    subcarrier_khz: int,
    layers: ArrayLike,
    qm: ArrayLike,
    direction: str = "down",
    frequency_range: str = "FR1",
    scaling: float = 1.0,
    code_rate: float = 948 / 1024,
) -> Floats:
    """Peak rate of one carrier, TS 38.306 4.1.2: ``v Qm f R_max 12 N_PRB / T_s (1 - OH)``.

    ``OH`` is 0.14 / 0.18 down and 0.08 / 0.10 up in FR1 / FR2; ``direction`` is "down" or "up".
    """
    if (direction, frequency_range) not in _OVERHEAD:
        raise BadInput(f"peak rate needs direction down or up and FR1 or FR2, got {direction!r}, {frequency_range!r}")
    symbols_per_second = 14 * slots_per_second(subcarrier_khz)
    bits_per_symbol = np.asarray(layers) * np.asarray(qm) * scaling * code_rate * 12.0 * np.asarray(prbs)
    return bits_per_symbol * symbols_per_second * (1.0 - _OVERHEAD[direction, frequency_range])


def rayleigh_capacity(snr: ArrayLike) -> Floats:
    """Ergodic capacity of Rayleigh fading in bit/s/Hz, ``e^(1/g) E1(1/g) / ln 2`` (Alouini & Goldsmith, IEEE TVT 1999).

    ``snr`` is the mean linear SNR ``g`` > 0.
    """
    from scipy.special import exp1

    x = 1.0 / np.asarray(snr, dtype=float)
    far = np.maximum(x, 50.0)  # e^x E1(x) overflows; its asymptotic series is exact to 1e-8 from here on
    series = (1.0 - 1.0 / far + 2.0 / far**2 - 6.0 / far**3 + 24.0 / far**4) / far
    near = np.minimum(x, 50.0)
    return np.where(x > 50.0, series, np.exp(near) * exp1(near)) / np.log(2.0)
