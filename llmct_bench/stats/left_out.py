"""The error that an estimate inherits from its instrument: from what was estimated on other data before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as sps

from llmct_bench.stats.intervals import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LeftOut:
    """A stratified delete-one jackknife of k numbers: what they would be without one unit of the instrument.

    ``bias`` (k,) of the estimate, ``covariance`` (n_strata, k, k) that each stratum adds to it, ``df`` (n_strata,) its
    degrees of freedom. Strata are independent samples (the words of one emotion at one intensity, say).
    """

    bias: Floats
    covariance: Floats
    df: Floats

    @property
    def total(self) -> Floats:
        """Covariance (k, k) over all strata."""
        return np.asarray(self.covariance.sum(axis=0))

    @property
    def se(self) -> float:
        """Standard error of the first number."""
        return float(np.sqrt(self.total[0, 0]))

    def se_of_ratio(self, ratio: float, denominator: float) -> float:
        """Standard error of a ratio of the two numbers (delta method)."""
        along = np.array([1.0, -ratio])
        return float(np.sqrt(max(float(along @ self.total @ along), 0.0)) / abs(denominator))


def left_out(estimate: ArrayLike, without: ArrayLike, strata: ArrayLike) -> LeftOut:
    """Bias and covariance of ``estimate`` (k,) from ``without`` (n_versions, k), its values with one unit left out, and
    the stratum of that unit, ``strata`` (n_versions,).

    In a stratum of G units: bias (G-1)/G times the sum of (version - estimate), covariance (G-1)/G times the sum of the
    squared deviations from the mean of the versions (Efron & Stein 1981, doi:10.1214/aos/1176345462, stratum by
    stratum: Jones 1974, doi:10.1093/biomet/61.2.343). Strata of one unit say nothing and are skipped.
    """
    theta = np.atleast_1d(np.asarray(estimate, dtype=np.float64))
    values = np.asarray(without, dtype=np.float64).reshape(-1, len(theta))
    labels = np.asarray(strata)
    if len(labels) != len(values):
        raise ValueError(f"{len(values)} versions for {len(labels)} strata")
    bias = np.zeros(len(theta))
    parts, df = [np.zeros((0, len(theta), len(theta)))], []
    for label in np.unique(labels):
        own = values[labels == label]
        g = len(own)
        if g < 2:
            continue
        away = own - own.mean(axis=0)
        bias += (g - 1) / g * (own - theta).sum(axis=0)
        parts.append(((g - 1) / g * away.T @ away)[None])
        df.append(g - 1.0)
    return LeftOut(bias, np.concatenate(parts), np.array(df))


def t_interval(own: Interval, error: LeftOut | None = None, bias: float = 0.0, level: float = 0.95) -> Interval:
    """t interval of an estimate whose items give it the t interval ``own`` and whose instrument gives it the error
    ``error`` (k = 1): the variances add up, with Satterthwaite's degrees of freedom (1946, doi:10.2307/3002019).
    ``bias`` is taken away from the estimate."""
    df = own.n_clusters - 1.0 if np.isnan(own.df) else own.df
    se = own.se
    if error is not None and np.isfinite(se):
        parts = error.covariance[:, 0, 0]
        total = se**2 + float(parts.sum())
        spread = se**4 / df + float((parts**2 / error.df).sum())
        df, se = total**2 / spread if spread > 0 else df, float(np.sqrt(total))
    estimate = own.estimate - bias
    half = float(sps.t.ppf(0.5 + level / 2, df)) * se
    return Interval(estimate, estimate - half, estimate + half, se, own.n_clusters, df)
