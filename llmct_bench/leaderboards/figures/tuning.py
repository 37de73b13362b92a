"""What tuning changed: arrows from base models to the models that were made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.leaderboards.figures.common import (
    SOME,
    intervals,
    legend_below,
    panels,
    ranked_tables,
    short,
    thinned,
    titles,
)
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
    pairs = thinned(tuning_pairs(board), SOME)
    tables = [t for t in ranked_tables(board) if any(_holds(t, p) for p in pairs)]
    figure, axes = panels(len(tables), 4, 3.1, 0.42 * len(pairs) + 1.4, sharey=True)
    for ax, table, title in zip(axes, tables, titles(tables), strict=True):
        if table.estimand.name != "half_life":
            ax.axvline(table.estimand.null, color="black", lw=1, ls=":")
        found = {r.model: r.estimate for r in table.rows}
        held = [(y, found[base], found[tuned]) for y, (base, tuned) in enumerate(pairs) if _holds(table, (base, tuned))]
        for k, (marker, colour, label) in enumerate((("o", INVALID, "base"), ("s", INK, "tuned"))):
            at, estimates = [y + 0.28 * (k - 0.5) for y, *_ in held], [own[k] for _, *own in held]
            intervals(ax, at, [(t.low, t.high, t.estimate) for t in estimates], colour)
            values = [t.estimate for t in estimates]
            ax.plot(values, at, marker, color=colour, ms=5, ls="", label=f"{label}, 95 % interval")
        x = np.array([[base.estimate, tuned.estimate - base.estimate] for _, base, tuned in held]).T
        tail = [y - 0.14 for y, *_ in held]
        style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.01, "units": "inches"}
        tip = {"headwidth": 9, "headlength": 9, "headaxislength": 8}
        ax.quiver(x[0], tail, x[1], [0.28] * len(tail), color="black", zorder=4, **style, **tip)
        ax.set(title=title, xlabel=table.estimand.unit)
        ax.tick_params(axis="y", labelsize=8)
        sns.despine(ax=ax, left=True)
    axes[0].set_yticks(range(len(pairs)), [f"{short(a, 22)} →\n{short(b, 22)}" for a, b in pairs])
    axes[0].set_ylim(len(pairs) - 0.5, -0.5)
    legend_below(figure)
    return figure


def _holds(table: TraitTable, pair: Pair) -> bool:
    return set(pair) <= {r.model for r in table.rows if r.rank is not None}
