"""The calibration certificate as a page with figures."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmct_bench.calibration import figures, tables
from llmct_bench.calibration.levels import Recovered
from llmct_bench.calibration.performance import COVERAGE, INTEREST, OFF_DIAGONAL, REJECTION, Summary, verdicts
from llmct_bench.calibration.seeds import SCENARIOS, Rejections
from llmct_bench.plotting import drawing, save
from llmct_bench.traits.verdict import to_json


@dataclass(frozen=True)
class Certificate:
    """What the calibration has found: the study of level 1 (``drawn``), the panel and the seeds without anything to
    find of level 2, and what `levels.spike_study` gave for level 3, as far as they are there."""

    drawn: Sequence[Summary] = ()
    compiled: Sequence[Recovered] = ()
    seeds: Sequence[Rejections] = ()
    spikes: Sequence[dict[str, Any]] = ()


def write(found: Certificate, folder: Path) -> list[Path]:
    """Write ``calibration.md``, ``calibration.json`` and ``figures/calibration-*.{svg,png}``."""
    written: list[Path] = []
    with drawing(folder / "figures"):
        drawn = {name: draw(found.drawn) for name, draw in figures.DRAWN.items()}
        for name, figure in (drawn | {"panel": figures.panel(found.compiled)}).items():
            if figure is not None:
                written += save(figure, folder / "figures", f"calibration-{name}")
        page, data = folder / "calibration.md", folder / "calibration.json"
        page.write_text(to_markdown(found, {p.stem for p in written}), encoding="utf-8")
        plain = {k: [_strict(r if isinstance(r, dict) else asdict(r)) for r in v] for k, v in vars(found).items()}
        made = plain | {"verdicts": json.loads(to_json(verdicts(found.drawn)))}
        data.write_text(json.dumps(made, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [page, data, *written]


def _strict(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def to_markdown(found: Certificate, pictures: Collection[str] = ()) -> str:
    """The page, with those of its figures that are among the ``pictures`` beside it (``calibration-coverage``)."""
    parts = [
        "# Calibration",
        "The instrument is tried where the answer is known: on states that are drawn (level 1), on transformers that "
        "are compiled (level 2) and on models to which known doses are added (level 3). Zero change, level 4, is the "
        "noise floor of every leaderboard and of `llmct-bench spike`.",
        *_drawn(found.drawn, pictures),
        *_compiled(found.compiled, pictures),
        *_seeds(found.seeds),
        *_spiked(found.spikes),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _picture(name: str, pictures: Collection[str]) -> str:
    return f"![{name}](figures/calibration-{name}.svg)" if f"calibration-{name}" in pictures else ""


def _drawn(found: Sequence[Summary], pictures: Collection[str]) -> list[str]:
    """The section of level 1."""
    most = max((s.replicates for s in found), default=0)
    return [
        "# Level 1: drawn states",
        "States are drawn with a planted answer (level 1; the knobs stand in `llmct_bench/calibration/activations.py`) "
        "and go through the very fit, scores and estimates that models go through. Reported are Monte-Carlo shares "
        f"with their standard errors, from up to {most} replicates a condition. Made by: `llmct-bench calibrate`.",
        "## Do 95 % intervals hold the truth?",
        f"A phantom with a little of everything; {_band(COVERAGE)} is asked. *Truth*: exact axes and unit, in the "
        "metric of the fit (neutral mean and nuisance components are part of how a score is defined); "
        "*population*: in the metric that endless neutral text would give. Intervals hold two errors, that of the "
        "scenarios and that of the axes (jackknife over the wordings of the reference).",
        tables.coverage(found),
        _picture("coverage", pictures),
        "## How often is an absent trait found?",
        f"*Plain phantom*: emotions and nothing else; p ≤ .05 among its valid estimates, {_band(REJECTION)} is asked "
        "of the traits that are at their null there, which the closed form says (within a tenth of the smallest effect "
        "of interest). *Shuffled labels*: the phantom with a little of everything, under labels that know nothing of "
        "it. *No emotion*: there is none. In these two most estimates are invalid; what is significant among all "
        f"replicates may be less than .05, and not more than {_short(REJECTION[1])}.",
        tables.nulls(found),
        "## Is the planted value recovered, and from which size on is it seen?",
        _picture("recovered", pictures),
        _picture("power", pictures),
        "The smallest difference from the null that is seen in 80 % of the studies, in units of each trait, and the "
        "number of scenarios that the smallest effect of interest asks for: the variance of an estimate is that of the "
        "axes plus that of a scenario over their number. (An effect of .2 SD of the scenarios asks for 199 in a paired "
        f"contrast whose axes are known; here it is {_short(INTEREST['dampening'])} of the trait's unit, and "
        f"{_short(INTEREST['half_life'])} exchange for the half-life.) {tables.asked(found)}".rstrip(),
        tables.detectable(found),
        "## Does a knob move its own trait only?",
        "One knob turned at a time; the change of each trait over the change that its own knob makes, in brackets what "
        f"the closed form says. At most {OFF_DIAGONAL:.0%} is asked beside the diagonal.",
        tables.matrix(found),
        _picture("matrix", pictures),
    ]


def _compiled(found: Sequence[Recovered], pictures: Collection[str]) -> list[str]:
    """The section of level 2."""
    if not found:
        return []
    held = sum(r.holds for r in found)
    return [
        "# Level 2: compiled transformers",
        "Real `Qwen2ForCausalLM` objects with hand-set weights, through the whole path from text to trait "
        "(`llmct-bench run`); the truth is a closed form of the words that they read. "
        f"{held} of {len(found)} valid intervals hold it. Their words are few and have random vectors of their own, "
        "which no interval over scenarios knows of. Kendall's tau is over the pairs whose planted values differ by "
        "more than two standard errors.",
        tables.panel(found),
        _picture("panel", pictures),
    ]


def _seeds(found: Sequence[Rejections]) -> list[str]:
    """The section of level 2 on what is not there."""
    if not found:
        return []
    beyond = sum(r.beyond for r in found)
    return [
        "# Level 2: is anything found where there is nothing?",
        "A compiled phantom without emotion whose words have other random vectors with every seed, and the joyful "
        f"phantom, read once, under labels in other random orders; {SCENARIOS} scenarios a suite. An estimate is "
        "significant where it is valid and its p is at most .05: of all seeds, not more than .05 may be. "
        f"{'None' if beyond == 0 else beyond} of {len(found)} shares {'lies' if beyond <= 1 else 'lie'} surely above "
        "it.",
        tables.seeds(found),
    ]


def _spiked(found: Sequence[dict[str, Any]]) -> list[str]:
    """The section of level 3."""
    if not found:
        return []
    return [
        "# Level 3: doses added to a model",
        "A known dose of each emotion is added to the residual stream at one point and read there and later on. Where "
        "it is planted the truth is slope 1 and intercept 0; later the slope is what the model transmits.",
        tables.doses(found),
        "Whole traits planted in this way; in a model with a response of its own the two mix.",
        tables.planted(found),
    ]


def _band(band: tuple[float, float]) -> str:
    return " to ".join(map(_short, band))


def _short(value: float) -> str:
    """As the field writes shares: .05."""
    return f"{value:g}".removeprefix("0")
