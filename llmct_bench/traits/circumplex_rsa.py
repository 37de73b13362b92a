"""Circumplex RSA: do the distances between the emotions inside the model rank as those of the circumplex model do?

Shown, not ranked. Most of the correlation is intensity: strong emotions lie far from neutral and from each other, in
whatever order they stand. What the circumplex model says beyond that is which emotions are neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as sps

from llmct_bench.emotions import ALL_NAMES, BY_NAME, NAMES, NEUTRAL
from llmct_bench.stats import (
    Interval,
    halves,
    jackknife_t,
    mantel,
    orders,
    rank_correlations,
    spearman_brown,
    t_interval,
)
from llmct_bench.traits.distances import AGREEING, Geometry, geometry
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, no_estimate, result

NAME = "circumplex_rsa"
#: Permutations of the emotions: all, or so many random ones where there are more.
_DRAWS = 999
_SURE = 1 - 1e-12  # a correlation of 1 has no finite z

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Spearman's rho over the pairs of cells; the interval by jackknife over scenarios on Fisher's z."""
    if not set(NAMES) <= set(m.layout.index["emotion"]):
        return no_estimate(NAME, "all four core emotions are needed")
    rows, index = m.layout.made(_rows)
    space = geometry(m.values[rows], index)
    design, n = m.layout.made(circumplex), len(space.scenarios)
    if n < 2:
        return no_estimate(NAME, "no two scenarios have all cells")
    everything = np.ones((1, n))

    def z(found: Geometry, weights: Floats) -> Floats:
        rho = correlation(found.dissimilarity(weights)[:, *design.above], design.distances)
        return np.arctanh(np.clip(rho, -_SURE, _SURE))

    own, pseudo = jackknife_t(lambda w: z(space, w), n)
    error = m.error(lambda v: z(geometry(v[rows], index), everything))
    on_z = t_interval(own, error)
    rho = float(np.tanh(on_z.estimate))
    steep = 1 - rho**2
    low, high = np.tanh([on_z.low, on_z.high])
    interval = Interval(rho, float(low), float(high), on_z.se * steep, n, on_z.df)
    whole = space.dissimilarity(everything)[0]
    half = halves(n)
    one, other = (space.dissimilarity(w)[:, *design.above] for w in (half, 1 - half))
    agreement = float(rank_correlations(one, other).mean())
    permuted, p = _permuted(whole[design.above], design)
    return result(
        NAME,
        interval,
        math.nan,
        space.scenarios,
        rho + (pseudo - on_z.estimate) * steep,
        p,
        ("" if agreement >= AGREEING else f"the distances hardly agree between halves ({agreement:.2f})",),
        {
            "permuted": permuted,
            "beyond": rho - permuted,
            "p_cells": mantel(whole, design.square),
            "agreement": agreement,
            "ceiling": float(np.sqrt(max(spearman_brown(agreement), 0.0))),
            "cells": len(whole),
        },
        error.se * steep if error else 0.0,
    )


def correlation(found: Floats, design: Floats) -> Floats:
    """Spearman's rho of distances ``found`` (B, n_pairs) with those of the design (n_pairs,), which has ties. Ties in
    ``found``, which noise would break, count as broken at random (their expectation: Schuett et al. 2023,
    doi:10.7554/eLife.82566), so that what is free of noise gives what noise gives on the average."""
    a, b = sps.rankdata(_equal(found), axis=-1), sps.rankdata(design)
    k = len(design)
    a, b = a - (k + 1) / 2, b - (k + 1) / 2
    return np.asarray(a @ b / np.sqrt((k**3 - k) / 12 * (b @ b)))


def _equal(x: Floats) -> Floats:
    """Rounded, so that what differs by rounding is a tie."""
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-300)
    return np.asarray(np.round(x / scale, 9))


@dataclass(frozen=True)
class Design:
    """The circumplex model's distances of all pairs of cells (``above``: their places in the matrix ``square``), and
    the emotion of each cell (``owner``, -1: neutral), by which they can be permuted."""

    emotions: tuple[str, ...]
    owner: NDArray[np.intp]
    intensity: Floats

    @property
    def above(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of the pairs."""
        return np.triu_indices(len(self.owner), 1)

    def places(self, order: NDArray[np.intp] | None = None) -> Floats:
        """(n_cells, 2): valence and arousal times intensity, neutral in the middle; with the emotions in another
        ``order``."""
        corner = np.array([[BY_NAME[e].valence, BY_NAME[e].arousal] for e in self.emotions])
        corner = np.vstack([corner if order is None else corner[order], np.zeros(2)])
        return np.asarray(corner[self.owner] * self.intensity[:, None])

    @property
    def square(self) -> Floats:
        """Distances (n_cells, n_cells)."""
        p = self.places()
        return np.asarray(np.linalg.norm(p[:, None] - p[None], axis=-1).round(9))

    @property
    def distances(self) -> Floats:
        """Those of the pairs (n_pairs,)."""
        return self.square[self.above]


def _rows(index: pd.DataFrame) -> tuple[NDArray[np.intp], pd.DataFrame]:
    """The readouts whose emotion has a place on the circumplex."""
    rows = np.flatnonzero(index["emotion"].isin([*ALL_NAMES, NEUTRAL]))
    return rows, index.iloc[rows].reset_index(drop=True)


def circumplex(index: pd.DataFrame) -> Design:
    """In the order of the cells of `geometry`."""
    own = _rows(index)[1]
    cells = sorted({(str(e), int(i)) for e, i in zip(own["emotion"], own["intensity"], strict=True)})
    emotions = tuple(e for e in ALL_NAMES if e in set(own["emotion"]))
    owner = [emotions.index(e) if e in emotions else -1 for e, _ in cells]
    return Design(emotions, np.array(owner, np.intp), np.array([float(i) for _, i in cells]))


def _permuted(found: Floats, design: Design) -> tuple[float, float]:
    """Mean of rho when the emotions change places on the circumplex, each with its intensities, and the one-sided
    p-value of the true order among all of them (Mantel 1967; random ones where there are many)."""
    order, exact = orders(len(design.emotions), _DRAWS)
    i, j = design.above
    rho = []
    for o in order:
        p = design.places(o)
        rho.append(float(correlation(found, np.linalg.norm(p[i] - p[j], axis=-1).round(9))))
    true = float(correlation(found, design.distances))
    reached, more = sum(r >= true - 1e-9 for r in rho), 0 if exact else 1
    return float(np.mean(rho)), (reached + more) / (len(rho) + more)


ESTIMAND = Estimand(
    name=NAME,
    title="Circumplex RSA",
    design="circumplex",
    formula="Spearman's ρ over pairs of emotion × intensity cells: crossnobis distance in the scores with Euclidean "
    "distance of (valence, arousal) · intensity",
    unit="correlation",
    range="[−1, 1]",
    null=math.nan,  # what permuted emotions give, which differs from model to model
    meaning="1: the distances rank as in the circumplex model, whose coordinates are a model of how people judge "
    "emotions (Russell 1980; the core four in the corners) and no ratings. Noise lowers it, to `ceiling` where the "
    "model is right. Strong emotions lie far apart in any order: `permuted` is ρ when the emotions change places, "
    "and p asks whether the true order is better. Four emotions have three different orders, so that p is 1/3 "
    "at best; suites of more emotions can reject",
    controls=(
        "cross-validated over scenarios: independent noise adds nothing to a distance",
        "emotions permuted, each with its intensities (Mantel; all orders where they are few)",
        "split-half noise ceiling",
    ),
    validity=("all four core emotions", "halves of the scenarios agree to at least .3"),
    sources=(
        "Kriegeskorte et al. 2008 doi:10.3389/neuro.06.004.2008",
        "Mantel 1967",
        "Russell 1980 doi:10.1037/h0077714",
        "Schütt et al. 2023 doi:10.7554/eLife.82566",
        "Spearman 1910; Brown 1910",
    ),
    estimate=estimate,
    ranked=False,
)
