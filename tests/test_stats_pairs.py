"""The largest difference over all pairs: against the full table, draw by draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmct_bench.stats import rank_intervals
from llmct_bench.stats.pairs import LargestDifference
from llmct_bench.stats.resampling import flip_signs

Array = np.ndarray[Any, Any]


def models(n: int, clusters: int, seed: int, shared: float = 0.5, twins: int = 0) -> Array:
    """Models that follow the items more or less (a common factor), of unequal noise; some are nearly equal."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.4, (n, 1)) + (1 + shared * rng.normal(size=(n, 1))) * rng.normal(size=clusters)
    x = x + rng.normal(size=(n, clusters)) * np.exp(0.4 * rng.normal(size=(n, 1)))
    for k in range(twins):
        x[-1 - k] = x[k] + 1e-2 * rng.normal(size=clusters)
    return np.asarray(x)


def table(x: Array, own: Array, signs: Array, normal: Array | None) -> tuple[Array, Array]:
    """Standardised differences (draws, n, n) and their scale, pair by pair."""
    n = len(x)
    scale, found = np.full((n, n), np.inf), np.zeros((len(signs), n, n))
    for i in range(n):
        for j in range(n):
            gap = x[i] - x[j]
            s = np.sqrt((gap**2).sum() + own[i] ** 2 + own[j] ** 2)
            if i != j and s > 0:
                besides = 0.0 if normal is None else normal[:, i] * own[i] - normal[:, j] * own[j]
                scale[i, j], found[:, i, j] = s, np.abs(signs @ gap + besides) / s
    return found, scale


@given(
    st.integers(2, 14),
    st.integers(2, 30),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1.0, 30.0]),
    st.booleans(),
    st.integers(1, 150),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_order_statistics_are_those_of_the_full_table(
    n: int, clusters: int, seed: int, shared: float, errors: bool, rank: int
) -> None:
    """Any rank, with and without a common factor, twins and errors besides; then for fewer and fewer pairs."""
    x = models(n, clusters, seed, shared, twins=n // 4)
    x = x - x.mean(axis=0)
    rng = np.random.default_rng(seed + 1)
    signs, _ = flip_signs(clusters, 400, seed)
    own = rng.exponential(size=n) * errors
    normal = rng.normal(size=(len(signs), n)) if errors else None
    rank = min(rank, len(signs))
    found, scale = table(x, own, signs, normal)
    ours = LargestDifference(x, own, signs, normal)
    np.testing.assert_allclose(ours.scale, scale, rtol=1e-6, atol=1e-6)
    among = np.isfinite(scale)
    for _ in range(4):
        largest = np.sort(found[:, among].max(axis=1, initial=0.0))[-rank]
        assert ours.upper(among, rank) == pytest.approx(largest, rel=1e-6)
        out = rng.random((n, n)) < 0.4
        among = among & ~(out | out.T)


@pytest.mark.parametrize("kind", ["one line", "all equal", "two models"])
def test_degenerate_models(kind: str) -> None:
    """Multiples of one profile (all pairs are the same test), equal models (there is none), a single pair."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=20)
    x = {"one line": np.outer([1.0, 2.0, 4.0, -3.0], base), "all equal": np.tile(base, (3, 1)), "two models": None}[
        kind
    ]
    x = rng.normal(size=(2, 20)) if x is None else x
    x = x - x.mean(axis=0)
    signs, _ = flip_signs(20, 500, 0)
    ours = LargestDifference(x, np.zeros(len(x)), signs)
    if kind == "all equal":
        assert np.isinf(ours.scale).all()
        assert ours.upper(np.isfinite(ours.scale), 25) == 0.0
    else:
        gap = x[0] - x[1]
        wanted = np.sort(np.abs(signs @ gap) / np.linalg.norm(gap))[-25]
        assert ours.upper(np.isfinite(ours.scale), 25) == pytest.approx(wanted)


@pytest.mark.parametrize(("shared", "most"), [(0.0, 0.06), (0.5, 0.1), (3.0, 0.15)])
def test_few_differences_of_many_models_are_looked_at(shared: float, most: float) -> None:
    """300 models, 44 850 pairs, 2000 draws: a small part of the full table settles the order statistic, also where all
    models follow the items and some are twins; the next step of a step-down takes less."""
    x = models(300, 96, 1, shared, twins=10)
    x = x - x.mean(axis=0)
    signs, _ = flip_signs(96, 2000, 0)
    ours = LargestDifference(x, np.zeros(300), signs)
    among = np.isfinite(ours.scale)
    critical = ours.upper(among, 100)
    whole, first = 44_850 * 2000, ours.taken
    assert first < most * whole
    sums = x.sum(axis=1)
    left = among & (np.abs(sums[:, None] - sums) / ours.scale <= critical)
    assert 0.3 < left.sum() / among.sum() < 0.99
    assert 0.95 * critical < ours.upper(left, 100) < critical
    assert ours.taken - first < 0.02 * whole


def plain(x: Array, further: Array | None, draws: int, level: float = 0.95, seed: int = 0) -> Array:
    """The step-down of `rank_intervals` as it is defined, every pair in every draw."""
    n, clusters = x.shape
    signs, exact = flip_signs(clusters, draws, seed)
    own, normal = np.zeros(n), None
    if further is not None:
        exact, own = False, clusters * further
        normal = np.random.default_rng(seed + 1).normal(size=(n, len(signs))).T
    found, scale = table(x - x.mean(axis=0), own, signs, normal)
    means = x.mean(axis=1)
    observed = clusters * np.abs(means[:, None] - means) / scale
    sure = np.zeros((n, n), dtype=bool)
    while True:
        largest = found[:, ~sure].max(axis=1)
        reached = (largest[:, None, None] >= observed * (1 - 1e-9)).sum(axis=0)
        p = reached / len(largest) if exact else (1 + reached) / (1 + len(largest))
        more = (p <= 1 - level + 1e-12) & np.isfinite(scale) & ~sure
        if not more.any():
            break
        sure |= more
    higher = means[:, None] > means[None, :]
    return np.stack([1 + (sure & higher).sum(axis=0), n - (sure & ~higher).sum(axis=0)], axis=1)


@pytest.mark.parametrize("n", [2, 5, 12, 25])
@pytest.mark.parametrize("clusters", [8, 24, 96])
@pytest.mark.parametrize("errors", [False, True])
def test_rank_intervals_are_those_of_the_plain_step_down(n: int, clusters: int, errors: bool) -> None:
    """Not one interval differs: neither Hoeffding's bound at the start nor what is left out changes a rank."""
    for seed in range(3):
        x = 2 * models(n, clusters, seed, twins=n // 6)
        further = np.full(n, 0.1) if errors else None
        got = rank_intervals(x, draws=499, further=further)
        np.testing.assert_array_equal(got, plain(x, further, 499))


def test_fewer_draws_of_many_models_move_ranks_by_noise_only() -> None:
    """130 models have fewer draws than are asked for. Intervals from other draws differ from them as much as those of
    two sets of as many draws differ from each other: by a few ranks at most ends."""
    x = models(130, 48, 3)
    one, other = (rank_intervals(x, seed=seed) for seed in (0, 1))
    part = rank_intervals(x, draws=4999, seed=2)
    noise, moved = np.abs(one - other).mean(), np.abs(one - part).mean()
    assert moved < 2 * noise + 0.5
    assert np.abs(one - part).max() <= 12
