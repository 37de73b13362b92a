"""Rates of nearest-centroid decisions under Gaussian noise, against counting and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from llmct_bench.stats import decision_rates, decisions

few = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def spd(rng: np.random.Generator, d: int) -> np.ndarray:
    """A positive definite matrix of moderate condition."""
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return basis * rng.uniform(0.3, 2.0, d) @ basis.T


def case(seed: int, d: int = 4, k: int = 4, c: int = 5) -> tuple[Case, np.random.Generator]:
    """Means, covariance, centroids and precision of one problem."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1.2, (c, d)), spd(rng, d), rng.normal(0, 1.2, (k, d)), np.linalg.inv(spd(rng, d))), rng


def rates(
    means: np.ndarray, covariance: np.ndarray, centroids: np.ndarray, precision: np.ndarray, points: int = 64
) -> np.ndarray:
    """Of one problem, (C, K)."""
    return decision_rates(means[None], covariance[None], centroids[None], precision[None], points)[0]


def counted(problem: Case, rng: np.random.Generator, draws: int = 100_000) -> np.ndarray:
    """By drawing and measuring all distances."""
    means, covariance, centroids, precision = problem
    noise = rng.multivariate_normal(np.zeros(means.shape[1]), covariance, draws, method="svd")
    out = []
    for mean in means:
        away = (mean + noise)[:, None] - centroids
        nearest = np.einsum("nkp,pq,nkq->nk", away, precision, away, optimize=True).argmin(axis=1)
        out.append(np.bincount(nearest, minlength=len(centroids)) / draws)
    return np.array(out)


@pytest.mark.parametrize(("d", "k"), [(2, 2), (2, 5), (3, 3), (4, 4)])
def test_against_counting(d: int, k: int) -> None:
    """100 000 draws of every problem: off by no more than .02 with 64 points, and by .006 with 1024 (the counts'
    own standard error is below .0016)."""
    for seed in range(3):
        problem, rng = case(seed, d, k)
        wanted = counted(problem, rng)
        assert np.abs(rates(*problem, points=64) - wanted).max() < 0.02
        assert np.abs(rates(*problem, points=1024) - wanted).max() < 0.006


@given(seeds)
@few
def test_two_centroids_are_one_normal_integral(seed: int) -> None:
    """In any number of dimensions the nearer of two is told by one linear function: Phi, exactly along the direction
    that is integrated, on 4096 points to .002 otherwise."""
    for d in (1, 3):
        (means, covariance, centroids, precision), _ = case(seed, d, 2)
        along = 2 * precision @ (centroids[1] - centroids[0])
        level = centroids[1] @ precision @ centroids[1] - centroids[0] @ precision @ centroids[0]
        second = sps.norm.cdf((means @ along - level) / np.sqrt(along @ covariance @ along))
        found = rates(means, covariance, centroids, precision, points=64 if d == 1 else 4096)
        np.testing.assert_allclose(found, np.stack([1 - second, second], axis=1), atol=1e-7 if d == 1 else 2e-3)


def test_the_short_rule_does_not_lean() -> None:
    """Where 500 items lie as often near each of four centroids as near the others, their average rates are 1/4 each.
    The few points of the default keep to that; eight quasi-random points have a mean, and lean by a multiple."""
    rng = np.random.default_rng(0)
    centroids, covariance = 2 * np.eye(4), 0.5 * np.eye(4)
    corner = 0.8 * rng.normal(size=(500, 4))
    means = np.concatenate([np.roll(corner, i, axis=1) for i in range(4)]) + np.repeat(centroids, 500, axis=0)

    def lean(points: int) -> float:
        return float(np.abs(rates(means, covariance, centroids, np.eye(4), points).mean(axis=0) - 0.25).max())

    assert lean(4096) < 2e-4
    assert lean(0) < 1e-3
    assert lean(8) > 3 * lean(0)


def test_three_on_a_line() -> None:
    """Centroids at -1, 0 and 3 of a standard normal around 0.2: Phi at the midpoints -.5 and 1.5."""
    found = rates(np.array([[0.2]]), np.eye(1), np.array([[-1.0], [0.0], [3.0]]), 5 * np.eye(1))[0]
    low, high = sps.norm.cdf(-0.7), sps.norm.cdf(1.3)
    np.testing.assert_allclose(found, [low, high - low, 1 - high], atol=1e-8)


@given(seeds)
@few
def test_rates_are_shares(seed: int) -> None:
    """No rate is negative and every row sums to 1, also with noise next to nothing, where the nearest gets all."""
    (means, covariance, centroids, precision), _ = case(seed)
    for scale in (1.0, 1e-3, 1e-12, 0.0):
        found = rates(means, scale * covariance, centroids, precision)
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    away = means[:, None] - centroids
    nearest = np.einsum("ckp,pq,ckq->ck", away, precision, away).argmin(axis=1)
    np.testing.assert_allclose(found, np.eye(4)[nearest], atol=1e-9)


@given(seeds)
@few
def test_affine_maps_change_nothing(seed: int) -> None:
    """x -> A x + b with all arguments mapped: the same rates up to the error of the integration (1024 points)."""
    (means, covariance, centroids, precision), rng = case(seed)
    a, b = np.linalg.qr(rng.normal(size=(4, 4)))[0] * rng.uniform(0.5, 3.0, 4), rng.normal(size=4)
    inverse = np.linalg.inv(a)
    moved = (means @ a.T + b, a @ covariance @ a.T, centroids @ a.T + b, inverse.T @ precision @ inverse)
    plain = rates(means, covariance, centroids, precision, 1024)
    np.testing.assert_allclose(rates(*moved, points=1024), plain, atol=0.01)
    # a map that keeps the direction of integration has no such error
    np.testing.assert_allclose(
        rates(3 * means + b, 9 * covariance, 3 * centroids + b, precision / 9, 1024), plain, atol=1e-9
    )


@given(seeds)
@few
def test_scores_that_sum_to_zero(seed: int) -> None:
    """Four scores in a three-dimensional plane, with covariance and pseudo-inverse of rank 3: the rates of their three
    coordinates."""
    (means, covariance, centroids, precision), rng = case(seed, d=3)
    plane = np.linalg.svd(np.ones((1, 4)))[2][1:]  # (3, 4), rows orthonormal and each of sum zero
    wide = (means @ plane, plane.T @ covariance @ plane, centroids @ plane, plane.T @ precision @ plane)
    assert np.abs(wide[0].sum(axis=1)).max() < 1e-12
    assert np.linalg.matrix_rank(wide[1]) == 3
    np.testing.assert_allclose(
        rates(*wide, points=1024), rates(means, covariance, centroids, precision, 1024), atol=0.012
    )
    wanted = counted((means, covariance, centroids, precision), rng, 20_000)
    np.testing.assert_allclose(rates(*wide, points=1024), wanted, atol=0.02)


@pytest.mark.parametrize("which", range(4), ids=["means", "covariance", "centroids", "precision"])
def test_rates_are_smooth_near_isotropy(which: int) -> None:
    """Where eigenvectors may turn by any angle: changes of 1e-7 move no rate by more than 1e-6, in proportion to the
    step, and back for the opposite one."""
    (means, _, centroids, _), rng = case(3)
    problem = [means, np.eye(4), centroids, np.eye(4)]
    plain = rates(*problem)
    for _ in range(10):
        step = rng.normal(size=problem[which].shape)
        step = step + step.T if which % 2 else step

        def moved(by: float, step: np.ndarray = step) -> np.ndarray:
            changed = list(problem)
            changed[which] = problem[which] + by * step
            return rates(*changed) - plain

        once = moved(1e-7)
        assert 1e-9 < np.abs(once).max() < 1e-6
        np.testing.assert_allclose(moved(2e-7), 2 * once, atol=1e-10)
        np.testing.assert_allclose(moved(-1e-7), -once, atol=1e-10)


@pytest.mark.parametrize("held", [1, 32, 1000])
def test_problems_do_not_mix(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 problems at once are the 70 problems one by one, however many are held at a time."""
    monkeypatch.setattr(decisions, "_CHUNK", held * 5 * 64 * 4**2)
    stacked = [np.stack(x) for x in zip(*(case(s)[0] for s in range(70)), strict=True)]
    found = decision_rates(*stacked, points=64)
    assert found.shape == (70, 5, 4)
    for i in (0, 31, 32, 69):
        np.testing.assert_allclose(found[i], rates(*(x[i] for x in stacked)), rtol=1e-10)
