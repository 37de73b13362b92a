"""Equivalence testing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as sps


def tost(per_cluster: ArrayLike, margin: float = 0.2) -> float:
    """p-value of two one-sided t tests that |mean| < ``margin`` (Schuirmann 1987, doi:10.1007/BF01068419).

    ``per_cluster`` (n_clusters,) in the units of the margin; a small p supports equivalence to zero.
    """
    x = np.asarray(per_cluster, dtype=np.float64)
    n = len(x)
    if n < 2:
        return float("nan")
    se = float(x.std(ddof=1)) / np.sqrt(n)
    if se == 0:
        return 0.0 if abs(float(x.mean())) < margin else 1.0
    lower = sps.t.sf((float(x.mean()) + margin) / se, n - 1)
    upper = sps.t.cdf((float(x.mean()) - margin) / se, n - 1)
    return float(max(lower, upper))
