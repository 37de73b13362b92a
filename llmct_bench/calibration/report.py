"""The calibration certificate as a page with figures, from the replicates of the study."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tabulate import tabulate

from llmct_bench.calibration.levels import Recovered, agreement
from llmct_bench.calibration.study import DOSES, SIZES, TURNED, Summary, cells, summaries
from llmct_bench.leaderboards.markdown import escape
from llmct_bench.plotting import INK, PLANTED, drawing, save
from llmct_bench.traits import ESTIMANDS

#: The bands that are asked for.
COVERAGE, REJECTION, OFF_DIAGONAL = (0.94, 0.96), (0.04, 0.06), 0.05
#: Quantiles of the normal distribution for 80 % power at .05, two-sided.
_POWER = 1.960 + 0.842
#: Traits whose true value in the plain phantom is 0, so that a rejection there is false.
_NULL = ("joy_bias", "dampening", "shock_absorption", "tail_retention")


def write(
    study: Path, folder: Path, compiled: Sequence[Recovered] = (), spikes: Sequence[dict[str, Any]] = ()
) -> list[Path]:
    """Write ``calibration.md``, ``calibration.json`` and ``figures/calibration-*.{svg,png}``: the study of level 1, the
    compiled panel (level 2) and what `levels.spike_study` found (level 3), as far as they are given."""
    found = summaries(study)
    written: list[Path] = []
    with drawing(folder / "figures"):
        figures = {name: draw(found) for name, draw in _FIGURES.items()} | {"panel": _panel(compiled)}
        for name, figure in figures.items():
            if figure is not None:
                written += save(figure, folder / "figures", f"calibration-{name}")
        page, data = folder / "calibration.md", folder / "calibration.json"
        page.write_text(to_markdown(found, compiled, spikes), encoding="utf-8")
        plain = {
            "drawn": [{k: v if v == v else None for k, v in asdict(s).items()} for s in found],
            "compiled": [{k: v if v == v and v not in (math.inf, -math.inf) else None for k, v in asdict(r).items()}
                         for r in compiled],
            "spikes": list(spikes),
        }  # fmt: skip
        data.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [page, data, *written]


def to_markdown(
    found: Sequence[Summary], compiled: Sequence[Recovered] = (), spikes: Sequence[dict[str, Any]] = ()
) -> str:
    """The page."""
    most = max((s.replicates for s in found), default=0)
    parts = [
        "# Calibration",
        "The instrument is tried where the answer is known: on states that are drawn (level 1), on transformers that "
        "are compiled (level 2) and on models to which known doses are added (level 3). Zero change, level 4, is the "
        "noise floor of every leaderboard and of `llmct-bench spike`.",
        "# Level 1: drawn states",
        "States are drawn with a planted answer (level 1; the knobs stand in `llmct_bench/calibration/activations.py`) "
        "and go through the very fit, scores and estimates that models go through. Reported are Monte-Carlo shares "
        f"with their standard errors, from up to {most} replicates a condition. Made by: `llmct-bench calibrate`.",
        "## Do 95 % intervals hold the truth?",
        f"A phantom with a little of everything; {_band(COVERAGE)} is asked. *Truth*: exact axes and unit, in the "
        "metric of the fit (neutral mean, spread and nuisance components are part of how a score is defined); "
        "*population*: in the metric that endless neutral text would give. Intervals hold two errors, that of the "
        "scenarios and that of the axes (jackknife over the wordings of the reference).",
        _coverage_table(found),
        _link("coverage", found),
        "## How often is an absent trait found?",
        f"A phantom with emotions and nothing else; p ≤ .05 among its valid estimates, {_band(REJECTION)} is asked. "
        "(Its joy bias is .01, not quite 0: emotions lie unevenly in any metric.) In a phantom without any emotion an "
        "estimate is hardly ever valid; what is rejected among all replicates "
        "stands in the last column.",
        _null_table(found),
        "## Is the planted value recovered, and from which size on is it seen?",
        _link("recovered", found),
        _link("power", found),
        _detectable_table(found),
        "## Does a knob move its own trait only?",
        "One knob turned at a time; the change of each trait over the change that its own knob makes, in brackets what "
        f"the closed form says. At most {OFF_DIAGONAL:.0%} is asked beside the diagonal.",
        _matrix_table(found),
        _link("matrix", found),
        *_compiled(compiled),
        *_spiked(spikes),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _compiled(found: Sequence[Recovered]) -> list[str]:
    """The section of level 2."""
    if not found:
        return []
    rows = [
        [a.trait, str(a.phantoms), f"{a.hold} of {a.phantoms}", _plain(a.worst), _plain(a.tau)]
        for a in agreement(found)
    ]
    held = sum(r.holds for r in found)
    return [
        "# Level 2: compiled transformers",
        "Real `Qwen2ForCausalLM` objects with hand-set weights, through the whole path from text to trait "
        "(`llmct-bench run`); the truth is a closed form of the words that they read. "
        f"{held} of {len(found)} valid intervals hold it. Their words are few and have random vectors of their own, "
        "which no interval over scenarios knows of. Kendall's tau is over the pairs whose planted values differ by "
        "more than two standard errors.",
        _table(rows, ["trait", "valid phantoms", "hold the truth", "worst error, SE", "Kendall's tau"]),
        "![panel](figures/calibration-panel.svg)",
    ]


def _spiked(spikes: Sequence[dict[str, Any]]) -> list[str]:
    """The section of level 3."""
    if not spikes:
        return []
    lines = [
        [escape(s["model"]), str(line["planted"]), str(line["read"]), *_estimate(line["slope"], 4),
         f"{line['intercept']:+.0e}"]
        for s in spikes for line in s["lines"]
    ]  # fmt: skip
    traits = [
        [escape(s["model"]), t["plant"], t["trait"], f"{t['planted']:.3f}",
         *(_estimate({"estimate": t["recovered"], "low": t["low"], "high": t["high"]}, 3)
           if t["valid"] else ["–", "invalid"])]
        for s in spikes for t in s["traits"]
    ]  # fmt: skip
    return [
        "# Level 3: doses added to a model",
        "A known dose of each emotion is added to the residual stream at one point and read there and later on. Where "
        "it is planted the truth is slope 1 and intercept 0; later the slope is what the model transmits.",
        _table(lines, ["model", "planted at", "read at", "slope", "95 % CI", "intercept"]),
        "Whole traits planted in this way; in a model with a response of its own the two mix.",
        _table(traits, ["model", "plant", "trait", "planted", "recovered", "95 % CI"]),
    ]


def _estimate(i: dict[str, Any], digits: int) -> list[str]:
    value, low, high = ("–" if i[k] is None else f"{i[k]:.{digits}f}" for k in ("estimate", "low", "high"))
    return [value, f"[{low}, {high}]"]


def _panel(found: Sequence[Recovered]) -> Figure | None:
    """Recovered against planted by trait, with the identity line."""
    traits = [t for t in ESTIMANDS if any(r.trait == t for r in found)]
    if not traits:
        return None
    columns = min(4, len(traits))
    lines = math.ceil(len(traits) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.9 * columns, 2.9 * lines), squeeze=False)
    for axis, trait in zip(axes.flat, traits, strict=False):
        own = [r for r in found if r.trait == trait]
        for r in own:
            low, high = (max(min(v, r.estimate + 1e3), r.estimate - 1e3) for v in (r.low, r.high))
            colour = INK if r.holds else PLANTED
            axis.plot([r.planted] * 2, [low, high], color=colour, linewidth=1.5)
            axis.plot(r.planted, r.estimate, "o" if r.holds else "s", color=colour, markersize=4)
        ends = [v for r in own for v in (r.planted, r.estimate)]
        axis.axline((min(ends), min(ends)), slope=1, color="#888888", linewidth=1, zorder=0)
        axis.set_title(ESTIMANDS[trait].title)
        axis.set_xlabel(f"planted ({ESTIMANDS[trait].unit})", fontsize=8)
    for axis in axes.flat[len(traits) :]:
        axis.set_visible(False)
    axes[0, 0].set_ylabel("measured, 95 % interval")
    handles = [
        Line2D([], [], color=INK, marker="o", label="holds the planted value"),
        Line2D([], [], color=PLANTED, marker="s", label="does not"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, -0.05))
    figure.tight_layout()
    return figure


def _band(band: tuple[float, float]) -> str:
    return f"{band[0]:.2f} to {band[1]:.2f}".replace("0.", ".")


def _table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def _by(found: Sequence[Summary]) -> dict[tuple[str, str], Summary]:
    return {(s.cell, s.trait): s for s in found}


def _plain(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "–"


def _share(value: float, s: Summary) -> str:
    return f"{value:.3f} ± {s.error(value):.3f}" if math.isfinite(value) else "–"


def _judged(value: float, s: Summary, band: tuple[float, float]) -> str:
    """A share, marked where even two Monte-Carlo errors do not bring it into the band."""
    if not math.isfinite(value):
        return "–"
    slack = 2 * s.error(value)
    missed = value + slack < band[0] or value - slack > band[1]
    return f"{'**' if missed else ''}{_share(value, s)}{'** missed' if missed else ''}"


def _coverage_table(found: Sequence[Summary]) -> str:
    by, rows = _by(found), []
    for trait in ESTIMANDS:
        for n in SIZES:
            s = by.get((f"coverage-{n}", trait))
            if s is not None:
                shown = [_plain(s.truth), _plain(s.bias, "+"), _plain(s.empirical_se)]
                rows.append(
                    [trait, str(n), *shown, _judged(s.conditional, s, COVERAGE), _judged(s.coverage, s, COVERAGE)]
                )
    return _table(
        rows, ["trait", "scenarios", "truth", "bias", "empirical SE", "holds the truth", "… of the population"]
    )


def _null_table(found: Sequence[Summary]) -> str:
    by, rows = _by(found), []
    for trait in ESTIMANDS:
        for n in SIZES:
            plain, nothing = by.get((f"null-{n}", trait)), by.get((f"nothing-{n}", trait))
            if plain is None:
                continue
            null = _judged(plain.rejected, plain, REJECTION) if trait in _NULL else "not null there"
            rejected = nothing.valid * nothing.rejected if nothing and nothing.valid else 0.0
            empty = "–" if nothing is None else f"{rejected:.3f} (valid {nothing.valid:.2f})"
            rows.append([trait, str(n), null, empty])
    return _table(rows, ["trait", "scenarios", "rejected, plain phantom", "rejected, no emotion"])


def _detectable_table(found: Sequence[Summary]) -> str:
    """What a suite of each size sees with 80 % power: (z_.975 + z_.8) times the empirical standard error."""
    by, rows = _by(found), []
    for trait in ESTIMANDS:
        seen = [by.get((f"coverage-{n}", trait)) for n in SIZES]
        if any(s is not None and math.isfinite(s.empirical_se) for s in seen):
            rows.append([trait, *("–" if s is None else _plain(_POWER * s.empirical_se) for s in seen)])
    text = "The smallest difference from the null that is seen in 80 % of the studies, in units of each trait:"
    return f"{text}\n\n{_table(rows, ['trait', *(f'{n} scenarios' for n in SIZES)])}" if rows else ""


def _changes(
    found: Sequence[Summary],
) -> tuple[list[str], list[str], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Change of each trait (columns) by each knob (rows), in units of what its own knob does."""
    by = _by(found)
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


def _planted_change(found: Sequence[Summary], knob: str, trait: str) -> float:
    """What the closed form says about an entry of the matrix."""
    by = _by(found)
    own = next(k for k, (_, t) in TURNED.items() if t == trait)
    base, turned, other = (by.get((f"matrix-{k}", trait)) for k in ("base", own, knob))
    if base is None or turned is None or other is None or turned.truth == base.truth:
        return float("nan")
    return (other.truth - base.truth) / (turned.truth - base.truth)


def _matrix_table(found: Sequence[Summary]) -> str:
    knobs, traits, table = _changes(found)
    by = _by(found)
    rows = []
    for i, knob in enumerate(knobs):
        cells_ = []
        for j, trait in enumerate(traits):
            own = TURNED[knob][1] == trait
            valid = by[f"matrix-{knob}", trait].valid
            value = f"{table[i, j]:+.2f}" if math.isfinite(table[i, j]) else "–"
            missed = not own and abs(table[i, j]) > OFF_DIAGONAL
            planted = _planted_change(found, knob, trait)
            note = (f" ({planted:+.2f})" if math.isfinite(planted) else "") + ("" if valid > 0.5 else ", invalid")
            cells_.append(f"**{value}**{note}" if missed and valid > 0.5 else value + note)
        rows.append([f"{knob} = {TURNED[knob][0]:g}", *cells_])
    return _table(rows, ["knob turned", *traits])


def _matrix(found: Sequence[Summary]) -> Figure | None:
    knobs, traits, table = _changes(found)
    if not knobs:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 0.45 * len(knobs) + 1.4))
    sns.heatmap(
        table,
        ax=axis,
        cmap="vlag",
        vmin=-1,
        vmax=1,
        annot=True,
        fmt="+.2f",
        linewidths=1,
        xticklabels=[t.replace("_", " ") for t in traits],
        yticklabels=[k.replace("_", " ") for k in knobs],
        cbar_kws={"label": "change / change by the own knob"},
    )
    axis.set_title("Which trait moves when one knob is turned")
    axis.tick_params(axis="x", rotation=20)
    axis.tick_params(axis="y", rotation=0)
    return figure


def _coverage(found: Sequence[Summary]) -> Figure | None:
    by = _by(found)
    traits = [t for t in ESTIMANDS if any((f"coverage-{n}", t) in by for n in SIZES)]
    if not traits:
        return None
    figure, axes = plt.subplots(1, len(SIZES), figsize=(11, 3.6), sharey=True, squeeze=False)
    for axis, n in zip(axes[0], SIZES, strict=True):
        axis.axvspan(*COVERAGE, color="#DDDDDD", zorder=0)
        for y, trait in enumerate(traits):
            s = by.get((f"coverage-{n}", trait))
            if s is None:
                continue
            for value, dy, colour, marker in ((s.conditional, -0.13, INK, "s"), (s.coverage, 0.13, PLANTED, "o")):
                if math.isfinite(value):
                    axis.errorbar(value, y + dy, xerr=1.96 * s.error(value), fmt=marker, color=colour, markersize=5)
        axis.set_title(f"{n} scenarios")
        axis.set_xlim(0.8, 1.005)
        axis.set_xlabel("share of 95 % intervals")
    axes[0, 0].set_yticks(range(len(traits)), [t.replace("_", " ") for t in traits])
    axes[0, 0].invert_yaxis()
    handles = [
        Line2D([], [], color=INK, marker="s", linestyle="", label="hold the truth (metric of the fit)"),
        Line2D([], [], color=PLANTED, marker="o", linestyle="", label="hold the population's"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, -0.08))
    figure.tight_layout()
    return figure


def _doses(found: Sequence[Summary]) -> dict[str, list[Summary]]:
    by = _by(found)
    traits = {knob: TURNED[knob][1] for knob in DOSES}
    out = {k: [by[c, t] for v in vs if (c := f"dose-{k}-{v:g}", t := traits[k]) in by] for k, vs in DOSES.items()}
    return {k: rows for k, rows in out.items() if rows}


def _recovered(found: Sequence[Summary]) -> Figure | None:
    doses = _doses(found)
    if not doses:
        return None
    figure, axes = plt.subplots(1, len(doses), figsize=(3.1 * len(doses), 3.1), squeeze=False)
    for axis, (knob, rows) in zip(axes[0], doses.items(), strict=True):
        x, y = ([getattr(s, f) for s in rows] for f in ("truth", "mean"))
        both = [v for v in (*x, *y) if math.isfinite(v)]
        axis.plot([min(both), max(both)], [min(both), max(both)], color="#888888", linewidth=1, zorder=0)
        axis.errorbar(x, y, yerr=[1.96 * s.empirical_se for s in rows], fmt="o", color=INK, markersize=4, capsize=2)
        axis.set_title(TURNED[knob][1].replace("_", " "))
        axis.set_xlabel(f"planted (by {knob.replace('_', ' ')})")
    axes[0, 0].set_ylabel("recovered: mean, 95 % of replicates")
    figure.tight_layout()
    return figure


def _power(found: Sequence[Summary]) -> Figure | None:
    doses = _doses(found)
    if not doses:
        return None
    figure, axes = plt.subplots(1, len(doses), figsize=(3.1 * len(doses), 2.8), sharey=True, squeeze=False)
    for axis, (knob, rows) in zip(axes[0], doses.items(), strict=True):
        values = [v for v in DOSES[knob] if any(s.cell == f"dose-{knob}-{v:g}" for s in rows)]
        shares = [s.valid * s.rejected if s.valid else 0.0 for s in rows]
        axis.axhline(0.05, color="#888888", linewidth=1)
        axis.axhline(0.8, color="#888888", linewidth=1, linestyle=":")
        axis.plot(values, shares, marker="o", color=INK)
        axis.set_title(TURNED[knob][1].replace("_", " "))
        axis.set_xlabel(knob.replace("_", " "))
        axis.set_ylim(-0.03, 1.03)
    axes[0, 0].set_ylabel("rejected at .05, 96 scenarios")
    figure.tight_layout()
    return figure


_FIGURES = {"recovered": _recovered, "coverage": _coverage, "power": _power, "matrix": _matrix}


def _link(name: str, found: Sequence[Summary]) -> str:
    """A figure, where there are the cells for it."""
    cells_ = {s.cell.split("-")[0] for s in found}
    needed = {"coverage": "coverage", "recovered": "dose", "power": "dose", "matrix": "matrix"}[name]
    return f"![{name}](figures/calibration-{name}.svg)" if needed in cells_ else ""


def planned(full: int) -> dict[str, int]:
    """Replicates of every cell for a study with ``full`` in the cells of coverage and nulls."""
    few = max(full // 10, 2)
    return {c.name: full if c.name.split("-")[0] in ("coverage", "null", "nothing") else few for c in cells()}
