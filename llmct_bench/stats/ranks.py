"""Ranks that do not claim more than the data show."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmct_bench.stats.pairs import LargestDifference
from llmct_bench.stats.resampling import flip_signs

Floats = NDArray[np.float64]

#: Models x draws that are held at most; so many models have all 9999.
_HELD = 125 * 9999


def rank_intervals(
    per_cluster: ArrayLike,
    level: float = 0.95,
    draws: int = 9999,
    seed: int = 0,
    further: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Simultaneous rank intervals from paired comparisons of all pairs of models, stepping down.

    ``per_cluster`` (n_models, n_clusters): one number per model and cluster, clusters aligned (models share items).
    Rank 1 is the largest mean. Model j's interval is [1 + number surely above, n - number surely below] (Mogstad,
    Romano, Shaikh & Wilhelm 2023, doi:10.1093/restud/rdad006). A pair counts as different where its sign-flip statistic
    exceeds the quantile of the maximum over all pairs that do not yet (Romano & Wolf 2005,
    doi:10.1198/016214504000000539), so that all intervals hold together at ``level``; the draws flip whole clusters,
    so what models share cancels. ``further`` (n_models,): standard errors that the means have besides, independent of
    the clusters and of each other (their instruments'); they are drawn as normal. Models with missing values are never
    told from others. More than 125 models have fewer draws (500: 2499), which leaves the test valid, as the observed
    data count as one of them, and its quantile less sharp: the level itself has a standard error of .004 there, and of
    .002 with all. Returns (n_models, 2) int64.
    """
    x = np.asarray(per_cluster, dtype=np.float64)
    n, clusters = x.shape
    sure = np.zeros((n, n), dtype=bool)  # [i, j]: i and j surely differ
    known = np.flatnonzero(np.isfinite(x).all(axis=1))
    if len(known) > 1 and clusters > 0:
        se = np.zeros(n) if further is None else np.asarray(further, dtype=np.float64)
        sure[np.ix_(known, known)] = _different(x[known], se[known], level, draws, seed)
    means = np.where(np.isfinite(x).all(axis=1), x.mean(axis=1) if clusters else 0.0, 0.0)
    higher = means[:, None] > means[None, :]
    above = (sure & higher).sum(axis=0)
    below = (sure & ~higher & ~np.eye(n, dtype=bool)).sum(axis=0)
    return np.stack([1 + above, n - below], axis=1).astype(np.int64)


def _different(x: Floats, se: Floats, level: float, draws: int, seed: int) -> NDArray[np.bool_]:
    """Which pairs of rows differ surely, (n, n)."""
    n, clusters = x.shape
    x = x - x.mean(axis=0)  # what all models share in a cluster cancels in every pair; without it rounding is smaller
    signs, exact = flip_signs(clusters, min(draws, max(_HELD // n, 999)), seed)
    own = clusters * se
    normal = _normal(-(-n // 64) * 64, len(signs), seed + 1)[:, :n] if own.any() else None
    exact = exact and normal is None
    largest = LargestDifference(x, own, signs, normal)
    sums = x.sum(axis=1)
    observed = np.abs(sums[:, None] - sums[None, :]) / largest.scale * (1 - 1e-12)
    tested = np.isfinite(largest.scale)
    allowed = 1 - level + 1e-12
    # p is the share of draws that reach the observed value, itself one of them: it is small where that exceeds so many
    rank = 1 + (int(allowed * len(signs)) if exact else int(allowed * (1 + len(signs))) - 1)
    if rank < 1 or not tested.any():
        return np.zeros((n, n), dtype=bool)
    # Hoeffding's inequality (1963, doi:10.1080/01621459.1963.10500830) over all pairs settles the clear ones at once
    critical = np.sqrt(2 * np.log(max(tested.sum() / (1 - level), 1.0)))
    tied = tested & (observed <= critical)
    while tied.any():
        critical = largest.upper(tied, rank) if rank <= len(signs) else -np.inf
        found = tied & (observed > critical)
        if not found.any():
            break
        tied &= ~found
    return np.asarray(tested & ~tied)


@lru_cache(maxsize=1)
def _normal(n: int, draws: int, seed: int) -> Floats:
    """Normal draws (draws, n), once for all traits. A multiple of models is drawn, so that a few more or fewer of them
    have the same draws."""
    made = np.ascontiguousarray(np.random.default_rng(seed).normal(size=(n, draws)).T)
    made.setflags(write=False)
    return made
