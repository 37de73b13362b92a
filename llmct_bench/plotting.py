"""How figures look and how they are written: the same bytes for the same numbers.

The font is the one that matplotlib brings along. What it lacks is drawn with an installed font that has it, and where
there is none, written by its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.layout_engine import TightLayoutEngine

from llmct_bench.errors import ResultError

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
INK, PLANTED, INVALID = "#0072B2", "#D55E00", "#888888"
EMOTION_COLOURS = {"joy": "#E69F00", "anger": "#D55E00", "sadness": "#0072B2", "calm": "#009E73"}
_FONT = "DejaVu Sans"
#: No character: a font that has it has a box for everything.
_NOTHING = 0xFDD0
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "llmct_bench",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titley": 1.0,  # as it is without ticks above; otherwise every drawing looks for some
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.unicode_minus": True,
}


@contextmanager
def drawing(folder: Path, texts: Iterable[str] = ()) -> Iterator[None]:
    """The house's style, in a folder that exists, with fonts for ``texts``. Raises ResultError when the disk refuses;
    leaves no figure open."""
    style = {**_STYLE, "font.family": _families(frozenset().union(*texts))}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(cast(Any, style)), sns.axes_style("whitegrid", style):
            yield
    except OSError as error:
        raise ResultError(f"cannot write figures to {folder}: {error.strerror or error}") from error
    finally:
        plt.close("all")


def characters(text: str) -> list[str]:
    """What stands in a figure for each character of a text: itself, where the fonts in use have it, and otherwise its
    number (``\\u4e2d``), so that no two texts look the same. Nothing in it acts as a formula."""
    shown = {"$": r"\$", "\\": r"\\"}
    known = _known(tuple(mpl.rcParams["font.family"]))
    return [shown.get(c, c) if c in shown or (c.isprintable() and ord(c) in known) else _number(c) for c in text]


def tighten(figure: Figure, w_pad: float | None = None) -> None:
    """Move the axes of a figure apart until their texts do not touch, once: `Figure.tight_layout` would have every
    drawing do it again. ``w_pad``: space between columns in font sizes."""
    TightLayoutEngine(w_pad=w_pad).execute(figure)


def save(figure: Figure, folder: Path, name: str, kinds: Iterable[str] = (".svg", ".png")) -> list[Path]:
    """Write a figure as SVG and PNG, or as one of them, without dates, and close it."""
    written = []
    frame = figure.get_tightbbox().padded(0.1)  # inches; once for both, as that takes as long as a drawing
    for suffix in kinds:
        metadata = {".svg": {"Date": None}, ".png": {"Software": None}}[suffix]
        path = folder / f"{name}{suffix}"
        figure.savefig(path, dpi=150, metadata=metadata, bbox_inches=frame)
        written.append(path)
    plt.close(figure)
    return written


def _number(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _families(wanted: frozenset[str]) -> list[str]:
    """The house's font and, for characters that it lacks, upright installed fonts that have them: those without serifs
    before others, then by name."""
    families = [_FONT]
    missing = {ord(c) for c in wanted if c.isprintable()} - _known((_FONT,))
    if missing:
        fonts = {f.name for f in font_manager.fontManager.ttflist if f.style == "normal" and f.weight == 400}
        for name in sorted(fonts, key=lambda f: ("Sans" not in f, f)):
            found = missing & _known((name,))
            if found and _NOTHING not in _known((name,)):
                missing -= found
                families.append(name)
    return families


@lru_cache(maxsize=512)
def _known(families: tuple[str, ...]) -> frozenset[int]:
    """The code points that at least one of these fonts has."""
    paths = (font_manager.findfont(font_manager.FontProperties(family=[name])) for name in families)
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in paths))
