"""Prompt suites: what a model is shown."""

from llmct_bench.suites.load import get_suite, list_suites, read_folder, shipped_root
from llmct_bench.suites.schema import Item, Suite, SuiteCard, Turn

__all__ = ["Item", "Suite", "SuiteCard", "Turn", "get_suite", "list_suites", "read_folder", "shipped_root"]
