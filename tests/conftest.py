"""Fixtures shared by the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from handmade import Cli, Done, shortened

from llmct_bench.benchmark import load_results, run
from llmct_bench.cli import main
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


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the entry point in this process."""
    for name in ("TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "error" if name.endswith("VERBOSITY") else "1")
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["llmct-bench", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return call
