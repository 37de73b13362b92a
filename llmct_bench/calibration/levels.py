"""Levels 2 and 3 of the calibration: compiled transformers, and doses that are added to a model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from llmct_bench.adapters import LoadedModel
from llmct_bench.affect import AffectFit
from llmct_bench.calibration.plants import plant_traits
from llmct_bench.calibration.response import spike_in
from llmct_bench.calibration.study import METHOD
from llmct_bench.results import ResultCard
from llmct_bench.suites import get_suite
from llmct_bench.traits import ESTIMANDS

#: Scenarios of each suite in which doses are planted.
SCENARIOS = 12


@dataclass(frozen=True)
class Recovered:
    """One trait of one phantom: its closed-form truth and what the benchmark measured."""

    model: str
    trait: str
    planted: float
    estimate: float
    low: float
    high: float
    se: float

    @property
    def holds(self) -> bool:
        """Whether the interval holds the truth."""
        return self.low <= self.planted <= self.high


def panel(results: Sequence[ResultCard]) -> list[Recovered]:
    """Every valid estimate whose truth is known."""
    found = []
    for r in results:
        for t in r.traits:
            truth = r.truth.get(t.trait)
            if truth is not None and t.valid:
                found.append(Recovered(str(r.model["name"]), t.trait, truth, t.estimate, t.low, t.high, t.se))
    return found


@dataclass(frozen=True)
class Agreement:
    """A trait over the panel: how many of the intervals hold the truth, the largest error in standard errors, and
    Kendall's tau over the pairs of phantoms whose planted values differ by more than two standard errors."""

    trait: str
    phantoms: int
    hold: int
    worst: float
    tau: float


def agreement(found: Sequence[Recovered]) -> list[Agreement]:
    """By trait, in the order of their declarations."""
    out = []
    for trait in ESTIMANDS:
        own = [r for r in found if r.trait == trait]
        if not own:
            continue
        pairs = [(a, b) for a, b in combinations(own, 2) if abs(a.planted - b.planted) > 2 * max(a.se, b.se)]
        signs = [math.copysign(1, (a.planted - b.planted) * (a.estimate - b.estimate)) for a, b in pairs]
        errors = [abs(r.estimate - r.planted) / r.se for r in own if r.se > 0]
        tau = sum(signs) / len(signs) if signs else float("nan")
        out.append(Agreement(trait, len(own), sum(r.holds for r in own), max(errors, default=float("nan")), tau))
    return out


def spike_study(model: LoadedModel, fit: AffectFit, path: Path, scenarios: int = SCENARIOS) -> dict[str, Any]:
    """Plant doses and traits in a model (level 3) and keep what came out as JSON at ``path``; what lies there for the
    same method, model, commit and number of ``scenarios`` is not done again."""
    about = {"method": METHOD, "model": model.card.name, "commit": model.commit, "scenarios": scenarios}
    if path.is_file():
        try:
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            kept = {}
        if {k: kept.get(k) for k in about} == about:
            return kept
    shock, retention = (get_suite(name).limited(scenarios) for name in ("shock", "retention"))
    spiked = spike_in(model, shock, fit)
    lines = [
        {"planted": r.planted, "read": r.read, "slope": asdict(r.slope), "intercept": r.intercept.estimate}
        for r in spiked.responses
        if r.emotion == "all"
    ]
    traits = [
        {
            "trait": p.trait,
            "plant": p.plant,
            "planted": p.planted,
            "recovered": p.recovered.estimate,
            "low": p.recovered.low,
            "high": p.recovered.high,
            "valid": p.recovered.valid,
        }
        for p in plant_traits(model, [shock, retention], fit)
    ]
    made = {**about, "lines": lines, "traits": traits}
    path.parent.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = _strict(made)
    path.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return plain


def _strict(value: Any) -> Any:
    """Without NaN and infinities, which are no JSON."""
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
