"""Replicates as lines of a file, so that a study can be stopped and goes on where it was."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmct_bench.traits import TraitEstimate


def numbers(t: TraitEstimate, truth: float = math.nan) -> list[float | None]:
    """A trait in a line: estimate, low, high, p, valid (1 or 0) and the truth, None where there is no such number."""
    found = (t.estimate, t.low, t.high, t.p_value, float(t.valid), truth)
    return [float(v) if math.isfinite(v) else None for v in found]


def read(path: Path, condition: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a condition; those of another one (an older study) and torn ones do not count."""
    return list(_lines(path, condition))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line. What a kill has left half-written before it is closed, so that nothing is glued to it."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * _torn(path) + json.dumps(row) + "\n")


def _lines(path: Path, condition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and {k: row.get(k) for k in condition} == condition:
            yield row


def _torn(path: Path) -> bool:
    """Whether the last line was cut off."""
    return path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
