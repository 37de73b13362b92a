"""llmct_bench: how language models process emotion inside, measured with controls, intervals and noise floors.

    >>> from llmct_bench import run
    >>> board = run(["phantom/neutral", "phantom/joyful"], output="out")      # doctest: +SKIP

Names are imported when they are first used, so that ``import llmct_bench`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmct_bench.adapters import AdapterCertificate, LoadedModel, certify, load, wrap
    from llmct_bench.benchmark import results_table, run
    from llmct_bench.errors import LlmctError
    from llmct_bench.evaluation import evaluate
    from llmct_bench.leaderboards import Leaderboard, leaderboard
    from llmct_bench.models import LoadOptions, ModelCard, PhantomSpec, get_model
    from llmct_bench.results import ResultCard
    from llmct_bench.scanner import States, scan
    from llmct_bench.suites import Suite, get_suite
    from llmct_bench.traits import TraitEstimate

__version__ = "0.1.0"

_HOME = {
    "AdapterCertificate": "adapters",
    "Leaderboard": "leaderboards",
    "LlmctError": "errors",
    "LoadOptions": "models",
    "LoadedModel": "adapters",
    "ModelCard": "models",
    "PhantomSpec": "models",
    "ResultCard": "results",
    "States": "scanner",
    "Suite": "suites",
    "TraitEstimate": "traits",
    "certify": "adapters",
    "evaluate": "evaluation",
    "get_model": "models",
    "get_suite": "suites",
    "leaderboard": "leaderboards",
    "load": "adapters",
    "results_table": "benchmark",
    "run": "benchmark",
    "scan": "scanner",
    "wrap": "adapters",
}

__all__ = [
    "AdapterCertificate",
    "Leaderboard",
    "LlmctError",
    "LoadOptions",
    "LoadedModel",
    "ModelCard",
    "PhantomSpec",
    "ResultCard",
    "States",
    "Suite",
    "TraitEstimate",
    "certify",
    "evaluate",
    "get_model",
    "get_suite",
    "leaderboard",
    "load",
    "results_table",
    "run",
    "scan",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'llmct_bench' has no attribute {name!r}")
    return getattr(import_module(f"llmct_bench.{_HOME[name]}"), name)
