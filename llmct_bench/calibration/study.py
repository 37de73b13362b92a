"""The simulation study of level 1 (ADEMP: Morris, White & Crowther 2019, doi:10.1002/sim.8086).

Aims: bias, coverage, false positives, power, and that only the planted trait moves. Data: `activations`. Estimands: all
traits. Methods: the very fit and estimates of the benchmark. Performance: `performance`, with Monte-Carlo errors.
Every replicate is a line of a file, so that a study can be stopped and goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmct_bench.affect import fit_affect, fit_metric, score
from llmct_bench.calibration import lines
from llmct_bench.calibration.activations import Knobs, design_layout, draw, planted_traits, reference_layout
from llmct_bench.calibration.shuffle import shuffled
from llmct_bench.scanner import States
from llmct_bench.traits import ESTIMANDS, Layout, measure

#: Raised whenever fit, scores or estimates change, so that replicates of different methods do not mix.
METHOD = 4
#: Replicates of a cell in which traits without ranks are estimated too.
_UNRANKED = 200
DESIGNS = ("circumplex", "shock", "retention")
SIZES = (24, 96, 192)
#: A phantom with a little of everything: its intervals are to hold the truth.
MIXED = Knobs(mood=2.0, persona=0.5, role_gain=0.7, absorption=0.4, half_life=6.0)
#: One whose traits are all at their nulls: emotions are told apart, and there is nothing else.
PLAIN = Knobs(half_life=0.25)
#: No emotion at all.
NOTHING = Knobs(gain=0.0, half_life=0.25)
#: What each knob is turned to, and the trait that it plants ("" for what must change nothing).
TURNED: dict[str, tuple[float, str]] = {
    "mood": (3.0, "joy_bias"),
    "role_gain": (0.6, "dampening"),
    "absorption": (0.5, "shock_absorption"),
    "half_life": (12.0, "tail_retention"),
    "persona": (1.0, "persona_offset"),
    "tint": (5.0, ""),
    "rogue": (90.0, ""),
    "norm": (10.0, ""),
    "drift": (4.0, ""),
    "rotation": (0.6, ""),
}
#: Values of knobs for recovered against planted, and for power.
DOSES: dict[str, tuple[float, ...]] = {
    "mood": (-2.0, 0.0, 0.5, 1.0, 2.0, 4.0),
    "role_gain": (0.5, 0.7, 0.85, 0.95, 1.0, 1.2),
    "absorption": (0.0, 0.05, 0.1, 0.2, 0.4, 0.8),
    "half_life": (1.0, 2.0, 4.0, 8.0, 16.0),
}
#: Kinds of cells whose shares are judged, so that they need all replicates.
_FULL = ("coverage", "null", "nothing", "shuffled")


@dataclass(frozen=True)
class Cell:
    """One condition: a phantom, how many scenarios its suites have, and whether their labels are shuffled."""

    name: str
    knobs: Knobs
    scenarios: int
    shuffled: bool = False

    @property
    def kind(self) -> str:
        """What the condition is for: the first word of its name."""
        return self.name.split("-")[0]

    @property
    def told(self) -> Knobs:
        """The phantom as labels tell of it: shuffled ones know of no emotion."""
        return replace(self.knobs, gain=0.0) if self.shuffled else self.knobs


def cells() -> list[Cell]:
    """All conditions of the study, the most important first."""
    found = [Cell(f"coverage-{n}", MIXED, n) for n in SIZES]
    found += [Cell(f"null-{n}", PLAIN, n) for n in SIZES]
    found += [Cell(f"nothing-{n}", NOTHING, n) for n in SIZES]
    found += [Cell(f"shuffled-{n}", MIXED, n, shuffled=True) for n in SIZES]
    found += [Cell("matrix-base", Knobs(), 96)]
    found += [Cell(f"matrix-{k}", replace(Knobs(), **{k: v}), 96) for k, (v, _) in TURNED.items()]
    found += [Cell(f"dose-{k}-{v:g}", replace(Knobs(), **{k: v}), 96) for k, vs in DOSES.items() for v in vs]
    return found


def planned(full: int) -> dict[str, int]:
    """Replicates of every cell for a study with ``full`` in the cells of coverage and nulls."""
    return {c.name: full if c.kind in _FULL else max(full // 10, 2) for c in cells()}


def sketched() -> dict[str, int]:
    """Replicates of the cells that a look needs to have something on every part of the page."""
    wanted = {f"{kind}-{SIZES[0]}": 2 for kind in _FULL} | {f"coverage-{SIZES[1]}": 2}
    wanted |= {f"dose-{k}-{v:g}": 2 for k, vs in DOSES.items() for v in (vs[0], vs[-1])}
    return wanted | {c.name: 1 for c in cells() if c.kind == "matrix"}  # they share their draws


def replicate(cell: Cell, seed: int) -> dict[str, list[float | None]]:
    """Fit, scores and estimates of one drawn data set: estimate, low, high, p, valid and the truth in the metric of the
    fit, of every trait (those without ranks in the first `_UNRANKED` replicates only)."""
    rng = np.random.default_rng([seed, *cell.kind.encode()])  # cells of a kind share their draws

    def drawn(layout: Layout) -> States:
        states = draw(layout, cell.knobs, rng)
        return shuffled(states, rng) if cell.shuffled else states

    reference = drawn(reference_layout())
    fit = fit_affect(reference)
    metric = fit_metric(reference.array[:, 0], reference.index, fit.roles)
    cosine = fit.axis_cosines
    found: dict[str, list[float | None]] = {}
    for design in ("reference", *DESIGNS):
        own = design == "reference"
        if own and seed >= _UNRANKED:  # it has no trait with ranks
            continue
        layout = reference_layout() if own else design_layout(design, cell.scenarios)
        scores = score(reference if own else drawn(layout), fit)
        given = planted_traits(design, cell.scenarios, cell.told, metric, ranked=seed >= _UNRANKED)
        measured = measure(scores, fit.layer, cosine, layout=layout)
        for e in ESTIMANDS.values():
            if e.design == design and not e.needs and (e.ranked or seed < _UNRANKED):
                found[e.name] = lines.numbers(e.estimate(measured), given.get(e.name, math.nan))
    return found


def run_study(
    folder: Path, replicates: Callable[[Cell], int], progress: Callable[[Cell, int], None] = lambda cell, done: None
) -> None:
    """Bring every cell up to its number of replicates, round by round, so that a study that is stopped is even.
    Lines that a kill left half-written are dropped."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = {}
    for cell in cells():
        done = {r["seed"] for r in read(folder, cell)}
        todo[cell] = [s for s in range(replicates(cell)) if s not in done]
        progress(cell, len(done))
    rounds = max(map(len, todo.values()), default=0)
    for i in range(rounds):
        for cell, seeds in todo.items():
            # cells with more replicates come as often as their share
            for seed in seeds[i * len(seeds) // rounds : (i + 1) * len(seeds) // rounds]:
                lines.append(_path(folder, cell), {"seed": seed, **_condition(cell), "traits": replicate(cell, seed)})
                progress(cell, 1)


def read(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """The replicates of a cell; those of another condition (an older study) do not count."""
    return lines.read(_path(folder, cell), _condition(cell))


def _condition(cell: Cell) -> dict[str, Any]:
    return {"method": METHOD, "knobs": asdict(cell.knobs), "scenarios": cell.scenarios}


def _path(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.jsonl"
