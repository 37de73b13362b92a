"""Joy bias: does the model lean towards joy when it reads other emotions? Response bias, not sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

from llmct_bench.affect import averages, sums
from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.stats import Interval, cluster_t, decision_rates, jackknife_t, t_interval
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    TraitEstimate,
    complete,
    core_emotions,
    no_estimate,
    result,
)

NAME = "joy_bias"
FOLDS = 5
#: Noise that softens the decisions, as a share of the covariance within emotion x intensity; and groups of scenarios
#: that are left out together.
SMOOTH, _GROUPS = 0.25, 24
#: Near chance the class whose centroid lies nearest to the middle is chosen too often (hubness), whatever the model
#: feels; a bias is only given where accuracy is surely above this multiple of chance.
ENOUGH = 1.25

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Bias of nearest-centroid decisions towards joy. Decisions are softened by a part of the noise: hard ones, whose
    bias stands in the details as ``counted``, jump when a centroid moves and have no standard error that could be
    trusted."""
    names = core_emotions(m.layout.index)
    if "joy" not in names or len(names) < 3:
        return no_estimate(NAME, f"joy and two other core emotions are needed, there are: {', '.join(names) or 'none'}")
    design, joy = m.layout.made(decisions), names.index("joy")
    n = len(design.scenarios)

    def statistic(values: Floats, weights: Floats) -> Floats:
        return np.asarray(bias(np.einsum("bs,bsek->bek", weights, design.soft(values, weights)), joy))

    own, _ = jackknife_t(lambda w: statistic(m.values, w), n, groups=_GROUPS)
    everything = np.ones((1, n))
    error = m.error(lambda v: statistic(v, everything))
    interval = t_interval(own, error)
    # one value a scenario, for comparisons in pairs: with the centroids held, and brought to the standard error
    _, pseudo = jackknife_t(lambda w: bias(np.tensordot(w, design.soft(m.values, everything)[0], 1), joy), n)
    pseudo = own.estimate + (pseudo - pseudo.mean()) * (own.se * np.sqrt(n) / max(float(pseudo.std(ddof=1)), 1e-300))
    chosen = design.decide(m.values)
    table = design.confusion(chosen)
    right = cluster_t(hit_rate(table))
    neutral = chosen[design.true < 0]
    share = [float(np.mean(neutral == k)) for k in range(len(names))] if len(neutral) else []
    return result(
        NAME,
        interval,
        0.0,
        design.scenarios,
        pseudo,
        interval.p_value(0.0),
        doubts(design, right),
        {
            "counted": float(bias(table.sum(axis=0), joy)),
            "default_share": dict(zip(names, share, strict=False)),
            "confusion": table.sum(axis=0).tolist(),
            "accuracy": right.estimate,
            "accuracy_low": right.low,
        },
        error.se if error else 0.0,
    )


@dataclass(frozen=True)
class Decisions:
    """Which readouts are decided about (``rows``), the true emotion of each (``true``, -1: neutral), its scenario and
    its emotion x intensity (``cell``, of which ``owner`` tells the emotion)."""

    rows: NDArray[np.intp]
    names: tuple[str, ...]
    true: NDArray[np.intp]
    scenarios: tuple[str, ...]
    scenario: NDArray[np.intp]
    cell: NDArray[np.intp]
    owner: NDArray[np.intp]
    balanced: bool

    @cached_property
    def _grouped(self) -> tuple[csr_array, csr_array, csr_array]:
        """Of the emotional rows: averages by cell, sums by scenario x cell, sums by scenario."""
        use, n, cells = self.true >= 0, len(self.scenarios), len(self.owner)
        cell, scenario = self.cell[use], self.scenario[use]
        return averages(cell, cells), sums(scenario * cells + cell, n * cells), sums(scenario, n)

    def soft(self, values: Floats, weights: Floats) -> Floats:
        """Expected confusion tables (B, n_scenarios, n_emotions true, n_emotions chosen) when Gaussian noise with
        `SMOOTH` times the covariance within emotion x intensity is added to every item; centroids and covariances are
        those of the scenarios weighted by ``weights`` (B, n_scenarios)."""
        use, n, k = self.true >= 0, len(self.scenarios), len(self.names)
        table = sums(self.scenario[use] * k + self.true[use], n * k)
        return np.stack([(table @ r).reshape(n, k, k) for r in self._rates(values, weights, use)])

    def soft_neutral(self, values: Floats, weights: Floats) -> Floats:
        """Where the neutral items fall under the same noise: (B, n_scenarios, n_emotions), averages of a scenario's."""
        use = self.true < 0
        table = averages(self.scenario[use], len(self.scenarios))
        return np.stack([table @ r for r in self._rates(values, weights, use)])

    def _rates(self, values: Floats, weights: Floats, asked: NDArray[np.bool_]) -> Floats:
        """Rates (B, n_asked, n_emotions) of the rows that are ``asked`` about."""
        use = self.true >= 0
        p, cell = values[self.rows[use], : len(NAMES)], self.cell[use]
        n, cells, d, k = len(self.scenarios), len(self.owner), p.shape[1], len(self.names)
        mean, grouped, total_of = self._grouped
        middle = mean @ p
        off = p - middle[cell]  # small numbers: the scatter is a difference of sums
        count = weights @ (grouped @ np.ones(len(p))).reshape(n, cells)
        away = (weights @ (grouped @ off).reshape(n, cells * d)).reshape(-1, cells, d) / count[..., None]
        means = middle + away
        square = (off[:, :, None] * off[:, None, :]).reshape(len(p), d * d)
        scatter = (weights @ (total_of @ square)).reshape(-1, d, d)
        scatter = scatter - np.einsum("bc,bcp,bcq->bpq", count, away, away, optimize=True)
        total = count.sum(axis=1)[:, None, None]
        member = (self.owner[None, :] == np.arange(k)[:, None]).astype(np.float64)
        size = count @ member.T
        centroids = np.einsum("ec,bc,bcd->bed", member, count, means, optimize=True) / size[..., None]
        apart = means - centroids[:, self.owner]
        spread = scatter + np.einsum("bc,bcp,bcq->bpq", count, apart, apart, optimize=True)
        precision = np.linalg.pinv(spread / (total - k), rcond=1e-4, hermitian=True)
        noise = SMOOTH * scatter / np.maximum(total - cells, 1.0)
        about = values[self.rows[asked], : len(NAMES)]
        return decision_rates(np.broadcast_to(about, (len(weights), *about.shape)), noise, centroids, precision)

    def decide(self, values: Floats, labels: NDArray[np.intp] | None = None) -> NDArray[np.int64]:
        """The nearest emotion centroid of every row, Mahalanobis, equal priors: its place in ``names``. Centroids and
        the covariance within emotions come from the other scenarios (5 folds over scenarios); ``labels``: learnt
        instead of ``true``."""
        p, known = values[self.rows, : len(NAMES)], self.true if labels is None else labels
        chosen = np.empty(len(p), np.int64)
        for f in range(FOLDS):
            test = self.scenario % FOLDS == f
            train = ~test & (known >= 0)
            own, true = p[train], known[train]
            centroids = np.stack([own[true == e].mean(axis=0) for e in range(len(self.names))])
            precision = decision_precision(own, true, centroids)
            chosen[test] = nearest(p[test], centroids, precision)
        return chosen

    def confusion(self, chosen: NDArray[np.int64]) -> Floats:
        """Counts (n_scenarios, n_emotions true, n_emotions chosen)."""
        k = len(self.names)
        use = self.true >= 0
        code = (self.scenario[use] * k + self.true[use]) * k + chosen[use]
        counts = np.bincount(code, minlength=len(self.scenarios) * k * k).astype(np.float64)
        return counts.reshape(len(self.scenarios), k, k)


def decisions(index: pd.DataFrame) -> Decisions:
    """Lay out a table of readouts for `Decisions`: the scenarios that have every cell."""
    rows = complete(index)
    own = index.iloc[rows]
    names = core_emotions(own)
    known = own["emotion"].isin((*names, NEUTRAL)).to_numpy()
    rows, own = rows[known], own[known]
    scenarios = tuple(sorted(own["scenario"].unique()))
    scenario = own["scenario"].map({s: i for i, s in enumerate(scenarios)}).to_numpy(np.intp)
    true = np.asarray(own["emotion"].map({e: i for i, e in enumerate(names)}).fillna(-1), np.intp)
    cells = own[own["emotion"].isin(names)].groupby(["emotion", "intensity"]).size()
    place = {key: i for i, key in enumerate(cells.index)}
    cell = np.array([place.get(key, -1) for key in zip(own["emotion"], own["intensity"], strict=True)], np.intp)
    owner = np.array([names.index(e) for e, _ in cells.index], np.intp)
    return Decisions(rows, names, true, scenarios, scenario, cell, owner, bool(cells.nunique() == 1))


def hit_rate(table: Floats) -> Floats:
    """Share of right decisions, from confusion tables (..., true, chosen)."""
    return np.asarray(np.trace(table, axis1=-2, axis2=-1) / table.sum(axis=(-2, -1)))


def doubts(design: Decisions, right: Interval) -> tuple[str, str]:
    """Why a lean of decisions would mean nothing; ``right``: their accuracy."""
    told_apart = right.low > ENOUGH / len(design.names)
    return (
        "" if design.balanced else "emotions and intensities are not balanced",
        "" if told_apart else "the emotions are hardly told apart: decisions near chance lean anyhow",
    )


def decision_precision(p: Floats, true: NDArray[np.intp], centroids: Floats, further: Floats | float = 0.0) -> Floats:
    """Pseudo-inverse of the pooled covariance within emotions (all intensities together); ``further``: a covariance
    that is added first."""
    residual = p - centroids[true]
    covariance = residual.T @ residual / max(len(residual) - len(centroids), 1) + further
    return np.asarray(np.linalg.pinv(covariance, rcond=1e-4, hermitian=True))


def nearest(p: Floats, centroids: Floats, precision: Floats) -> NDArray[np.int64]:
    """Index of the nearest centroid by Mahalanobis distance, for rows of ``p`` (..., n_scores)."""
    # |p - c|^2 without the part that all centroids share
    pull = centroids @ precision
    return np.asarray((np.einsum("kp,kp->k", pull, centroids) - 2 * (p @ pull.T)).argmin(axis=-1), np.int64)


def bias(table: Floats, joy: int = NAMES.index("joy")) -> Any:
    """The lean of joy (row ``joy``) minus the mean lean of the other emotions, from confusion tables (..., true,
    chosen). The lean of j is the mean over the others e of ½[z P(j|e) − z P(e|j)]: with two classes this is the
    criterion ½[z(H) + z(FA)]. With more of them z(H) + z(FA) depends on how well each is told from the rest; confusions
    that go both ways alike are no lean here, however many there are. Log-linear correction (Hautus 1995)."""
    n = table.sum(axis=-1, keepdims=True)
    z = ndtri((table + 0.5) / (n + 1.0))
    away = 0.5 * (np.swapaxes(z, -1, -2) - z)  # (..., chosen, true): what falls to the first rather than back
    k = away.shape[-1]
    lean = away.sum(axis=-1) / (k - 1)
    return lean[..., joy] - np.delete(lean, joy, axis=-1).mean(axis=-1)


ESTIMAND = Estimand(
    name=NAME,
    title="Joy bias",
    design="circumplex",
    formula="b_joy − mean of b_e over the other emotions, b_e = mean over f ≠ e of ½[z P(e|f) − z P(f|e)]; "
    "nearest-centroid decisions",
    unit="z",
    range="(−∞, ∞)",
    null=0.0,
    meaning="+ : items of other emotions, weak ones above all, fall to joy more often than items of joy fall to them. "
    "Decisions know one covariance for all emotions: joy that spreads further than the others gives more than it "
    "takes, which is a lean as well",
    controls=(
        "origin-free: a constant on every state cancels",
        "confusions that go both ways alike cancel: how well emotions are told apart does not matter",
        "decisions softened by a quarter of the noise, counted ones beside them",
        "equal priors",
    ),
    validity=("emotions and intensities balanced", "accuracy of the decisions surely above 1.25 × chance"),
    sources=("Macmillan & Creelman 2005", "Hautus 1995 doi:10.3758/BF03203619"),
    estimate=estimate,
)
