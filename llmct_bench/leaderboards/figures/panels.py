"""One panel a trait: estimates with intervals, and ranks with intervals and ties."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.leaderboards.figures.common import (
    MOST,
    interval,
    legend_below,
    panels,
    ranked_tables,
    short,
    thinned,
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
    for ax, table in zip(axes, tables, strict=True):
        _forest_panel(ax, table, names)
    legend_below(figure)
    return figure


def _forest_panel(ax: Any, table: TraitTable, names: list[str]) -> None:
    if table.estimand.name != "half_life":  # its null, no decay, lies where intervals are cut
        ax.axvline(table.estimand.null, color="black", lw=1, ls=":")
    places = {name: y for y, name in enumerate(names)}
    for row in table.rows:
        t, y = row.estimate, places.get(row.model)
        if y is None:
            continue
        if row.rank is None:
            place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
            ax.text(0.98, y, "invalid", color=INVALID, **place)
            continue
        interval(ax, t.low, t.high, y, t.estimate)
        ax.plot(t.estimate, y, "o", color=INK, ms=5, zorder=3, label="estimate, 95 % interval")
        if row.truth is not None:
            ax.plot(row.truth, y, "D", mfc="none", mec=PLANTED, ms=7, mew=1.5, zorder=4, label="planted")
    ax.set_yticks(range(len(names)), [short(n) for n in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_title(table.estimand.title)
    ax.set_xlabel(table.estimand.unit)
    sns.despine(ax=ax, left=True)


def told_apart(board: Leaderboard) -> list[str]:
    """The models of the tables that give rank intervals."""
    return sorted({r.model for t in _with_intervals(board) for r in t.rows if r.rank is not None})


def ranks(board: Leaderboard) -> Figure:
    """One panel a trait: each model's rank with its interval; a bar at the right joins models that do not differ
    significantly (as in the critical difference diagrams of Demšar 2006, from paired tests)."""
    tables = _with_intervals(board)
    most = min(max(sum(r.rank is not None for r in t.rows) for t in tables), MOST)
    figure, axes = panels(len(tables), 3, 4.6, 0.25 * most + 1.3)
    for ax, table in zip(axes, tables, strict=True):
        _rank_panel(ax, table)
    legend_below(figure)
    return figure


def _rank_panel(ax: Any, table: TraitTable) -> None:
    ranked = [r for r in table.rows if r.rank is not None]
    shown = thinned(ranked)
    for y, row in enumerate(shown):
        ax.plot([row.rank_low, row.rank_high], [y, y], color=INK, lw=2, solid_capstyle="round", zorder=2)
        ax.plot(row.rank, y, "o", color=INK, ms=5, zorder=3, label="rank, 95 % interval")
    if len(shown) == len(ranked):
        bars = [c for c in table.cliques if len(c) > 1][:_BARS]
        step = 0.04 * len(ranked)
        for k, members in enumerate(bars):
            x = len(ranked) + 0.5 + step * (k + 1)
            ax.plot([x, x], [members[0], members[-1]], color=PLANTED, lw=2, label="do not differ significantly")
            ax.plot([x] * len(members), members, ".", color=PLANTED, ms=6)
    ax.set_yticks(range(len(shown)), [short(r.model, 22) for r in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlim(left=0.5)
    ax.set_xticks(range(1, len(ranked) + 1, math.ceil(len(ranked) / 12)))
    ax.set(title=table.estimand.title, xlabel="rank")
    sns.despine(ax=ax, left=True)


def _with_intervals(board: Leaderboard) -> list[TraitTable]:
    return [t for t in board.tables if any(r.rank_low is not None for r in t.rows)]
