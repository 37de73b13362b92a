"""Ranks that do not claim more than the data show."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmct_bench.stats.clusters import sign_flip
from llmct_bench.stats.multiplicity import holm


def rank_intervals(per_cluster: ArrayLike, level: float = 0.95) -> NDArray[np.int64]:
    """Rank interval of each model from Holm-adjusted paired sign-flip tests of all pairs.

    ``per_cluster`` (n_models, n_clusters): one number per model and cluster, clusters aligned (models share
    items). Rank 1 is the largest mean. Model j's interval is [1 + number significantly above, n - number
    significantly below]: simultaneous at ``level`` because the family of pairs is (Mohamad, Goeman & van Zwet
    2022, Biometrics 78). Returns (n_models, 2) int64.
    """
    x = np.asarray(per_cluster, dtype=np.float64)
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    adjusted = holm([sign_flip(x[i] - x[j]) for i, j in pairs])
    above = np.zeros(n, dtype=np.int64)
    below = np.zeros(n, dtype=np.int64)
    means = x.mean(axis=1)
    for (i, j), p in zip(pairs, adjusted, strict=True):
        if p <= 1 - level:
            lower, upper = (i, j) if means[i] < means[j] else (j, i)
            above[lower] += 1
            below[upper] += 1
    return np.stack([1 + above, n - below], axis=1)
