"""Transport blocks, peak rate and link adaptation against 3GPP's own numbers."""

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
    st.sampled_from([1, 2]),
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
    with pytest.raises(BadInput, match="100 MHz has no 15 kHz grid"):
        link.resource_blocks(100, 15)
    with pytest.raises(BadInput, match="subcarrier_khz"):
        link.resource_blocks(100, 120)


def test_mcs_tables():
    for table, indices, top in ((1, 29, 6), (2, 28, 8)):
        qm, rate = link.mcs_table(table)
        assert len(qm) == len(rate) == indices
        assert qm[-1] == top
        assert rate[-1] == 948
    with pytest.raises(BadInput, match="mcs table"):
        link.mcs_table(7)


def test_mcs_selection_at_capacity():
    qm, rate = link.mcs_table(2)
    efficiency = qm * rate / 1024
    # with a gap of g the SINR that just carries MCS i is g (2^SE - 1)
    for gap_db in (0.0, 3.0):
        sinr = 10 ** (gap_db / 10) * (2**efficiency - 1)
        np.testing.assert_array_equal(link.select_mcs(sinr * (1 + 1e-9), gap_db), np.arange(28))
        np.testing.assert_array_equal(link.select_mcs(sinr * (1 - 1e-9), gap_db), np.arange(28) - 1)
    # table 1: index 17 needs less than 16 and is taken for both
    assert link.select_mcs(2 ** (6 * 438 / 1024) - 1 + 1e-9, 0.0, table=1) == 17


@given(st.integers(1, 2), st.lists(st.floats(-30, 50), min_size=2, max_size=20))
def test_goodput_grows_with_sinr(table, sinr_db):
    sinr = 10 ** (np.sort(sinr_db) / 10)[:, None]
    rates = link.goodput_bps(sinr, prbs=51, subcarrier_khz=30, table=table, layers=2)
    assert (np.diff(rates[:, -1]) >= 0).all() or table == 1
    assert (np.diff(rates[:, -1]) >= -0.01 * rates[:-1, -1]).all()  # MCS 17 of table 1 carries 0.2 % less than 16
    assert (np.diff(rates, axis=1) >= 0).all()


def test_goodput_by_hand():
    # top MCS on 51 blocks, 2 layers: 100,392 bits a slot, 2,000 slots/s, 70 % of them, 10 % repeated, 5 % headers
    rates = link.goodput_bps(
        [[1e9], [0.0]], prbs=51, subcarrier_khz=30, share=0.7, layers=2, bler=0.1, protocol_overhead=0.05
    )
    assert rates[0, -1] == pytest.approx(100_392 * 2_000 * 0.7 * 0.9 * 0.95)
    assert (rates[1] == 0).all()  # outage


def test_rayleigh_capacity():
    snr = 10 ** (np.array([0.0, 10.0, 20.0]) / 10)
    np.testing.assert_allclose(link.rayleigh_capacity(snr), [0.86035, 2.90651, 5.88405], atol=6e-6)
    # g -> 0: C -> g / ln 2 (1 - g); and no seam where the series takes over at g = 1/50
    assert link.rayleigh_capacity(1e-6) == pytest.approx(1e-6 / np.log(2), rel=2e-6)
    below, above = link.rayleigh_capacity([0.02 * (1 - 1e-9), 0.02 * (1 + 1e-9)])
    assert above == pytest.approx(below, rel=1e-6)
