"""Prompt suites: what a model is shown."""

from llmct_bench.suites.load import DEFAULT as DEFAULT_SUITES
from llmct_bench.suites.load import get_card, get_suite, list_suites, read_folder, shipped_root
from llmct_bench.suites.schema import Item, Suite, SuiteCard, Turn
from llmct_bench.suites.source import Source

__all__ = [
    "DEFAULT_SUITES",
    "Item",
    "Source",
    "Suite",
    "SuiteCard",
    "Turn",
    "get_card",
    "get_suite",
    "list_suites",
    "read_folder",
    "shipped_root",
]
