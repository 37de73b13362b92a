"""Affect: fitting the emotion axes and projecting on them."""

from llmct_bench.affect.backbone import Backbone, Wordings, fit_backbone
from llmct_bench.affect.fit import (
    PLANE,
    AffectFit,
    Versions,
    combine,
    fit_affect,
    load_fit,
)
from llmct_bench.affect.layers import LayerChoice, Separable, averages, separable, sums
from llmct_bench.affect.metric import Metric, fit_metric, n_nuisance
from llmct_bench.affect.scores import FitConstants, Scores, ScoreVersions, constants, from_projections, score
from llmct_bench.affect.transfer import Transfer, fit_transfer

__all__ = [
    "PLANE",
    "AffectFit",
    "Backbone",
    "FitConstants",
    "LayerChoice",
    "Metric",
    "ScoreVersions",
    "Scores",
    "Separable",
    "Transfer",
    "Versions",
    "Wordings",
    "averages",
    "combine",
    "constants",
    "fit_affect",
    "fit_backbone",
    "fit_metric",
    "fit_transfer",
    "from_projections",
    "load_fit",
    "n_nuisance",
    "score",
    "separable",
    "sums",
]
