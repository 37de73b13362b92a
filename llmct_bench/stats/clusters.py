"""Cluster-level inference: means, the cluster t interval, the delete-one-cluster jackknife, sign flips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as sps

from llmct_bench.stats.intervals import MIN_CLUSTERS, Interval
from llmct_bench.stats.resampling import sign_flip_map

Floats = NDArray[np.float64]


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, NDArray[np.object_]]:
    """Mean of ``values`` (n, ...) within each cluster.

    Returns the means (n_clusters, ...) float64 and the cluster labels in sorted order. Each cluster counts
    once, however many values it holds. Raises ValueError on non-finite values.
    """
    v, names = np.asarray(values, dtype=np.float64), np.asarray(clusters, dtype=object)
    if len(v) != len(names):
        raise ValueError(f"{len(v)} values for {len(names)} cluster labels")
    if not np.isfinite(v).all():
        raise ValueError("values must be finite")
    labels, inverse = np.unique(names.astype(str), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    sums = np.add.reduceat(v[order], np.searchsorted(inverse[order], np.arange(len(labels))), axis=0)
    counts = np.bincount(inverse, minlength=len(labels)).astype(np.float64)
    return sums / counts.reshape(-1, *([1] * (v.ndim - 1))), labels.astype(object)


def cluster_t(per_cluster: ArrayLike, level: float = 0.95) -> Interval:
    """Student t interval of the mean over clusters, ``per_cluster`` (n_clusters,).

    With one number per cluster this is the ordinary one-sample t interval; it is what keeps its coverage at 6
    to 24 clusters where naive and percentile-bootstrap intervals do not (Cameron & Miller 2015,
    doi:10.3368/jhr.50.2.317).
    """
    x = np.asarray(per_cluster, dtype=np.float64)
    n = len(x)
    mean = float(x.mean()) if n else float("nan")
    if n < MIN_CLUSTERS:
        return Interval(mean, float("nan"), float("nan"), float("nan"), n)
    se = float(x.std(ddof=1) / np.sqrt(n))
    half = float(sps.t.ppf(0.5 + level / 2, n - 1)) * se
    return Interval(mean, mean - half, mean + half, se, n)


def jackknife_t(
    statistic: Callable[[Floats], ArrayLike], n_clusters: int, level: float = 0.95, groups: int | None = None
) -> tuple[Interval, Floats]:
    """t interval of any statistic by the delete-one-cluster jackknife.

    ``statistic`` takes weights (B, n_clusters), a row of ones for the estimate and rows with a zero for each cluster
    that is left out, and returns B numbers: all of them are wanted at once. The pseudo-values n*s - (n-1)*s_(-i)
    (Tukey 1958; Efron & Stein 1981) are treated as one number per cluster; the interval is centred on the statistic
    itself. ``groups``: leave out every so-many-th cluster together, for a statistic that is dear. Returns the interval
    and the pseudo-values, one a cluster or group.
    """
    n = n_clusters if groups is None else min(groups, n_clusters)
    weights = np.ones((n + 1, n_clusters))
    weights[1 + np.arange(n_clusters) % n, np.arange(n_clusters)] = 0.0
    values = np.asarray(statistic(weights), dtype=np.float64)
    estimate = float(values[0])
    pseudo = n * estimate - (n - 1) * values[1:]
    around = cluster_t(pseudo, level)
    half = (around.high - around.low) / 2
    return Interval(estimate, estimate - half, estimate + half, around.se, n_clusters, n - 1.0), pseudo


def sign_flip(per_cluster: ArrayLike, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided sign-flip permutation p-value of a mean of zero, ``per_cluster`` (n_clusters,).

    All 2^n sign patterns where n <= 13 (exact), otherwise ``draws`` random ones with the add-one correction, so
    that p is never 0 (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585). Assumes symmetry around zero under the
    null, which a difference of exchangeable twins has. Raises ValueError on values that are not finite.
    """
    return float(sign_flip_map(np.asarray(per_cluster, dtype=np.float64), draws, seed).p)
