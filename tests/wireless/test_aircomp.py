"""Over-the-air sums against closed forms, brute force and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from fedwave.core.errors import BadInput
from fedwave.wireless import aircomp


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
