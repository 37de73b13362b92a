"""The figures of the calibration page. What there are no data for is no figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from llmct_bench.calibration.levels import Recovered
from llmct_bench.calibration.performance import COVERAGE, Summary, by_cell, changes
from llmct_bench.calibration.study import DOSES, SIZES, TURNED
from llmct_bench.plotting import INK, PLANTED
from llmct_bench.traits import ESTIMANDS

#: The smallest coverage that has a place in its figure.
_LEAST = 0.8


def panel(found: Sequence[Recovered]) -> Figure | None:
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
        start = min(v for r in own for v in (r.planted, r.estimate))
        axis.axline((start, start), slope=1, color="#888888", linewidth=1, zorder=0)
        # planted values that hardly differ are not spread over the whole width
        low, high = (end(r.planted for r in own) for end in (min, max))
        span = max(high - low, 0.2 * float(np.ptp(axis.get_ylim())))
        axis.set_xlim((low + high) / 2 - 0.6 * span, (low + high) / 2 + 0.6 * span)
        axis.xaxis.set_major_locator(MaxNLocator(4))
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


def _matrix(found: Sequence[Summary]) -> Figure | None:
    knobs, traits, table = changes(found)
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
    by = by_cell(found)
    traits = [t for t in ESTIMANDS if any((f"coverage-{n}", t) in by for n in SIZES)]
    sizes = [n for n in SIZES if any((f"coverage-{n}", t) in by for t in traits)]
    if not traits:
        return None
    figure, axes = plt.subplots(1, len(sizes), figsize=(2 + 3 * len(sizes), 3.6), sharey=True, squeeze=False)
    for axis, n in zip(axes[0], sizes, strict=True):
        axis.axvspan(*COVERAGE, color="#DDDDDD", zorder=0)
        for y, trait in enumerate(traits):
            s = by.get((f"coverage-{n}", trait))
            if s is None:
                continue
            for value, dy, colour, marker in ((s.conditional, -0.13, INK, "s"), (s.coverage, 0.13, PLANTED, "o")):
                if math.isfinite(value):
                    error = 1.96 * s.error(value)
                    axis.plot([value - error, min(value + error, 1.0)], [y + dy] * 2, color=colour, linewidth=1.5)
                    # what lies further out is an arrow at the edge
                    axis.plot(
                        max(value, _LEAST), y + dy, marker if value >= _LEAST else "<", color=colour, markersize=5
                    )
        axis.set_title(f"{n} scenarios")
        axis.set_xlim(_LEAST - 0.005, 1.005)
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
    by = by_cell(found)
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


#: Figures of level 1, by name.
DRAWN: dict[str, Callable[[Sequence[Summary]], Figure | None]] = {
    "recovered": _recovered,
    "coverage": _coverage,
    "power": _power,
    "matrix": _matrix,
}
