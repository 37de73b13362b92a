"""Affect: fitting the emotion axes and projecting on them."""

from llmct_bench.affect.fit import AffectFit, fit_affect, load_fit
from llmct_bench.affect.layers import LayerChoice, class_means, noise_precision, separability
from llmct_bench.affect.scores import Scores, from_projections, score

__all__ = [
    "AffectFit",
    "LayerChoice",
    "Scores",
    "class_means",
    "fit_affect",
    "from_projections",
    "load_fit",
    "noise_precision",
    "score",
    "separability",
]
