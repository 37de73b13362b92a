"""Whole maps resampled at once: every cell against a loop over draws, the family against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from llmct_bench.stats import MIN_CLUSTERS, bootstrap_t, cluster_t, sign_flip, sign_flip_map
from llmct_bench.stats.resampling import bootstrap_counts, flip_signs

few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def t_of(x):
    """The t statistic of a mean by scipy."""
    return sps.ttest_1samp(x, 0.0).statistic


def test_counts_are_draws_with_replacement():
    """Every draw takes n clusters; the mean count is 1 and the variance that of a multinomial, 1 - 1/n."""
    counts = bootstrap_counts(20, 20_000)
    assert set(counts.sum(axis=1)) == {20.0}
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.04)  # its standard error is .007
    np.testing.assert_allclose(counts.var(axis=0), 0.95, atol=0.06)
    assert np.corrcoef(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 19, abs=0.03)


def test_signs_are_all_patterns_or_fair_coins():
    """Few clusters: each pattern once. Many: fair and independent signs."""
    signs, exact = flip_signs(5, 100)
    assert exact
    assert sorted(map(tuple, signs)) == sorted(product((-1.0, 1.0), repeat=5))
    signs, exact = flip_signs(30, 20_000)
    assert not exact
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert np.abs(np.corrcoef(signs.T) - np.eye(30)).max() < 0.04
    assert np.abs(signs.mean(axis=0)).max() < 0.04


@given(seeds)
@few
def test_bootstrap_t_is_the_loop_over_draws(seed):
    """Quantiles of (mean* - mean) / se*, draw by draw with numpy's own mean and standard deviation."""
    rng = np.random.default_rng(seed)
    n, draws = 9, 199
    x = np.array([[0.0, 1.0], [2.0, -3.0]]) + rng.exponential(size=(n, 2, 2))
    found = bootstrap_t(x, draws=draws, seed=seed)
    t = np.full((draws, 2, 2), np.nan)
    for b, counts in enumerate(bootstrap_counts(n, draws, seed).astype(int)):
        drawn = np.repeat(x, counts, axis=0)
        if counts.max() < n:
            t[b] = (drawn.mean(axis=0) - x.mean(axis=0)) / (drawn.std(axis=0, ddof=1) / np.sqrt(n))
    se = x.std(axis=0, ddof=1) / np.sqrt(n)
    low, high = np.nanquantile(t, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(found.estimate, x.mean(axis=0))
    np.testing.assert_allclose(found.se, se)
    np.testing.assert_allclose(found.low, x.mean(axis=0) - high * se, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.high, x.mean(axis=0) - low * se, rtol=1e-8, atol=1e-9)
    largest = np.quantile(np.nanmax(np.abs(t), axis=(1, 2)), 0.95)
    np.testing.assert_allclose(found.band_high - found.estimate, largest * se, rtol=1e-8)
    np.testing.assert_allclose(found.estimate - found.band_low, largest * se, rtol=1e-8)


def test_bootstrap_t_agrees_with_student_on_normal_data():
    """On many normal clusters the studentised bootstrap gives the t interval."""
    x = np.random.default_rng(3).normal(1.0, 2.0, size=400)
    found, truth = bootstrap_t(x), cluster_t(x)
    assert found.low == pytest.approx(truth.low, abs=0.03 * (truth.high - truth.low))
    assert found.high == pytest.approx(truth.high, abs=0.03 * (truth.high - truth.low))


def test_bootstrap_t_covers_a_skewed_mean():
    """12 exponential clusters: 95 % intervals hold the mean in about .95 of 1000 samples, where the interval of the
    bootstrap's percentiles holds it in fewer than .92 (Efron & Tibshirani 1993)."""
    rng = np.random.default_rng(4)
    samples = rng.exponential(size=(12, 1000))
    found = bootstrap_t(samples, draws=999)
    counts = bootstrap_counts(12, 999)
    low, high = np.quantile(counts @ samples / 12, [0.025, 0.975], axis=0)
    ours, percentile = np.mean((found.low <= 1) & (found.high >= 1)), np.mean((low <= 1) & (high >= 1))
    assert 0.93 <= ours <= 0.97  # Monte-Carlo standard error .007
    assert percentile < 0.92


def test_bands_cover_all_cells_at_once():
    """20 independent cells: the band holds all means in about .95 of 300 maps, their own intervals in far fewer."""
    rng = np.random.default_rng(5)
    hits = []
    for _ in range(300):
        found = bootstrap_t(rng.normal(size=(40, 20)), draws=399)
        hits.append(
            [np.all((a <= 0) & (b >= 0)) for a, b in ((found.band_low, found.band_high), (found.low, found.high))]
        )
    band, cells = np.mean(hits, axis=0)
    assert 0.91 <= band <= 0.985  # standard error .0126
    assert cells < 0.55


@given(seeds)
@few
def test_every_cell_of_a_flip_map_is_its_own_test(seed):
    """Cell by cell the map gives what the test of one vector gives, exact and random."""
    rng = np.random.default_rng(seed)
    for n in (8, 25):
        x = rng.normal(0.3, 1.0, size=(n, 3, 2))
        found = sign_flip_map(x, draws=499, seed=seed)
        assert found.p.shape == (3, 2)
        for i, j in product(range(3), range(2)):
            assert found.p[i, j] == sign_flip(x[:, i, j], draws=499, seed=seed)


@given(seeds)
@few
def test_family_p_is_the_maximum_of_t_by_brute_force(seed):
    """All patterns, scipy's t of every cell, the share of patterns whose largest |t| reaches the cell's."""
    x = np.random.default_rng(seed).normal(0.5, 1.0, size=(7, 3))
    patterns = np.array(list(product((-1.0, 1.0), repeat=7)))
    largest = np.array([np.abs(t_of(s[:, None] * x)).max() for s in patterns])
    truth = [(largest >= abs(t) * (1 - 1e-9)).mean() for t in t_of(x)]
    found = sign_flip_map(x)
    np.testing.assert_allclose(found.p_family, truth, atol=1e-12)
    assert (found.p_family >= found.p).all()


def test_one_cell_is_its_own_family():
    """Without other cells there is nothing to adjust for."""
    found = sign_flip_map(np.random.default_rng(6).normal(size=(30, 1)))
    assert found.p_family == found.p


def test_the_family_error_is_held_under_the_null():
    """100 correlated cells without an effect: some family p <= .05 in about .05 of 400 maps, some p in far more."""
    rng = np.random.default_rng(7)
    rejected = []
    for seed in range(400):
        x = rng.normal(size=(30, 100)) + 2 * rng.normal(size=(30, 1))
        found = sign_flip_map(x, draws=399, seed=seed)
        rejected.append([found.p_family.min() <= 0.05, found.p.min() <= 0.05])
    family, single = np.mean(rejected, axis=0)
    assert 0.02 <= family <= 0.085  # standard error .011
    assert single > 0.15


@given(seeds, st.floats(0.01, 100))
@few
def test_maps_do_not_depend_on_scale_or_on_the_order_of_cells(seed, scale):
    """Scaling all cells leaves p and studentised bounds; permuting cells permutes the results."""
    x = np.random.default_rng(seed).normal(0.2, 1.0, size=(20, 4))
    a, b, c = bootstrap_t(x, draws=199), bootstrap_t(scale * x, draws=199), bootstrap_t(x[:, ::-1], draws=199)
    np.testing.assert_allclose(scale * a.low, b.low, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(a.band_high[::-1], c.band_high, rtol=1e-10)
    assert (sign_flip_map(x).p_family == sign_flip_map(scale * x).p_family).all()


def test_more_cells_than_fit_at_once():
    """Blocks of cells give what one block gives."""
    x = np.random.default_rng(8).normal(0.4, 1.0, size=(16, 1100))
    whole, flips = bootstrap_t(x, draws=99), sign_flip_map(x, draws=99)
    part = bootstrap_t(x[:, 600:700], draws=99)
    np.testing.assert_allclose(whole.low[600:700], part.low)
    assert (flips.p[600:700] == sign_flip_map(x[:, 600:700], draws=99).p).all()
    assert flips.p_family.shape == (1100,)


def test_constant_cells_and_few_clusters():
    """No variance: the interval is the point. Fewer than six clusters: none. No clusters, not finite: said."""
    x = np.random.default_rng(9).normal(size=(10, 2))
    x[:, 0] = 3.0
    found = bootstrap_t(x, draws=99)
    assert (found.low[0], found.high[0], found.band_low[0]) == (3.0, 3.0, 3.0)
    assert np.isfinite(found.low[1])
    assert np.isnan(bootstrap_t(x[: MIN_CLUSTERS - 1]).low[1])
    assert np.isnan(sign_flip_map(np.empty((0, 2))).p).all()
    with pytest.raises(ValueError, match="finite"):
        bootstrap_t([[1.0], [np.nan]])
    with pytest.raises(ValueError, match="finite"):
        sign_flip_map([[1.0], [np.inf]])
    assert sign_flip_map(np.zeros((8, 2))).p.tolist() == [1.0, 1.0]
