"""Fixtures shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmct_bench.benchmark import load_results, run
from llmct_bench.results import ResultCard


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ResultCard]]:
    """The main job, once: the phantom panel on all shipped suites."""
    output = tmp_path_factory.mktemp("panel")
    run(output=output)
    return output, load_results(output)
