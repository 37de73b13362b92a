"""Cross-validated distances between classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def crossnobis(class_means: ArrayLike, precision: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """Mean crossnobis distance over all pairs of classes.

    d2_ef = 1/(M(M-1)P) sum_{m != n} delta_m^T Sigma^-1 delta_n with delta_m = mean_e,m - mean_f,m of cluster m
    (Walther et al. 2016, doi:10.1016/j.neuroimage.2015.12.012; Diedrichsen & Kriegeskorte 2017). Unbiased by
    noise that is independent between clusters: its null value is 0 and negative estimates are kept.

    ``class_means`` (n_clusters, n_classes, P); ``precision`` (P, P) = Sigma^-1 (a pseudo-inverse is fine; P is then
    its rank), or (B, P, P), one for each row of the weights; ``weights`` (n_clusters,) or (B, n_clusters): zeros leave
    clusters out, counts draw them several times (a cluster is never paired with itself). Returns a float, or (B,) of
    them; NaN for fewer than two clusters.
    """
    x = np.asarray(class_means, dtype=np.float64)
    s = np.asarray(precision, dtype=np.float64)
    m, k, _ = x.shape
    w = np.ones((1, m)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if w.shape[1] != m:
        raise ValueError(f"{w.shape[1]} weights for {m} clusters")
    rank = np.maximum(np.linalg.matrix_rank(s, rtol=1e-8, hermitian=True), 1)
    # sum over ordered pairs e != f of (x_e - x_f)^T S (y_e - y_f) = 2k sum_e x_e S y_e - 2 (sum_e x_e) S (sum_f y_f)
    centred = x - x.mean(axis=1, keepdims=True)
    total = np.tensordot(w, centred, 1)
    both = np.einsum("bep,beq->bpq", total, total) - np.tensordot(w**2, np.einsum("mep,meq->mpq", centred, centred), 1)
    cross = (both * s).sum(axis=(1, 2))
    pairs = w.sum(axis=1) ** 2 - (w**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(pairs > 0, 2 * cross / (k - 1) / np.where(pairs > 0, pairs, np.nan) / rank, np.nan)
    return float(found[0]) if weights is None or np.ndim(weights) == 1 else found
