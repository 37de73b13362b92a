"""Is the measurement the same when it is made again? Split halves, standard error of measurement, detectable change."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def spearman_brown(correlation: float, factor: float = 2.0) -> float:
    """Reliability of a measurement ``factor`` times as long as the one whose parts correlate so (Spearman 1910; Brown
    1910)."""
    return factor * correlation / (1 + (factor - 1) * correlation)


def split_half(per_cluster: ArrayLike, splits: int = 1000, seed: int = 0) -> float:
    """Split-half reliability of the models' means: correlation over models between the means of two random halves of
    the clusters, its mean over ``splits`` halvings stepped up to the whole by Spearman-Brown. Not below 0.

    ``per_cluster`` (n_models, n_clusters), clusters aligned. NaN for fewer than three models or four clusters, or where
    the models do not differ at all.
    """
    x = np.asarray(per_cluster, dtype=np.float64)
    n, clusters = x.shape
    if n < 3 or clusters < 4 or not np.isfinite(x).all():
        return float("nan")
    rng = np.random.default_rng(seed)
    half = clusters // 2
    order = np.argsort(rng.random((splits, clusters)), axis=1)
    pick = np.zeros((splits, clusters))
    np.put_along_axis(pick, order[:, :half], 1.0 / half, axis=1)
    other = np.zeros((splits, clusters))
    np.put_along_axis(other, order[:, half : 2 * half], 1.0 / half, axis=1)
    a, b = pick @ x.T, other @ x.T
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    if not (norm > 1e-24).all():
        return float("nan")
    # the mean first: stepping up has a pole at -1, which single halvings of a few models come near to
    return max(spearman_brown(float(np.mean((a * b).sum(axis=1) / norm))), 0.0)


def detectable_change(se: float) -> float:
    """MDC95 = 1.96 sqrt(2) SEM: the smallest difference between two measurements that is not noise (Weir 2005,
    doi:10.1519/15184.1)."""
    return 1.96 * float(np.sqrt(2.0)) * se
