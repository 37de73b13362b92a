"""One model for all benchmarks; what was skipped, and the machine, go into the JSON."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workloads import MODEL, ROUNDS, SCALE, random_model
from llmct_bench.adapters import LoadedModel

_skipped: dict[str, str] = {}


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """The model of LLMCT_BENCH_MODEL, on one thread."""
    return random_model()


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the reasons of what was skipped: pytest-benchmark does not."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped[report.nodeid.split("::")[-1]] = str(report.longrepr[2]).removeprefix("Skipped: ")


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """What the page says of the machine, and nothing else."""
    found = {
        "cpu": _cpu(machine_info),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{machine_info.get('system')} {machine_info.get('machine')}",
        "python": machine_info.get("python_version"),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
    }
    machine_info.clear()
    machine_info.update(found)


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """What was skipped, and how this run was set up."""
    output_json["skipped"] = dict(sorted(_skipped.items()))
    output_json["setting"] = {"model": MODEL, "scale": SCALE, "rounds": ROUNDS}


def _cpu(machine_info: dict[str, Any]) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return str((machine_info.get("cpu") or {}).get("brand_raw", machine_info.get("processor", "unknown")))
