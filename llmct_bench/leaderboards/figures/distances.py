"""Which emotions lie how far apart inside each model: representational dissimilarity matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from llmct_bench.leaderboards.figures.common import panels, rows_of, short, thinned
from llmct_bench.plotting import tighten

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row

#: From dark to light in luminance as well: readable without colour, and for colour-blind readers.
_COLOURS = "cividis"
#: Numbers are written into the maps of up to so many emotions.
_WRITTEN = 6
#: So many cells stand beside each other, in at most six maps.
_WIDTH = 36


def located(board: Leaderboard) -> list[Row]:
    """The models whose distances between emotions are known, by name. They need not be arranged as by design."""
    return sorted((r for r in rows_of(board, "circumplex_geometry") if _matrix(r) is not None), key=lambda r: r.model)


def emotion_distances(board: Leaderboard) -> Figure:
    """One heat map a model: distances between the emotions in noise SD, the root of the crossnobis distance, negative
    ones (no distance beyond noise) as 0. One colour scale for all."""
    found = [(row, m) for row in thinned(located(board)) if (m := _matrix(row)) is not None]
    most = max(float(m.max()) for _, m in found) or 1.0
    size = max(len(m) for _, m in found)
    columns = min(6, max(1, _WIDTH // size))
    figure, axes = panels(len(found), columns, 0.55 + 0.29 * size, 0.55 + 0.29 * size)
    for i, (ax, (row, m)) in enumerate(zip(axes, found, strict=True)):
        emotions = row.estimate.details["emotions"]
        image = ax.imshow(np.where(np.eye(len(m), dtype=bool), np.nan, m), cmap=_COLOURS, vmin=0.0, vmax=most)
        if len(m) <= _WRITTEN:
            _numbers(ax, m, most)
        ax.set_title(short(row.model, 22), fontsize=8.5)
        names, nothing = [short(e) for e in emotions], [""] * len(m)
        below, left = i + columns >= len(found), i % columns == 0
        ax.set_xticks(range(len(m)), names if below else nothing, rotation=90, fontsize=8)
        ax.set_yticks(range(len(m)), names if left else nothing, fontsize=8)
        ax.tick_params(length=0)
        ax.grid(False)
        for side in ax.spines.values():
            side.set_visible(False)
    tighten(figure)
    width, height = figure.get_size_inches()
    scale = figure.add_axes((0.5 - 1.5 / width, -0.2 / height, 3 / width, 0.12 / height))
    figure.colorbar(image, cax=scale, orientation="horizontal", label="distance between two emotions (noise SD)")
    return figure


def _numbers(ax: Any, m: NDArray[np.float64], most: float) -> None:
    """The distances as text, dark on light colours and light on dark ones."""
    for i, j in zip(*np.nonzero(~np.eye(len(m), dtype=bool)), strict=True):
        red, green, blue, _ = mpl.colormaps[_COLOURS](m[i, j] / most)
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5}
        ax.text(j, i, f"{m[i, j]:.1f}" if m[i, j] < 10 else f"{m[i, j]:.0f}", color="k" if dark else "w", **place)


def _matrix(row: Row) -> NDArray[np.float64] | None:
    """Distances (n_emotions, n_emotions); None where they are not known."""
    squares = np.array(row.estimate.details.get("distances", []), dtype=np.float64)
    emotions = row.estimate.details.get("emotions", [])
    if squares.shape != (len(emotions),) * 2 or len(emotions) < 2 or not np.isfinite(squares).all():
        return None
    return np.sqrt(np.maximum(squares, 0.0))
