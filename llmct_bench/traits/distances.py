"""The distances between the emotions inside a model, in the space of its scores for joy, anger, sadness and calm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.emotions import NAMES
from llmct_bench.stats import cross_distances

Floats = NDArray[np.float64]

#: Below this agreement between the halves of the same model there is no geometry to compare.
AGREEING = 0.3


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
        n_scenarios) give 1: see `stats.cross_distances`."""
        return cross_distances(self.means, self.precision, weights)


def geometry(values: Floats, index: pd.DataFrame, noise: Floats | None = None) -> Geometry:
    """The geometry of scores ``values`` (n_readouts, >= 4; the first four are those of the core emotions) whose factors
    are ``index``; cells are emotion x intensity, neutral among them. ``noise`` (4, 4): a covariance that the values
    lack (those of a closed form)."""
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
    covariance = covariance if noise is None else covariance + noise
    return Geometry(scenarios, cells, means, np.linalg.pinv(covariance, rcond=1e-4, hermitian=True))
