"""Level 2 where there is nothing to find: no trait may be significant more often than its test says.

Two runs, each seed a line of a file. ``zero-emotion``: a phantom without emotion, whose words have other random vectors
with every seed. ``shuffled``: the joyful phantom, read once, under labels in another random order with every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from llmct_bench.adapters import load
from llmct_bench.affect import fit_affect, score
from llmct_bench.calibration import lines
from llmct_bench.calibration.shuffle import shuffled
from llmct_bench.calibration.study import DESIGNS, METHOD
from llmct_bench.models import PANEL, LoadOptions, PhantomSpec, get_model, phantom_tokenizer
from llmct_bench.scanner import Rendered, States, render, scan
from llmct_bench.suites import Suite, get_suite
from llmct_bench.traits import ESTIMANDS, estimate_all, measure

#: Scenarios of each suite; of the circumplex half of them have the words that a phantom reads.
SCENARIOS = 24
#: The phantom of each run.
RUNS = {"zero-emotion": "zero-emotion", "shuffled": "joyful"}
_SPECS = {s.name: s for s in PANEL}

Traits = dict[str, list[float | None]]


@dataclass(frozen=True)
class Rejections:
    """A trait in a run: of how many ``seeds`` its estimate was ``valid``, of how many it was significant as well
    (``rejected``), and the exact 95 % interval of that share of all seeds (Clopper & Pearson 1934)."""

    run: str
    trait: str
    seeds: int
    valid: int
    rejected: int
    low: float
    high: float

    @property
    def beyond(self) -> bool:
        """Whether that is surely more often than .05."""
        return self.low > 0.05


def run_seeds(folder: Path, seeds: int, progress: Callable[[int], None] = lambda done: None) -> None:
    """Bring both runs up to so many seeds; what is there is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    for run, make in _MAKERS.items():
        done = {r["seed"] for r in read(folder, run)}
        progress(len(done))
        todo = [s for s in range(seeds) if s not in done]
        for seed, traits in make(todo):
            lines.append(_path(folder, run), {"seed": seed, **_condition(run), "traits": traits})
            progress(1)


def read(folder: Path, run: str) -> list[dict[str, Any]]:
    """The seeds of a run; those of another method, phantom or suite do not count."""
    return lines.read(_path(folder, run), _condition(run))


def rejections(folder: Path) -> list[Rejections]:
    """Every trait in every run that has seeds."""
    found = []
    for run in RUNS:
        rows = read(folder, run)
        for trait in (t for t in ESTIMANDS if rows and all(t in r["traits"] for r in rows)):
            valid = [p for *_, p, ok, _ in (r["traits"][trait] for r in rows) if ok]
            rejected = sum(p is not None and p <= 0.05 for p in valid)
            interval = binomtest(rejected, len(rows)).proportion_ci(method="exact")
            found.append(Rejections(run, trait, len(rows), len(valid), rejected, interval.low, interval.high))
    return found


def states(spec: PhantomSpec) -> dict[str, States]:
    """The reference, and the suites of the traits, read by a phantom."""
    model = load(get_model(spec), LoadOptions(device="cpu", dtype="float32"))
    return {design: scan(model, suite, rendered=_rendered()[design]) for design, suite in _suites().items()}


def traits(found: dict[str, States]) -> Traits:
    """Fit and estimates as of any model: the numbers of every trait."""
    fit = fit_affect(found["reference"])
    cosine = fit.axis_cosines
    measured = {d: measure(score(found[d], fit), fit.layer, cosine, keyworded_only=True) for d in DESIGNS}
    return {t.trait: lines.numbers(t) for d, m in measured.items() for t in estimate_all(m, d)}


def _zero_emotion(seeds: list[int]) -> Iterator[tuple[int, Traits]]:
    for seed in seeds:
        yield seed, traits(states(replace(_SPECS[RUNS["zero-emotion"]], seed=seed)))


def _shuffled(seeds: list[int]) -> Iterator[tuple[int, Traits]]:
    found = states(_SPECS[RUNS["shuffled"]]) if seeds else {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        yield seed, traits({design: shuffled(s, rng) for design, s in found.items()})


_MAKERS: dict[str, Callable[[list[int]], Iterator[tuple[int, Traits]]]] = {
    "zero-emotion": _zero_emotion,
    "shuffled": _shuffled,
}


@cache
def _suites() -> dict[str, Suite]:
    return {name: get_suite(name).limited(SCENARIOS) for name in ("reference", *DESIGNS)}


@cache
def _rendered() -> dict[str, Rendered]:
    """All phantoms have one tokenizer."""
    context = get_model(_SPECS["joyful"]).context
    return {design: render(suite, phantom_tokenizer(), context) for design, suite in _suites().items()}


def _condition(run: str) -> dict[str, Any]:
    suites = {s.key: s.content_hash[:8] for s in _suites().values()}
    return {"method": METHOD, "phantom": RUNS[run], "suites": suites}


def _path(folder: Path, run: str) -> Path:
    return folder / f"seeds-{run}.jsonl"
