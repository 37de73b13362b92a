"""Where the models rest in the plane of valence and arousal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.emotions import EMOTIONS
from llmct_bench.leaderboards.figures.common import lines, rows_of, thinned
from llmct_bench.plotting import EMOTION_COLOURS, INVALID

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row

#: The mean of the designed intensities 1 to 3: where the means of the emotions lie by design.
_MEAN = 2.0


def resting(board: Leaderboard) -> list[Row]:
    """The models whose resting state is known along both dimensions."""
    return [r for r in rows_of(board, "neutral_offset") if r.estimate.valid and _place(r) is not None]


def circumplex_plane(board: Leaderboard) -> Figure:
    """The places of the emotions by design, and where neutral text lies in each model, with 95 % intervals along both
    dimensions, in steps of designed intensity. Intervals are cut at the frame."""
    rows = thinned(resting(board))
    places = [p for p in map(_place, rows) if p is not None]
    size = max([3.0, *(abs(v[0]) + 0.5 for p in places for v in p)])
    figure, ax = plt.subplots(figsize=(6.4, 6.0))
    ax.axhline(0, color="black", lw=1, ls=":")
    ax.axvline(0, color="black", lw=1, ls=":")
    for e in EMOTIONS:
        corner = (_MEAN * e.valence, _MEAN * e.arousal)
        ax.plot(*corner, "s", mfc="none", mec=EMOTION_COLOURS[e.name], mew=2.5, ms=13, label="_" + e.name)
        ax.annotate(e.name, corner, (0, 11), textcoords="offset points", ha="center", va="bottom")
    for (_, colour, line), (x, y) in zip(lines(ax, rows, "none"), places, strict=True):
        ax.plot([_inside(v, size) for v in x[1:]], [y[0]] * 2, color=colour, lw=1.2, zorder=3)
        ax.plot([x[0]] * 2, [_inside(v, size) for v in y[1:]], color=colour, lw=1.2, zorder=3)
        line([x[0]], [y[0]], [math.nan], [math.nan])
    ax.set(xlim=(-size, size), ylim=(-size, size), aspect="equal", xlabel="valence (intensity steps)")
    ax.set(ylabel="arousal (intensity steps)", title="Where neutral text rests")
    columns: dict[str, Any] = {"ncols": 1 + (len(rows) - 1) // 16, "title": "neutral text, 95 % intervals"}
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), **columns)
    note = "squares: emotions by design; intervals are cut at the frame"
    ax.text(0.01, 0.01, note, color=INVALID, transform=ax.transAxes, fontsize=8)
    sns.despine(ax=ax)
    return figure


def _place(row: Row) -> tuple[list[float], list[float]] | None:
    """Valence and arousal, each with its interval (an endless end stays endless); None where there is no number."""
    found = row.estimate.details.get("resting", {})
    x, y = ([float("nan") if v is None else float(v) for v in found.get(k, [None])] for k in ("valence", "arousal"))
    return (x, y) if math.isfinite(x[0]) and math.isfinite(y[0]) else None


def _inside(value: float, size: float) -> float:
    return min(max(value, -size), size)
