"""The result of an interval estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats as sps

#: Below this number of clusters no interval is given: a t interval on so few replicates is not worth its name.
MIN_CLUSTERS = 6


@dataclass(frozen=True)
class Interval:
    """A point estimate with a confidence interval.

    ``low`` and ``high`` are NaN where there are fewer than `MIN_CLUSTERS` clusters and may be infinite (Fieller).
    ``se`` is the standard error on the scale of the estimate, NaN where it has none; ``df`` the degrees of freedom of
    its t interval, by default one less than there are clusters.
    """

    estimate: float
    low: float
    high: float
    se: float
    n_clusters: int
    df: float = float("nan")

    def excludes(self, value: float) -> bool:
        """True when the interval exists and ``value`` lies outside of it."""
        return not (math.isnan(self.low) or math.isnan(self.high)) and not self.low <= value <= self.high

    def contains(self, value: float) -> bool:
        """True when the interval exists and ``value`` lies in it."""
        return self.low <= value <= self.high

    def p_value(self, null: float) -> float:
        """Two-sided p-value of the t test that belongs to a cluster-t or jackknife interval (a Fieller interval has
        none: its ``se`` is only the delta method's); NaN where there is no standard error."""
        if not self.se > 0:
            return float("nan")
        df = self.n_clusters - 1 if math.isnan(self.df) else self.df
        return float(2 * sps.t.sf(abs(self.estimate - null) / self.se, df))
