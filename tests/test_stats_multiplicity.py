"""Families of tests: Holm, Benjamini-Hochberg, rank intervals; and equivalence (TOST)."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from llmct_bench.stats import benjamini_hochberg, cluster_t, holm, rank_intervals, tost

few = settings(max_examples=50, deadline=None, derandomize=True)
families = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=8).map(np.array)
seeds = st.integers(0, 10**6)
methods = pytest.mark.parametrize(("adjust", "name"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])


@methods
@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_adjusted_p_against_statsmodels(adjust, name, size):
    """statsmodels.stats.multitest.multipletests on the same family, ties included."""
    p = np.round(np.random.default_rng(size).beta(0.4, 4.0, size), 2)
    np.testing.assert_allclose(adjust(p), multipletests(p, method=name)[1], rtol=1e-12, atol=0)


def closed_bonferroni(p):
    """Closed testing: for each p the largest |S| min(p in S) over all subsets S that hold it, at most 1."""
    p, everyone = np.asarray(p), range(len(p))
    subsets = [s for size in range(1, len(p) + 1) for s in combinations(everyone, size)]
    return [min(1, max(len(s) * min(p[list(s)]) for s in subsets if i in s)) for i in everyone]


@given(families)
@few
def test_holm_is_closed_bonferroni(p):
    """Holm's shortcut against the closed test it stands for, all subsets written out."""
    np.testing.assert_allclose(holm(p), closed_bonferroni(p), rtol=1e-12)


@given(families)
@few
def test_benjamini_hochberg_by_definition(p):
    """The smallest m q / #{p <= q} over all q >= p_i, at most 1."""
    truth = [min(1, *(len(p) * q / sum(p <= q) for q in p if q >= pi), 1) for pi in p]
    np.testing.assert_allclose(benjamini_hochberg(p), truth, rtol=1e-12)


@given(families, st.randoms(use_true_random=False))
@few
def test_adjustment_properties(p, random):
    """Raw <= BH <= Holm <= 1, the order of p is kept, and the order in which tests are listed is nothing."""
    h, bh = holm(p), benjamini_hochberg(p)
    slack = 1 + 1e-12
    assert (p <= bh * slack).all()
    assert (bh <= h * slack).all()
    assert (h <= 1).all()
    rising = np.argsort(p)
    assert (np.diff(h[rising]) >= 0).all()
    assert (np.diff(bh[rising]) >= 0).all()
    order = list(range(len(p)))
    random.shuffle(order)
    np.testing.assert_array_equal(holm(p[order]), h[order])
    np.testing.assert_array_equal(benjamini_hochberg(p[order]), bh[order])


@methods
def test_untested_entries_stay_nan_and_do_not_count(adjust, name):
    """With NaN between: statsmodels on the tested ones alone; of nothing, nothing."""
    p = np.array([np.nan, 0.01, 0.04, np.nan, 0.03])
    tested = ~np.isnan(p)
    out = adjust(p)
    assert np.isnan(out[~tested]).all()
    np.testing.assert_allclose(out[tested], multipletests(p[tested], method=name)[1])
    assert np.isnan(adjust([np.nan, np.nan])).all()
    assert adjust([]).shape == (0,)


def ranked(seed, n_models=4, n_clusters=9):
    """Models some of which differ, on shared clusters; multiples of 1/8 so that differences are exact."""
    rng = np.random.default_rng(seed)
    level = rng.choice([0.0, 0.5, 1.5, 3.0], n_models)[:, None]
    return np.round(8 * (level + rng.normal(0, 0.5, (n_models, n_clusters)))) / 8


@given(seeds, st.sampled_from([0.7, 0.95, 0.985]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_rank_intervals_against_closed_testing_by_brute_force(seed, level):
    """A pair differs where every set of pairs that holds it is rejected by its own maximum over all sign patterns of
    scipy's |t|; then counting."""
    x = ranked(seed, n_models=3)
    pairs = list(combinations(range(3), 2))
    patterns = np.array(list(product((-1.0, 1.0), repeat=x.shape[1])))

    def t_of(d):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(np.abs(sps.ttest_1samp(d, 0.0, axis=-1).statistic), posinf=1e300)

    flipped = {(i, j): t_of(patterns * (x[i] - x[j])) for i, j in pairs}
    sets = [c for n in (1, 2, 3) for c in combinations(pairs, n)]
    p = {}
    for chosen in sets:
        observed = max(t_of(x[i] - x[j]) for i, j in chosen)
        largest = np.max([flipped[c] for c in chosen], axis=0)
        p[chosen] = np.mean(largest >= observed * (1 - 1e-9))
    differ = {pair: all(p[c] <= 1 - level for c in sets if pair in c) for pair in pairs}
    for i, (low, high) in enumerate(rank_intervals(x, level)):
        beaten = [j for j in range(3) if j != i and differ[min(i, j), max(i, j)]]
        assert low == 1 + sum(x[j].mean() > x[i].mean() for j in beaten)
        assert high == 3 - sum(x[j].mean() < x[i].mean() for j in beaten)


@given(seeds, st.permutations(range(4)))
@few
def test_rank_interval_properties(seed, order):
    """The observed rank is inside; relabelling permutes, negation mirrors, common shifts change nothing."""
    x = ranked(seed)
    got, means = rank_intervals(x), x.mean(axis=1)
    above = (means[None, :] > means[:, None]).sum(axis=1)
    ties = (means[None, :] == means[:, None]).sum(axis=1)
    assert (got[:, 0] <= 1 + above).all()
    assert (got[:, 1] >= above + ties).all()
    np.testing.assert_array_equal(rank_intervals(x[order]), got[order])
    np.testing.assert_array_equal(rank_intervals(-x), 5 - got[:, ::-1])
    np.testing.assert_array_equal(rank_intervals(4 * x), got)
    np.testing.assert_array_equal(rank_intervals(x + np.arange(x.shape[1])), got)


@given(seeds)
@few
def test_rank_intervals_widen_with_the_level(seed):
    """What is claimed at 95% is claimed at 70% too; at 99.9% nothing, for the smallest p is 2 / 2^9."""
    x = ranked(seed)
    strict, loose = rank_intervals(x), rank_intervals(x, level=0.7)
    assert (strict[:, 0] <= loose[:, 0]).all()
    assert (strict[:, 1] >= loose[:, 1]).all()
    assert rank_intervals(x, level=0.999).tolist() == [[1, 4]] * 4


@pytest.mark.parametrize("n_clusters", [12, 24])
def test_rank_intervals_of_clear_and_of_equal_models(n_clusters):
    """Models ten standard deviations apart have their ranks, equal ones have all, a single one has the first."""
    noise = np.random.default_rng(1).normal(size=(4, n_clusters))
    clear = noise + 10.0 * np.array([[2], [4], [1], [3]])
    assert rank_intervals(clear).tolist() == [[3, 3], [1, 1], [4, 4], [2, 2]]
    assert rank_intervals(np.repeat(noise[:1], 3, axis=0)).tolist() == [[1, 3]] * 3
    assert rank_intervals(noise[:1]).tolist() == [[1, 1]]


def test_too_few_clusters_separate_nobody():
    """Five clusters: the smallest exact p is 2 / 2^5 > .05, so that no rank can be claimed."""
    x = np.random.default_rng(2).normal(size=(3, 5)) + 100.0 * np.arange(3)[:, None]
    assert rank_intervals(x).tolist() == [[1, 3]] * 3


def test_rank_intervals_hold_together():
    """Four equal models: any claim is false, and is made in at most 5% of the runs (3 binomial errors)."""
    rng, runs = np.random.default_rng(3), 600
    false = np.mean([(rank_intervals(rng.normal(size=(4, 10))) != [1, 4]).any() for _ in range(runs)])
    assert false < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_a_missing_value_is_no_claim_on_a_rank():
    """A model with a NaN cluster must raise or keep all ranks."""
    x = np.random.default_rng(0).normal(size=(2, 12))
    x[0, 0] = np.nan
    try:
        got = rank_intervals(x)
    except ValueError:
        return
    assert got.tolist() == [[1, 2], [1, 2]]


@given(seeds, st.floats(0.05, 1.0))
@few
def test_tost_against_statsmodels(seed, margin):
    """DescrStatsW.ttost_mean, and ttost_paired against a second sample of zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(0, 0.3), 0.5, int(rng.integers(3, 25)))
    ours = pytest.approx(tost(x, margin), rel=1e-8, abs=1e-14)
    assert DescrStatsW(x).ttost_mean(-margin, margin)[0] == ours
    assert ttost_paired(x, np.zeros_like(x), -margin, margin)[0] == ours


@given(seeds, st.floats(0.05, 1.0), st.floats(0.01, 100))
@few
def test_tost_invariances(seed, margin, scale):
    """Units, sign and cluster order do not matter; p < .05 exactly if the 90% interval is within the margin."""
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(0, 0.3), 0.3, 12)
    p = tost(x, margin)
    assert tost(scale * x, scale * margin) == pytest.approx(p, rel=1e-8, abs=1e-14)
    assert tost(-x, margin) == pytest.approx(p, rel=1e-8, abs=1e-14)
    assert tost(rng.permutation(x), margin) == pytest.approx(p, rel=1e-8, abs=1e-14)
    assume(abs(p - 0.05) > 1e-9)
    inner = cluster_t(x, 0.9)
    assert (p < 0.05) == (-margin < inner.low and inner.high < margin)


def test_tost_default_margin():
    """The margin of the docstring's signature, 0.2, against statsmodels."""
    x = np.random.default_rng(6).normal(0.05, 0.2, 10)
    assert tost(x) == pytest.approx(DescrStatsW(x).ttost_mean(-0.2, 0.2)[0])


def test_tost_without_spread():
    """No variance: certain inside of the margin, hopeless on it and outside; one value is no test."""
    assert tost(np.full(8, 0.125)) == 0.0
    assert tost(np.full(8, -0.25), 0.25) == 1.0
    assert tost(np.full(8, 0.5)) == 1.0
    assert np.isnan(tost([0.0]))
    assert np.isnan(tost([]))


@pytest.mark.parametrize("side", [-1, 1])
def test_tost_type_one_error(side):
    """A true mean on the margin of 2 with noise of 1: the far side never binds, so P(p <= .05) is .05."""
    rng, runs = np.random.default_rng(8), 3000
    wrong = np.mean([tost(x, 2.0) <= 0.05 for x in rng.normal(2.0 * side, 1.0, (runs, 24))])
    assert abs(wrong - 0.05) < 3 * np.sqrt(0.05 * 0.95 / runs)


def test_errors_besides_the_clusters_widen_rank_intervals() -> None:
    """Two models that differ surely over clusters: with an error of the size of the difference they do not."""
    rng = np.random.default_rng(3)
    x = np.stack([rng.normal(0.0, 0.1, 40), rng.normal(0.5, 0.1, 40)])
    assert rank_intervals(x).tolist() == [[2, 2], [1, 1]]
    assert rank_intervals(x, further=[0.05, 0.05]).tolist() == [[2, 2], [1, 1]]
    assert rank_intervals(x, further=[0.4, 0.4]).tolist() == [[1, 2], [1, 2]]


def test_rank_intervals_hold_with_errors_besides_the_clusters() -> None:
    """Equal models whose means carry an error of their own besides: some pair is told apart in about 5 %, and in many
    more when that error is not named."""
    rng, runs, wrong = np.random.default_rng(4), 200, np.zeros(2)
    for _ in range(runs):
        se = 0.2
        x = rng.normal(0.0, 1.0, (3, 24)) + rng.normal(0.0, se, (3, 1))
        for i, further in enumerate(([se] * 3, None)):
            wrong[i] += rank_intervals(x, draws=399, further=further).tolist() != [[1, 3]] * 3
    assert wrong[0] / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert wrong[1] / runs > 0.12
