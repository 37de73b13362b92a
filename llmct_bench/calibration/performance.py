"""Performance of the instrument in the study of level 1: shares of the replicates, with their Monte-Carlo errors, and
what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmct_bench.calibration.activations import planted_traits
from llmct_bench.calibration.study import DESIGNS, SIZES, TURNED, Cell, cells, read
from llmct_bench.traits import ESTIMANDS
from llmct_bench.traits.verdict import Verdict

#: The bands that are asked for.
COVERAGE, REJECTION, OFF_DIAGONAL = (0.94, 0.96), (0.04, 0.06), 0.05
#: Where nothing but chance can be found, fewer rejections are no fault.
NOMINAL = (0.0, REJECTION[1])
#: Quantiles of the normal distribution for 80 % power at .05, two-sided.
POWER = 1.960 + 0.842
#: Smallest effect of interest, in the trait's own unit; half-lives are told apart by exchanges.
INTEREST = dict.fromkeys(ESTIMANDS, 0.2) | {"half_life": 1.0}


@cache
def truths(cell: Cell) -> dict[str, float]:
    """The planted value of every trait in a cell."""
    return {k: v for d in ("reference", *DESIGNS) for k, v in planted_traits(d, cell.scenarios, cell.told).items()}


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
        return _error(share, self.replicates * self.valid)

    @property
    def significant(self) -> tuple[float, float]:
        """Share of all replicates that are valid and reject, and its Monte-Carlo standard error."""
        share = self.valid * self.rejected if self.valid else 0.0
        return share, _error(share, self.replicates)


def _error(share: float, n: float) -> float:
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
                    len(found),
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


def by_cell(found: Sequence[Summary]) -> dict[tuple[str, str], Summary]:
    """Summaries by cell and trait."""
    return {(s.cell, s.trait): s for s in found}


def missed(share: float, error: float, band: tuple[float, float]) -> bool:
    """Whether even two Monte-Carlo errors do not bring a share into its band."""
    return share + 2 * error < band[0] or share - 2 * error > band[1]


def at_null(s: Summary) -> bool:
    """Whether the closed form says that there is nothing to find: a truth nearer to the null than a tenth of the
    smallest effect of interest."""
    return abs(s.truth - ESTIMANDS[s.trait].null) <= INTEREST[s.trait] / 10


def needed(found: Sequence[Summary], trait: str) -> float:
    """Scenarios at which the smallest effect of interest is seen with 80 % power: the variance of the estimates is
    a + b / n, a that of the axes, through the sizes of the study (least squares on relative errors). Infinite where the
    axes alone vary too much; NaN with fewer than two sizes."""
    by = by_cell(found)
    seen = [(n, s.empirical_se**2) for n in SIZES if (s := by.get((f"coverage-{n}", trait))) and s.empirical_se > 0]
    if len(seen) < 2:
        return math.nan
    n, variance = np.array(seen).T
    design = np.column_stack([np.ones(len(n)), 1 / n]) / variance[:, None]
    a, b = np.linalg.lstsq(design, np.ones(len(n)), rcond=None)[0]
    if a < 0:  # no variance of the axes: all is the scenarios'
        a, b = 0.0, (1 / n / variance).sum() / ((1 / n / variance) ** 2).sum()
    room = (INTEREST[trait] / POWER) ** 2 - a
    return float(b / room) if room > 0 else math.inf


def changes(
    found: Sequence[Summary],
) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Change of each trait (columns) by each knob (rows), in units of what its own knob does."""
    by = by_cell(found)
    own = {trait: knob for knob, (_, trait) in TURNED.items() if trait}
    traits = list(own)
    knobs = [k for k in TURNED if (f"matrix-{k}", traits[0]) in by]
    table = np.full((len(knobs), len(traits)), np.nan)
    for j, trait in enumerate(traits):
        base, turned = by.get(("matrix-base", trait)), by.get((f"matrix-{own[trait]}", trait))
        if base is None or turned is None:
            continue
        for i, knob in enumerate(knobs):
            own_change = turned.mean - base.mean
            if own_change:
                table[i, j] = (by[f"matrix-{knob}", trait].mean - base.mean) / own_change
    return knobs, traits, table


def planted_change(found: Sequence[Summary], knob: str, trait: str) -> float:
    """What the closed form says about an entry of the matrix."""
    by = by_cell(found)
    own = next(k for k, (_, t) in TURNED.items() if t == trait)
    base, turned, other = (by.get((f"matrix-{k}", trait)) for k in ("base", own, knob))
    if base is None or turned is None or other is None or turned.truth == base.truth:
        return float("nan")
    return (other.truth - base.truth) / (turned.truth - base.truth)


def verdicts(found: Sequence[Summary]) -> dict[str, Verdict]:
    """What is shipped with the package about every trait whose intervals were tried. Coverage is that of the truth in
    the metric of the fit; a null is the plain phantom where the trait is at its null there, else shuffled labels."""
    by, out = by_cell(found), {}
    for trait in ESTIMANDS:
        tried = {n: s for n in SIZES if (s := by.get((f"coverage-{n}", trait))) and math.isfinite(s.conditional)}
        if not tried:
            continue
        held = {n: (s.conditional, s.error(s.conditional), COVERAGE) for n, s in tried.items()}
        nulls = {n: r for n in tried if (r := _null_rate(by, trait, n)) is not None}
        misses = [f"coverage at {n}" for n, rate in held.items() if missed(*rate)]
        misses += [f"nulls at {n}" for n, rate in nulls.items() if missed(*rate)]
        shares = tuple(round(nulls[n][0], 3) for n in tried) if len(nulls) == len(tried) else ()
        out[trait] = Verdict(
            min(s.replicates for s in tried.values()),
            tuple(tried),
            tuple(round(share, 3) for share, *_ in held.values()),
            shares,
            tuple(misses),
        )
    return out


def _null_rate(
    by: dict[tuple[str, str], Summary], trait: str, n: int
) -> tuple[float, float, tuple[float, float]] | None:
    """How often an absent trait is found, the Monte-Carlo error of that, and the band that is asked."""
    plain, shuffled = by.get((f"null-{n}", trait)), by.get((f"shuffled-{n}", trait))
    if plain is not None and at_null(plain) and plain.valid:
        return plain.rejected, plain.error(plain.rejected), REJECTION
    if shuffled is not None and at_null(shuffled):
        return *shuffled.significant, NOMINAL
    return None
