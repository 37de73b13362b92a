"""Fieller's interval of a ratio of means."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from llmct_bench.stats import MIN_CLUSTERS, LeftOut, cluster_t, fieller, left_out

few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


def pairs(seed, top=0.7, bottom=1.2, n=None):
    """Correlated numerators and denominators, one pair per cluster; some are identified and some are not."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.6, n := n or int(rng.integers(6, 25)))
    return top + shared + rng.normal(0, 0.7, n), bottom + shared + rng.normal(0, 0.7, n)


def bounds(interval):
    """Estimate and both ends."""
    return np.array([interval.estimate, interval.low, interval.high])


@given(seeds, st.sampled_from([0.8, 0.9, 0.95]))
@few
def test_ends_are_where_the_paired_t_test_turns(seed, level):
    """At theta = low and theta = high, scipy's t test of a - theta b has p = 1 - level; within, more."""
    a, b = pairs(seed)
    i = fieller(a, b, level)
    assume(np.isfinite(i.low))
    assert i.low < i.estimate < i.high
    for end in (i.low, i.high):
        assert sps.ttest_1samp(a - end * b, 0.0).pvalue == pytest.approx(1 - level, rel=1e-6)
    for theta in np.linspace(i.low, i.high, 7)[1:-1]:
        assert sps.ttest_1samp(a - theta * b, 0.0).pvalue > 1 - level
    assert i.estimate == pytest.approx(a.sum() / b.sum())


@given(seeds)
@few
def test_unbounded_exactly_where_the_denominator_may_be_zero(seed):
    """Infinite ends if and only if scipy's t test does not tell the denominator from zero."""
    a, b = pairs(seed, bottom=0.5)
    p = sps.ttest_1samp(b, 0.0).pvalue
    assume(abs(p - 0.05) > 1e-9)
    i = fieller(a, b)
    assert np.isinf([i.low, i.high]).tolist() == [p > 0.05] * 2
    if p > 0.05:
        assert (i.low, i.high) == (-np.inf, np.inf)
        assert not i.excludes(1e9)


def test_both_kinds_of_interval_occur_above():
    """The generated pairs hold bounded and unbounded cases, so that neither test above is empty."""
    kinds = {bool(np.isfinite(fieller(*pairs(s, bottom=0.5)).low)) for s in range(40)}
    assert kinds == {True, False}


@given(seeds)
@few
def test_swapping_the_parts_gives_the_reciprocal(seed):
    """b/a has the reciprocal interval of a/b where both are bounded."""
    a, b = pairs(seed, top=1.5, bottom=1.5)
    ours, swapped = fieller(a, b), fieller(b, a)
    assume(np.isfinite([ours.low, swapped.low]).all())
    np.testing.assert_allclose(bounds(swapped), [1 / ours.estimate, 1 / ours.high, 1 / ours.low], rtol=1e-6, atol=1e-9)


@given(seeds, st.floats(0.01, 100), st.floats(-5, 5), st.randoms(use_true_random=False))
@few
def test_equivariance(seed, scale, shift, random):
    """Ratio of (s a + k b) to b is s theta + k; signs, common units and cluster order behave likewise."""
    a, b = pairs(seed, bottom=2.0)
    i = fieller(a, b)
    assume(np.isfinite(i.low))
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(bounds(fieller(scale * a + shift * b, b)), scale * bounds(i) + shift, **close)
    np.testing.assert_allclose(bounds(fieller(-a, b)), -bounds(i)[[0, 2, 1]], **close)
    np.testing.assert_allclose(bounds(fieller(-a, -b)), bounds(i), **close)
    np.testing.assert_allclose(bounds(fieller(scale * a, scale * b)), bounds(i), **close)
    order = list(range(len(a)))
    random.shuffle(order)
    np.testing.assert_allclose(bounds(fieller(a[order], b[order])), bounds(i), **close)


def test_constant_denominator_is_the_t_interval():
    """With b = 4 in every cluster the ratio is a/4 and Fieller is the ordinary t interval of it."""
    a, _ = pairs(3, n=12)
    ours, truth = fieller(a, np.full(12, 4.0)), cluster_t(a / 4)
    np.testing.assert_allclose(bounds(ours), bounds(truth))
    assert ours.se == pytest.approx(truth.se)


@given(seeds)
@few
def test_standard_error_is_the_delta_method(seed):
    """se against g' Sigma g with the gradient g = (1/mb, -ma/mb^2), written out by sums."""
    a, b = pairs(seed, bottom=2.0)
    i, n = fieller(a, b), len(a)
    assume(np.isfinite(i.low))
    g = (n / b.sum(), -n * a.sum() / b.sum() ** 2)
    linear = [g[0] * (p - a.mean()) + g[1] * (q - b.mean()) for p, q in zip(a, b, strict=True)]
    assert i.se == pytest.approx(np.sqrt(sum(v**2 for v in linear) / (n - 1) / n))
    assert fieller(a, -b).se == pytest.approx(i.se)


def test_coverage():
    """Bivariate normal pairs in 24 clusters: coverage is .95 exactly, seen within 3 binomial errors."""
    runs = 3000
    hit = np.mean([fieller(*pairs(10**7 + r, 0.75, 1.5, 24)).contains(0.5) for r in range(runs)])
    assert abs(hit - 0.95) < 3 * np.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("n", range(1, MIN_CLUSTERS))
def test_too_few_clusters_give_no_interval(n):
    """Below six clusters: the ratio of means without bounds."""
    i = fieller(np.arange(n) + 2.0, np.full(n, 2.0))
    assert np.isnan([i.low, i.high, i.se]).all()
    assert i.estimate == pytest.approx((2 + (n - 1) / 2) / 2)
    assert i.n_clusters == n


def test_a_denominator_of_mean_zero_identifies_nothing():
    """0 in the denominator: no estimate, and every ratio is possible."""
    i = fieller(np.ones(8), [1.0, -1.0] * 4)
    assert np.isnan(i.estimate)
    assert (i.low, i.high) == (-np.inf, np.inf)


@pytest.mark.parametrize(("a", "b"), [(np.ones(7), np.ones(8)), (np.ones(1), np.ones(8)), (np.ones((8, 2)),) * 2])
def test_mismatched_parts_raise(a, b):
    """Two vectors of one length, or an error - also where numpy would broadcast."""
    with pytest.raises(ValueError, match="one length"):
        fieller(a, b)


# --- with the error of an instrument ------------------------------------------------------------------------------


def instrument(seed, size=0.3):
    """Two strata of 4 and 5 units whose means add to numerator and denominator: the units (n, 2), their strata."""
    rng = np.random.default_rng([seed, 1])
    return size * rng.normal(size=(9, 2)) @ rng.normal(size=(2, 2)), np.repeat([0, 1], [4, 5])


def inherited(units, strata, at):
    """The jackknife of ``at`` + the sum of the strata's means, about ``at``."""
    means = np.stack([units[strata == s].mean(axis=0) for s in (0, 1)])
    without = []
    for u, s in enumerate(strata):
        own = np.delete(units, u, axis=0)[np.delete(strata, u) == s].mean(axis=0)
        without.append(at + own - means[s])
    return left_out(at, without, strata)


@given(seeds, st.sampled_from([0.8, 0.95]))
@few
def test_ends_solve_the_quadratic_of_both_errors(seed, level):
    """Roots of (ma - theta mb)^2 = t^2 (Caa - 2 theta Cab + theta^2 Cbb) with C the covariance of the two means over
    clusters plus that of both strata, t with Satterthwaite's df for a - theta b at the estimate."""
    a, b = pairs(seed, bottom=2.5)
    units, strata = instrument(seed)
    i = fieller(a, b, level, inherited(units, strata, np.array([a.mean(), b.mean()])))
    own = np.cov(a, b) / len(a)
    extra = [np.cov(units[strata == s].T) / n for s, n in ((0, 4), (1, 5))]
    theta, c = a.mean() / b.mean(), own + extra[0] + extra[1]
    parts = [
        (v[0, 0] - 2 * theta * v[0, 1] + theta**2 * v[1, 1], d)
        for v, d in ((own, len(a) - 1), (extra[0], 3), (extra[1], 4))
    ]
    df = sum(v for v, _ in parts) ** 2 / sum(v**2 / d for v, d in parts)
    t2 = sps.t.ppf(0.5 + level / 2, df) ** 2
    quadratic = [b.mean() ** 2 - t2 * c[1, 1], -2 * (a.mean() * b.mean() - t2 * c[0, 1]), a.mean() ** 2 - t2 * c[0, 0]]
    if quadratic[0] <= 0:
        assert (i.low, i.high) == (-np.inf, np.inf)
        return
    assert (i.low, i.high) == pytest.approx(tuple(sorted(np.roots(quadratic).real)), rel=1e-6, abs=1e-9)
    assert i.df == pytest.approx(df)
    assert i.se == pytest.approx(np.sqrt(sum(v for v, _ in parts)) / abs(b.mean()))
    assert i.estimate == pytest.approx(theta)


@given(seeds)
@few
def test_an_error_of_zero_changes_nothing(seed):
    """Strata without any spread, and none at all."""
    a, b = pairs(seed)
    plain = fieller(a, b)
    for error in (
        LeftOut(np.zeros(2), np.zeros((2, 2, 2)), np.array([3.0, 1.0])),
        LeftOut(np.zeros(2), np.zeros((0, 2, 2)), np.zeros(0)),
    ):
        np.testing.assert_allclose(bounds(fieller(a, b, error=error)), bounds(plain), rtol=1e-9)


def test_an_error_that_both_share_in_proportion_cancels():
    """An instrument that multiplies both means by one factor tells nothing about their ratio: the standard error
    stays, but a factor that may be 0 identifies nothing."""
    a, b = pairs(4, top=1.0, bottom=2.0, n=16)
    at = np.array([a.mean(), b.mean()])
    for scale, bounded in ((0.05, True), (2.0, False)):
        error = LeftOut(np.zeros(2), (scale**2 * np.outer(at, at))[None], np.array([5.0]))
        i = fieller(a, b, error=error)
        assert np.isfinite(i.low) == bounded
        if bounded:
            assert i.se == pytest.approx(fieller(a, b).se)
            np.testing.assert_allclose(bounds(i), bounds(fieller(a, b)), rtol=0.02)


def test_coverage_with_an_instrument():
    """12 pairs and two strata of 4 and 5 units, all normal: .95 within 3.5 binomial errors, and clearly less without
    the instrument's error."""
    runs, hit, alone = 1500, 0, 0
    for r in range(runs):
        a, b = pairs(2 * 10**7 + r, 0.0, 0.0, 12)
        units, strata = instrument(r, 1.0)
        units = units @ np.diag([0.4, 0.2])
        means = sum(units[strata == s].mean(axis=0) for s in (0, 1))
        a, b = 2.0 + a + means[0], 4.0 + b + means[1]
        error = inherited(units, strata, np.array([a.mean(), b.mean()]))
        hit += fieller(a, b, error=error).contains(0.5)
        alone += fieller(a, b).contains(0.5)
    assert abs(hit / runs - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / runs)
    assert alone < hit - 0.03 * runs


@pytest.mark.parametrize("n", range(1, MIN_CLUSTERS))
def test_an_instrument_does_not_make_up_for_clusters(n):
    """Below six clusters there is no interval with it either."""
    error = LeftOut(np.zeros(2), np.eye(2)[None], np.array([3.0]))
    assert np.isnan([fieller(np.ones(n), np.full(n, 2.0), error=error).low])
