"""The half-life of an exponential decay."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from llmct_bench.stats import fit_half_life, half_lives

few = settings(max_examples=60, deadline=None, derandomize=True)
LAGS = np.array([0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 16.0, 32.0])
some_half_life = st.floats(np.log(0.2), np.log(200.0)).map(np.exp)
amplitudes = st.one_of(st.floats(0.01, 100), st.floats(-100, -0.01))


def noisy(seed, h=4.0):
    """A decay with noise of a twentieth of its amplitude."""
    return 2.0 * 0.5 ** (LAGS / h) + np.random.default_rng(seed).normal(0, 0.1, len(LAGS))


@given(some_half_life, amplitudes)
@example(0.2, 1.0)
@example(200.0, -1.0)
@few
def test_exact_exponentials_are_recovered(h, a):
    """y = a 2^(-x/h), by definition: any h in 0.2-200 and any sign to six digits, with nothing left over."""
    fit = fit_half_life(LAGS, a * 0.5 ** (LAGS / h))
    assert fit.half_life == pytest.approx(h, rel=1e-6)
    assert fit.amplitude == pytest.approx(a, rel=1e-6)
    assert 0 <= fit.residual < 1e-12 * a**2


def test_amplitude_halves_after_one_half_life():
    """What a half-life is: 8, 4, 2, 1 at steps of three."""
    fit = fit_half_life([0, 3, 6, 9], [8, 4, 2, 1])
    assert (fit.half_life, fit.amplitude) == (pytest.approx(3), pytest.approx(8))


def test_amplitude_is_the_value_at_lag_zero_without_a_lag_of_zero():
    """Lags from 2 on: 4, 2, 1 at steps of two go back to 8 at lag 0."""
    fit = fit_half_life([2, 4, 6], [4, 2, 1])
    assert (fit.half_life, fit.amplitude) == (pytest.approx(2), pytest.approx(8))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("h", [0.7, 4.0, 30.0])
def test_noisy_fit_against_scipy(h, seed):
    """The least squares of scipy.optimize started at the truth: same curve, and no smaller residual."""
    y = noisy(seed, h)
    fit = fit_half_life(LAGS, y)
    truth = least_squares(lambda p: p[0] * 0.5 ** (LAGS / np.exp(p[1])) - y, [2.0, np.log(h)], xtol=1e-12)
    assert fit.residual == pytest.approx(2 * truth.cost, rel=1e-8)
    assert fit.half_life == pytest.approx(np.exp(truth.x[1]), rel=1e-4)
    assert fit.amplitude == pytest.approx(truth.x[0], rel=1e-4)


@given(st.integers(0, 1000), st.floats(0.1, 10), amplitudes)
@few
def test_units(seed, per_lag, per_effect):
    """Lags in other units scale the half-life alone, effects in other units the amplitude alone."""
    y = noisy(seed)
    fit, other = fit_half_life(LAGS, y), fit_half_life(per_lag * LAGS, per_effect * y)
    assert other.half_life == pytest.approx(per_lag * fit.half_life, rel=1e-5)
    assert other.amplitude == pytest.approx(per_effect * fit.amplitude, rel=1e-5)
    assert other.residual == pytest.approx(per_effect**2 * fit.residual, rel=1e-8)


@given(st.integers(0, 1000))
@few
def test_order_and_repetition_of_lags_do_not_matter(seed):
    """Equal weights: shuffled lags and lags given twice have the same optimum, the latter twice the residual."""
    y = noisy(seed)
    order = np.random.default_rng(seed).permutation(len(y))
    fit, twice = fit_half_life(LAGS, y), fit_half_life(np.tile(LAGS[order], 2), np.tile(y[order], 2))
    assert twice.half_life == pytest.approx(fit.half_life, rel=1e-5)
    assert twice.residual == pytest.approx(2 * fit.residual)


@pytest.mark.parametrize("y", [np.ones(8), 1 + LAGS, -(2.0 ** (LAGS / 8))], ids=["flat", "line", "growth"])
def test_what_does_not_decay_ends_far_above_what_is_reported(y):
    """Least squares over h has its infimum at infinity: the fit ends beyond 5 times the largest reported h."""
    assert fit_half_life(LAGS, y).half_life > 5 * 200


def test_what_is_gone_at_once_ends_below_what_is_reported():
    """An effect at lag 0 alone: the shorter the half-life the better, so the fit ends below 0.2."""
    fit = fit_half_life(LAGS, [3.0] + [0.0] * 7)
    assert 0 < fit.half_life < 0.2
    assert fit.amplitude == pytest.approx(3.0)


def test_mismatched_lengths_raise():
    """One effect per lag, or an error."""
    with pytest.raises(ValueError):
        fit_half_life([0, 1, 2], [1.0, 0.5])


def test_nan_does_not_become_a_short_half_life():
    """A missing effect must raise or give NaN, never a finite half-life."""
    try:
        fit = fit_half_life([0, 1, 2, 3], [1.0, np.nan, 0.3, 0.1])
    except ValueError:
        return
    assert np.isnan(fit.half_life)


@given(st.integers(0, 1000))
@few
def test_many_curves_are_fitted_as_one_by_one(seed):
    """Decays, noise, growth and constants side by side: each row has the half-life of its own fit."""
    rng = np.random.default_rng(seed)
    curves = np.stack(
        [noisy(seed, 0.7), -noisy(seed, 30.0), rng.normal(size=8), 1 + LAGS, np.zeros(8), 5 * noisy(seed)]
    )
    found = half_lives(LAGS, curves)
    assert found.shape == (6,)
    np.testing.assert_allclose(found, [fit_half_life(LAGS, y).half_life for y in curves], rtol=1e-9)
    order = rng.permutation(6)
    np.testing.assert_allclose(half_lives(LAGS, curves[order]), found[order], rtol=1e-9)


def test_many_exact_exponentials():
    """A closed form for each row: h from 0.3 to 100, amplitudes of both signs."""
    h = np.geomspace(0.3, 100.0, 50)
    curves = np.linspace(-3, 4.1, 50)[:, None] * 0.5 ** (LAGS / h[:, None])
    np.testing.assert_allclose(half_lives(LAGS, curves), h, rtol=1e-6)


def test_one_missing_value_among_many_curves_raises():
    """Not one half-life too many."""
    curves = np.ones((3, 8))
    curves[1, 4] = np.nan
    with pytest.raises(ValueError, match="finite"):
        half_lives(LAGS, curves)
