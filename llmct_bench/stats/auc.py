"""How well two classes can be told apart, from items that come in clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]


def clustered_auc(
    positive: ArrayLike, negative: ArrayLike, own: csr_array, other: csr_array, resolution: float = 0.0
) -> Floats:
    """Jackknife pseudo-values (n_clusters,) of the area under the ROC curve, which is their mean: how often a positive
    item lies above a negative one of another cluster (a tie counts half: Bamber 1975,
    doi:10.1016/0022-2496(75)90001-2).

    ``positive`` (n_positive,) and ``negative`` (n_negative,) values; ``own`` (n_clusters, n_positive) and ``other``
    (n_clusters, n_negative) average them by cluster, and every cluster has both. Values that differ by no more than
    ``resolution`` are tied. Items of one cluster are not independent, so that clusters are left out and not items
    (Obuchowski 1997, doi:10.2307/2533958, weights items alike; here clusters are); pairs within a cluster do not count,
    so that this is a U-statistic and its jackknife has no bias. NaN for fewer than three clusters.
    """
    x, y = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    n = own.shape[0]
    if n < 3:
        return np.full(n, np.nan)
    away = x[:, None] - y[None, :]
    above = own @ (0.5 + 0.5 * np.where(np.abs(away) <= resolution, 0.0, np.sign(away))) @ other.T
    np.fill_diagonal(above, 0.0)
    total = above.sum()
    without = (total - above.sum(axis=0) - above.sum(axis=1)) / ((n - 1) * (n - 2))
    return np.asarray(total / (n - 1) - (n - 1) * without)
