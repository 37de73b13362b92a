"""One panel a trait: estimates with intervals, and ranks with intervals and ties."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.leaderboards.figures.common import (
    intervals,
    legend_below,
    panels,
    ranked_tables,
    short,
    thinned,
    titles,
)
from llmct_bench.plotting import INK, INVALID, PLANTED

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, TraitTable

#: So many bars are drawn beside the ranks of a trait.
_BARS = 10


def ranked_models(board: Leaderboard) -> list[str]:
    """The models of all tables that rank one, by name."""
    return sorted({r.model for t in ranked_tables(board) for r in t.rows})


def forest(board: Leaderboard) -> Figure:
    """One panel a trait: estimates with 95 % intervals, planted values where they are known, the null as a line."""
    tables, names = ranked_tables(board), thinned(ranked_models(board))
    figure, axes = panels(len(tables), 4, 3.1, 0.27 * len(names) + 1.3, sharey=True)
    for ax, table, title in zip(axes, tables, titles(tables), strict=True):
        _forest_panel(ax, table, names)
        ax.set_title(title)
    axes[0].set_yticks(range(len(names)), [short(n) for n in names])  # shared, as the panels' places are
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    legend_below(figure)
    return figure


def _forest_panel(ax: Any, table: TraitTable, names: list[str]) -> None:
    if table.estimand.name != "half_life":  # its null, no decay, lies where intervals are cut
        ax.axvline(table.estimand.null, color="black", lw=1, ls=":")
    places = {name: y for y, name in enumerate(names)}
    shown = [(places[r.model], r) for r in table.rows if r.model in places]
    for y in (y for y, row in shown if row.rank is None):
        place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
        ax.text(0.98, y, "invalid", color=INVALID, **place)
    ranked = [(y, r.estimate) for y, r in shown if r.rank is not None]
    at = [y for y, _ in ranked]
    intervals(ax, at, [(t.low, t.high, t.estimate) for _, t in ranked])
    ax.plot([t.estimate for _, t in ranked], at, "o", color=INK, ms=5, zorder=3, label="estimate, 95 % interval")
    planted = [(r.truth, y) for y, r in shown if r.rank is not None and r.truth is not None]
    if planted:
        style: dict[str, Any] = {"mfc": "none", "mec": PLANTED, "ms": 7, "mew": 1.5, "zorder": 4}
        ax.plot(*zip(*planted, strict=True), "D", label="planted", **style)
    ax.set_xlabel(table.estimand.unit)
    sns.despine(ax=ax, left=True)


def told_apart(board: Leaderboard) -> list[str]:
    """The models of the tables that give rank intervals."""
    return sorted({r.model for t in _with_intervals(board) for r in t.rows if r.rank is not None})


def ranks(board: Leaderboard) -> Figure:
    """One panel a trait: each model's rank with its interval; a bar at the right joins models that do not differ
    significantly (as in the critical difference diagrams of Demšar 2006, from paired tests)."""
    tables = _with_intervals(board)
    most = max(len(thinned([r for r in t.rows if r.rank is not None])) for t in tables)
    figure, axes = panels(len(tables), 3, 4.6, 0.25 * most + 1.3)
    for ax, table, title in zip(axes, tables, titles(tables), strict=True):
        _rank_panel(ax, table, title)
    legend_below(figure)
    return figure


def _rank_panel(ax: Any, table: TraitTable, title: str) -> None:
    ranked = [r for r in table.rows if r.rank is not None]
    shown = thinned(ranked)
    places = range(len(shown))
    ends = zip(*((r.rank_low, r.rank_high) for r in shown), strict=True)
    ax.hlines(places, *ends, colors=INK, lw=2, capstyle="round", zorder=2)
    ax.plot([r.rank for r in shown], places, "o", color=INK, ms=5, zorder=3, label="rank, 95 % interval")
    if len(shown) == len(ranked):
        bars = [c for c in table.cliques if len(c) > 1][:_BARS]
        step = 0.04 * len(ranked)
        for k, members in enumerate(bars):
            x = len(ranked) + 0.5 + step * (k + 1)
            ax.plot([x, x], [members[0], members[-1]], color=PLANTED, lw=2, label="do not differ significantly")
            ax.plot([x] * len(members), members, ".", color=PLANTED, ms=6)
    ax.set_yticks(places, [short(r.model, 22) for r in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlim(left=0.5)
    ax.set_xticks(range(1, len(ranked) + 1, math.ceil(len(ranked) / (12 if len(ranked) < 100 else 6))))
    ax.set(title=title, xlabel="rank")
    sns.despine(ax=ax, left=True)


def _with_intervals(board: Leaderboard) -> list[TraitTable]:
    return [t for t in board.tables if any(r.rank_low is not None for r in t.rows)]
