"""What an estimate inherits from its instrument, and intervals that carry it: against textbook forms and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from llmct_bench.stats import Interval, LeftOut, cluster_t, left_out, t_interval

few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


class Instrument:
    """A random instrument: strata of 2 to 6 units with k numbers each, and the weight of each stratum."""

    def __init__(self, seed: int, k: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.units = [rng.normal(rng.normal(), rng.uniform(0.3, 2.0), (int(rng.integers(2, 7)), k)) for _ in range(4)]
        self.weights = rng.uniform(-1.0, 2.0, 4)
        self.strata = np.repeat([7, 3, 11, 5], [len(u) for u in self.units])  # labels in no order
        self.order = rng.permutation(len(self.strata))

    def mean(self, without: tuple[int, int] | None = None) -> np.ndarray:
        """Weighted sum of the strata's means, (k,)."""
        total = 0.0
        for s, (own, weight) in enumerate(zip(self.units, self.weights, strict=True)):
            kept = np.delete(own, without[1], axis=0) if without and without[0] == s else own
            total = total + weight * kept.mean(axis=0)
        return np.asarray(total)

    def versions(self) -> list[np.ndarray]:
        """The mean without each unit."""
        return [self.mean((s, u)) for s, own in enumerate(self.units) for u in range(len(own))]


def error(*parts: float, df: tuple[float, ...]) -> LeftOut:
    """An error of one number, by stratum."""
    return LeftOut(np.zeros(1), np.array(parts).reshape(-1, 1, 1), np.array(df))


@given(seeds, st.integers(1, 3))
@few
def test_a_stratified_mean_has_its_textbook_variance(seed: int, k: int) -> None:
    """Covariance sum_s W_s^2 S_s / n_s (Cochran 1977, ch. 5) stratum by stratum, df n_s - 1, no bias - in whatever
    order the versions come."""
    made = Instrument(seed, k)
    found = left_out(made.mean(), np.array(made.versions())[made.order], made.strata[made.order])
    by_label = sorted(zip((7, 3, 11, 5), made.units, made.weights, strict=True), key=lambda x: x[0])
    wanted = [w**2 * np.cov(u.T, ddof=1).reshape(k, k) / len(u) for _, u, w in by_label]
    np.testing.assert_allclose(found.covariance, wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.total, sum(wanted), rtol=1e-9, atol=1e-12)
    assert found.df.tolist() == [len(u) - 1 for _, u, _ in by_label]
    np.testing.assert_allclose(found.bias, 0.0, atol=1e-12)
    assert found.se == pytest.approx(np.sqrt(sum(wanted)[0, 0]))


@given(seeds)
@few
def test_the_bias_of_a_square_is_the_variance_of_its_root(seed: int) -> None:
    """E[mean^2] = mu^2 + Var(mean): the jackknife finds the unbiased estimate of that variance exactly."""
    made = Instrument(seed)
    found = left_out(made.mean() ** 2, np.array(made.versions()) ** 2, made.strata)
    wanted = sum(w**2 * u.var(ddof=1) / len(u) for u, w in zip(made.units, made.weights, strict=True))
    assert found.bias == pytest.approx([wanted], rel=1e-9)


def test_one_stratum_is_the_jackknife_of_efron() -> None:
    """Squares of the mean of 1, 2, 6: 9 whole, 16, 12.25 and 2.25 without one. Bias 2 (mean of versions - 9) = 7/3 =
    s^2/n; variance 2/3 of the squared deviations."""
    found = left_out(9.0, [16.0, 12.25, 2.25], [0, 0, 0])
    assert found.bias == pytest.approx([2 * (30.5 / 3 - 9)])
    assert found.bias == pytest.approx([7 / 3])
    away = np.array([16.0, 12.25, 2.25]) - 30.5 / 3
    assert found.total[0, 0] == pytest.approx(2 / 3 * (away**2).sum())


def test_a_stratum_of_one_unit_says_nothing() -> None:
    """Neither bias nor variance nor degrees of freedom; with nothing else there is no error at all."""
    plain = left_out([1.0, 2.0], [[1.1, 2.2], [0.8, 1.9]], [4, 4])
    more = left_out([1.0, 2.0], [[1.1, 2.2], [99.0, 99.0], [0.8, 1.9]], [4, 2, 4])
    for name in ("bias", "covariance", "df"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(more, name))
    nothing = left_out([1.0, 2.0], [[99.0, 99.0]], [0])
    assert nothing.covariance.shape == (0, 2, 2)
    assert nothing.total.tolist() == [[0, 0], [0, 0]]
    assert nothing.bias.tolist() == [0, 0]
    assert nothing.se == 0


def test_lengths_must_agree() -> None:
    """One stratum label a version, also where versions would fold into another shape."""
    for without, strata in (([1.0, 2.0], [0]), ([1.0], [0, 0]), ([[1.0], [2.0], [3.0]], [0, 0])):
        with pytest.raises(ValueError, match="strata"):
            left_out(1.0, without, strata)


@given(seeds)
@few
def test_the_error_of_a_ratio_is_the_delta_method(seed: int) -> None:
    """sqrt(g' C g) with the gradient (1/b, -a/b^2)."""
    made = Instrument(seed, 2)
    found = left_out(made.mean(), made.versions(), made.strata)
    a, b = made.mean()
    g = np.array([1 / b, -a / b**2])
    assert found.se_of_ratio(a / b, b) == pytest.approx(np.sqrt(g @ found.total @ g), rel=1e-6, abs=1e-9)


# --- t intervals ------------------------------------------------------------------------------------------------


def items(estimate: float, se: float, n: int, df: float = float("nan")) -> Interval:
    """What the items say of an estimate."""
    return Interval(estimate, float("nan"), float("nan"), se, n, df)


def ends(i: Interval) -> tuple[float, ...]:
    """All numbers of an interval but its df."""
    return i.estimate, i.low, i.high, i.se, i.n_clusters


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_without_an_error_it_is_the_cluster_t_interval(level: float) -> None:
    """No versions, an error of zero, or only strata that say nothing: scipy's interval of the mean."""
    x = np.random.default_rng(0).normal(0.3, 1.0, 9)
    own = cluster_t(x, level)
    nothing = left_out([0.0], [[1.0]], [0])
    for given_error in (None, error(0.0, 0.0, df=(3.0, 5.0)), nothing):
        found = t_interval(own, given_error, level=level)
        assert ends(found) == pytest.approx(ends(own))
        assert found.df == pytest.approx(8)
        low, high = sps.t.interval(level, 8, x.mean(), sps.sem(x))
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.p_value(0.0) == pytest.approx(sps.ttest_1samp(x, 0.0).pvalue)


def test_satterthwaite_by_hand() -> None:
    """Variances 4 (of 11 clusters), 1 and 2 (of 5 and 3 units): total 7, df 49 / (16/10 + 1/4 + 4/2) = 49 / 3.85."""
    found = t_interval(items(1.5, 2.0, 11), error(1.0, 2.0, df=(4.0, 2.0)))
    assert found.se == pytest.approx(np.sqrt(7))
    assert found.df == pytest.approx(49 / 3.85)
    half = sps.t.ppf(0.975, 49 / 3.85) * np.sqrt(7)
    assert (found.low, found.high) == pytest.approx((1.5 - half, 1.5 + half))
    assert found.n_clusters == 11
    assert found.p_value(0.5) == pytest.approx(2 * sps.t.sf(1 / np.sqrt(7), 49 / 3.85))


def test_items_may_have_fewer_degrees_of_freedom_than_clusters() -> None:
    """96 clusters left out in 24 groups: 23 degrees of freedom, alone and in (4 + 1)^2 / (16/23 + 1/4)."""
    own = items(0.0, 2.0, 96, df=23.0)
    for given_error, df, se in ((None, 23.0, 2.0), (error(1.0, df=(4.0,)), 25 / (16 / 23 + 1 / 4), np.sqrt(5))):
        found = t_interval(own, given_error)
        assert (found.df, found.se, found.n_clusters) == (pytest.approx(df), pytest.approx(se), 96)
        assert found.high == pytest.approx(sps.t.ppf(0.975, df) * se)


def test_a_bias_moves_the_interval_and_not_its_width() -> None:
    """1.5 with a bias of -.5 is 2, as wide as before."""
    own, more = items(1.5, 2.0, 11), error(1.0, df=(4.0,))
    plain, moved = t_interval(own, more), t_interval(own, more, bias=-0.5)
    assert ends(moved) == pytest.approx((2.0, plain.low + 0.5, plain.high + 0.5, plain.se, 11))
    assert moved.df == plain.df


@given(seeds)
@few
def test_two_samples_give_welch(seed: int) -> None:
    """Items of one sample and an instrument that is the mean of another: Welch's test of scipy."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, int(rng.integers(6, 20))), rng.normal(0, rng.uniform(0.2, 5), int(rng.integers(3, 9)))
    without = [a.mean() - np.delete(b, i).mean() for i in range(len(b))]
    found = t_interval(
        items(a.mean() - b.mean(), sps.sem(a), len(a)), left_out(a.mean() - b.mean(), without, [0] * len(b))
    )
    welch = sps.ttest_ind(a, b, equal_var=False)
    assert found.df == pytest.approx(welch.df)
    assert found.p_value(0.0) == pytest.approx(welch.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval(0.95)))


@pytest.mark.parametrize("n", [1, 3, 5])
def test_too_few_clusters_have_no_interval_whatever_the_instrument(n: int) -> None:
    """A standard error that is not known stays unknown."""
    found = t_interval(cluster_t(np.full(n, 1.0)), error(1.0, df=(4.0,)))
    assert np.isnan([found.low, found.high, found.se]).all()
    assert found.estimate == 1.0


def test_coverage_with_an_instrument_of_few_units() -> None:
    """theta = mean of 12 clusters + mean of 3 strata of 4 units, of like variance: .95 within 3 binomial errors; with
    the clusters' error alone it is held in fewer than .85."""
    rng, runs, hit, alone = np.random.default_rng(5), 2000, 0, 0
    strata = np.repeat([0, 1, 2], 4)
    for _ in range(runs):
        a, b = rng.normal(0.5, 1.0, 12), rng.normal(0.0, 1.0, (3, 4)) * [[1.0], [0.5], [2.0]] * 0.4
        estimate = a.mean() + b.mean(axis=1).sum()
        without = estimate + ((b.mean(axis=1, keepdims=True) - b) / 3).ravel()
        own = items(estimate, sps.sem(a), 12)
        hit += t_interval(own, left_out(estimate, without, strata)).contains(0.5)
        alone += t_interval(own).contains(0.5)
    assert abs(hit / runs - 0.95) < 3 * np.sqrt(0.95 * 0.05 / runs)
    assert alone / runs < 0.85
