"""Results: what is kept of a measurement, and how."""

from llmct_bench.results.provenance import provenance
from llmct_bench.results.schema import SCHEMA_VERSION, ResultCard, labels, result_key
from llmct_bench.results.store import ResultStore

__all__ = ["SCHEMA_VERSION", "ResultCard", "ResultStore", "labels", "provenance", "result_key"]
