"""The crossnobis distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmct_bench.stats import crossnobis

few = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


def case(seed):
    """Random means (clusters, classes, P) and a positive definite precision (P, P)."""
    rng = np.random.default_rng(seed)
    m, k, p = (int(rng.integers(*r)) for r in ((2, 6), (2, 5), (1, 5)))
    root = rng.normal(size=(p, p + 2))
    return rng.normal(size=(m, k, p)), root @ root.T, rng


def by_loops(x, precision):
    """Textbook double loop over m != n, averaged over the pairs of classes."""
    m, k, p = x.shape
    pairs = []
    for e in range(k):
        for f in range(e + 1, k):
            delta = x[:, e] - x[:, f]
            terms = [delta[i] @ precision @ delta[j] for i in range(m) for j in range(m) if i != j]
            pairs.append(sum(terms) / (m * (m - 1) * p))
    return sum(pairs) / len(pairs)


@given(seeds)
@few
def test_against_the_double_loop(seed):
    """The closed form of the package against the definition."""
    x, precision, _ = case(seed)
    assert crossnobis(x, precision) == pytest.approx(by_loops(x, precision), rel=1e-9, abs=1e-9)


def test_without_noise_it_is_the_mahalanobis_distance():
    """Equal clusters, classes at 0, 3 and (3, 4) with precision diag(1, 2): (9 + 41 + 32) / 3 pairs / 2 dims."""
    classes = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    x = np.repeat(classes[None], 5, axis=0)
    assert crossnobis(x, np.diag([1.0, 2.0])) == pytest.approx((9 + 41 + 32) / 3 / 2)


@given(seeds, st.floats(0.1, 10))
@few
def test_invariances(seed, scale):
    """Quadratic in the units; blind to cluster offsets, to cluster order, to class order and to sign."""
    x, s, rng = case(seed)
    d = pytest.approx(crossnobis(x, s), rel=1e-8, abs=1e-8)
    assert crossnobis(scale * x, s) / scale**2 == d
    assert crossnobis(x + 5 * rng.normal(size=(len(x), 1, x.shape[2])), s) == d
    assert crossnobis(x[rng.permutation(len(x))], s) == d
    assert crossnobis(x[:, rng.permutation(x.shape[1])], s) == d
    assert crossnobis(-x, s) == d


@given(seeds)
@few
def test_change_of_basis(seed):
    """x -> x A with Sigma^-1 -> A^-1 Sigma^-1 A^-T: a Mahalanobis form does not depend on the basis."""
    x, s, rng = case(seed)
    p = x.shape[2]
    a = np.linalg.qr(rng.normal(size=(p, p)))[0] @ np.diag(rng.uniform(0.5, 2.0, p))
    inverse = np.linalg.inv(a)
    assert crossnobis(x @ a, inverse @ s @ inverse.T) == pytest.approx(crossnobis(x, s), rel=1e-7, abs=1e-9)


@given(seeds)
@few
def test_pseudo_inverse_divides_by_its_rank(seed):
    """The same data laid into nine dimensions, with a pseudo-inverse of rank P, has the same distance."""
    x, s, rng = case(seed)
    frame = np.linalg.qr(rng.normal(size=(9, x.shape[2])))[0]
    wide = np.linalg.pinv(frame @ np.linalg.inv(s) @ frame.T, hermitian=True)
    assert crossnobis(x @ frame.T, wide) == pytest.approx(crossnobis(x, s), rel=1e-6, abs=1e-9)


def test_unbiased_where_the_plain_distance_is_not():
    """Noise of variance 1 in 4 clusters: mean 0 (null) and 1.5 (true); the plain distance adds 2 / 4."""
    rng, runs, p = np.random.default_rng(7), 3000, 6
    for truth in (0.0, 1.5):
        offset = np.zeros((2, p))
        offset[1] = np.sqrt(truth)
        noisy = offset + rng.normal(size=(runs, 4, 2, p))
        got = np.array([crossnobis(x, np.eye(p)) for x in noisy])
        assert abs(got.mean() - truth) < 4 * got.std(ddof=1) / np.sqrt(runs)
        centre = noisy.mean(axis=1)
        plain = ((centre[:, 1] - centre[:, 0]) ** 2).mean(axis=1)
        assert abs(plain.mean() - truth - 0.5) < 4 * plain.std(ddof=1) / np.sqrt(runs)
        if truth == 0:
            assert 0.3 < np.mean(got < 0) < 0.7


@given(seeds)
@few
def test_zero_weight_leaves_a_cluster_out(seed):
    """Weights of 0 and 1 against the double loop on the clusters that stay."""
    x, s, rng = case(seed)
    x = np.concatenate([x, rng.normal(size=(2, *x.shape[1:]))])
    weights = np.ones(len(x))
    weights[rng.choice(len(x), 2, replace=False)] = 0
    assert crossnobis(x, s, weights) == pytest.approx(by_loops(x[weights == 1], s), rel=1e-9, abs=1e-9)


def test_one_cluster_has_no_cross_validated_distance():
    """NaN with a single cluster, given alone or left over by the weights."""
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    assert np.isnan(crossnobis(x[:1], np.eye(4)))
    assert np.isnan(crossnobis(x, np.eye(4), [0, 1, 0]))


def test_mismatched_shapes_raise():
    """A precision of another dimension and weights of another length are errors."""
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    with pytest.raises(ValueError):
        crossnobis(x, np.eye(3))
    with pytest.raises((ValueError, IndexError)):
        crossnobis(x, np.eye(4), [1, 1])


def by_drawn_clusters(x, precision, counts):
    """All ordered pairs of places of a draw, less those that hold the same cluster, averaged over pairs of classes."""
    drawn = np.repeat(np.arange(len(x)), counts)
    pairs = [(i, j) for i in drawn for j in drawn if i != j]
    if not pairs:
        return np.nan
    k, p = x.shape[1:]
    terms = [
        (x[i, e] - x[i, f]) @ precision @ (x[j, e] - x[j, f]) for i, j in pairs for e in range(k) for f in range(e)
    ]
    return np.mean(terms) / p


@given(seeds)
@few
def test_counts_pair_distinct_clusters(seed):
    """Clusters that are drawn several times count so often, and never with themselves."""
    x, s, rng = case(seed)
    counts = rng.multinomial(len(x), np.ones(len(x)) / len(x), size=6)
    wanted = [by_drawn_clusters(x, s, c) for c in counts]
    np.testing.assert_allclose(crossnobis(x, s, counts), wanted, rtol=1e-8, atol=1e-9)


def test_a_bootstrap_of_noise_is_not_biased():
    """Clusters drawn with replacement from pure noise: pairs of a cluster with itself would add 2 (1 - 1/M) / M."""
    rng = np.random.default_rng(3)
    counts = rng.multinomial(5, np.full(5, 0.2), size=2000)
    got = np.array([np.nanmean(crossnobis(rng.normal(size=(5, 2, 6)), np.eye(6), counts[i::400])) for i in range(400)])
    assert abs(got.mean()) < 4 * got.std(ddof=1) / np.sqrt(len(got))
    assert 4 * got.std(ddof=1) / np.sqrt(len(got)) < 0.15


@given(seeds)
@few
def test_stacks_are_loops(seed):
    """Rows of weights, alone and each with a precision of its own, one by one."""
    x, s, rng = case(seed)
    p = x.shape[2]
    weights = rng.integers(0, 3, size=(5, len(x))).astype(float)
    roots = rng.normal(size=(5, p, p + 2))
    precisions = roots @ roots.transpose(0, 2, 1)
    alone, stacked = crossnobis(x, s, weights), crossnobis(x, precisions, weights)
    assert alone.shape == stacked.shape == (5,)
    np.testing.assert_allclose(alone, [crossnobis(x, s, w) for w in weights], rtol=1e-8, atol=1e-9)
    one_by_one = [crossnobis(x, q, w) for q, w in zip(precisions, weights, strict=True)]
    np.testing.assert_allclose(stacked, one_by_one, rtol=1e-8, atol=1e-9)


def test_rows_without_two_clusters_are_nan_among_others():
    """Drawn: one cluster three times, two clusters, none."""
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    found = crossnobis(x, np.eye(4), [[0, 3, 0], [1, 2, 0], [0, 0, 0]])
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] == pytest.approx(crossnobis(x[:2], np.eye(4)))


def test_every_precision_of_a_stack_has_its_own_rank() -> None:
    """A stack of a singular and a regular precision gives what each of them gives alone."""
    rng = np.random.default_rng(3)
    x, weights = rng.normal(size=(9, 3, 4)), rng.integers(1, 3, (2, 9)).astype(float)
    stack = np.stack([np.diag([1.0, 2.0, 3.0, 0.0]), np.eye(4)])
    together = crossnobis(x, stack, weights)
    alone = [crossnobis(x, s, w) for s, w in zip(stack, weights, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    np.testing.assert_allclose(alone[0], crossnobis(x[..., :3], np.diag([1.0, 2.0, 3.0]), weights[0]), rtol=1e-12)
