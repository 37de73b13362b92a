"""What the calibration study has found about each trait, as data of the package (``calibration.json``), so that a score
is never shown without it. The study writes it: `llmct-bench calibrate --ship`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from llmct_bench.errors import ResultError

_FILE = "calibration.json"


@dataclass(frozen=True)
class Verdict:
    """Shares in the study of level 1, one for each of the sizes in ``scenarios``.

    ``coverage``: of the 95 % intervals that hold the truth. ``rejected``: of the data sets without the trait in which
    p ≤ .05; empty where there are none. ``missed``: what is surely out of the bands that are asked for, as
    "coverage at 192". ``replicates``: of the size that has the fewest.
    """

    replicates: int
    scenarios: tuple[int, ...]
    coverage: tuple[float, ...]
    rejected: tuple[float, ...] = ()
    missed: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """One sentence for the description of the trait, and a second one where it misses."""
        null = f", nulls reject {_shares(self.rejected)}" if self.rejected else ""
        sizes = f"at {'/'.join(map(str, self.scenarios))} scenarios ({self.replicates} draws)"
        found = f"Calibration: intervals cover {_shares(self.coverage)}{null} {sizes}."
        return f"{found} Misses what is asked: {', '.join(self.missed)}." if self.missed else found


def verdict(trait: str) -> Verdict | None:
    """The shipped verdict on a trait; None where the study has not looked at it."""
    return _shipped().get(trait)


@cache
def _shipped() -> dict[str, Verdict]:
    try:
        return from_json(resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(f"traits/{_FILE} is missing or broken ({error}): reinstall llmct-bench") from error


def ship(verdicts: dict[str, Verdict]) -> Path:
    """Write what the package ships. Raises ResultError where it may not be written."""
    path = Path(__file__).with_name(_FILE)
    try:
        path.write_text(to_json(verdicts), encoding="utf-8")
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror or error}") from error
    _shipped.cache_clear()
    return path


def to_json(verdicts: dict[str, Verdict]) -> str:
    """As the package holds them, a line a trait."""
    lines = (f" {json.dumps(trait)}: {json.dumps(vars(v), allow_nan=False)}" for trait, v in verdicts.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str) -> dict[str, Verdict]:
    """Back from `to_json`. Raises ValueError or TypeError for anything else."""
    found = {}
    for trait, facts in json.loads(text).items():
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        found[trait] = Verdict(**lists)
    return found


def _shares(shares: Sequence[float]) -> str:
    """Shares as the field writes them: .95/1.00."""
    return "/".join(f"{s:.2f}".removeprefix("0") for s in shares)
