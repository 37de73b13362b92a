"""Results built by hand, for tests of what is done with results, and the command line of a measured run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from llmct_bench.results import ResultCard
from llmct_bench.suites import Suite, get_suite
from llmct_bench.traits import TraitEstimate


def trait(name: str = "dampening", value: float = 0.5, **changes: Any) -> TraitEstimate:
    """A valid estimate over eight scenarios whose mean is ``value``."""
    per_cluster = changes.pop("per_cluster", {f"s{k}": value + 0.01 * (k - 3.5) for k in range(8)})
    facts: dict[str, Any] = {"low": value - 0.1, "high": value + 0.1, "se": 0.05, "p_value": 0.01, "effect": 1.5}
    facts |= {"n_clusters": len(per_cluster), "valid": True, "per_cluster": per_cluster}
    return TraitEstimate(trait=name, estimate=value, **{**facts, **changes})


def card(model: str = "a", *traits: TraitEstimate, **changes: Any) -> ResultCard:
    """A result of ``model`` on a suite of shocks."""
    facts = {"name": model, "family": "F", "params_b": 1.5, "layers": 4, "d_model": 8, "attention": "MHA"}
    layer = {"point": 2, "depth": 0.5, "localised": True, "profile": [[1.0, 0.1]]}
    fields: dict[str, Any] = {
        "key": f"key of {model}",
        "model": {**facts, "stage": "base", "source": "hub"},
        "commit": "c0ffee00c0ffee00",
        "suite": "shock@1.0.0",
        "suite_hash": "0123456789abcdef",
        "design": "shock",
        "subset": "all",
        "n_readouts": 64,
        "n_scenarios": 8,
        "left_out": [],
        "fit": {"reference": "reference@1.0.0", "layer": layer},
        "raw": {},
        "certificate": {"passed": True, "floor": 1e-7, "checks": []},
        "run": {"dtype": "float32", "device": "cpu"},
        "provenance": {"packages": {"numpy": "2.0"}, "time": "2025-01-01T00:00:00+00:00"},
    }
    return ResultCard(traits=list(traits), **{**fields, **changes})


#: The command line of the measured run, less its --output.
RUN = ("run", "--models", "phantom/neutral,phantom/joyful", "--preset", "quick", "--output")

#: One thread: waiting threads take most of the time of these small models where other work is running.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    """``llmct-bench ARGUMENTS`` for a process of its own."""
    return [sys.executable, "-m", "llmct_bench.cli", *map(str, arguments)]


def shortened() -> list[Suite]:
    """The trait suites at the size that tests can afford: 24 scenarios that phantoms read in each."""
    return [get_suite(name).limited(n) for name, n in (("circumplex", 48), ("shock", 24), ("retention", 24))]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout as strict JSON."""
        return json.loads(self.out, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


Cli = Callable[..., Done]
