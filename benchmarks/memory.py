"""The peak of memory above the model, measured in a process of its own: `python -m benchmarks.memory MODE PROMPTS`."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.measuring import Scan, all_hidden_states, bare_plan
from benchmarks.workloads import padded, random_model, single_prompts
from llmct_bench.scanner import capture, plan_scan
from llmct_bench.scanner.capture import Project

MODES = ("bare", "keep", "project", "hidden")
_SCORES = 9  # directions and references, one an emotion


def measure(mode: str, prompts: int) -> dict[str, int]:
    """Bytes of the peak above the model and of the results, in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", mode, str(prompts)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(mode: str, prompts: int) -> dict[str, int]:
    """The same in this process."""
    model = random_model()
    readouts = single_prompts(prompts).readouts
    _ = model.branches  # its self-test is a part of loading
    points = model.adapter.residual_points()
    with suppress(OSError):  # Linux: the peak begins anew
        Path("/proc/self/clear_refs").write_text("5")
    before = _now()
    results = 0
    if mode == "keep":
        scan = Scan(model, readouts)
        scan.run()
        results = scan.content.nbytes + scan.last.nbytes
    else:
        plan = plan_scan(model, readouts)
        if mode == "project":
            axes = np.random.default_rng(0).normal(size=(len(points), _SCORES, model.adapter.d_model))
            sink = Project(axes, axes, len(readouts))
            capture(model, plan, points, sink)
            results = sink.values.nbytes + sink.cosines.nbytes
        elif mode == "hidden":
            all_hidden_states(model, [padded(b.rows) for b in plan.batches])()
        else:
            bare_plan(model, plan)()
    return {"peak": _peak() - before, "results": results}


def _now() -> int:
    """Memory in use now. Without /proc: the peak so far, so that differences are too small rather than too large."""
    return _status("VmRSS") or _peak()


def _peak() -> int:
    """The peak of memory. VmHWM before ru_maxrss, which a new process inherits from the one that started it."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
