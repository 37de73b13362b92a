"""The simulation study of level 1 (ADEMP: Morris, White & Crowther 2019, doi:10.1002/sim.8086).

Aims: bias, coverage, false positives, power, and that only the planted trait moves. Data: `activations`. Estimands: all
traits. Methods: the very fit and estimates of the benchmark. Performance: `summaries`, with Monte-Carlo errors.
Every replicate is a line of a file, so that a study can be stopped and goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llmct_bench.affect import fit_affect, fit_metric, score
from llmct_bench.calibration.activations import Knobs, design_layout, draw, planted_traits, reference_layout
from llmct_bench.traits import ESTIMANDS, measure

#: Raised whenever fit, scores or estimates change, so that replicates of different methods do not mix.
METHOD = 3
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
    "persona": (1.0, ""),
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


@dataclass(frozen=True)
class Cell:
    """One condition: a phantom, and how many scenarios its suites have."""

    name: str
    knobs: Knobs
    scenarios: int


def cells() -> list[Cell]:
    """All conditions of the study, the most important first."""
    found = [Cell(f"coverage-{n}", MIXED, n) for n in SIZES]
    found += [Cell(f"null-{n}", PLAIN, n) for n in SIZES]
    found += [Cell(f"nothing-{n}", NOTHING, n) for n in SIZES]
    found += [Cell("matrix-base", Knobs(), 96)]
    found += [Cell(f"matrix-{k}", replace(Knobs(), **{k: v}), 96) for k, (v, _) in TURNED.items()]
    found += [Cell(f"dose-{k}-{v:g}", replace(Knobs(), **{k: v}), 96) for k, vs in DOSES.items() for v in vs]
    return found


def replicate(cell: Cell, seed: int) -> dict[str, list[float | None]]:
    """Fit, scores and estimates of one drawn data set: estimate, low, high, p, valid and the truth in the metric of the
    fit, of every trait (those without ranks in the first `_UNRANKED` replicates only)."""
    rng = np.random.default_rng([seed, *cell.name.split("-")[0].encode()])  # cells of a kind share their draws
    reference = draw(reference_layout(), cell.knobs, rng)
    fit = fit_affect(reference)
    metric = fit_metric(reference.array[:, 0], reference.index, fit.roles)
    cosine = fit.role_cosine[fit.layer.point].tolist()
    found: dict[str, list[float | None]] = {}
    for design in DESIGNS:
        layout = design_layout(design, cell.scenarios)
        scores = score(draw(layout, cell.knobs, rng), fit)
        given = planted_traits(design, cell.scenarios, cell.knobs, metric)
        measured = measure(scores, fit.layer, cosine, layout=layout)
        chosen = (e for e in ESTIMANDS.values() if e.design == design and (e.ranked or seed < _UNRANKED))
        for t in (e.estimate(measured) for e in chosen):
            numbers = (t.estimate, t.low, t.high, t.p_value, float(t.valid), given.get(t.trait, math.nan))
            found[t.trait] = [float(v) if math.isfinite(v) else None for v in numbers]
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
                line = json.dumps({"seed": seed, **_condition(cell), "traits": replicate(cell, seed)})
                with _path(folder, cell).open("a", encoding="utf-8") as file:
                    file.write("\n" * _torn(_path(folder, cell)) + line + "\n")
                progress(cell, 1)


def read(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """The replicates of a cell; those of another condition (an older study) do not count."""
    return list(_lines(_path(folder, cell), _condition(cell)))


def _condition(cell: Cell) -> dict[str, Any]:
    return {"method": METHOD, "knobs": asdict(cell.knobs), "scenarios": cell.scenarios}


def _lines(path: Path, condition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if {k: row.get(k) for k in condition} == condition:
            yield row


def _torn(path: Path) -> bool:
    """Whether the last line was cut off."""
    return path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")


def _path(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.jsonl"


@cache
def truths(cell: Cell) -> dict[str, float]:
    """The planted value of every trait in a cell."""
    return {k: v for d in DESIGNS for k, v in planted_traits(d, cell.scenarios, cell.knobs).items()}


@dataclass(frozen=True)
class Summary:
    """Performance of one trait in one cell. ``coverage`` (of the population's truth), ``conditional`` (of the truth in
    the metric that was fitted in the replicate) and ``rejected`` are among the valid replicates, their Monte-Carlo
    errors by `error`. ``valid`` is the share of replicates with a valid estimate."""

    cell: str
    trait: str
    replicates: int
    valid: float
    truth: float
    mean: float
    bias: float
    empirical_se: float
    coverage: float
    conditional: float
    rejected: float

    def error(self, share: float) -> float:
        """Monte-Carlo standard error of a share of the valid replicates; not 0 for a share of 0 or 1 (Agresti & Coull
        1998: as if four more had been split evenly)."""
        n = self.replicates * self.valid
        if n <= 0 or not math.isfinite(share):
            return float("nan")
        wide = (share * n + 2) / (n + 4)
        return math.sqrt(wide * (1 - wide) / (n + 4))


def summaries(folder: Path, chosen: Sequence[Cell] | None = None) -> list[Summary]:
    """Every trait in every cell that has replicates."""
    out = []
    for cell in chosen or cells():
        rows = read(folder, cell)
        if not rows:
            continue
        for trait in ESTIMANDS:
            found = np.array(
                [[np.nan if v is None else v for v in r["traits"][trait]] for r in rows if trait in r["traits"]]
            )
            if not len(found):
                continue
            truth, ok = truths(cell).get(trait, float("nan")), found[:, 4] == 1
            use = found[ok]
            inside = (use[:, 1] <= truth) & (truth <= use[:, 2])
            mean = float(use[:, 0].mean()) if len(use) else float("nan")
            known = len(use) > 0 and math.isfinite(truth)
            given = use[np.isfinite(use[:, 5])]  # where the trait exists in the metric of the fit
            out.append(
                Summary(
                    cell.name,
                    trait,
                    len(rows),
                    float(ok.mean()),
                    truth,
                    mean,
                    mean - truth,
                    float(use[:, 0].std(ddof=1)) if len(use) > 1 else float("nan"),
                    float(inside.mean()) if known else float("nan"),
                    float(((given[:, 1] <= given[:, 5]) & (given[:, 5] <= given[:, 2])).mean())
                    if len(given)
                    else float("nan"),
                    float((use[:, 3] <= 0.05).mean()) if len(use) else float("nan"),
                )
            )
    return out
