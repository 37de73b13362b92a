"""What tuning changed: arrows from base models to the models that were made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.leaderboards.figures.common import interval, legend_below, panels, ranked_tables, short, thinned
from llmct_bench.plotting import INK, INVALID
from llmct_bench.results import labels

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, TraitTable

Pair = tuple[str, str]


def tuning_pairs(board: Leaderboard) -> list[Pair]:
    """(base, tuned) by name, for models that name another model of the leaderboard as the one they were tuned from and
    share a valid trait with it."""
    names = labels(board.results)
    by_model: dict[str, set[str]] = {}
    for (model, _), label in names.items():
        by_model.setdefault(model, set()).add(label)
    pairs = {
        (base, names[r.model["name"], r.commit])
        for r in board.results
        for base in by_model.get(str(r.model.get("tuned_from") or ""), ())
    }
    return sorted(p for p in pairs if any(_holds(t, p) for t in ranked_tables(board)))


def tuning(board: Leaderboard) -> Figure:
    """One panel a trait: an arrow from the base model's estimate to the tuned model's, with both intervals."""
    pairs = thinned(tuning_pairs(board))
    tables = [t for t in ranked_tables(board) if any(_holds(t, p) for p in pairs)]
    figure, axes = panels(len(tables), 4, 3.1, 0.42 * len(pairs) + 1.4, sharey=True)
    for ax, table in zip(axes, tables, strict=True):
        if table.estimand.name != "half_life":
            ax.axvline(table.estimand.null, color="black", lw=1, ls=":")
        found = {r.model: r.estimate for r in table.rows}
        for y, pair in enumerate(pairs):
            if not _holds(table, pair):
                continue
            base, tuned = (found[name] for name in pair)
            interval(ax, base.low, base.high, y - 0.14, base.estimate, INVALID)
            interval(ax, tuned.low, tuned.high, y + 0.14, tuned.estimate)
            ax.plot(base.estimate, y - 0.14, "o", color=INVALID, ms=5, label="base, 95 % interval")
            ax.plot(tuned.estimate, y + 0.14, "s", color=INK, ms=5, label="tuned, 95 % interval")
            tips = {"xytext": (base.estimate, y - 0.14), "xy": (tuned.estimate, y + 0.14)}
            ax.annotate("", **tips, arrowprops={"arrowstyle": "->", "color": "black", "shrinkA": 3, "shrinkB": 3})
        ax.set_yticks(range(len(pairs)), [f"{short(a, 22)} →\n{short(b, 22)}" for a, b in pairs], fontsize=8)
        ax.set_ylim(len(pairs) - 0.5, -0.5)
        ax.set(title=table.estimand.title, xlabel=table.estimand.unit)
        sns.despine(ax=ax, left=True)
    legend_below(figure)
    return figure


def _holds(table: TraitTable, pair: Pair) -> bool:
    return set(pair) <= {r.model for r in table.rows if r.rank is not None}
