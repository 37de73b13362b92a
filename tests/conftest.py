"""Fixtures shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handmade import shortened

from llmct_bench.benchmark import load_results, run
from llmct_bench.results import ResultCard
from llmct_bench.suites import get_suite


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Models as small as those of the tests are slower on several threads, above all where other programs run."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ResultCard]]:
    """The main job, once: the phantom panel on the shipped suites, shortened."""
    output = tmp_path_factory.mktemp("panel")
    run(suites=[get_suite("reference"), *shortened()], output=output)
    return output, load_results(output)
