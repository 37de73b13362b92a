"""Confidence intervals of ratios of means."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as sps

from llmct_bench.stats.intervals import MIN_CLUSTERS, Interval
from llmct_bench.stats.left_out import LeftOut


def fieller(
    numerator: ArrayLike, denominator: ArrayLike, level: float = 0.95, error: LeftOut | None = None
) -> Interval:
    """Fieller interval of mean(numerator) / mean(denominator), one pair per cluster.

    Solves (a - theta b)^2 <= t^2 Var(a - theta b) for theta (Fieller 1954, doi:10.1111/j.2517-6161.1954.tb00159.x).
    Where the denominator's own t interval includes zero the solution set is not bounded: (-inf, inf) is
    returned, which says that the ratio is not identified. ``se`` is the delta-method standard error. ``error``: what
    the two means inherit from their instrument (k = 2); its covariance is added, and the degrees of freedom are
    Satterthwaite's for the error of a - theta b.
    """
    a, b = (np.asarray(v, dtype=np.float64) for v in (numerator, denominator))
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"need two vectors of one length, got {a.shape} and {b.shape}")
    n = len(a)
    nan = float("nan")
    ma, mb = (float(a.mean()), float(b.mean())) if n else (nan, nan)
    theta = ma / mb if mb != 0 else nan
    if n < MIN_CLUSTERS:
        return Interval(theta, nan, nan, nan, n)
    cov = np.cov(a, b, ddof=1) / n
    vaa, vbb, vab = float(cov[0, 0]), float(cov[1, 1]), float(cov[0, 1])
    df = n - 1.0
    if error is not None and np.isfinite(theta):
        along = np.array([1.0, -theta])
        parts = np.einsum("i,sij,j->s", along, error.covariance, along)
        items = float(along @ cov @ along)
        spread = items**2 / df + float((parts**2 / error.df).sum())
        df = (items + float(parts.sum())) ** 2 / spread if spread > 0 else df
        cov = cov + error.total
        vaa, vbb, vab = float(cov[0, 0]), float(cov[1, 1]), float(cov[0, 1])
    t2 = float(sps.t.ppf(0.5 + level / 2, df)) ** 2
    lead = mb**2 - t2 * vbb
    if lead <= 0 or not np.isfinite(theta):
        return Interval(theta, -np.inf, np.inf, nan, n)
    middle = ma * mb - t2 * vab
    root = np.sqrt(max(middle**2 - lead * (ma**2 - t2 * vaa), 0.0))
    se = float(np.sqrt(max(vaa - 2 * theta * vab + theta**2 * vbb, 0.0))) / abs(mb)
    return Interval(theta, float((middle - root) / lead), float((middle + root) / lead), se, n, df)
