"""Joy bias: does the model lean towards joy when it reads other emotions? Response bias, not sensitivity."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.stats import cluster_t, jackknife_t
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
#: Near chance the class whose centroid lies nearest to the middle is chosen too often (hubness), whatever the model
#: feels; a bias is only given where accuracy is surely above this multiple of chance.
ENOUGH = 1.25

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Bias of nearest-centroid decisions towards joy, cross-fitted over scenarios."""
    frame = complete(m.frame)
    names = core_emotions(frame)
    if "joy" not in names or len(names) < 3:
        return no_estimate(NAME, f"joy and two other core emotions are needed, there are: {', '.join(names) or 'none'}")
    p = frame[list(NAMES)].to_numpy()
    chosen = decide(p, frame)
    emotional = frame["emotion"].isin(names).to_numpy()
    scenarios = sorted(frame["scenario"].unique())
    table = confusion(chosen[emotional], frame[emotional], scenarios)
    joy = names.index("joy")
    interval, pseudo = jackknife_t(lambda w: bias(np.tensordot(w, table, 1), joy), len(scenarios))
    right = cluster_t(np.trace(table, axis1=1, axis2=2) / table.sum(axis=(1, 2)))
    cells = frame[emotional].groupby(["emotion", "intensity"]).size()
    neutral = chosen[(frame["emotion"] == NEUTRAL).to_numpy()]
    share = [float(np.mean(neutral == k)) for k in range(len(names))] if len(neutral) else []
    return result(
        NAME,
        interval,
        0.0,
        scenarios,
        pseudo,
        interval.p_value(0.0),
        (
            "" if cells.nunique() == 1 else "emotions and intensities are not balanced",
            ""
            if right.low > ENOUGH / len(names)
            else "the emotions are hardly told apart: decisions near chance lean anyhow",
        ),
        {
            "default_share": dict(zip(names, share, strict=False)),
            "confusion": table.sum(axis=0).tolist(),
            "accuracy": right.estimate,
            "accuracy_low": right.low,
        },
    )


def decide(p: Floats, index: pd.DataFrame) -> NDArray[np.int64]:
    """The nearest emotion centroid of every row of ``p`` (n, n_scores), Mahalanobis, equal priors: its place among the
    core emotions of ``index``. Centroids and the within-emotion covariance come from the other scenarios (5 folds over
    scenarios)."""
    names = core_emotions(index)
    fold = index["scenario"].map({s: i % FOLDS for i, s in enumerate(sorted(index["scenario"].unique()))}).to_numpy()
    emotion = index["emotion"].to_numpy()
    chosen = np.empty(len(p), np.int64)
    for f in range(FOLDS):
        train = fold != f
        centroids = np.stack([p[train & (emotion == e)].mean(axis=0) for e in names])
        precision = decision_precision(p[train], emotion[train], centroids, names)
        chosen[fold == f] = nearest(p[fold == f], centroids, precision)
    return chosen


def decision_precision(
    p: Floats, emotion: NDArray[np.object_], centroids: Floats, names: tuple[str, ...] = NAMES
) -> Floats:
    """Pseudo-inverse of the pooled covariance within emotions (all intensities together)."""
    residual = np.concatenate([p[emotion == e] - c for e, c in zip(names, centroids, strict=True)])
    covariance = residual.T @ residual / max(len(residual) - len(names), 1)
    return np.asarray(np.linalg.pinv(covariance, rcond=1e-4, hermitian=True))


def nearest(p: Floats, centroids: Floats, precision: Floats) -> NDArray[np.int64]:
    """Index of the nearest centroid by Mahalanobis distance, for rows of ``p`` (..., n_scores)."""
    delta = p[..., None, :] - centroids
    distance: Floats = np.einsum("...kp,pq,...kq->...k", delta, precision, delta)
    return np.asarray(distance.argmin(axis=-1), np.int64)


def confusion(chosen: NDArray[np.int64], index: pd.DataFrame, scenarios: list[str]) -> Floats:
    """Counts (n_scenarios, n_emotions true, n_emotions chosen)."""
    names = core_emotions(index)
    table = np.zeros((len(scenarios), len(names), len(names)))
    row = index["scenario"].map({s: i for i, s in enumerate(scenarios)}).to_numpy()
    true = index["emotion"].map({e: i for i, e in enumerate(names)}).to_numpy()
    np.add.at(table, (row, true, chosen), 1.0)
    return table


def bias(table: Floats, joy: int = NAMES.index("joy")) -> float:
    """½[z(H) + z(FA)] of joy (row ``joy``) minus its mean over the other emotions, from a confusion table (true,
    chosen), with the log-linear correction (Hautus 1995)."""
    n = table.sum(axis=1)
    hits = (np.diag(table) + 0.5) / (n + 1.0)
    false = (table.sum(axis=0) - np.diag(table) + 0.5) / (n.sum() - n + 1.0)
    lean = 0.5 * (norm.ppf(hits) + norm.ppf(false))
    return float(lean[joy] - np.delete(lean, joy).mean())


ESTIMAND = Estimand(
    name=NAME,
    title="Joy bias",
    design="circumplex",
    formula="½[z(H)+z(FA)] for joy − mean of the same over the other emotions; nearest-centroid decisions",
    unit="z",
    range="(−∞, ∞)",
    null=0.0,
    meaning="+ : items, weak ones above all, fall to joy more often than to the other emotions",
    controls=(
        "origin-free: a constant on every state cancels",
        "centroids from other scenarios",
        "equal priors",
    ),
    validity=("emotions and intensities balanced", "accuracy of the decisions surely above 1.25 × chance"),
    sources=("Macmillan & Creelman 2005", "Hautus 1995 doi:10.3758/BF03203619"),
    estimate=estimate,
)
