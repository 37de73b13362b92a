"""Affect: fitting the emotion axes and projecting on them."""

from llmct_bench.affect.fit import (
    NUISANCE_SHARE,
    PLANE,
    AffectFit,
    Metric,
    Versions,
    combine,
    fit_affect,
    fit_metric,
    load_fit,
)
from llmct_bench.affect.layers import LayerChoice, Separable, averages, separable, sums
from llmct_bench.affect.scores import Scores, ScoreVersions, from_projections, score

__all__ = [
    "NUISANCE_SHARE",
    "PLANE",
    "AffectFit",
    "LayerChoice",
    "Metric",
    "ScoreVersions",
    "Scores",
    "Separable",
    "Versions",
    "averages",
    "combine",
    "fit_affect",
    "fit_metric",
    "from_projections",
    "load_fit",
    "score",
    "separable",
    "sums",
]
