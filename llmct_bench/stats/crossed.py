"""Inner products across clusters: what two clusters share, to which independent noise adds nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmct_bench.stats.clusters import cluster_t
from llmct_bench.stats.intervals import Interval

Floats = NDArray[np.float64]


def crossed(a: Floats, b: Floats) -> Floats:
    """Jackknife pseudo-values (n,) of the mean over s != t of <a_s, b_t>, which is their mean, for arrays (n, ...) of
    one pattern a cluster. The squared length of what the clusters have in common where a = b (cross-validated: Walther
    et al. 2016, doi:10.1016/j.neuroimage.2015.12.012). NaN for fewer than three clusters."""
    n = len(a)
    if n < 3:
        return np.full(n, np.nan)
    products = a.reshape(n, -1) @ b.reshape(n, -1).T
    np.fill_diagonal(products, 0.0)
    total = products.sum()
    without = (total - products.sum(axis=0) - products.sum(axis=1)) / ((n - 1) * (n - 2))
    return np.asarray(total / (n - 1) - (n - 1) * without)


def disattenuated(cross: Floats, one: Floats, other: Floats) -> Interval:
    """cross / sqrt(one other) of the means of pseudo-values (n,) of `crossed`: the cosine between two patterns without
    what noise takes from it, with its jackknife t interval. NaN where leaving a cluster out leaves a square that is not
    positive: then one of the patterns is not surely more than noise."""
    parts = np.stack([cross, one, other])
    n = parts.shape[1]
    if n < 3:
        return Interval(float("nan"), float("nan"), float("nan"), float("nan"), n)
    whole = parts.mean(axis=1, keepdims=True)
    a, b, c = np.hstack([whole, (n * whole - parts) / (n - 1)])
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where((b > 0) & (c > 0), a / np.sqrt(np.abs(b * c)), np.nan)
    return cluster_t(n * cosine[0] - (n - 1) * cosine[1:])
