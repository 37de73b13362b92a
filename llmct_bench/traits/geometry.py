"""Circumplex geometry: does the largest difference between the emotions inside the model follow valence?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.affect import averages
from llmct_bench.emotions import ALL_NAMES, BY_NAME, NAMES
from llmct_bench.stats import Interval, cluster_t, crossnobis, jackknife_t, orders, t_interval
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, complete, no_estimate, result

NAME = "circumplex_geometry"
#: Permutations of the emotions: all, or so many random ones where there are more.
_DRAWS = 4999
_SURE = 1 - 1e-12  # a correlation of 1 has no finite z

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """|r| of the first principal component of the means with designed valence; the interval by jackknife over scenarios
    on Fisher's z."""
    cells = m.layout.made(_cells)
    if not set(NAMES) <= set(cells.emotions):
        return no_estimate(NAME, "all four core emotions are needed")
    means, n = cells.means(m.values), len(cells.scenarios)
    everything = np.full((1, n), 1.0)

    def z(values: Floats, weights: Floats) -> Floats:
        found = _fit(cells.means(values), cells.place, weights)[0][:, 0, 0]
        return np.asarray(np.arctanh(np.minimum(np.abs(found), _SURE)))

    own, pseudo = jackknife_t(lambda w: z(m.values, w), n)
    error = m.error(lambda v: z(v, everything))
    on_z = t_interval(own, error)
    r = float(np.tanh(on_z.estimate))
    steep = 1 - r**2
    low, high = np.tanh([on_z.low, on_z.high])
    interval = Interval(r, max(float(low), 0.0), float(high), on_z.se * steep, n, on_z.df)
    correlations, shares = (x[0] for x in _fit(means, cells.place, everything))
    follows = cluster_t(np.einsum("scp,cp->s", means[:, :, list(_plane(m))], cells.place))
    p = permuted_p(means.mean(axis=0), cells)
    return result(
        NAME,
        interval,
        math.nan,
        cells.scenarios,
        r + (pseudo - on_z.estimate) * steep,
        p["valence"],
        ("" if follows.low > 0 else "the scores do not follow the design of the circumplex",),
        {
            "pc1_valence": abs(float(correlations[0, 0])),
            "pc2_arousal": abs(float(correlations[1, 1])),
            "pc1_arousal": abs(float(correlations[0, 1])),
            "pc2_valence": abs(float(correlations[1, 0])),
            "shares": shares.tolist(),
            "p_valence": p["valence"],
            "p_both": p["both"],
            "permutations": p["permutations"],
            "emotions": list(cells.emotions),
            "distances": distances(cells.by_emotion(means)).tolist(),
        },
        error.se * steep if error else 0.0,
    )


@dataclass(frozen=True)
class Cells:
    """The emotion x intensity cells of whole scenarios: their ``emotions``, the emotion of each (``owner``, n_cells),
    its ``intensity``, and designed valence and arousal (``place``, n_cells x 2: coordinates times intensity)."""

    scenarios: tuple[str, ...]
    emotions: tuple[str, ...]
    rows: NDArray[np.intp]
    code: NDArray[np.intp]
    owner: NDArray[np.intp]
    intensity: Floats

    @property
    def place(self) -> Floats:
        """Designed places, by coordinates of the emotions."""
        return np.asarray(_coordinates(self.emotions)[self.owner] * self.intensity[:, None])

    def means(self, values: Floats) -> Floats:
        """(n_scenarios, n_cells, n_scores)."""
        n, c = len(self.scenarios), len(self.owner)
        return np.asarray(averages(self.code, n * c) @ values[self.rows]).reshape(n, c, values.shape[1])

    def by_emotion(self, means: Floats) -> Floats:
        """(n_scenarios, n_emotions, the scores of the core emotions): `means` over intensities."""
        own = [means[:, self.owner == e, : len(NAMES)].mean(axis=1) for e in range(len(self.emotions))]
        return np.stack(own, axis=1)


def distances(means: Floats) -> Floats:
    """Crossnobis distances (n_emotions, n_emotions) between emotions from means (n_scenarios, n_emotions, n_scores),
    with the noise of what emotions and scenarios do not explain; see `stats.crossnobis`."""
    n, k, _ = means.shape
    residual = means - means.mean(axis=1, keepdims=True)
    flat = (residual - residual.mean(axis=0)).reshape(n * k, -1)
    precision = np.linalg.pinv(flat.T @ flat / max((n - 1) * (k - 1), 1), rcond=1e-4, hermitian=True)
    found = np.zeros((k, k))
    for i, j in combinations(range(k), 2):
        found[i, j] = found[j, i] = crossnobis(means[:, [i, j]], precision)
    return found


def _coordinates(emotions: tuple[str, ...]) -> Floats:
    return np.array([[BY_NAME[e].valence, BY_NAME[e].arousal] for e in emotions]).reshape(-1, 2)


def _plane(m: Measurement) -> tuple[int, int]:
    return m.names.index("valence"), m.names.index("arousal")


def _cells(index: pd.DataFrame) -> Cells:
    rows = complete(index)
    rows = rows[index["emotion"].iloc[rows].isin(ALL_NAMES).to_numpy()]
    own = index.iloc[rows]
    present = set(own["emotion"])
    emotions = tuple(e for e in ALL_NAMES if e in present)
    scenarios = tuple(sorted(own["scenario"].unique()))
    keys = sorted({(emotions.index(e), i) for e, i in zip(own["emotion"], own["intensity"], strict=True)})
    place, scenario = {k: c for c, k in enumerate(keys)}, {s: i for i, s in enumerate(scenarios)}
    code = [
        scenario[s] * len(keys) + place[emotions.index(e), i]
        for s, e, i in zip(own["scenario"], own["emotion"], own["intensity"], strict=True)
    ]
    owner, intensity = np.array([k[0] for k in keys], np.intp), np.array([k[1] for k in keys], np.float64)
    return Cells(scenarios, emotions, rows, np.array(code, np.intp), owner, intensity)


def _fit(means: Floats, place: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Correlations (B, 2 components, valence and arousal) of the leading principal components of the cells' means with
    their designed places, and the components' shares of the variance (B, n_emotion scores), for weights (B,
    n_scenarios)."""
    average = np.einsum("bs,scp->bcp", weights / weights.sum(axis=1, keepdims=True), means[:, :, : len(NAMES)])
    u, s, _ = np.linalg.svd(average - average.mean(axis=1, keepdims=True), full_matrices=False)
    shares = s**2 / np.maximum((s**2).sum(axis=1, keepdims=True), 1e-300)
    return np.einsum("bck,cp->bkp", u[:, :, :2], _standard(place)), shares


def _standard(x: Floats) -> Floats:
    """Columns (..., n, k) centred and of length 1: products with vectors of the kind are correlations."""
    centred = x - x.mean(axis=-2, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=-2, keepdims=True), 1e-300))


def permuted_p(means: Floats, cells: Cells) -> dict[str, float]:
    """p-values of |r(PC1, valence)|, and of its sum with |r(PC2, arousal)| (``both``), when the emotions' places change
    hands (``means``: n_cells x n_scores; an emotion keeps its intensities together): over all orders of the emotions
    where those are fewer than `_DRAWS`, otherwise random ones."""
    k = len(cells.emotions)
    others, exact = orders(k, _DRAWS)
    more = 0 if exact else 1
    p = means[:, : len(NAMES)]
    pcs = np.linalg.svd(p - p.mean(axis=0), full_matrices=False)[0][:, :2]
    given = np.concatenate([np.arange(k)[None], others])
    place = _standard(_coordinates(cells.emotions)[given[:, cells.owner]] * cells.intensity[:, None])
    r = np.abs(np.einsum("ck,nck->nk", pcs, place))
    table = np.column_stack([r[:, 0], r.sum(axis=1)])
    reached = (table[1:] >= table[0] - 1e-9).sum(axis=0) + more  # equal ones stay equal
    valence, both = reached / (len(others) + more)
    return {"valence": float(valence), "both": float(both), "permutations": float(len(others))}


ESTIMAND = Estimand(
    name=NAME,
    title="Circumplex geometry",
    design="circumplex",
    formula="|r| of PC1 of the emotion × intensity means (in the scores of the four emotions) with designed valence",
    unit="correlation",
    range="[0, 1]",
    null=math.nan,  # what permuted emotions give, which differs from model to model
    meaning="1: the largest difference between emotions is that of valence. Trivial: four axes of which each is one "
    "emotion minus their mean span no more than 3 dimensions, in which valence and arousal always lie. Not trivial: "
    "which direction is the largest. p by permuting the emotions: valence splits four of them in one of three ways, so "
    "that p is 1/3 at best; suites of more emotions can reject",
    controls=(
        "origin-free: means are centred",
        "emotions permuted, each with its intensities",
        "PC2 with arousal beside it",
    ),
    validity=("all four core emotions", "the scores follow the designed valence and arousal"),
    sources=("Russell 1980 doi:10.1037/h0077714", "Fisher 1915 (z)", "Phipson & Smyth 2010 doi:10.2202/1544-6115.1585"),
    estimate=estimate,
    ranked=False,
)
