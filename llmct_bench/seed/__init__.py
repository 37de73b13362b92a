"""The seed's reading of one conversation, number by number as its paper and program define it, beside the same reading
of neutral and of random text. Raw: these numbers are never ranked.

The seed is Activation Lab (`cstefanache/llmct`; *Where Emotions Lie Inside a Neural Network*, 2026). Known differences:
its program reads behind the opening of the next answer (here an option of `seed_reading`), takes a snapshot after a
system message, too, stores states in float16, joins messages by line breaks where a model has no chat template, and
takes its sub-layers before a norm or a factor that some architectures put behind them; here they are what is added to
the residual stream. It generates an answer and calls the change until its end drift; here nothing is generated.
Tables and the page are in `llmct_bench.seed.page`.
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
