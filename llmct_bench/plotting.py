"""How figures look and how they are written: the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.errors import ResultError

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
INK, PLANTED, INVALID = "#0072B2", "#D55E00", "#888888"
EMOTION_COLOURS = {"joy": "#E69F00", "anger": "#D55E00", "sadness": "#0072B2", "calm": "#009E73"}
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "llmct_bench",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.titlesize": 11,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.unicode_minus": True,
}


@contextmanager
def drawing(folder: Path) -> Iterator[None]:
    """The house's style, in a folder that exists. Raises ResultError when the disk refuses; leaves no figure open."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(cast(Any, _STYLE)), sns.axes_style("whitegrid", _STYLE):
            yield
    except OSError as error:
        raise ResultError(f"cannot write figures to {folder}: {error.strerror or error}") from error
    finally:
        plt.close("all")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as SVG and PNG, without dates, and close it."""
    written = []
    for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
        path = folder / f"{name}{suffix}"
        figure.savefig(path, dpi=150, metadata=metadata, bbox_inches="tight")
        written.append(path)
    plt.close(figure)
    return written
