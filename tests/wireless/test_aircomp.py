"""Over-the-air sums against closed forms, brute force and Monte Carlo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.noise import symmetric_stable
from fedwave.core.types import AirNoise
from fedwave.wireless import aircomp
from fedwave.wireless.uplinks.air_passage import added
from fedwave.wireless.uplinks.air_time import AirGrid
from fedwave.wireless.uplinks.aircomp import AirComp


def error_of_sum(gains, power, noise_var, eta):
    """Direct evaluation: everybody sends what brings it closest to coefficient 1."""
    coefficient = np.minimum(np.sqrt(power * np.asarray(gains) / eta), 1.0)
    return float(((coefficient - 1) ** 2).sum() + noise_var / eta)


def test_zero_forcing():
    result = aircomp.zero_forcing([1, 0.6, 0.3, 0.1], 1.0, 0.01)
    assert result.sum_mse == pytest.approx(0.1)  # 0.01 / 0.1
    assert result.eta == pytest.approx(0.1)
    np.testing.assert_allclose(result.coefficients, 1.0)


def test_truncation():
    result = aircomp.truncated_inversion([1, 0.6, 0.3, 0.1], 2.0, 0.01, threshold=0.25)
    np.testing.assert_array_equal(result.coefficients, [1, 1, 1, 0])
    assert result.eta == pytest.approx(0.6)  # 2 x 0.3
    assert result.sum_mse == pytest.approx(1 + 0.01 / 0.6)
    everybody = aircomp.truncated_inversion([1, 0.6, 0.3, 0.1], 1.0, 0.01, threshold=0.0)
    assert everybody.sum_mse == pytest.approx(0.1)
    nobody = aircomp.truncated_inversion([1, 0.6], 1.0, 0.01, threshold=2.0)
    assert nobody.sum_mse == pytest.approx(2.0)
    assert (nobody.coefficients == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1e-3, 10), min_size=1, max_size=12),
    st.floats(0.1, 10),
    st.floats(1e-4, 10),
)
def test_optimal_threshold_is_optimal(gains, power, noise_var):
    result = aircomp.optimal_threshold(gains, power, noise_var)
    assert result.sum_mse == pytest.approx(error_of_sum(gains, power, noise_var, result.eta), rel=1e-9)
    x = np.geomspace(1e-4, 1e3, 400)  # 1 / sqrt(eta); then polish, the error is convex in x
    best = min(x, key=lambda v: error_of_sum(gains, power, noise_var, v**-2.0))
    polished = minimize_scalar(
        lambda v: error_of_sum(gains, power, noise_var, v**-2.0), bounds=(best / 1.1, best * 1.1), method="bounded"
    )
    assert result.sum_mse <= polished.fun * (1 + 1e-6) + 1e-12
    assert result.sum_mse <= aircomp.zero_forcing(gains, power, noise_var).sum_mse + 1e-12
    for threshold in gains:
        assert result.sum_mse <= aircomp.truncated_inversion(gains, power, noise_var, threshold).sum_mse + 1e-9


def test_no_noise_is_zero_forcing():
    result = aircomp.optimal_threshold([0.3, 2.0], 1.0, 0.0)
    assert result.sum_mse == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(result.coefficients, 1.0)


def test_monte_carlo_of_the_sum():
    rng = np.random.default_rng(1)
    gains, noise_var, samples = np.array([1.2, 0.5, 0.05, 0.01]), 0.2, 200_000
    for result in (
        aircomp.zero_forcing(gains, 1.0, noise_var),
        aircomp.truncated_inversion(gains, 1.0, noise_var, 0.1),
        aircomp.optimal_threshold(gains, 1.0, noise_var),
    ):
        power = result.coefficients**2 * result.eta / gains
        assert (power <= 1 + 1e-9).all()
        symbols = rng.standard_normal((samples, 4))
        received = symbols @ np.sqrt(power * gains) + np.sqrt(noise_var) * rng.standard_normal(samples)
        error = ((received / np.sqrt(result.eta) - symbols.sum(1)) ** 2).mean()
        assert error == pytest.approx(result.sum_mse, rel=0.02)


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_rayleigh_truncation(threshold):
    closed = aircomp.truncated_inversion_rayleigh(threshold, 2.0, symbols=4)
    gains = np.random.default_rng(0).exponential(size=2_000_000)
    active = gains >= threshold
    assert closed.active_fraction == pytest.approx(active.mean(), rel=0.02)
    # each of 4 symbols inverts the channel with rho / g: the mean power over fading is P = 2
    power = 4 * np.where(active, closed.received_power / gains, 0.0)
    assert power.mean() == pytest.approx(2.0, rel=0.02)
    assert 10 * np.log10(power.max() / 2.0) == pytest.approx(closed.peak_to_average_db, abs=0.1)


def test_peak_at_a_tenth():
    assert aircomp.truncated_inversion_rayleigh(0.1, 1.0).peak_to_average_db == pytest.approx(7.4, abs=0.05)


def test_phase_error():
    sigma = 0.4
    phase = sigma * np.random.default_rng(2).standard_normal(1_000_000)
    factor, leakage = aircomp.phase_error_factors(sigma)
    assert np.cos(phase).mean() == pytest.approx(float(factor), rel=0.02)
    assert np.sin(phase).var() == pytest.approx(float(leakage), rel=0.02)


def test_bad_input():
    for gains, power, noise in (([], 1, 0), ([0.0, 1], 1, 0), ([1.0], 0, 0), ([1.0], 1, -1), ([np.nan], 1, 0)):
        with pytest.raises(BadInput):
            aircomp.zero_forcing(gains, power, noise)
    with pytest.raises(BadInput, match="threshold"):
        aircomp.truncated_inversion_rayleigh(0.0, 1.0)


# ---- many blocks -----------------------------------------------------------------------------------------------------

UPLINK = AirComp(csi_error=0.0, phase_error_rad=0.0)
GRID = AirGrid(prbs=51, subcarrier_khz=30, uplink_share=0.25, coherence_s=0.02)
CLIENTS = st.lists(st.floats(-30.0, 40.0), min_size=1, max_size=12)
POLICIES = ("zero_forcing", "truncated", "optimal")


def round_of(uplink, snr, *, seed=3, values=1000.0, periods=1, ready=None):
    snr = np.asarray(snr, dtype=float)
    everybody = np.ones(len(snr), dtype=bool) if ready is None else ready
    return uplink.sum(snr, np.arange(len(snr)), values, GRID, everybody, Key(seed), periods)


def test_share_of_blocks_on_the_air():
    """P(|h|^2 >= g) = exp(-g) for a Rayleigh channel, whose power gain is Exp(1)."""
    for threshold in (0.1, 0.7):
        done = round_of(replace(UPLINK, threshold=threshold, blocks=60, csi_period_s=1e3), np.ones(2000), periods=2)
        share = (done.coefficient > 0.0).mean()
        expected = np.exp(-threshold)
        assert share == pytest.approx(expected, abs=4.0 * np.sqrt(expected * (1.0 - expected) / done.coefficient.size))


@settings(max_examples=40, deadline=None)
@given(CLIENTS, st.sampled_from(POLICIES), st.integers(0, 1000), st.floats(0.01, 2.0))
def test_peak_power_holds(snr_db, policy, seed, threshold):
    """``p_kb = c_kb^2 eta_b / g_kb <= 1``, and the one that sets ``eta`` uses it all where everybody inverts."""
    fading = -np.log(Key(seed).uniform(np.arange(len(snr_db)), 6))
    uplink = replace(UPLINK, policy=policy, threshold=threshold)
    mean = 10.0 ** (np.array(snr_db) / 10.0)
    lined = uplink._align(mean, fading)
    assert np.isfinite(lined.power).all()
    assert (lined.power <= 1.0 + 1e-9).all()
    used = lined.coefficients.any(axis=0)
    if policy != "optimal":
        np.testing.assert_allclose(lined.power.max(axis=0)[used], 1.0)
    np.testing.assert_allclose(
        lined.coefficients**2 * np.where(used, lined.eta, 0.0), lined.power * mean[:, None] * fading, rtol=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(CLIENTS, st.integers(0, 1000), st.floats(0.01, 2.0), st.floats(0.0, 20.0))
def test_average_power_holds(snr_db, seed, threshold, headroom_db):
    """The mean over a client's blocks is at most 1, and no block is above the headroom."""
    fading = -np.log(Key(seed).uniform(np.arange(len(snr_db)), 6))
    uplink = replace(UPLINK, power_rule="average", threshold=threshold, peak_headroom_db=headroom_db)
    lined = uplink._align(10.0 ** (np.array(snr_db) / 10.0), fading)
    assert np.isfinite(lined.power).all()
    assert (lined.power.mean(axis=1) <= 1.0 + 1e-9).all()
    assert (lined.power <= 10.0 ** (headroom_db / 10.0) * (1.0 + 1e-9)).all()


def test_average_rule_against_its_closed_form():
    """Over many blocks ``eta = min_k G_k / E1(g)``: the received power of Zhu et al. for the weakest client."""
    fading = -np.log(Key(1).uniform(np.arange(3), 200_000))
    lined = replace(UPLINK, power_rule="average", threshold=0.1)._align(np.array([2.0, 0.5, 4.0]), fading)
    closed = aircomp.truncated_inversion_rayleigh(0.1, 0.5)
    assert np.median(lined.eta) == pytest.approx(closed.received_power, rel=0.02)
    assert lined.power[1].mean() == pytest.approx(1.0, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(CLIENTS, st.integers(0, 1000))
def test_optimal_has_the_least_error_of_its_neighbours(snr_db, seed):
    """``sum_k (c_kb - 1)^2 + sigma^2 / eta_b`` rises when ``eta_b`` moves by 1 % either way."""
    mean, fading = 10.0 ** (np.array(snr_db) / 10.0), -np.log(Key(seed).uniform(np.arange(len(snr_db)), 4))
    lined = replace(UPLINK, policy="optimal")._align(mean, fading)
    gains = mean[:, None] * fading
    for block in range(4):
        best = error_of_sum(gains[:, block], 1.0, 1.0, lined.eta[block])
        for moved in (0.99, 1.01):
            assert best <= error_of_sum(gains[:, block], 1.0, 1.0, moved * lined.eta[block]) + 1e-12


def test_errors_of_channel_and_phase():
    """Monte Carlo: ``y = (h p e^(j phi) x + n) / sqrt(eta)`` with ``h = h_hat + e`` and ``p ~ 1 / h_hat``.

    With x = a + jb, E a^2 = E b^2 = 1: Re y / a has the mean exp(-s^2/2), and the variance of Re y around it is
    1 - exp(-s^2) for the phase (I/Q leakage in it), csi_error / |h_hat|^2 for the channel, 1 / eta for the noise.
    """
    uplink = AirComp(policy="zero_forcing", blocks=1, csi_error=0.2, phase_error_rad=0.4)
    done = round_of(uplink, [5.0])
    fading = -np.log(Key(3).fold("fading").uniform([0], 1))[0, 0]
    estimate, eta, count = 0.8 * fading, 5.0 * 0.8 * fading, 400_000
    rng = np.random.default_rng(0)
    a, b, n = rng.standard_normal((3, count))
    e = np.sqrt(0.1) * (rng.standard_normal(count) + 1j * rng.standard_normal(count))
    y = (1.0 + e / np.sqrt(estimate)) * np.exp(0.4j * rng.standard_normal(count)) * (a + 1j * b)
    received = y.real + n / np.sqrt(eta)
    factor, leakage = aircomp.phase_error_factors(0.4)
    assert done.coefficient[0, 0] == pytest.approx(float(factor))
    assert (received * a).mean() == pytest.approx(float(factor), rel=0.02)
    assert (received - factor * a).var() == pytest.approx(done.noise.scale[0] ** 2, rel=0.02)
    assert (y.real * b).var() > float(leakage)  # what comes from the other quadrature is in it


def test_truncation_spares_the_noise_of_the_worst_block():
    """Zero forcing follows the least gain of all; with a threshold that gain is at least ``threshold`` times a mean."""
    snr = np.ones(50)
    plain = round_of(replace(UPLINK, policy="zero_forcing"), snr)
    cut = round_of(replace(UPLINK, threshold=0.3), snr)
    assert (cut.noise.scale < plain.noise.scale).all()
    assert (cut.noise.scale <= 1.0 / np.sqrt(0.3) + 1e-9).all()


def test_a_block_without_anybody_has_no_noise():
    done = round_of(replace(UPLINK, threshold=1e3), [1.0, 2.0])
    assert done.silent.all()
    assert (done.coefficient == 0.0).all() and (done.noise.scale == 0.0).all()
    weak = round_of(replace(UPLINK, least_snr_db=0.0, threshold=0.0), [0.5, 2.0])
    assert list(weak.silent) == [True, False]


def test_alpha_stable_interference_is_apart_from_the_noise():
    """Its scale is ``interference_scale / sqrt(eta)``; Gaussian interference of the same scale adds its square."""
    common = replace(UPLINK, interference_scale=2.0)
    gaussian, heavy = (round_of(replace(common, interference=law), [1.0]) for law in ("gaussian", "alpha_stable"))
    assert (gaussian.noise.law, heavy.noise.law, heavy.noise.alpha) == ("gaussian", "alpha_stable", 1.5)
    np.testing.assert_allclose(heavy.noise.scale, 2.0 * heavy.noise.gaussian)
    np.testing.assert_allclose(gaussian.noise.scale, np.sqrt(5.0) * heavy.noise.gaussian)


# ---- draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0])
def test_stable_draws_by_their_characteristic_function(alpha):
    """``E cos(t X) = exp(-|t|^alpha)``; the mean of n cosines has a standard error below 1 / sqrt(n)."""
    drawn = symmetric_stable(alpha, 200_000, Key(5))
    for t in (0.1, 0.5, 1.0, 2.0):
        assert np.cos(t * drawn).mean() == pytest.approx(np.exp(-(t**alpha)), abs=4.0 / np.sqrt(drawn.size))
        assert abs(np.sin(t * drawn).mean()) < 4.0 / np.sqrt(drawn.size)
    if alpha == 2.0:
        assert drawn.var() == pytest.approx(2.0, rel=0.02)


def test_stable_draws_have_bounds():
    for alpha in (1.0, 0.5, 2.1, np.nan):
        with pytest.raises(BadInput, match="alpha"):
            symmetric_stable(alpha, 3, Key(0))


def test_noise_of_a_sum_of_sums():
    """Variances add; for a tail index alpha it is ``scale^alpha`` that adds."""
    three, four = (AirNoise("gaussian", 2.0, np.array([x])) for x in (3.0, 4.0))
    assert added([three, four]).scale == pytest.approx(5.0)
    heavy = AirNoise("alpha_stable", 1.5, np.array([1.0]), np.array([3.0]))
    both = added([heavy, replace(heavy, gaussian=np.array([4.0]))])
    assert both.scale == pytest.approx(2.0 ** (1 / 1.5))
    assert both.gaussian == pytest.approx(5.0)
    one, other = (heavy.scale * symmetric_stable(1.5, 200_000, Key(seed)) for seed in (1, 2))
    assert np.cos(one + other).mean() == pytest.approx(np.exp(-(both.scale[0] ** 1.5)), abs=0.01)


# ---- time ------------------------------------------------------------------------------------------------------------


def test_time_of_a_sum():
    """By hand, 51 blocks at 30 kHz, a quarter of the time: 612 subcarriers, a symbol every 0.5 ms / 14 x 4.

    20,000 values are ceil(20,000 / 1,224) = 17 symbols, 17 x 14 / 12 with pilots. 10 clients: 1 symbol of sounding,
    10 x 12 x 8 bits of reports at 0.377 x 612 bits a symbol are 4.2, hence 5, 13 x 32 bits to all are 2; once 10 x 48
    bits, 3. The channel holds for 140 symbols, more than 19.8 + 8: one period.
    """
    time = UPLINK.time(20_000, 10, GRID)
    symbol = 0.5e-3 / 14 * 4
    assert (time.measured, time.once, time.periods) == (1 + 5 + 2, 3, 1)
    assert time.seconds(1) == pytest.approx((17 * 14 / 12 + 8 + 3) * symbol)
    assert time.control_bits(1) == 12 * 8 + 32
    assert round_of(UPLINK, np.ones(10), values=20_000).seconds == pytest.approx(time.seconds(1))


def test_time_is_flat_only_in_the_update():
    """The update takes as long for 100 clients as for one; what grows with clients does so in every period."""
    few, many = UPLINK.time(1e6, 1, GRID), UPLINK.time(1e6, 100, GRID)
    assert few.data == many.data
    assert many.measured > 10 * few.measured
    room = 0.02 / GRID.symbol_s - many.measured
    assert many.periods == int(np.ceil(many.data / room)) > few.periods
    assert many.seconds(many.periods) > 1.5 * few.seconds(few.periods)
    still = replace(GRID, coherence_s=np.inf)
    assert UPLINK.time(1e6, 100, still).periods == 1
    rows = {name: value for name, value, _, _ in UPLINK.explain(GRID)}
    assert rows["uplink.million_values_s"] == pytest.approx(few.data * GRID.symbol_s)
    assert {name: value for name, value, *_ in UPLINK.explain(still)}["uplink.most_clients"] == "any"


def test_more_clients_than_can_be_measured():
    most = {name: value for name, value, *_ in UPLINK.explain(GRID)}["uplink.most_clients"]
    UPLINK.time(1e4, most, GRID)
    with pytest.raises(Refused, match=rf"to measure {most + 1} channels takes .* at most {most} in a cell"):
        UPLINK.time(1e4, most + 1, GRID)
    with pytest.raises(Refused, match="700 blocks need as many subcarriers, and 612 are free"):
        replace(UPLINK, blocks=700).time(1e4, 1, GRID)


def test_averages_that_do_not_exist():
    with pytest.raises(BadInput, match="needs policy = 'truncated'"):
        AirComp(policy="optimal", power_rule="average")
    with pytest.raises(BadInput, match="must be positive"):
        AirComp(power_rule="average", threshold=0.0)
