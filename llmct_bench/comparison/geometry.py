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
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as sps

from llmct_bench.emotions import NAMES
from llmct_bench.stats import MIN_CLUSTERS, Interval, jackknife_t

Floats = NDArray[np.float64]

SPLITS, DRAWS = 100, 9999
#: Below this agreement between the halves of the same model there is no geometry to compare.
AGREEING = 0.3
#: Groups of scenarios that are left out together, as the halvings make this dear.
_GROUPS = 24
_NO_GAP = Interval(math.nan, math.nan, math.nan, math.nan, 0)
#: Fewer cells have too few orders for a permutation test.
MIN_CELLS = 5


@dataclass(frozen=True)
class Geometry:
    """Cell means of one model. ``means`` (n_scenarios, n_cells, n_scores) in neutral SD over the ``scenarios`` that
    have every one of the ``cells`` (emotion, intensity); ``precision`` (n_scores, n_scores): pseudo-inverse of the
    covariance within cells and scenarios."""

    scenarios: tuple[str, ...]
    cells: tuple[tuple[str, int], ...]
    means: Floats
    precision: Floats

    def on(self, scenarios: Sequence[str], cells: Sequence[tuple[str, int]]) -> Geometry:
        """Some scenarios and cells of it, in this order."""
        rows = [self.scenarios.index(s) for s in scenarios]
        columns = [self.cells.index(c) for c in cells]
        return Geometry(tuple(scenarios), tuple(cells), self.means[np.ix_(rows, columns)], self.precision)

    def dissimilarity(self, weights: Floats) -> Floats:
        """(B, n_cells, n_cells) crossnobis distances, cross-validated over the scenarios that ``weights`` (B,
        n_scenarios) give 1; see `stats.crossnobis`. Independent noise adds nothing to them; negative ones are kept."""
        x = self.means
        total = np.tensordot(weights, x, 1)
        # what the cells' inner products would be if no scenario were ever paired with itself
        inner = np.einsum("bcp,pq,beq->bce", total, self.precision, total, optimize=True)
        inner -= np.tensordot(weights, np.einsum("mcp,pq,meq->mce", x, self.precision, x, optimize=True), 1)
        own = np.einsum("bcc->bc", inner)
        n = weights.sum(axis=1)[:, None, None]
        rank = max(int(np.linalg.matrix_rank(self.precision, hermitian=True)), 1)
        return np.asarray((own[:, :, None] + own[:, None, :] - 2 * inner) / (n * (n - 1) * rank))


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


def geometry(values: Floats, index: pd.DataFrame) -> Geometry:
    """The geometry of scores ``values`` (n_readouts, >= 4; the first four are those of the core emotions) whose factors
    are ``index``; cells are emotion x intensity, neutral among them."""
    p, own = values[:, : len(NAMES)], index[["scenario", "emotion", "intensity"]].reset_index(drop=True)
    cell = pd.MultiIndex.from_frame(own[["emotion", "intensity"]])
    cells = tuple((str(e), int(i)) for e, i in sorted(set(cell)))
    grouped = pd.DataFrame(p).groupby([own["scenario"], own["emotion"], own["intensity"]]).mean()
    size = grouped.groupby(level=0).size()
    scenarios = tuple(str(s) for s in sorted(size.index[size == len(cells)]))
    order = pd.MultiIndex.from_tuples([(s, *c) for s in scenarios for c in cells], names=grouped.index.names)
    means = grouped.reindex(order).to_numpy(np.float64).reshape(len(scenarios), len(cells), p.shape[1])
    residual = means - means.mean(axis=1, keepdims=True)  # what a scenario adds to all of its cells is no noise here
    residual = residual - residual.mean(axis=0) if scenarios else residual
    flat = residual.reshape(-1, p.shape[1])
    covariance = flat.T @ flat / max((len(scenarios) - 1) * (len(cells) - 1), 1)
    return Geometry(scenarios, cells, means, np.linalg.pinv(covariance, rcond=1e-4, hermitian=True))


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
    half = _halves(n)
    if any(np.ptp(w[above]) <= 1e-12 * np.abs(w).max(initial=0.0) for w in whole):
        return replace(made, reason="one model puts all cells at one distance")
    found = _agreement(pair, half, np.ones(n))

    def gap(weights: Floats) -> Floats:
        parts = [_agreement(pair, half, w) for w in weights]
        return np.array([p.low - p.between for p in parts])

    below, _ = jackknife_t(gap, n, groups=_GROUPS)
    return replace(
        made,
        rho=float(_spearman(whole[0][above][None], whole[1][above][None])[0]),
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
    between = (_spearman(one[0], other[1]) + _spearman(one[1], other[0])).mean() / 2
    within = np.array([_spearman(*x).mean() for x in (one, other)])
    high = np.mean([_spearman(h, (x[0] + x[1]) / 2).mean() for x in (one, other) for h in x])
    return _Agreement(float(between), float(np.sqrt(np.maximum(within, 0.0).prod())), float(high))


def mantel(a: Floats, b: Floats, draws: int = DRAWS, seed: int = 0) -> float:
    """One-sided p-value that the distances ``a`` and ``b`` (n, n; symmetric) agree no better in rank than when the
    cells of one are shuffled (Mantel 1967), with the add-one correction."""
    n = len(a)
    above = np.triu_indices(n, 1)
    ranks = np.zeros((n, n))
    ranks[above] = sps.rankdata(b[above])
    ranks += ranks.T
    fixed = sps.rankdata(a[above])
    fixed -= fixed.mean()
    order = np.argsort(np.random.default_rng(seed).random((draws, n)), axis=1)
    found = ranks[order[:, above[0]], order[:, above[1]]] @ fixed
    observed = float(ranks[above] @ fixed)
    return float((1 + (found >= observed - 1e-9 * abs(observed)).sum()) / (1 + draws))


def _halves(n: int, seed: int = 0) -> Floats:
    """Random halves of ``n`` scenarios: (SPLITS, n) of 0 and 1, ``n // 2`` ones each."""
    order = np.argsort(np.argsort(np.random.default_rng(seed).random((SPLITS, n)), axis=1), axis=1)
    return np.asarray(order < n // 2, np.float64)


def _spearman(x: Floats, y: Floats) -> Floats:
    """Spearman's correlation of each row of ``x`` with that of ``y``, both (B, k)."""
    a, b = (sps.rankdata(v, axis=1) for v in (x, y))
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))
