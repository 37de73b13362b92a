"""Cluster means, the cluster t interval, the jackknife and the sign-flip test."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from llmct_bench.stats import MIN_CLUSTERS, Interval, cluster_means, cluster_t, jackknife_t, sign_flip

few = settings(max_examples=40, deadline=None, derandomize=True)
#: Multiples of 1/8: their sums are exact, so that ties among sign patterns are ties in floating point too.
vectors = st.lists(st.integers(-800, 800).map(lambda k: k / 8), min_size=6, max_size=10).map(np.array)
spread = vectors.filter(lambda x: x.std() > 0)
scales = st.floats(0.01, 100)


def close(a, b, tol=1e-9):
    """Every number of two intervals agrees."""
    np.testing.assert_allclose([a.estimate, a.low, a.high, a.se], [b.estimate, b.low, b.high, b.se], rtol=tol, atol=tol)


def flips_by_enumeration(x):
    """Exact two-sided sign-flip p by writing out all patterns."""
    sums = np.array(list(product((-1.0, 1.0), repeat=len(x)))) @ np.asarray(x)
    return float(np.mean(np.abs(sums) >= abs(sum(x)) - 1e-9))


def test_cluster_means_against_a_loop():
    """Unequal, interleaved clusters: the mean of each, in label order, by a plain loop."""
    rng = np.random.default_rng(1)
    labels = np.array(["b", "a", "c", "a", "a", "b", "c", "a", "d"])
    values = rng.normal(size=(9, 2, 3))
    means, names = cluster_means(values, labels)
    assert list(names) == ["a", "b", "c", "d"]
    for name, mean in zip(names, means, strict=True):
        rows = [values[i] for i in range(9) if labels[i] == name]
        np.testing.assert_allclose(mean, sum(rows) / len(rows))


def test_cluster_means_count_each_cluster_once():
    """Repeating every value of one cluster changes no mean (closed form)."""
    once, _ = cluster_means([1.0, 3.0, 10.0], ["a", "a", "b"])
    often, _ = cluster_means([1.0, 3.0] * 50 + [10.0], ["a", "a"] * 50 + ["b"])
    np.testing.assert_allclose(once, [2.0, 10.0])
    np.testing.assert_allclose(often, once)


@given(vectors, st.randoms(use_true_random=False))
@few
def test_cluster_means_do_not_depend_on_row_order(x, random):
    """A shuffle of rows together with their labels leaves the means as they were."""
    labels = np.array(["uvw"[i % 3] for i in range(len(x))])
    order = list(range(len(x)))
    random.shuffle(order)
    np.testing.assert_allclose(cluster_means(x[order], labels[order])[0], cluster_means(x, labels)[0], atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_cluster_means_refuse_non_finite_values(bad):
    """A value that is no number raises instead of spreading into a mean."""
    with pytest.raises(ValueError, match="finite"):
        cluster_means([1.0, bad, 2.0], ["a", "a", "b"])


@pytest.mark.parametrize(("values", "labels"), [([1.0, 2.0, 3.0], "ab"), ([1.0, 2.0], "abc")])
def test_cluster_means_refuse_mismatched_lengths(values, labels):
    """One label per value, or an error."""
    with pytest.raises(ValueError):
        cluster_means(values, list(labels))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [6, 7, 24])
def test_cluster_t_is_the_one_sample_t_interval(n, level):
    """Interval and standard error against scipy.stats.ttest_1samp and sem."""
    x = np.random.default_rng(n).normal(0.4, 2.0, n)
    ours, truth = cluster_t(x, level), sps.ttest_1samp(x, 0.0).confidence_interval(level)
    close(ours, Interval(sum(x) / n, truth.low, truth.high, sps.sem(x), n))
    assert ours.n_clusters == n


@given(spread, st.floats(-50, 50))
@few
def test_interval_p_value_is_the_t_test_and_agrees_with_excludes(x, null):
    """p against scipy.stats.ttest_1samp; a value lies outside of the 95% interval exactly when p < .05."""
    interval, p = cluster_t(x), sps.ttest_1samp(x, null).pvalue
    assert interval.p_value(null) == pytest.approx(p, rel=1e-6, abs=1e-12)
    if abs(p - 0.05) > 1e-9:
        assert interval.excludes(null) == (p < 0.05)
        assert interval.contains(null) == (p > 0.05)


@given(spread, scales, st.floats(-100, 100), st.randoms(use_true_random=False))
@few
def test_cluster_t_equivariance(x, scale, shift, random):
    """Scale and shift move the interval with them, a minus sign mirrors it, cluster order does not matter."""
    i = cluster_t(x)
    close(
        cluster_t(scale * x + shift),
        Interval(scale * i.estimate + shift, scale * i.low + shift, scale * i.high + shift, scale * i.se, len(x)),
        1e-8,
    )
    close(cluster_t(-x), Interval(-i.estimate, -i.high, -i.low, i.se, len(x)))
    order = list(range(len(x)))
    random.shuffle(order)
    close(cluster_t(x[order]), i)


@pytest.mark.parametrize("n", range(MIN_CLUSTERS))
def test_too_few_clusters_give_no_interval(n):
    """Below six clusters: the estimate without bounds, and no claim in either direction."""
    x = np.arange(n) + 100.0
    intervals = [cluster_t(x)]
    if n > 1:
        intervals.append(jackknife_t(lambda w: w @ x / w.sum(axis=1), n)[0])
    for i in intervals:
        assert np.isnan([i.low, i.high]).all()
        assert i.n_clusters == n
        assert not i.excludes(0.0)
        assert not i.contains(0.0)
        assert np.isnan(i.p_value(0.0))
        assert np.isnan(i.estimate) if n == 0 else i.estimate == pytest.approx(100 + (n - 1) / 2)


@pytest.mark.parametrize("n", [6, 24])
def test_cluster_t_coverage(n):
    """Items with a shared cluster effect: coverage is .95 exactly, seen within 3 binomial errors."""
    rng, runs = np.random.default_rng(20 + n), 4000
    labels = np.repeat(np.arange(n), 4)
    effect = rng.normal(1.0, 1.0, (n, runs))
    items = np.repeat(effect, 4, axis=0) + rng.normal(0.0, 0.5, (4 * n, runs))
    means, _ = cluster_means(items, labels)
    hit = np.mean([cluster_t(means[:, r]).contains(1.0) for r in range(runs)])
    assert abs(hit - 0.95) < 3 * np.sqrt(0.95 * 0.05 / runs)


@given(spread)
@few
def test_jackknife_of_the_mean_is_cluster_t(x):
    """For a weighted mean the pseudo-values are the values themselves (closed form)."""
    interval, pseudo = jackknife_t(lambda w: w @ x / w.sum(axis=1), len(x))
    np.testing.assert_allclose(pseudo, x, atol=1e-9)
    close(interval, cluster_t(x), 1e-8)


def test_jackknife_of_a_ratio_against_deletion_by_hand():
    """Pseudo-values n s - (n-1) s_(-i) with cluster i really deleted; the t interval sits on the statistic."""
    rng = np.random.default_rng(4)
    a, b, n = rng.normal(1, 1, 11), rng.normal(5, 1, 11), 11
    interval, pseudo = jackknife_t(lambda w: (w @ a) / (w @ b), n, level=0.9)
    s = a.sum() / b.sum()
    by_hand = [n * s - (n - 1) * np.delete(a, i).sum() / np.delete(b, i).sum() for i in range(n)]
    half = sps.t.ppf(0.95, n - 1) * sps.sem(by_hand)
    np.testing.assert_allclose(pseudo, by_hand)
    close(interval, Interval(s, s - half, s + half, sps.sem(by_hand), n))


def test_jackknife_corrects_the_plug_in_variance():
    """Textbook identity: the pseudo-values of the variance over n average to the variance over n - 1."""
    x = np.random.default_rng(5).gamma(2.0, size=9)

    def plug_in(w):
        n = w.sum(axis=1)
        return (w @ x**2) / n - (w @ x / n) ** 2

    interval, pseudo = jackknife_t(plug_in, 9)
    assert pseudo.mean() == pytest.approx(x.var(ddof=1))
    assert interval.estimate == pytest.approx(x.var(ddof=0))
    assert (interval.low + interval.high) / 2 == pytest.approx(interval.estimate)


@pytest.mark.parametrize("n", [2, 5, 8, 11])
def test_sign_flip_exact_against_scipy(n):
    """All 2^n patterns, against scipy.stats.permutation_test run to exhaustion."""
    x = np.random.default_rng(n).normal(0.5, 1.0, n)
    truth = sps.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(x) == pytest.approx(truth, abs=1e-12)


@given(vectors)
@few
def test_sign_flip_exact_against_enumeration(x):
    """All 2^n patterns from itertools.product, ties and zeros included."""
    assert sign_flip(x) == pytest.approx(flips_by_enumeration(x), abs=1e-12)


@given(spread, scales, st.randoms(use_true_random=False))
@few
def test_sign_flip_invariances(x, scale, random):
    """Neither a scale nor a common sign nor the order of the clusters changes p."""
    p = sign_flip(x)
    order = list(range(len(x)))
    random.shuffle(order)
    assert sign_flip(scale * x) == p
    assert sign_flip(-x) == p
    assert sign_flip(x[order]) == p


def test_sign_flip_is_exact_up_to_thirteen_clusters():
    """At 13 clusters p is the enumerated one whatever the seed; a one-sided pattern has p = 2 / 2^13."""
    x = np.random.default_rng(13).normal(0.3, 1.0, 13)
    assert sign_flip(x, seed=1) == sign_flip(x, seed=2) == pytest.approx(flips_by_enumeration(x), abs=1e-12)
    assert sign_flip(np.arange(1, 14)) == 2 / 2**13


@pytest.mark.parametrize("n", [14, 16])
def test_sign_flip_random_draws_near_enumeration(n):
    """Above 13 clusters the drawn p lies within 4 binomial errors of the enumerated one."""
    x = np.random.default_rng(n).normal(0.3, 1.0, n)
    truth = flips_by_enumeration(x)
    assert 0.02 < truth < 0.98
    assert abs(sign_flip(x) - truth) < 4 * np.sqrt(truth * (1 - truth) / 9999)
    assert sign_flip(x, seed=3) == sign_flip(x, seed=3) != sign_flip(x, seed=4)


def test_sign_flip_random_draws_never_give_zero():
    """Forty equal clusters: no draw of 99 reaches the observed sum, so p is the add-one floor 1 / 100."""
    assert sign_flip(np.ones(40), draws=99) == 1 / 100
    assert sign_flip(np.zeros(40), draws=99) == 1.0


def test_sign_flip_of_nothing_and_of_one():
    """No cluster, no test; one cluster, where both signs reach the observed size: p = 1."""
    assert sign_flip([3.0]) == 1.0
    assert np.isnan(sign_flip([]))


@pytest.mark.parametrize(("n", "size"), [(10, 50 / 1024), (24, 10 / 200)])
def test_sign_flip_type_one_error(n, size):
    """Heavy-tailed, unequal but symmetric noise: P(p <= .05) is the largest attainable level below .05."""
    rng, runs = np.random.default_rng(n), 3000
    noise = rng.laplace(size=(runs, n)) * rng.gamma(1.0, size=n)
    rejected = np.mean([sign_flip(x, draws=199, seed=r) <= 0.05 for r, x in enumerate(noise)])
    assert abs(rejected - size) < 3 * np.sqrt(size * (1 - size) / runs)


def test_cluster_means_refuse_one_value_for_many_labels():
    """One label per value, or an error - also where numpy would broadcast."""
    with pytest.raises(ValueError):
        cluster_means([1.0], ["a", "b", "c"])


@pytest.mark.parametrize("n", [10, 20])
def test_sign_flip_does_not_call_nan_significant(n):
    """A cluster without a number must raise or give NaN, never a small p."""
    x = np.r_[np.nan, np.random.default_rng(0).normal(size=n - 1)]
    try:
        p = sign_flip(x)
    except ValueError:
        return
    assert np.isnan(p)
