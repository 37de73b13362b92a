"""Representational similarity: are the same emotions close to each other inside two models?

Each model is looked at in the space of its own emotion axes (its scores for joy, anger, sadness and calm at the layer
that its fit chose): what is compared is which states lie how far apart there (Kriegeskorte et al. 2008,
doi:10.3389/neuro.06.004.2008), not where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmct_bench.stats import MIN_CLUSTERS, Interval, halves, jackknife_t, mantel, rank_correlations
from llmct_bench.traits.distances import AGREEING, Geometry

Floats = NDArray[np.float64]

#: Groups of scenarios that are left out together, as the halvings make this dear.
_GROUPS = 24
_NO_GAP = Interval(math.nan, math.nan, math.nan, math.nan, 0)
#: Fewer cells have too few orders for a permutation test.
MIN_CELLS = 5


@dataclass(frozen=True)
class Similarity:
    """How alike two geometries are: Spearman correlations of the distances between cells.

    ``rho`` on all shared scenarios, which share their wordings; ``rho_halves`` between one model's half of the
    scenarios and the other model's other half, mean over random halvings. ``ceiling_low`` is what `rho_halves` would be
    if the geometries were the same (the two models' agreements between halves, geometric mean), ``ceiling_high`` the
    agreement of a half with the mean of both halves: the lower and upper noise ceiling of Nili et al. 2014
    (doi:10.1371/journal.pcbi.1003553) with halves for subjects. ``gap``: `ceiling_low` minus `rho_halves` with its 95 %
    jackknife interval over scenarios; 0 where the geometries are the same. ``p``: Mantel's permutation of cells,
    one-sided (1967).
    A ``reason`` says why there is none.
    """

    first: str
    second: str
    suite: str
    rho: float = float("nan")
    rho_halves: float = float("nan")
    ceiling_low: float = float("nan")
    ceiling_high: float = float("nan")
    gap: Interval = _NO_GAP
    p: float = float("nan")
    n_cells: int = 0
    n_scenarios: int = 0
    reason: str = ""

    @property
    def valid(self) -> bool:
        """True where there is a similarity to show."""
        return not self.reason


def similarity(a: Geometry, b: Geometry, names: tuple[str, str] = ("first", "second"), suite: str = "") -> Similarity:
    """Compare two geometries on the cells and scenarios that both have. The same halvings and permutations each time
    (seed 0). The error of the axes is not in it."""
    cells = [c for c in a.cells if c in b.cells]
    scenarios = [s for s in a.scenarios if s in b.scenarios]
    n = len(scenarios)
    made = Similarity(*names, suite, n_cells=len(cells), n_scenarios=n)
    if n < MIN_CLUSTERS or len(cells) < MIN_CELLS:
        reason = f"{n} scenarios with {len(cells)} cells are shared, {MIN_CLUSTERS} with {MIN_CELLS} are needed"
        return replace(made, reason=reason)
    pair = [g.on(scenarios, cells) for g in (a, b)]
    whole = [g.dissimilarity(np.ones((1, n)))[0] for g in pair]
    above = np.triu_indices(len(cells), 1)
    half = halves(n)
    if any(np.ptp(w[above]) <= 1e-12 * np.abs(w).max(initial=0.0) for w in whole):
        return replace(made, reason="one model puts all cells at one distance")
    found = _agreement(pair, half, np.ones(n))

    def gap(weights: Floats) -> Floats:
        parts = [_agreement(pair, half, w) for w in weights]
        return np.array([p.low - p.between for p in parts])

    below, _ = jackknife_t(gap, n, groups=_GROUPS)
    return replace(
        made,
        rho=float(rank_correlations(whole[0][above][None], whole[1][above][None])[0]),
        rho_halves=found.between,
        ceiling_low=found.low,
        ceiling_high=found.high,
        gap=below,
        p=mantel(*whole),
        reason="" if found.low >= AGREEING else f"a model hardly agrees with itself between halves ({found.low:.2f})",
    )


class _Agreement(NamedTuple):
    """Mean correlations over halvings: between models, within models, and of halves with their own mean."""

    between: float
    low: float
    high: float


def _agreement(pair: Sequence[Geometry], half: Floats, keep: Floats) -> _Agreement:
    """Agreement between halves of the scenarios that ``keep`` (n_scenarios,) of 0 and 1 leaves in."""
    above = np.triu_indices(len(pair[0].cells), 1)
    one, other = ([g.dissimilarity(w * keep)[:, *above] for w in (half, 1 - half)] for g in pair)
    between = (rank_correlations(one[0], other[1]) + rank_correlations(one[1], other[0])).mean() / 2
    within = np.array([rank_correlations(*x).mean() for x in (one, other)])
    high = np.mean([rank_correlations(h, (x[0] + x[1]) / 2).mean() for x in (one, other) for h in x])
    return _Agreement(float(between), float(np.sqrt(np.maximum(within, 0.0).prod())), float(high))
