"""Representational similarity: rank correlations of distances between the same things in two spaces (Kriegeskorte et
al. 2008, doi:10.3389/neuro.06.004.2008). Pure functions on arrays."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy import stats as sps

Floats = NDArray[np.float64]

#: Random permutations, where not all are taken, and random halvings.
DRAWS, SPLITS = 9999, 100


def cross_distances(means: Floats, precision: Floats, weights: Floats) -> Floats:
    """(B, n_cells, n_cells) crossnobis distances of all pairs of cells, cross-validated over the clusters that
    ``weights`` (B, n_clusters) give 1 (see `crossnobis`, which is their mean). ``means`` (n_clusters, n_cells, P),
    ``precision`` (P, P). Independent noise adds nothing to them; negative ones are kept."""
    total = np.tensordot(weights, means, 1)
    # what the cells' inner products would be if no cluster were ever paired with itself
    inner = np.einsum("bcp,pq,beq->bce", total, precision, total, optimize=True)
    inner -= np.tensordot(weights, np.einsum("mcp,pq,meq->mce", means, precision, means, optimize=True), 1)
    own = np.einsum("bcc->bc", inner)
    n = weights.sum(axis=1)[:, None, None]
    rank = max(int(np.linalg.matrix_rank(precision, hermitian=True)), 1)
    return np.asarray((own[:, :, None] + own[:, None, :] - 2 * inner) / (n * (n - 1) * rank))


def rank_correlations(x: Floats, y: Floats) -> Floats:
    """Spearman's correlation of each row of ``x`` with that of ``y``, both (B, k)."""
    a, b = (sps.rankdata(v, axis=1) for v in (x, y))
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))


def mantel(a: Floats, b: Floats, draws: int = DRAWS, seed: int = 0) -> float:
    """One-sided p-value that the distances ``a`` and ``b`` (n, n; symmetric) agree no better in rank than when the
    cells of one are shuffled (Mantel 1967), with the add-one correction."""
    n = len(a)
    above = np.triu_indices(n, 1)
    ranks = np.zeros((n, n))
    ranks[above] = sps.rankdata(b[above])
    ranks += ranks.T
    fixed = sps.rankdata(a[above])
    fixed -= fixed.mean()
    order = np.argsort(np.random.default_rng(seed).random((draws, n)), axis=1)
    found = ranks[order[:, above[0]], order[:, above[1]]] @ fixed
    observed = float(ranks[above] @ fixed)
    return float((1 + (found >= observed - 1e-9 * abs(observed)).sum()) / (1 + draws))


def orders(n: int, draws: int, seed: int = 0) -> tuple[NDArray[np.intp], bool]:
    """Orders of ``n`` things (n_orders, n), and whether they are all that there are: all n!, or ``draws`` random ones
    where that is fewer."""
    if factorial(n) <= draws:
        return np.array(list(permutations(range(n))), np.intp), True
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n) for _ in range(draws)], np.intp), False


def halves(n: int, seed: int = 0) -> Floats:
    """Random halves of ``n`` clusters: (SPLITS, n) of 0 and 1, ``n // 2`` ones each."""
    order = np.argsort(np.argsort(np.random.default_rng(seed).random((SPLITS, n)), axis=1), axis=1)
    return np.asarray(order < n // 2, np.float64)
