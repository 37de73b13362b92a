"""Meta-analysis, reliability and the comparison of decay curves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from statsmodels.stats.meta_analysis import combine_effects

from llmct_bench.stats import (
    compare_decays,
    detectable_change,
    fit_half_life,
    hartung_knapp,
    spearman_brown,
    split_half,
)

few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)
LAGS = np.array([1.0, 2, 3, 4, 6, 8, 12, 16, 24])


# --- meta-analysis ----------------------------------------------------------------------------------------------


def studies(seed, spread=1.0):
    """Eight studies with unequal precision around .4."""
    rng = np.random.default_rng(seed)
    s = rng.uniform(0.1, 0.6, 8)
    return 0.4 + spread * rng.normal(0, 0.5, 8) + rng.normal(0, s), s


@given(seeds)
@few
def test_hartung_knapp_against_statsmodels(seed):
    """Estimate, tau^2 (Paule-Mandel) and, where the spread is not below what is expected, the interval."""
    y, s = studies(seed)
    found = hartung_knapp(y, s)
    truth = combine_effects(y, s**2, method_re="iterated", use_t=True)
    assert found.tau2 == pytest.approx(max(truth.tau2, 0.0), abs=1e-4)  # statsmodels stops at 1e-5
    assert found.estimate == pytest.approx(truth.mean_effect_re, abs=1e-4)
    assert found.q == pytest.approx(truth.q, rel=1e-9)
    if found.tau2 > 0:
        assert found.se == pytest.approx(truth.sd_eff_w_re_hksj, rel=1e-3)


def test_equal_studies_give_the_t_interval():
    """With equal precision and more spread than that explains, it is Student's interval of the effects."""
    y = np.array([0.1, 0.9, 0.4, -0.5, 1.2])
    found = hartung_knapp(y, np.full(5, 0.01))
    half = 2.7764451051977987 * y.std(ddof=1) / np.sqrt(5)  # t(.975, 4)
    assert (found.low, found.high) == pytest.approx((y.mean() - half, y.mean() + half))
    assert found.tau2 == pytest.approx(y.var(ddof=1) - 0.0001, rel=1e-6)


def test_homogeneous_studies_have_no_spread():
    """Identical effects: tau^2 is 0, and the error is that of the pooled precision, not 0."""
    found = hartung_knapp([0.5, 0.5, 0.5], [0.1, 0.2, 0.2])
    assert (found.estimate, found.tau2, found.q) == pytest.approx((0.5, 0.0, 0.0))
    assert found.se == pytest.approx((100 + 25 + 25) ** -0.5)


def test_hartung_knapp_covers_with_few_studies():
    """Five heterogeneous studies of unequal precision: .95 of 1000 intervals hold the mean (standard error .007)."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        s = rng.uniform(0.05, 0.5, 5)
        found = hartung_knapp(0.3 + rng.normal(0, 0.3, 5) + rng.normal(0, s), s)
        hits += found.low <= 0.3 <= found.high
    assert 0.93 <= hits / 1000 <= 0.985


@given(seeds, st.floats(0.01, 100))
@few
def test_meta_analysis_scales_and_does_not_depend_on_order(seed, scale):
    y, s = studies(seed)
    a, b, c = hartung_knapp(y, s), hartung_knapp(scale * y, scale * s), hartung_knapp(y[::-1], s[::-1])
    assert b.low == pytest.approx(scale * a.low, rel=1e-5, abs=1e-9)
    assert b.p_value() == pytest.approx(a.p_value(), rel=1e-5)
    assert c.high == pytest.approx(a.high, rel=1e-9)


@pytest.mark.parametrize(("y", "s"), [([1.0], [0.1]), ([1.0, np.nan], [0.1, 0.1]), ([1.0, 2.0], [0.1, 0.0])])
def test_meta_analysis_refuses(y, s):
    with pytest.raises(ValueError, match=r"studies|positive"):
        hartung_knapp(y, s)


# --- reliability ------------------------------------------------------------------------------------------------


def test_split_half_is_the_share_of_true_variance():
    """Model means of variance T and cluster noise E: reliability of the mean of n clusters is T / (T + E/n)."""
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1.0, (400, 1)) + rng.normal(0, 3.0, (400, 30))
    assert split_half(x) == pytest.approx(1 / (1 + 9 / 30), abs=0.04)


def test_split_half_extremes():
    """Pure differences: 1. Pure noise: about 0. What cannot be said: NaN."""
    assert split_half(np.arange(5.0)[:, None] + np.zeros((5, 8))) == pytest.approx(1.0)
    assert abs(split_half(np.random.default_rng(3).normal(size=(300, 40)))) < 0.15
    assert np.isnan(split_half(np.ones((2, 8))))
    assert np.isnan(split_half(np.ones((4, 8))))
    assert np.isnan(split_half(np.ones((4, 3))))


def test_spearman_brown_and_detectable_change():
    """r = .6 becomes .75 at double length; parts as long as the whole change nothing; 1.96 sqrt(2) SEM."""
    assert spearman_brown(0.6) == pytest.approx(0.75)
    assert spearman_brown(0.6, 1.0) == pytest.approx(0.6)
    assert detectable_change(0.5) == pytest.approx(1.96 * 2**0.5 * 0.5)


# --- decay curves -----------------------------------------------------------------------------------------------

CURVES = {
    "constant": lambda x: np.full_like(x, 1.3),
    "step": lambda x: np.where(x < 5, 1.0, 0.3),
    "exponential": lambda x: 1.2 * np.exp2(-x / 6),
    "exponential + floor": lambda x: 1.0 * np.exp2(-x / 2.5) + 0.5,
    "power": lambda x: 1.5 * (1 + x) ** -0.8,
}


def covariance(scale=0.02):
    """Noise that neighbouring lags share."""
    return scale**2 * (0.5 + 0.5 * np.eye(len(LAGS)))


@pytest.mark.parametrize("name", CURVES)
def test_each_shape_is_recognised(name):
    """Its own curve, without noise, has no residual, and it is named."""
    found = compare_decays(LAGS, CURVES[name](LAGS), covariance(0.005))
    assert found.chi2[name] < 1e-2
    assert found.verdict == name
    assert sum(found.weights.values()) == pytest.approx(1.0)


def test_noise_leaves_it_undecided():
    """Where the error is as large as the curve, no shape is named."""
    assert compare_decays(LAGS, CURVES["exponential"](LAGS), covariance(1.5)).verdict == "undecided"


def test_half_life_agrees_with_the_plain_fit():
    """With independent, equal errors, generalised least squares is the ordinary fit."""
    y = CURVES["exponential"](LAGS) + np.random.default_rng(4).normal(0, 0.05, len(LAGS))
    found = compare_decays(LAGS, y, 0.01 * np.eye(len(LAGS)))
    assert found.parameter["exponential"] == pytest.approx(fit_half_life(LAGS, y).half_life, rel=1e-3)


@given(seeds)
@few
def test_misfits_against_scipy(seed):
    """No worse than scipy's own search from several beginnings, for correlated noise."""
    rng, c = np.random.default_rng(seed), covariance(0.1)
    y = CURVES["exponential + floor"](LAGS) + rng.multivariate_normal(np.zeros(len(LAGS)), c)
    precision = np.linalg.inv(c)

    def misfit(v):
        r = y - v[0] * np.exp2(-LAGS / np.exp(np.clip(v[2], -2, 6))) - v[1]
        return r @ precision @ r

    best = min(optimize.minimize(misfit, [1, 0.5, t], method="Nelder-Mead").fun for t in (0.0, 1.0, 2.0, 3.0))
    assert compare_decays(LAGS, y, c).chi2["exponential + floor"] <= best + 1e-3


def test_weights_follow_the_formula():
    """exp(-dAICc / 2), AICc = chi^2 + 2k + 2k(k+1)/(n-k-1), from the misfits that are reported."""
    found = compare_decays(LAGS, CURVES["power"](LAGS), covariance(0.2))
    k = {"constant": 1, "step": 3, "exponential": 2, "exponential + floor": 3, "power": 2}
    a = {n: c + 2 * k[n] + 2 * k[n] * (k[n] + 1) / (len(LAGS) - k[n] - 1) for n, c in found.chi2.items()}
    raw = {n: np.exp(-(v - min(a.values())) / 2) for n, v in a.items()}
    assert found.weights == pytest.approx({n: r / sum(raw.values()) for n, r in raw.items()})


def test_decays_refuse_what_they_cannot_compare():
    with pytest.raises(ValueError, match="six lags"):
        compare_decays(LAGS[:5], LAGS[:5], np.eye(5))
    with pytest.raises(ValueError, match="positive definite"):
        compare_decays(LAGS, LAGS, np.zeros((9, 9)))
    with pytest.raises(ValueError, match="finite"):
        compare_decays(LAGS, np.full(9, np.nan), np.eye(9))
