"""Choosing the layer on held-out (DEV) items, and saying when the choice means little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llmct_bench.emotions import NAMES
from llmct_bench.stats import Interval, bootstrap_counts, crossnobis, jackknife_t

Floats = NDArray[np.float64]

#: Bootstrap draws over the held-out topics from which the layer is chosen again.
_DRAWS = 1000


@dataclass(frozen=True)
class LayerChoice:
    """``profile``: crossnobis d2 between the emotions at each point with its standard error (DEV).

    ``point`` is the shallowest point within one standard error of the best one (Breiman et al. 1984's 1-SE rule);
    ``localised`` is False where more than half of the points are. ``chosen``: how often each point is chosen when the
    held-out topics are drawn again (cluster bootstrap).
    """

    point: int
    depth: float
    localised: bool
    profile: tuple[tuple[float, float], ...]
    chosen: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "point": self.point,
            "depth": self.depth,
            "localised": self.localised,
            "profile": self.profile,
            "chosen": self.chosen,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> LayerChoice:
        """Back from plain data."""
        profile = tuple((float(a), float(b)) for a, b in data["profile"])
        chosen = tuple(map(float, data["chosen"]))
        return LayerChoice(int(data["point"]), float(data["depth"]), bool(data["localised"]), profile, chosen)


def choose_layer(p: Floats, index: pd.DataFrame) -> LayerChoice:
    """Choose a point from DEV scores ``p`` (n_readouts, n_points, n_emotions)."""
    table = separable(index)
    profile = [table.jackknife(p[:, i])[0] for i in range(p.shape[1])]
    d2 = np.array([i.estimate for i in profile])
    se = np.nan_to_num([i.se for i in profile])
    n = len(table.scenarios)
    counts = bootstrap_counts(n, _DRAWS, seed=0)
    drawn = np.stack([table.d2(p[:, i], counts) for i in range(p.shape[1])], axis=1)
    first = _shallowest(np.nan_to_num(drawn, nan=-np.inf), se)
    chosen = np.bincount(first, minlength=len(d2)) / _DRAWS
    point = int(_shallowest(d2[None], se)[0])
    within = d2 >= d2.max() - se[int(np.argmax(d2))]
    pairs = tuple((float(a), float(b)) for a, b in zip(d2, se, strict=True))
    depth = point / max(len(d2) - 1, 1)
    return LayerChoice(point, depth, bool(within.sum() <= len(d2) / 2), pairs, tuple(map(float, chosen)))


def _shallowest(d2: Floats, se: Floats) -> NDArray[np.int64]:
    """The 1-SE rule on each row of ``d2`` (B, n_points)."""
    best = np.argmax(d2, axis=1)
    floor = d2[np.arange(len(d2)), best] - se[best]
    return np.asarray(np.argmax(d2 >= floor[:, None], axis=1), np.int64)


@dataclass(frozen=True)
class Separable:
    """What the distance between emotions needs to know of a table of readouts: its emotional ``rows``, the average of
    each scenario x emotion (``means``, sparse) over the scenarios that have all ``emotions``, and that of each emotion
    x intensity x role (``cells``), within which scores are noise; ``scenario`` and ``cell`` of each row, -1 for those
    of incomplete scenarios."""

    rows: NDArray[np.intp]
    scenarios: tuple[str, ...]
    emotions: tuple[str, ...]
    means: csr_array
    cells: csr_array
    cell: NDArray[np.intp]
    scenario: NDArray[np.intp]

    def class_means(self, p: Floats) -> Floats:
        """(n_scenarios, n_emotions, n_scores) of scores (n_readouts, n_scores)."""
        shape = (len(self.scenarios), len(self.emotions), p.shape[1])
        return np.asarray(self.means @ p[self.rows]).reshape(shape)

    def d2(self, p: Floats, weights: Floats | None = None) -> Any:
        """Crossnobis d2 of scenarios weighted by ``weights`` (B, n_scenarios), by default all of them; the covariance
        in whose units it is measured is theirs too (doi:10.1051/0004-6361:20066170 for its inverse)."""
        w = np.ones((1, len(self.scenarios))) if weights is None else weights
        own = p[self.rows]
        residual = own - (self.cells @ own)[self.cell]
        square = (residual[:, :, None] * residual[:, None, :]).reshape(len(own), -1)
        count = sums(self.scenario, len(self.scenarios))
        # residuals are about the cell means of all scenarios: each row has spent its share of the cells
        size = (w @ (count @ np.ones(len(own)))) * (1 - self.cells.shape[0] / max((self.scenario >= 0).sum(), 1))
        covariance = (w @ (count @ square)) / np.maximum(size, 1.0)[:, None]
        precision = np.linalg.pinv(covariance.reshape(-1, p.shape[1], p.shape[1]), rcond=1e-4, hermitian=True)
        # the inverse of an estimated covariance is too large on average (Hartlap et al. 2007)
        rank = np.linalg.matrix_rank(precision, rtol=1e-8, hermitian=True)
        return crossnobis(self.class_means(p), precision, w) * np.maximum(size - rank - 1, 0.0) / np.maximum(size, 1.0)

    def jackknife(self, p: Floats) -> tuple[Interval, Floats]:
        """d2 with its interval over scenarios, and the pseudo-values (n_scenarios,)."""
        return jackknife_t(lambda w: self.d2(p, w), len(self.scenarios))


def separable(index: pd.DataFrame) -> Separable:
    """Lay out a table of readouts for `Separable`; core emotions only."""
    names = tuple(e for e in NAMES if e in set(index["emotion"]))
    rows = np.flatnonzero(index["emotion"].isin(names))
    own = index.iloc[rows]
    counts = own.groupby(["scenario", "emotion"]).size().unstack(fill_value=0)
    whole = tuple(str(s) for s in counts.index[(counts > 0).all(axis=1)]) if len(counts) else ()
    place = own["scenario"].map({s: i for i, s in enumerate(whole)})
    kept = place.notna().to_numpy()
    class_code = np.full(len(rows), -1)
    emotion = own["emotion"].map({e: i for i, e in enumerate(names)}).to_numpy()
    class_code[kept] = place[kept].to_numpy(np.intp) * len(names) + emotion[kept]
    cell = own.groupby(["emotion", "intensity", "role"]).ngroup().to_numpy(np.intp)
    return Separable(
        rows,
        whole,
        names,
        averages(class_code, len(whole) * len(names)),
        averages(cell, int(cell.max(initial=-1)) + 1),
        np.asarray(cell, np.intp),
        np.asarray(place.fillna(-1), np.intp),
    )


def sums(code: NDArray[np.integer], groups: int) -> csr_array:
    """The matrix (groups, n) whose product with n rows is their sum by group; ``code`` (n,) is the group of each row,
    negative ones belong to none."""
    used = np.flatnonzero(code >= 0)
    return csr_array((np.ones(len(used)), (code[used], used)), shape=(groups, len(code)))


def averages(code: NDArray[np.integer], groups: int) -> csr_array:
    """`sums`, divided by the number of rows of each group."""
    total = sums(code, groups)
    total.data /= np.repeat(np.maximum(np.diff(total.indptr), 1), np.diff(total.indptr))
    return total
