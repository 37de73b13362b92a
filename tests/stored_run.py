"""One small run for the test modules about what is done with stored results, which load it with ``pytest_plugins``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmct_bench.benchmark import run
from llmct_bench.suites import get_suite


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms on eight shocks and on four circumplex scenarios (too few for an estimate), with their reports."""
    output = tmp_path_factory.mktemp("stored")
    suites = [get_suite("reference"), get_suite("shock").limited(8), get_suite("circumplex").limited(4)]
    run(["phantom/neutral", "phantom/absorbing"], suites, output)
    return output


@pytest.fixture
def copied(stored: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(stored, tmp_path / "copied"))
