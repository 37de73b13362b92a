"""How strongly a shock moves each model after calm, neutral and arousing contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.leaderboards.figures.common import intervals, legend_below, rows_of, short, thinned
from llmct_bench.plotting import EMOTION_COLOURS

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row

#: Context -> colour, marker. Only calm is one of the emotions; the others keep away from the emotions' colours.
_CONTEXTS = {
    "neutral": ("#000000", "o"),
    "calm": (EMOTION_COLOURS["calm"], "D"),
    "positive": ("#CC79A7", "^"),
    "negative": ("#56B4E9", "v"),
}


def responded(board: Leaderboard) -> list[Row]:
    """The models whose responses to a shock are valid."""
    rows = rows_of(board, "shock_absorption")
    return [r for r in rows if r.rank is not None and r.estimate.details.get("responses")]


def shock_responses(board: Leaderboard) -> Figure:
    """Response to the same shock by context with 95 % intervals, one line a model."""
    rows = thinned(responded(board))
    figure, ax = plt.subplots(figsize=(8.2, 0.5 * len(rows) + 1.4))
    ax.axvline(0, color="black", lw=1, ls=":")
    for k, (context, (colour, marker)) in enumerate(_CONTEXTS.items()):
        found = [(y + 0.17 * (k - 1.5), r.estimate.details["responses"].get(context)) for y, r in enumerate(rows)]
        known = [(y, *map(float, response)) for y, response in found if response is not None and None not in response]
        at, values = [y for y, *_ in known], [value for _, value, *_ in known]
        intervals(ax, at, [(low, high, value) for _, value, low, high in known], colour)
        if known:
            ax.plot(values, at, marker, color=colour, ms=5, ls="", zorder=3, label=f"after {context} contexts")
    ax.set_yticks(range(len(rows)), [short(r.model) for r in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set(xlabel="response to the shock, user's slot (neutral SD)", title="Does a calm conversation soften a shock?")
    sns.despine(ax=ax, left=True)
    legend_below(figure)
    return figure
