"""Calibration: the known answers that the instrument is held against."""

from llmct_bench.calibration.truth import (
    Felt,
    TrueAxes,
    TrueScores,
    feel,
    planted,
    planted_words,
    true_axes,
    true_scores,
    true_traits,
)

__all__ = [
    "Felt",
    "TrueAxes",
    "TrueScores",
    "feel",
    "planted",
    "planted_words",
    "true_axes",
    "true_scores",
    "true_traits",
]
