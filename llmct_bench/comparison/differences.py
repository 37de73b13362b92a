"""The difference between two models in one trait, scenario by scenario, and what it allows to claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as sps
from scipy.optimize import brentq

from llmct_bench.stats import MIN_CLUSTERS, Interval, LeftOut, cluster_t, holm, t_interval
from llmct_bench.traits import ESTIMANDS, TraitEstimate

Floats = NDArray[np.float64]
Verdict = Literal["different", "equivalent", "undecided"]

#: Smallest difference of interest, in SD of the scenarios' values (pooled over the two models).
MARGIN = 0.2
#: Degrees of freedom of the axes' part of an error: twelve cells of the reference with four wordings each.
AXES_DF = 36.0
LEVEL, POWER = 0.05, 0.8
#: Traits whose scenario values are natural logarithms of their unit.
LOGARITHMIC = tuple(e.name for e in ESTIMANDS.values() if e.logarithmic)


@dataclass(frozen=True)
class Difference:
    """``first`` minus ``second`` in one trait on the scenarios that both have.

    ``interval`` in the unit of the scenario values, ``axes`` the part of its standard error that is the axes' and does
    not shrink with more scenarios; ``sd`` pooled over the two models' scenario values, ``margin`` in units of it.
    ``p_holm`` against no difference and ``p_equivalence`` against a difference of the margin or more are adjusted
    within the comparison (`adjusted`). ``needed``: scenarios that would probably decide what is undecided, None where
    nothing is to be decided, infinite where the axes' error alone is too large. ``planted``: the true difference, where
    it is known. A ``reason`` says why there is no difference to be had.
    """

    trait: str
    suite: str
    first: str
    second: str
    interval: Interval
    axes: float = 0.0
    sd: float = math.nan
    margin: float = MARGIN
    p: float = math.nan
    p_holm: float = math.nan
    p_equivalence: float = math.nan
    needed: float | None = None
    planted: float | None = None
    reason: str = ""
    censored: bool = False

    @property
    def valid(self) -> bool:
        """True where there is a difference to show."""
        return not self.reason

    @property
    def d(self) -> tuple[float, float, float]:
        """Estimate, low and high in units of the pooled SD."""
        i = self.interval
        return i.estimate / self.sd, i.low / self.sd, i.high / self.sd

    @property
    def verdict(self) -> Verdict:
        """At level .05, Holm-adjusted; what differs by surely less than the margin is still different."""
        if self.censored:
            return "undecided"
        return "different" if self.p_holm <= LEVEL else "equivalent" if self.p_equivalence <= LEVEL else "undecided"

    def reversed(self) -> Difference:
        """``second`` minus ``first``."""
        i = self.interval
        turned = replace(i, estimate=-i.estimate, low=-i.high, high=-i.low)
        planted = None if self.planted is None else -self.planted
        return replace(self, first=self.second, second=self.first, interval=turned, planted=planted)


def paired(
    first: TraitEstimate,
    second: TraitEstimate,
    *,
    suite: str = "",
    names: tuple[str, str] = ("first", "second"),
    margin: float = MARGIN,
    planted: float | None = None,
) -> Difference:
    """The paired difference of two estimates of one trait on one suite.

    The variance of the mean over shared scenarios (cluster t) and those of both models' axes add up, with
    Satterthwaite's degrees of freedom from n - 1 and twice `AXES_DF`. The axes' errors count as independent, which is
    too much where the same wordings mislead both models in the same way, and never too little then.
    """
    shared = sorted(
        s for s, v in first.per_cluster.items() if math.isfinite(v) and math.isfinite(second.per_cluster.get(s, np.nan))
    )
    nothing = Interval(math.nan, math.nan, math.nan, math.nan, len(shared))
    made = Difference(first.trait, suite, *names, nothing, margin=margin, planted=planted)
    for name, estimate in zip(names, (first, second), strict=True):
        if not estimate.valid:
            return replace(made, reason=f"{name}: {estimate.reason}")
    if len(shared) < MIN_CLUSTERS:
        return replace(made, reason=f"{len(shared)} scenarios are shared, {MIN_CLUSTERS} are needed")
    values = np.array([[e.per_cluster[s] for s in shared] for e in (first, second)])
    own = cluster_t(values[0] - values[1])
    axes = np.array([axes_error(e) ** 2 for e in (first, second)])
    interval = t_interval(own, LeftOut(np.zeros(1), axes[:, None, None], np.full(2, AXES_DF)))
    sd = float(np.sqrt(values.var(axis=1, ddof=1).mean()))
    rounding = 1e-12 * float(np.abs(values).max())
    if sd <= rounding:
        return replace(made, reason="the scenarios do not vary, so there is no unit to compare in")
    return replace(
        made,
        interval=interval,
        axes=float(np.sqrt(axes.sum())),
        sd=sd,
        p=_two_sided(interval, rounding),
        p_equivalence=_equivalence(interval, margin * sd, rounding),
        censored=any(e.details.get("censored") for e in (first, second)),
    )


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """All differences of a comparison with p-values adjusted within it (Holm 1979, the tests of difference and those of
    equivalence each as one family), and the scenarios that undecided ones need, at the strictest level of Holm's."""
    p, tost = holm([d.p for d in differences]), holm([d.p_equivalence for d in differences])
    tests = max(sum(d.valid for d in differences), 1)
    made = []
    for i, d in enumerate(differences):
        found = replace(d, p_holm=float(p[i]), p_equivalence=float(tost[i]))
        if found.valid and found.verdict == "undecided" and not found.censored:
            found = replace(found, needed=scenarios_needed(found, LEVEL / tests))
        made.append(found)
    return made


def scenarios_needed(difference: Difference, level: float = LEVEL) -> float:
    """How many scenarios would, with a power of 80 %, tell the difference from zero or show that it lies within the
    margin, whichever takes fewer, if it really is as large as it was found (normal approximation). Infinite where the
    axes' error, which scenarios do not reduce, is too large for both by itself."""
    n, size = difference.interval.n_clusters, abs(difference.interval.estimate)
    axes = difference.axes**2
    each = n * max(difference.interval.se**2 - axes, 0.0)
    largest = max(_largest_error(f, level, size, difference.margin * difference.sd) for f in (_detects, _includes))
    if largest**2 <= axes:
        return math.inf
    return float(max(math.ceil(each / (largest**2 - axes)), n + 1))


def _detects(se: float, level: float, size: float, margin: float) -> float:
    """Power of the two-sided test of no difference."""
    z = sps.norm.ppf(1 - level / 2)
    return float(sps.norm.cdf(size / se - z) + sps.norm.cdf(-size / se - z))


def _includes(se: float, level: float, size: float, margin: float) -> float:
    """Power of the two one-sided tests that the difference lies within the margin."""
    z = sps.norm.ppf(1 - level)
    return float(max(sps.norm.cdf((margin - size) / se - z) + sps.norm.cdf((margin + size) / se - z) - 1, 0.0))


def _largest_error(power: Callable[[float, float, float, float], float], level: float, size: float, m: float) -> float:
    """The largest standard error at which a test has the power wanted; 0 where none is small enough."""
    unit = max(size, m)
    low, high = 1e-6 * unit, 10 * unit
    if power(low, level, size, m) < POWER:
        return 0.0
    return float(brentq(lambda se: power(se, level, size, m) - POWER, low, high))


def axes_error(estimate: TraitEstimate) -> float:
    """The axes' standard error on the scale of the scenario values."""
    return estimate.se_axes / estimate.estimate if estimate.trait in LOGARITHMIC else estimate.se_axes


def _two_sided(i: Interval, rounding: float) -> float:
    """p of the t test of no difference; without any error the difference is what it is."""
    return i.p_value(0.0) if i.se > rounding else float(abs(i.estimate) <= rounding)


def _equivalence(i: Interval, margin: float, rounding: float) -> float:
    """p of two one-sided t tests (Schuirmann 1987, doi:10.1007/BF01068419) that the difference is below the margin."""
    if not i.se > rounding:
        return float(abs(i.estimate) >= margin)
    return float(max(sps.t.sf((i.estimate + margin) / i.se, i.df), sps.t.cdf((i.estimate - margin) / i.se, i.df)))
