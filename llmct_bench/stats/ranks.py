"""Ranks that do not claim more than the data show."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmct_bench.stats.resampling import flip_signs

Floats = NDArray[np.float64]


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
    told from others. Returns (n_models, 2) int64.
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
    signs, exact = flip_signs(clusters, draws, seed)
    flipped = np.ascontiguousarray((signs @ x.T).T)  # (n, draws)
    own = clusters * se
    if own.any():
        exact = False
        flipped += own[:, None] * np.random.default_rng(seed + 1).normal(size=flipped.shape)
    gram = x @ x.T
    square = np.diag(gram)[:, None] + np.diag(gram)[None, :] - 2 * gram
    norm = np.sqrt(np.maximum(square, 0.0) + own[:, None] ** 2 + own[None, :] ** 2)
    total = np.abs(x.sum(axis=1)[:, None] - x.sum(axis=1)[None, :])
    scale = np.where(norm > 1e-12 * norm.max(initial=1.0), norm, np.inf)
    observed = total / scale
    sure = np.zeros((n, n), dtype=bool)
    while True:
        largest = np.zeros(flipped.shape[1])
        for i in range(n - 1):
            rest = np.flatnonzero(~sure[i, i + 1 :]) + i + 1
            if len(rest):
                t = np.abs(flipped[i] - flipped[rest]) / scale[i, rest, None]
                np.maximum(largest, t.max(axis=0), out=largest)
        reached = len(largest) - np.searchsorted(np.sort(largest), observed * (1 - 1e-12), side="left")
        p = reached / len(largest) if exact else (1 + reached) / (1 + len(largest))
        found = (p <= 1 - level + 1e-12) & np.isfinite(scale) & ~np.eye(n, dtype=bool)
        if not (found & ~sure).any():
            return sure
        sure |= found
