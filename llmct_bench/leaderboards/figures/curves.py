"""One line a model: separability over depth, retention over lags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from llmct_bench.leaderboards.figures.common import finish, lines, rows_of, thinned
from llmct_bench.stats import fit_half_life

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row


def profiled(board: Leaderboard) -> list[Row]:
    """The models whose separability was taken at every point."""
    return [r for r in rows_of(board, "separability") if r.estimate.details.get("profile")]


def layer_profile(board: Leaderboard) -> Figure:
    """Separability by relative depth, one line a model, with the interval of each point."""
    figure, ax = plt.subplots(figsize=(7.5, 4.2))
    for row, _, line in lines(ax, thinned(profiled(board))):
        profile = np.array(row.estimate.details["profile"], dtype=float)  # None becomes NaN
        line(np.linspace(0, 1, len(profile)), *profile.T)
    finish(ax, "relative depth", "separability d² (null 0)", "Where the emotions come apart")
    return figure


def with_curves(board: Leaderboard) -> list[Row]:
    """The models of which a retention curve is known."""
    return [r for r in rows_of(board, "tail_retention") if r.rank is not None and r.estimate.details.get("curve")]


def retention_curves(board: Leaderboard) -> Figure:
    """What is left of an opening's mood by lag, as a share of the first reading, with the interval of each lag, and the
    exponential whose half-life is reported (where that is valid), from lag 1 on."""
    decaying = {r.model for r in rows_of(board, "half_life") if r.rank is not None}
    figure, ax = plt.subplots(figsize=(7.5, 4.2))
    for row, colour, line in lines(ax, thinned(with_curves(board)), style="none"):
        curve = np.array(row.estimate.details["curve"], dtype=float)
        scale = curve[0, 1]
        curve[0, 2:] = np.nan  # lag 0 is the unit and has no error
        line(curve[:, 0], *(curve[:, 1:] / scale).T)
        memory = curve[curve[:, 0] >= 1]
        if row.model in decaying and len(memory):
            fit = fit_half_life(memory[:, 0], memory[:, 1])
            lags = np.linspace(1, memory[-1, 0], 100)
            ax.plot(lags, fit.amplitude / scale * np.exp2(-lags / fit.half_life), color=colour, lw=1.6)
    if decaying:
        ax.plot([], [], color="black", lw=1.6, label="fitted half-life")
    finish(ax, "exchanges since the opening", "y(k) / y(0)", "How long the mood of an opening stays")
    return figure
