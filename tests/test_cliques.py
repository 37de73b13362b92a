"""Ties between models: against brute force over all subsets, and against scipy's paired test."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests

from llmct_bench.leaderboards.cliques import cover, letters, paired_p, tie_cliques

Array = np.ndarray[Any, Any]


def maximal_cliques(tied: Array) -> set[tuple[int, ...]]:
    """All of them, from all subsets."""
    n = len(tied)
    full = [
        s
        for size in range(1, n + 1)
        for s in itertools.combinations(range(n), size)
        if all(tied[i, j] for i, j in itertools.combinations(s, 2))
    ]
    return {s for s in full if not any(set(s) < set(t) for t in full)}


def graph(n: int, edges: set[tuple[int, int]]) -> Array:
    tied = np.eye(n, dtype=bool)
    for i, j in edges:
        tied[i, j] = tied[j, i] = True
    return tied


@st.composite
def graphs(draw: st.DrawFn) -> Array:
    n = draw(st.integers(1, 7))
    pairs = list(itertools.combinations(range(n), 2))
    return graph(n, draw(st.sets(st.sampled_from(pairs))) if pairs else set())


@given(graphs())
@settings(max_examples=300, deadline=None)
def test_a_cover_holds_every_tie_once_and_nothing_else(tied: Array) -> None:
    """Every group is a maximal clique by brute force; two models share a group if and only if they are tied."""
    found = cover(tied)
    assert set(found) <= maximal_cliques(tied)
    assert len(set(found)) == len(found)
    assert list(found) == sorted(found)
    for i, j in itertools.product(range(len(tied)), repeat=2):
        assert any(i in c and j in c for c in found) == bool(tied[i, j])


@given(st.lists(st.integers(0, 7), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_runs_give_all_maximal_cliques(reach: list[int]) -> None:
    """Where ties are runs in the order of the rows, the cover is exactly the set of all maximal cliques."""
    n = len(reach)
    ends = np.maximum.accumulate([min(i + r, n - 1) for i, r in enumerate(reach)])
    tied = graph(n, {(i, j) for i in range(n) for j in range(i + 1, int(ends[i]) + 1)})
    assert set(cover(tied)) == maximal_cliques(tied)


def test_paired_p_is_scipys_paired_test_with_holms_adjustment() -> None:
    """Independent truth: scipy.stats.ttest_rel and statsmodels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 20)) + rng.normal(size=20) * 3 + np.linspace(0, 1.5, 6)[:, None]
    pairs = list(itertools.combinations(range(6), 2))
    wanted = multipletests([sps.ttest_rel(x[i], x[j]).pvalue for i, j in pairs], method="holm")[1]
    found = paired_p(x)
    np.testing.assert_allclose([found[p] for p in pairs], wanted, rtol=1e-9)
    np.testing.assert_array_equal(found, found.T)


def test_clear_gaps_separate_and_noise_does_not() -> None:
    """Two tight groups far apart are two cliques; a model in the middle of a wide one ties with both."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(4, 40))
    x = np.array([0.0, 0.05, 9.0, 9.05])[:, None] + noise
    assert tie_cliques(x) == ((0, 1), (2, 3))
    assert tie_cliques(np.zeros((3, 10))) == ((0, 1, 2),)


def test_a_constant_difference_is_certain_and_rounding_is_none() -> None:
    """Without variance a difference is sure; a difference of rounding size is not one."""
    base = np.random.default_rng(2).normal(size=12)
    assert tie_cliques([base, base + 1.0]) == ((0,), (1,))
    assert tie_cliques([base, base + 1e-16]) == ((0, 1),)


def test_values_that_are_missing_and_few_clusters_claim_nothing() -> None:
    """A row with NaN differs from none; five clusters give no groups."""
    x = np.arange(3.0)[:, None] * 100 + np.random.default_rng(3).normal(size=(3, 10))
    x[1, 0] = np.nan
    assert tie_cliques(x) == ((0, 1), (1, 2))
    assert tie_cliques(x[:, :5]) == ()


@pytest.mark.parametrize(
    ("cliques", "n", "wanted"),
    [
        (((0, 1), (1, 2)), 3, ("a", "ab", "b")),
        ((), 2, ("", "")),
        (tuple((i,) for i in range(27)), 27, ("",) * 27),
    ],
)
def test_letters(cliques: tuple[tuple[int, ...], ...], n: int, wanted: tuple[str, ...]) -> None:
    """One letter a group; none where the alphabet ends."""
    assert letters(cliques, n) == wanted


def test_five_hundred_models_stay_polynomial() -> None:
    """Groups of 500 noisy models cover all ties: no pair is lost in a large panel."""
    rng = np.random.default_rng(4)
    x = np.sort(rng.normal(size=500))[::-1, None] + rng.normal(size=(500, 48))
    tied = paired_p(x) > 0.05
    shared = np.zeros_like(tied)
    for c in tie_cliques(x):
        shared[np.ix_(c, c)] = True
    np.testing.assert_array_equal(shared, tied)
