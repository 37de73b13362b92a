"""Cross-validated distances between classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def crossnobis(class_means: ArrayLike, precision: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean crossnobis distance over all pairs of classes.

    d2_ef = 1/(M(M-1)P) sum_{m != n} delta_m^T Sigma^-1 delta_n with delta_m = mean_e,m - mean_f,m of cluster m
    (Walther et al. 2016, doi:10.1016/j.neuroimage.2015.12.012; Diedrichsen & Kriegeskorte 2017). Unbiased by
    noise that is independent between clusters: its null value is 0 and negative estimates are kept.

    ``class_means`` (n_clusters, n_classes, P); ``precision`` (P, P) = Sigma^-1 (a pseudo-inverse is fine; P is
    then its rank); ``weights`` (n_clusters,) of 0 and 1 leaves clusters out.
    """
    x = np.asarray(class_means, dtype=np.float64)
    s = np.asarray(precision, dtype=np.float64)
    if weights is not None:
        x = x[np.asarray(weights) > 0]
    m, k, _ = x.shape
    if m < 2:
        return float("nan")
    rank = max(int(np.linalg.matrix_rank(s, hermitian=True)), 1)
    # sum over ordered pairs e != f of (x_e - x_f)^T S (y_e - y_f) = 2k sum_e x_e S y_e - 2 (sum_e x_e) S (sum_f y_f)
    centred = x - x.mean(axis=1, keepdims=True)
    total = centred.sum(axis=0)
    cross = np.einsum("ep,pq,eq->", total, s, total) - np.einsum("mep,pq,meq->", centred, s, centred)
    return float(2 * k * cross / (k * (k - 1)) / (m * (m - 1)) / rank)
