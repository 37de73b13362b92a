"""One measured run for several test modules, which load it with ``pytest_plugins`` so that it is made once."""

from __future__ import annotations

import subprocess
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from handmade import ENVIRONMENT, RUN, command


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """Two phantoms measured by the command in a process of its own: its output folder and how it ended."""
    output = tmp_path_factory.mktemp("measured")
    done = subprocess.run(command(*RUN, output), env=ENVIRONMENT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return output, done
