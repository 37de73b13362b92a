"""The seed's reading of one conversation, number by number as its paper and program define it, beside the same reading
of neutral and of random text. Raw: these numbers are never ranked.

The seed is Activation Lab (`cstefanache/llmct`; *Where Emotions Lie Inside a Neural Network*, 2026). Tables and the
page are in `llmct_bench.seed.page`.
"""

from llmct_bench.seed.metrics import METRICS, common_share, cosine, jaccard, mean_absolute_error
from llmct_bench.seed.reading import SOURCES, SeedReading, seed_reading
from llmct_bench.seed.summary import best_source, by_layer, excess, summary, trajectory

__all__ = [
    "METRICS",
    "SOURCES",
    "SeedReading",
    "best_source",
    "by_layer",
    "common_share",
    "cosine",
    "excess",
    "jaccard",
    "mean_absolute_error",
    "seed_reading",
    "summary",
    "trajectory",
]
