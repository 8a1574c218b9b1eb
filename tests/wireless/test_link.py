"""Transport blocks, MCS tables and peak rate against 3GPP's own numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.errors import BadInput
from fedwave.wireless import link

PRBS_15 = [25, 52, 79, 106, 133, 160, 216, 270]
PRBS_30 = [24, 38, 51, 65, 78, 106, 133, 162, 217, 245, 273]


def test_reference_channels():
    # TS 38.101-1 A.3.2.2: 108 data elements per block (9 symbols without anything else)
    qpsk_15 = [1672, 3368, 5120, 6912, 8712, 10504, 14088, 17424]
    qpsk_30 = [1608, 2472, 3368, 4224, 4992, 6912, 8712, 10504, 14088, 15880, 17928]
    qam256_15 = [16896, 34816, 53288, 71688, 90176, 108552, 143400, 180376]
    assert link.transport_block_bits(PRBS_15, 9, 0, 0, 2, 308, 1).tolist() == qpsk_15
    assert link.transport_block_bits(PRBS_30, 9, 0, 0, 2, 308, 1).tolist() == qpsk_30
    assert link.transport_block_bits(PRBS_15, 9, 0, 0, 8, 797, 1).tolist() == qam256_15


def test_rounding_is_to_the_nearest():
    # 51 x 132 x 8 x 948/1024 x 2 layers: N_info = 99,715.5; a floor gives 98,376
    assert link.transport_block_bits(51, 12, 12, 0, 8, 948, 2) == 100_392


def exact_block(prbs, symbols, dmrs, overhead, qm, rate_x1024, layers):
    """TS 38.214 5.1.3.2 once more, in rational numbers and with no shared code but the table."""
    elements = min(156, 12 * symbols - dmrs - overhead) * prbs
    rate = Fraction(rate_x1024) / 1024
    info = elements * rate * qm * layers
    if info <= 3824:
        n = max(3, int(info).bit_length() - 1 - 6)
        quantised = max(24, 2**n * int(info / 2**n))
        return min(size for size in link._TBS.tolist() if size >= quantised)
    n = int(info - 24).bit_length() - 1 - 5
    quantised = max(3840, 2**n * int((info - 24) / 2**n + Fraction(1, 2)))
    if rate <= Fraction(1, 4):
        blocks = -(-(quantised + 24) // 3816)
    else:
        blocks = -(-(quantised + 24) // 8424) if quantised > 8424 else 1
    return 8 * blocks * -(-(quantised + 24) // (8 * blocks)) - 24


@given(
    st.integers(1, 273),
    st.integers(3, 14),
    st.sampled_from([6, 12, 24]),
    st.sampled_from([0, 6, 12]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 27),
    st.integers(1, 4),
)
def test_equal_to_rational_arithmetic(prbs, symbols, dmrs, overhead, table, mcs, layers):
    qm, rate = (column[mcs] for column in link.mcs_table(table))
    if 12 * symbols <= dmrs + overhead:
        expected = 0
    else:
        expected = exact_block(prbs, symbols, dmrs, overhead, int(qm), float(rate), layers)
    assert link.transport_block_bits(prbs, symbols, dmrs, overhead, qm, rate, layers) == expected


def test_table_and_scaling():
    assert len(link._TBS) == 93
    assert (np.diff(link._TBS) > 0).all()
    assert link.transport_block_bits(0, 12, 12, 0, 2, 120, 1) == 0
    # scaling 0.5 halves N_info: the same as half of the blocks
    whole = link.transport_block_bits(50, 12, 12, 0, 2, 308, 1)
    assert link.transport_block_bits(100, 12, 12, 0, 2, 308, 1, scaling=0.5) == whole


def test_peak_rate():
    # 4 x 8 x 948/1024 x 273 x 12 x 28,000 x 0.86
    assert link.peak_rate_bps(273, 30, 4, 8) == pytest.approx(2_337.0e6, abs=0.05e6)
    up = link.peak_rate_bps(273, 30, 4, 8, "up") / link.peak_rate_bps(273, 30, 4, 8)
    assert up == pytest.approx(0.92 / 0.86)
    fr2 = link.peak_rate_bps(66, 120, 2, 6, "down", "FR2") / link.peak_rate_bps(66, 120, 2, 6, "down", "FR1")
    assert fr2 == pytest.approx(0.82 / 0.86)
    with pytest.raises(BadInput, match="direction"):
        link.peak_rate_bps(66, 120, 2, 6, "sideways")


def test_resource_blocks():
    assert [link.resource_blocks(b, 15) for b in (5, 20, 50)] == [25, 106, 270]
    assert [link.resource_blocks(b, 30) for b in (5, 20, 100)] == [11, 51, 273]
    assert [link.resource_blocks(b, 60) for b in (10, 20, 100)] == [11, 24, 135]
    # FR2, TS 38.101-2 Table 5.3.2-1
    assert [link.resource_blocks(b, 120, 28.0) for b in (50, 100, 200, 400)] == [32, 66, 132, 264]
    assert [link.resource_blocks(b, 60, 28.0) for b in (50, 100, 200)] == [66, 132, 264]
    with pytest.raises(BadInput, match="30 is not one of 60, 120 at 28 GHz"):
        link.resource_blocks(100, 30, 28.0)
    with pytest.raises(BadInput, match="100 MHz has no 15 kHz grid"):
        link.resource_blocks(100, 15)
    with pytest.raises(BadInput, match="subcarrier_khz"):
        link.resource_blocks(100, 120)


def test_mcs_tables():
    """TS 38.214 Tables 5.1.3.1-1, -2, -3: ends, the modulation's changes, and efficiencies as printed there."""
    printed = {
        1: {0: 0.2344, 9: 1.3262, 10: 1.3281, 16: 2.5703, 17: 2.5664, 28: 5.5547},
        2: {0: 0.2344, 4: 1.1758, 5: 1.4766, 10: 2.5703, 11: 2.7305, 19: 5.1152, 20: 5.3320, 27: 7.4063},
        3: {0: 0.0586, 14: 1.1758, 15: 1.3281, 20: 2.4063, 21: 2.5664, 28: 4.5234},
    }
    orders = {1: {2: 10, 4: 7, 6: 12}, 2: {2: 5, 4: 6, 6: 9, 8: 8}, 3: {2: 15, 4: 6, 6: 8}}
    for table, efficiencies in printed.items():
        qm, rate = link.mcs_table(table)
        assert dict(zip(*np.unique(qm, return_counts=True), strict=True)) == orders[table]
        assert len(qm) == len(rate) == sum(orders[table].values())
        for index, efficiency in efficiencies.items():
            assert qm[index] * rate[index] / 1024 == pytest.approx(efficiency, abs=5e-5)
    with pytest.raises(BadInput, match="mcs table"):
        link.mcs_table(7)


def test_rayleigh_capacity():
    snr = 10 ** (np.array([0.0, 10.0, 20.0]) / 10)
    np.testing.assert_allclose(link.rayleigh_capacity(snr), [0.86035, 2.90651, 5.88405], atol=6e-6)
    # g -> 0: C -> g / ln 2 (1 - g); and no seam where the series takes over at g = 1/50
    assert link.rayleigh_capacity(1e-6) == pytest.approx(1e-6 / np.log(2), rel=2e-6)
    below, above = link.rayleigh_capacity([0.02 * (1 - 1e-9), 0.02 * (1 + 1e-9)])
    assert above == pytest.approx(below, rel=1e-6)
