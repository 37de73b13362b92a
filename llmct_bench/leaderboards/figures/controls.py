"""Why controls matter: raw and corrected readings of a model without emotion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.plotting import EMOTION_COLOURS, INK, INVALID, tighten
from llmct_bench.results import ResultCard

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard

ZERO = "phantom/zero-emotion"


def zero_emotion(board: Leaderboard) -> dict[str, ResultCard]:
    """The results by design of the phantom without emotion; empty where the figure would lack a panel."""
    mine = {r.design: r for r in board.results if r.model["name"] == ZERO}
    complete = {"circumplex", "retention"} <= set(mine) and bool(mine["retention"].raw.get("fading"))
    return mine if complete else {}


def controls(board: Leaderboard) -> Figure:
    """Why controls matter: a model without emotion, read raw and read corrected."""
    mine = zero_emotion(board)
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
    tables = [t for t in board.tables if t.estimand.ranked and any(r.model == ZERO for r in t.rows)]
    for y, table in enumerate(tables):
        t = next(r.estimate for r in table.rows if r.model == ZERO)
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
    right.set(title="Corrected", xticks=[], yticks=[], ylim=(len(tables) - 0.5, -0.5))
    for ax in (left, middle):
        sns.despine(ax=ax)
    sns.despine(ax=right, left=True, bottom=True)
    right.grid(False)
    figure.suptitle("A model with no emotion at all (phantom/zero-emotion)", fontsize=13)
    tighten(figure, w_pad=2)
    return figure
