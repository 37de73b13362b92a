"""Figures of the leaderboard (seaborn on matplotlib), drawn the same way from the same results.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; models also differ by marker and order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.plotting import EMOTION_COLOURS, INK, INVALID, PLANTED, drawing, save
from llmct_bench.results import ResultCard

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row, TraitTable

_ZERO = "phantom/zero-emotion"
_MARKERS = "osD^vP*Xhd<>p8"


def draw_all(board: Leaderboard, folder: Path) -> list[Path]:
    """Draw every figure that the results allow, as SVG and PNG. Raises ResultError when the disk refuses."""
    written = []
    with drawing(folder):
        for name, (_, available, draw) in FIGURES.items():
            if available(board):
                written += save(draw(board), folder, name)
    return written


def forest(board: Leaderboard) -> Figure:
    """One panel a trait: estimates with 95 % intervals, planted values where they are known, the null as a line."""
    tables = _ranked_tables(board)
    names = sorted({r.model for t in tables for r in t.rows})
    columns = min(4, len(tables))
    lines = math.ceil(len(tables) / columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(3.1 * columns + 1.2, lines * (0.27 * len(names) + 1.3)),
        sharey=True,
        squeeze=False,
    )
    for ax, table in zip(axes.flat, tables, strict=False):
        _forest_panel(ax, table, names)
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    legend: dict[str, Any] = {}
    for ax in axes.flat:
        handles, labels = ax.get_legend_handles_labels()
        legend.update(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="upper center", ncols=3, frameon=False, bbox_to_anchor=(0.5, 0.0))
    figure.tight_layout()
    return figure


def _forest_panel(ax: Any, table: TraitTable, names: list[str]) -> None:
    ax.axvline(table.estimand.null if table.estimand.name != "half_life" else np.nan, color="black", lw=1, ls=":")
    ticks = [_short(n) for n in names]
    for row in table.rows:
        y = names.index(row.model)
        t = row.estimate
        if row.rank is None:
            ax.text(
                0.98,
                y,
                "invalid",
                transform=ax.get_yaxis_transform(),
                ha="right",
                va="center",
                color=INVALID,
            )
        else:
            low, high = (min(max(v, t.estimate - 1e6), t.estimate + 1e6) for v in (t.low, t.high))
            ax.plot([low, high], [y, y], color=INK, lw=2, solid_capstyle="butt", zorder=2)
            ax.plot(t.estimate, y, "o", color=INK, ms=5, zorder=3, label="estimate, 95 % interval")
        if row.truth is not None and row.rank is not None:
            ax.plot(row.truth, y, "D", mfc="none", mec=PLANTED, ms=7, mew=1.5, zorder=4, label="planted")
    ax.set_yticks(range(len(names)), ticks)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_title(table.estimand.title)
    ax.set_xlabel(table.estimand.unit)
    sns.despine(ax=ax, left=True)


def layer_profile(board: Leaderboard) -> Figure:
    """Separability by relative depth, one line a model, with the interval of each point."""
    rows = _profiled(board)
    figure, ax = plt.subplots(figsize=(7.5, 4.2))
    for row, line in zip(rows, _lines(ax, rows), strict=True):
        profile = np.array(row.estimate.details["profile"], dtype=float)  # None becomes NaN
        line(np.linspace(0, 1, len(profile)), *profile.T)
    _finish(ax, "relative depth", "separability d² (null 0)", "Where the emotions come apart")
    return figure


def retention_curves(board: Leaderboard) -> Figure:
    """What is left of an opening's mood by lag, as a share of the first reading, with the interval of each lag."""
    rows = _with_curves(board)
    figure, ax = plt.subplots(figsize=(7.5, 4.2))
    for row, line in zip(rows, _lines(ax, rows), strict=True):
        curve = np.array(row.estimate.details["curve"], dtype=float)
        line(curve[:, 0], *(curve[:, 1:] / curve[0, 1]).T)
    _finish(ax, "exchanges since the opening", "y(k) / y(0)", "How long the mood of an opening stays")
    return figure


def controls(board: Leaderboard) -> Figure:
    """Why controls matter: a model without emotion, read raw and read corrected."""
    mine = _zero_emotion(board)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6))
    fading = np.array(mine["retention"].raw["fading"])
    left.plot(fading[:, 0], fading[:, 1], "o-", color=INK)
    left.set(
        xlabel="exchanges since the opening",
        ylabel="mean cosine with the emotions",
        title="Raw: it “fades” …",
    )
    left.set_ylim(min(0.6, fading[:, 1].min() - 0.05), 1.0)
    backbone, default = mine["circumplex"].raw["backbone"], mine["circumplex"].raw["default"]
    colours = [EMOTION_COLOURS[e] for e in default]
    bars = middle.bar(list(default), [100 * v for v in default.values()], color=colours)
    middle.bar_label(bars, [f"cos {backbone[e]:.2f}" for e in default], padding=2, fontsize=9)
    middle.set(ylabel="nearest emotion, % of texts", title="… and has a “default” emotion", ylim=(0, 118))
    tables = [t for t in board.tables if any(r.model == _ZERO for r in t.rows)]
    for y, table in enumerate(tables):
        t = next(r.estimate for r in table.rows if r.model == _ZERO)
        right.text(-0.02, y, table.estimand.title, ha="right", va="center", transform=right.get_yaxis_transform())
        if t.valid:
            verdict = "significant" if t.significant else "no effect found"
            text, colour = (
                f"{t.estimate:+.2f} [{t.low:+.2f}, {t.high:+.2f}]: {verdict}".replace("-", "−"),
                INK,
            )
        else:
            text, colour = "invalid: there is nothing to measure", INVALID
        right.text(0.02, y, text, ha="left", va="center", color=colour, transform=right.get_yaxis_transform())
    right.set(title="Corrected: nothing", xticks=[], yticks=[], ylim=(len(tables) - 0.5, -0.5))
    for ax in (left, middle):
        sns.despine(ax=ax)
    sns.despine(ax=right, left=True, bottom=True)
    right.grid(False)
    figure.suptitle("A model with no emotion at all (phantom/zero-emotion)", fontsize=13)
    figure.tight_layout(w_pad=2)
    return figure


def _finish(ax: Any, x: str, y: str, title: str) -> None:
    """The null as a line, labels, and the legend beside the axes."""
    ax.axhline(0, color="black", lw=1, ls=":")
    ax.set(xlabel=x, ylabel=y, title=title)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)


def _lines(ax: Any, rows: list[Row]) -> Iterator[Callable[..., None]]:
    """For each model a function that draws its line (x, y, low, high) with a band, in its own colour and marker."""
    for i, (row, colour) in enumerate(zip(rows, _colours(len(rows)), strict=True)):

        def line(x: Any, y: Any, low: Any, high: Any, i: int = i, colour: Any = colour, name: str = row.model) -> None:
            ax.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
            ax.plot(x, y, marker=_MARKERS[i % len(_MARKERS)], ms=5, lw=1.6, color=colour, label=_short(name))

        yield line


def _colours(n: int) -> list[Any]:
    base = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000"]
    return base[:n] if n <= len(base) else list(sns.color_palette("viridis", n))


def _short(name: str) -> str:
    """A name as plain text for matplotlib: cut to a readable length, no formula, never hidden from a legend."""
    short = name if len(name) <= 28 else name[:27] + "…"
    return short.replace("$", r"\$").replace("_", "\u2009_", 1) if short.startswith("_") else short.replace("$", r"\$")


def _ranked_tables(board: Leaderboard) -> list[TraitTable]:
    return [t for t in board.tables if any(r.rank is not None for r in t.rows)]


def _rows_of(board: Leaderboard, trait: str) -> list[Row]:
    return next((list(t.rows) for t in board.tables if t.estimand.name == trait), [])


def _profiled(board: Leaderboard) -> list[Row]:
    return [r for r in _rows_of(board, "separability") if r.estimate.details.get("profile")]


def _with_curves(board: Leaderboard) -> list[Row]:
    return [r for r in _rows_of(board, "tail_retention") if r.rank is not None and r.estimate.details.get("curve")]


def _zero_emotion(board: Leaderboard) -> dict[str, ResultCard]:
    """The results by design of the phantom without emotion; empty where the figure would lack a panel."""
    mine = {r.design: r for r in board.results if r.model["name"] == _ZERO}
    complete = {"circumplex", "retention"} <= set(mine) and bool(mine["retention"].raw.get("fading"))
    return mine if complete else {}


Available = Callable[["Leaderboard"], object]
Draw = Callable[["Leaderboard"], Figure]
#: Name -> title, whether the results allow it (truthy), how it is drawn.
FIGURES: dict[str, tuple[str, Available, Draw]] = {
    "controls": ("Why controls matter: a model without emotion, raw and corrected", _zero_emotion, controls),
    "forest": ("Estimates with 95 % intervals by trait", _ranked_tables, forest),
    "layer-profile": ("Separability by relative depth", _profiled, layer_profile),
    "retention": ("Retention of an opening's mood", _with_curves, retention_curves),
}
