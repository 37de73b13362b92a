"""Random-effects meta-analysis: several families of models as replicates of one question."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy import stats as sps


@dataclass(frozen=True)
class MetaAnalysis:
    """The mean effect with its interval, the variance between studies ``tau2``, Cochran's Q with its p-value, and the
    interval in which the effect of a further study is expected (Higgins et al. 2009)."""

    estimate: float
    low: float
    high: float
    se: float
    tau2: float
    q: float
    q_p: float
    predicted_low: float
    predicted_high: float
    n_studies: int

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided."""
        if not self.se > 0:
            return float("nan")
        return float(2 * sps.t.sf(abs(self.estimate - null) / self.se, self.n_studies - 1))


def hartung_knapp(effects: ArrayLike, standard_errors: ArrayLike, level: float = 0.95) -> MetaAnalysis:
    """Mean of ``effects`` (k,) with known ``standard_errors`` (k,), tau^2 after Paule & Mandel (1982), the variance of
    the mean after Hartung & Knapp (2001, doi:10.1002/sim.1009), Student t with k - 1 degrees of freedom: what keeps its
    level for few studies (IntHout et al. 2014). The variance is not allowed below that of the plain random-effects
    mean (the modification of Rover et al. 2015, doi:10.1186/s12874-015-0091-1).

    Raises ValueError for fewer than two studies and for standard errors that are not positive.
    """
    y, s = np.asarray(effects, dtype=np.float64), np.asarray(standard_errors, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1 or len(y) < 2:
        raise ValueError("a meta-analysis needs effects and standard errors of at least two studies")
    if not (np.isfinite(y).all() and np.isfinite(s).all() and (s > 0).all()):
        raise ValueError("effects must be finite and standard errors positive")
    k, v = len(y), s**2

    def heterogeneity(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float((w * (y - (w @ y) / w.sum()) ** 2).sum())

    tau2 = 0.0
    if heterogeneity(0.0) > k - 1:
        upper = max(float(y.var(ddof=1)), float(v.max()), 1e-12)
        while heterogeneity(upper) > k - 1:
            upper *= 2
        tau2 = float(optimize.brentq(lambda t: heterogeneity(t) - (k - 1), 0.0, upper, xtol=1e-14 * upper, rtol=1e-12))
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    scale = max(float((w * (y - mean) ** 2).sum()) / (k - 1), 1.0)
    se = math.sqrt(scale / float(w.sum()))
    half = float(sps.t.ppf(0.5 + level / 2, k - 1)) * se
    q = heterogeneity(0.0)
    spread = float("nan") if k < 3 else float(sps.t.ppf(0.5 + level / 2, k - 2)) * math.sqrt(tau2 + se**2)
    low, high = mean - half, mean + half
    return MetaAnalysis(mean, low, high, se, tau2, q, float(sps.chi2.sf(q, k - 1)), mean - spread, mean + spread, k)
