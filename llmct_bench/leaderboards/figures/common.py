"""What the figures share: names, colours, and how many models one shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.plotting import INK, characters, tighten

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row, TraitTable

T = TypeVar("T")
Interval = tuple[float, float, float]
#: More models than `MOST` are no figure but a table: of them, `SOME` are drawn.
MOST, SOME = 32, 12
MARKERS = "osD^vP*Xhd<>p8"


def thinned(items: Sequence[T], most: int = MOST) -> list[T]:
    """All of them, or of more than ``most`` `SOME`, the first and the last included, at even distances."""
    n = len(items)
    return list(items) if n <= most else [items[round(i * (n - 1) / (SOME - 1))] for i in range(SOME)]


def short(name: str, most: int = 28) -> str:
    """A name as plain text for matplotlib: cut in its middle to a readable length, as names that begin alike often end
    differently; no formula, never hidden from a legend."""
    shown = characters(" ".join(name.split()) or name)
    if sum(map(len, shown)) > most:
        head, tail = _fitting(shown, most // 3), _fitting(shown[::-1], most - 1 - most // 3)
        shown = [*head, "…", *tail[::-1]]
    text = "".join(shown)
    return "\u2009" + text if text.startswith("_") else text


def _fitting(parts: Sequence[str], room: int) -> list[str]:
    """The first parts, as many as have room."""
    ends = accumulate(map(len, parts))
    return [part for part, end in zip(parts, ends, strict=True) if end <= room]


def ranked_tables(board: Leaderboard) -> list[TraitTable]:
    """The tables that rank a model."""
    return [t for t in board.tables if any(r.rank is not None for r in t.rows)]


def titles(tables: Sequence[TraitTable]) -> list[str]:
    """What the panels of tables are called: by the trait, with its suite where a trait was measured on several."""
    names = [t.estimand.title for t in tables]
    return [f"{n}\n{short(t.suite)}" if names.count(n) > 1 else n for n, t in zip(names, tables, strict=True)]


def rows_of(board: Leaderboard, trait: str) -> list[Row]:
    """The rows of a trait on the suite that most models have, of several the one with the shortest name."""
    tables = [t for t in board.tables if t.estimand.name == trait]
    return list(min(tables, key=lambda t: (-len(t.rows), len(t.suite), t.suite)).rows) if tables else []


def panels(n: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Any]]:
    """A figure with ``n`` axes of the given size in inches, at most ``columns`` beside each other."""
    columns = min(columns, n)
    lines = math.ceil(n / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns + 1.2, height * lines), squeeze=False, **shared
    )
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    for ax in axes.flat:
        ax.yaxis.set_label_coords(0, 0.5)  # no axis here has a label; without a place one is sought in every drawing
    return figure, list(axes.flat[:n])


def legend_below(figure: Figure, columns: int = 4) -> None:
    """One legend for all axes, every label once."""
    found: dict[str, Any] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        found.update(zip(labels, handles, strict=True))
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}
    figure.legend(found.values(), found.keys(), ncols=columns, frameon=False, **place)
    tighten(figure)


def finish(ax: Any, x: str, y: str, title: str) -> None:
    """The null as a line, labels, and the legend beside the axes."""
    ax.axhline(0, color="black", lw=1, ls=":")
    ax.set(xlabel=x, ylabel=y, title=title)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)


def lines(ax: Any, rows: list[Row], style: str = "-") -> Iterator[tuple[Row, Any, Callable[..., None]]]:
    """Each model with its colour and a function that draws its line (x, y, low, high) with a band, in that colour and a
    marker of its own."""
    for i, (row, colour) in enumerate(zip(rows, colours(len(rows)), strict=True)):

        def line(x: Any, y: Any, low: Any, high: Any, i: int = i, colour: Any = colour, name: str = row.model) -> None:
            ax.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
            marker = MARKERS[i % len(MARKERS)]
            ax.plot(x, y, ls=style, marker=marker, ms=5, lw=1.6, color=colour, label=short(name))

        yield row, colour, line


def intervals(ax: Any, y: Sequence[float], estimates: Sequence[Interval], colour: str = INK) -> None:
    """Horizontal intervals (low, high, estimate) at heights ``y``; an endless one ends far outside of the axes."""
    ends = [[min(max(v, middle - 1e6), middle + 1e6) for v in (low, high)] for low, high, middle in estimates]
    if ends:
        ax.hlines(y, *zip(*ends, strict=True), colors=colour, lw=2, zorder=2)


def colours(n: int) -> list[Any]:
    """One colour a model: Okabe and Ito's for up to seven."""
    base = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000"]
    return base[:n] if n <= len(base) else list(sns.color_palette("viridis", n))
