"""How the tables are made, on synthetic codes whose averages over fading have a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammainc

from fedwave.wireless.phy.build import adapt, codes, draws

DRAWS = 4096


def steep_codes(threshold_db, bits, beta=1.0):
    """Blocks that fail below an effective SINR and never above it."""
    grid, threshold = codes.grid_db(), np.asarray(threshold_db, dtype=float)
    bler = 1.0 - np.clip((grid - threshold[:, None]) / codes.STEP_DB + 0.5, 0.0, 1.0)
    count = len(threshold)
    return codes.Codes(np.asarray(bits, dtype=float), np.full(count, beta), bler, threshold, 0)


def rayleigh(correlation, attempts=draws.ATTEMPTS):
    """Curves of one path, flat over the band, as ``draws.attempts`` makes them; quantiles in place of draws."""
    power = -np.log1p(-(np.arange(DRAWS) + 0.5) / DRAWS)  # of the exponential distribution, sorted
    if correlation == 1.0:
        return draws.curves(np.sqrt(power)[:, None].astype(complex))[None]
    rng, seen = np.random.default_rng(0), np.sqrt(power) * np.exp(2j * np.pi * np.arange(DRAWS) * 0.618034)
    out, h = [draws.curves(seen[:, None])], seen
    for _ in range(attempts):
        noise = np.sqrt(rng.permutation(power)) * np.exp(2j * np.pi * rng.random(DRAWS))
        h = correlation * h + np.sqrt(1.0 - correlation**2) * noise
        out.append(draws.curves(h[:, None]))
    return np.stack(out)


def at(values, sinr_db):
    """A value of the grid of mean SINRs."""
    return values[..., np.searchsorted(adapt.sinr_grid_db(), sinr_db)]


def test_curves_are_effective_sinr():
    """EESM of one frequency is its SINR; of two with gains a, b: -ln[(exp(-x a) + exp(-x b)) / 2]."""
    x = 10.0 ** (draws.x_db() / 10.0)
    flat = draws.curves(np.array([[0.3 + 0.4j]]))
    np.testing.assert_allclose(flat[0], draws.x_db() + 10 * np.log10(0.25), atol=1e-4)
    two = draws.curves(np.sqrt(np.array([[0.2, 1.7]])).astype(complex))
    exact = np.log(2.0) - np.logaddexp(-x * 0.2, -x * 1.7)
    np.testing.assert_allclose(two[0], 10 * np.log10(exact), atol=2e-4)


@pytest.mark.parametrize("mean_db", [0.0, 5.0, 10.0])
def test_chase_combining_of_independent_attempts(mean_db):
    """A block that needs the SINR t fails k times with probability P(k, t / mean).

    The SINRs of k attempts are independent and exponential with the mean g; their sum is Gamma(k, g) distributed, so
    P[sum < t] is the regularised incomplete gamma function. Attempts: 1 + P[fails 1] + P[fails 2] + P[fails 3].
    """
    got = adapt.averages(rayleigh(0.0), steep_codes([5.0], [1000.0]))
    ratio = 10.0 ** ((5.0 - mean_db) / 10.0)
    fails = gammainc(np.arange(1, 5), ratio)
    assert at(got.bler, mean_db) == pytest.approx(fails[0], abs=0.01)
    assert at(got.attempts, mean_db) == pytest.approx(1.0 + fails[:3].sum(), abs=0.03)
    assert at(got.residual, mean_db) == pytest.approx(fails[3], abs=0.01)
    assert at(got.first_bits, mean_db) == pytest.approx(1000.0 * (1.0 - fails[0]), abs=10.0)
    per_slot = 1000.0 * max((1.0 - fails[3]) / (1.0 + fails[:3].sum()), 1.0 - fails[0])
    assert at(got.harq_bits, mean_db) == pytest.approx(per_slot, abs=15.0)


def test_chase_combining_on_a_channel_that_stands_still():
    """k attempts add up to k times the SINR: a block gets through at the first k with k g > t."""
    got = adapt.averages(rayleigh(1.0), steep_codes([5.0], [1000.0]))
    for mean_db in (0.0, 5.0, 10.0):
        ratio = 10.0 ** ((5.0 - mean_db) / 10.0)
        reach = np.exp(-ratio / np.arange(1, 5))  # P[k g > t]
        per_slot = 1000.0 * (reach[0] + (np.diff(reach) / np.arange(2, 5)).sum())
        assert at(got.residual, mean_db) == pytest.approx(1.0 - reach[3], abs=0.01)
        assert at(got.harq_bits, mean_db) == pytest.approx(per_slot, abs=12.0)
        assert at(got.first_bits, mean_db) == pytest.approx(1000.0 * reach[0], abs=12.0)


def test_ideal_adaptation_of_a_known_channel():
    """With thresholds t_i and bits b_i: sum_i (b_i - b_(i-1)) P[g > t_i], and P = exp(-t_i / mean) for Rayleigh."""
    threshold_db, bits = np.arange(-5.0, 20.0, 5.0), 100.0 * np.arange(1, 6)
    got = adapt.averages(rayleigh(1.0), steep_codes(threshold_db, bits))
    for mean_db in (-5.0, 5.0, 15.0):
        expected = (np.diff(bits, prepend=0.0) * np.exp(-(10.0 ** ((threshold_db - mean_db) / 10.0)))).sum()
        assert at(got.first_bits, mean_db) == pytest.approx(expected, rel=0.02)


def test_an_aged_channel_keeps_the_target():
    """Independent of what was seen: the offset that makes blocks fail at 10 % on average leaves MCS near 0.105 g.

    With MCS at every dB and independent states, P[fails | MCS i] = 1 - exp(-t_i / g).
    """
    threshold_db = np.arange(-25.0, 25.0, 1.0)
    got = adapt.averages(rayleigh(0.0), steep_codes(threshold_db, np.log2(1.0 + 10.0 ** (threshold_db / 10.0))))
    for mean_db in (5.0, 15.0):
        assert at(got.bler, mean_db) == pytest.approx(codes.BLER_TARGET, abs=2e-3)
    fresh = adapt.averages(rayleigh(1.0), steep_codes(threshold_db, np.log2(1.0 + 10.0 ** (threshold_db / 10.0))))
    assert (got.first_bits <= fresh.first_bits + 1e-9).all()


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
def test_retransmissions_are_made_only_where_they_pay(correlation):
    got = adapt.averages(rayleigh(correlation), steep_codes([0.0, 5.0, 12.0], [100.0, 250.0, 600.0]))
    assert (got.harq_bits >= got.first_bits * (1.0 - 1e-6)).all()
    assert (got.residual <= got.bler + 1e-6).all()
    assert ((got.attempts >= 1.0) & (got.attempts <= draws.ATTEMPTS)).all()


@pytest.mark.parametrize("users", [1, 2, 8, 64])
def test_shares_of_the_best_are_order_statistics(users):
    """The largest of n uniform variables has the mean n / (n + 1); of n exponential ones 1 + 1/2 + ... + 1/n."""
    rank = (np.arange(DRAWS) + 0.5) / DRAWS
    share = adapt.served(DRAWS, users)
    assert share.sum() == pytest.approx(1.0)
    assert share @ rank == pytest.approx(users / (users + 1.0), abs=1e-4)
    assert share @ -np.log1p(-rank) == pytest.approx((1.0 / np.arange(1, users + 1)).sum(), rel=5e-3)


def test_the_best_of_many_on_a_known_channel():
    """One MCS, n users: it is received unless all are below the threshold: 1 - (1 - exp(-t / mean))^n."""
    for users in (2, 16):
        got = adapt.averages(rayleigh(1.0), steep_codes([5.0], [1000.0]), users)
        expected = 1000.0 * (1.0 - (1.0 - np.exp(-(10.0**0.5) / 10.0**0.3)) ** users)
        assert at(got.first_bits, 3.0) == pytest.approx(expected, rel=0.02)
        few = adapt.averages(rayleigh(1.0), steep_codes([5.0], [1000.0]), users, 5)
        np.testing.assert_allclose(few.first_bits, got.first_bits[::5], rtol=1e-6)


def test_the_extension_is_shifted_at_equal_gap_to_capacity():
    # MCS 0 of table 1 from its MCS 3: (2^0.2344 - 1) / (2^0.4902 - 1)
    assert codes.shift_db(2 * 120 / 1024, 2 * 251 / 1024) == pytest.approx(-3.61, abs=0.005)
    assert codes.shift_db(0.5, 0.5) == 0.0


def test_code_blocks():
    """TS 38.212 5.2.2: one block up to 8,448 bits with CRC (3,840 with base graph 2), else equal ones with 24 more."""
    tbs = np.array([24, 3824, 3848, 8424, 8456, 3816, 3840, 16896])
    rate = np.array([0.5, 0.5, 0.7, 0.7, 0.7, 0.2, 0.2, 0.75])
    size, count = codes.code_blocks(tbs, rate)
    assert count.tolist() == [1, 1, 1, 1, 2, 1, 2, 3]
    assert size[:4].tolist() == [40, 3840, 3872, 8448]
    assert size[4] == (8456 + 24 + 2 * 24) // 2
    assert ((size - 24) * count >= tbs + 24)[count > 1].all()


def test_line_of_sight_turns_with_the_doppler_shift():
    """J0(z) = rho while the line of sight turns by 0.7 z: for rho = 0, z = 2.4048."""
    assert draws.rotation(0.0) == pytest.approx(np.exp(0.7j * 2.404825557695773))
    z = 0.1  # J0(0.1) = 1 - 0.0025 + ...
    assert draws.rotation(0.99750156) == pytest.approx(np.exp(0.7j * z), abs=1e-5)
    assert draws.rotation(1.0) == 1.0


def test_draws_are_unit_gaussian():
    noise = draws._gaussian(DRAWS, 3, 5, seed=1)
    assert noise.shape == (5, DRAWS, 3)
    np.testing.assert_allclose((np.abs(noise) ** 2).mean(axis=1), 1.0, atol=2e-3)
    np.testing.assert_allclose((noise[0] * noise[1].conj()).mean(axis=0), 0.0, atol=5e-3)
    np.testing.assert_allclose((np.abs(noise) ** 4).mean(axis=1), 2.0, atol=0.02)
