"""Results: what is kept of a measurement, and how."""

from llmct_bench.results.provenance import provenance
from llmct_bench.results.schema import SCHEMA_VERSION, ResultCard, labels, result_key
from llmct_bench.results.store import ResultStore
from llmct_bench.results.sums import broken_sums
from llmct_bench.results.table import results_frame

__all__ = [
    "SCHEMA_VERSION",
    "ResultCard",
    "ResultStore",
    "broken_sums",
    "labels",
    "provenance",
    "result_key",
    "results_frame",
]
