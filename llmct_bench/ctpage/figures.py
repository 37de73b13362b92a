"""Figures of a picture, drawn the same way from the same numbers. Texts of conversations are drawn as plain text, and
what the font lacks as a box."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle

from llmct_bench.ctpage.picture import Picture
from llmct_bench.plotting import EMOTION_COLOURS, INVALID, drawing, save

#: Blue over nothing to orange: told apart by colour-blind readers, and the middle is 0.
DIVERGING = LinearSegmentedColormap.from_list(
    "ct", ["#0b3c70", "#1c5fa6", "#7fa9d3", "#f4f2ef", "#eda36d", "#c8500a", "#7a2c00"]
)
#: The strip of tokens: columns and lines of text, and in inches its width, a line, and the room above and below.
_COLUMNS, _LINES = 96, 24
_WIDE, _LINE, _HEAD, _FOOT = 9.6, 0.3, 0.6, 0.75
_DARK = 2 / 3  # share of the scale from which ink is white
_ADVANCE = 0.602  # of a character of DejaVu Sans Mono, in units of its size
_INK, _LONG = "#1b1c1f", 40


def draw_all(picture: Picture, folder: Path) -> list[Path]:
    """Draw every figure that the picture allows, as SVG and PNG. Raises ResultError when the disk refuses."""
    written = []
    with drawing(folder), mpl.rc_context({"text.parse_math": False, "font.family": "DejaVu Sans"}):
        for name, (available, draw) in FIGURES.items():
            if available(picture):
                written += save(draw(picture), folder, name)
    return written


def heat_map(picture: Picture) -> Figure:
    """One panel an emotion: messages (across) by layers (up), corrected scores in neutral SD, 0 without a colour."""
    values, end = picture.corrected, picture.limits[0]
    count, points, _ = values.shape
    figure, axes = plt.subplots(2, 2, figsize=(11, 3.4 + 0.11 * min(points, 60)), sharex=True, sharey=True)
    for ax, emotion, panel in zip(axes.flat, picture.emotions, np.moveaxis(values, 2, 0), strict=True):
        image = ax.imshow(
            panel.T, origin="lower", aspect="auto", cmap=DIVERGING, norm=Normalize(-end, end), interpolation="nearest"
        )
        ax.axhline(picture.point, color=_INK, lw=0.8, ls=(0, (2, 3)))
        ax.plot(-0.5, picture.point, ">", color=_INK, ms=7, clip_on=False, zorder=5)
        ax.set_title(emotion)
        ax.grid(False)
        ax.set_xticks(_every(count, 20))
        ax.set_yticks(_every(points, 10))
    for ax in axes[:, 0]:
        ax.set_ylabel("layer")
    figure.suptitle(_headline(picture))
    figure.tight_layout(h_pad=1.2, w_pad=1.2)
    for ax in axes[1]:
        _stages(ax, picture)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.02, extend="both")
    bar.set_label(f"neutral SD{_minus(picture)}")
    bar.outline.set_visible(False)
    return figure


def trajectory(picture: Picture) -> Figure:
    """Scores by message at the chosen point, one panel an emotion: the conversation, and the neutral control beside
    it. The distance between the two is the corrected score."""
    own = picture.own[:, picture.point]
    control = None if picture.control is None else picture.control[:, picture.point]
    at = np.arange(len(own))
    figure, axes = plt.subplots(4, 1, figsize=(9, 8.2), sharex=True, sharey=True)
    for k, (ax, emotion) in enumerate(zip(axes, picture.emotions, strict=True)):
        colour = EMOTION_COLOURS[emotion]
        ax.axhline(0, color=_INK, lw=0.8)
        ax.plot(at, own[:, k], color=colour, lw=2, label="conversation")
        if control is not None:
            ax.plot(at, control[:, k], color=INVALID, lw=1.4, ls="--", label="neutral control", zorder=1.5)
            ax.fill_between(at, control[:, k], own[:, k], color=colour, alpha=0.16, lw=0)
        for role, face in (("user", "white"), ("assistant", colour)):
            here = [n for n, m in enumerate(picture.messages) if m.role == role]
            ax.plot(here, own[here, k], "o", ms=5.5, mfc=face, mec=colour, mew=1.6, label=role)
        ax.set_ylabel(f"{emotion}\nneutral SD")
        ax.grid(axis="x", visible=False)
        sns.despine(ax=ax)
    axes[-1].set_xticks(_every(len(own), 20))
    axes[-1].set_xlim(-0.6, len(own) - 0.4)
    _stages(axes[-1], picture)
    figure.suptitle(f"{_headline(picture)}, layer {picture.point}")
    figure.tight_layout()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=4, frameon=False, bbox_to_anchor=(0.5, 0))
    return figure


def raw_and_corrected(picture: Picture) -> Figure:
    """By message at the chosen point: the raw cosine with every reference state, and the corrected scores."""
    at = np.arange(len(picture.messages))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6))
    raw = picture.raw[:, picture.point]
    for k, label in enumerate(picture.labels):
        emotion, _, role = label.partition(".")
        known = emotion in EMOTION_COLOURS
        left.plot(
            at,
            raw[:, k],
            color=EMOTION_COLOURS.get(emotion, "#b9b9b9"),
            lw=1.8 if known else 0.9,
            ls="--" if role else "-",
            zorder=3 if known else 2,
        )
    left.set(title="Raw: cosine with each reference state", ylabel="cosine")
    left.ticklabel_format(axis="y", useOffset=False)
    right.axhline(0, color=_INK, lw=0.8)
    for k, emotion in enumerate(picture.emotions):
        right.plot(at, picture.corrected[:, picture.point, k], color=EMOTION_COLOURS[emotion], lw=2, label=emotion)
    right.set(title=f"Corrected: scores{_minus(picture)}", ylabel="neutral SD")
    if any(label.partition(".")[0] not in EMOTION_COLOURS for label in picture.labels):
        right.plot([], [], color="#b9b9b9", lw=0.9, label="further references")
    if any("." in label for label in picture.labels):
        right.plot([], [], color=_INK, lw=1.5, ls="--", label="reference said by the assistant")
    figure.suptitle(f"{_headline(picture)}, layer {picture.point}")
    for ax in (left, right):
        ax.set_xticks(_every(len(at), 20))
        ax.set_xlim(-0.6, len(at) - 0.4)
        ax.grid(axis="x", visible=False)
        _stages(ax, picture)
        sns.despine(ax=ax)
    figure.tight_layout(w_pad=2.5)
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=6, frameon=False, bbox_to_anchor=(0.5, 0))
    return figure


def tokens(picture: Picture) -> Figure:
    """The message whose tokens differ most at the chosen point, coloured by the emotion in which they do; or the one
    that the model wrote itself."""
    message, emotion = _telling(picture)
    start = picture.starts[message]
    texts = [_drawable(t) for t in picture.messages[message].tokens]
    scores = picture.corrected_tokens[start : start + len(texts), picture.point, emotion]
    end = picture.limits[1]
    places = _laid_out(texts)
    kept = [i for i, (line, _) in enumerate(places) if line < _LINES]
    lines = max(places[i][0] for i in kept) + 1
    more = len(texts) - len(kept)
    tall = _LINE * (lines + (more > 0)) + _HEAD + _FOOT
    figure = plt.figure(figsize=(_WIDE, tall))
    ax = figure.add_axes((0.0, _FOOT / tall, 1.0, 1 - (_HEAD + _FOOT) / tall))
    norm = Normalize(-end, end)
    for i in kept:
        line, column = places[i]
        value = float(scores[i])
        width = max(_width(texts[i]), 0.4) - 0.12
        ax.add_patch(Rectangle((column, line + 0.08), width, 0.84, color=DIVERGING(norm(value)), lw=0))
        ink = "white" if abs(value) > _DARK * end else _INK
        ax.text(column, line + 0.5, texts[i].rstrip(), fontproperties=_mono(), va="center_baseline", color=ink)
    if more:
        ax.text(0, lines + 0.5, f"… and {more} more tokens", va="center", color=INVALID)
    ax.set(xlim=(0, _COLUMNS), ylim=(lines + (more > 0), 0))
    ax.axis("off")
    about = ", ".join(filter(None, [picture.messages[message].role, _short(picture.messages[message].stage)]))
    title = f"{_headline(picture)}, layer {picture.point}\nmessage {message} ({about}), token by token: "
    figure.text(0.5, 1 - 0.05 / tall, title + picture.emotions[emotion], ha="center", va="top", fontsize=11)
    bar = figure.colorbar(
        ScalarMappable(norm, DIVERGING),
        cax=figure.add_axes((0.28, (_FOOT - 0.3) / tall, 0.44, 0.12 / tall)),
        orientation="horizontal",
        extend="both",
    )
    bar.set_label(f"neutral SD{_minus(picture)}")
    return figure


Available = Callable[[Picture], object]
Draw = Callable[[Picture], Figure]
#: Name -> whether the picture allows it (truthy), how it is drawn.
FIGURES: dict[str, tuple[Available, Draw]] = {
    "ct-heat-map": (lambda p: p.messages, heat_map),
    "ct-trajectory": (lambda p: p.messages, trajectory),
    "ct-raw-and-corrected": (lambda p: p.labels, raw_and_corrected),
    "ct-tokens": (lambda p: p.messages, tokens),
}


def _headline(picture: Picture) -> str:
    return f"{_short(picture.title)} · {_short(picture.model)}"


def _minus(picture: Picture) -> str:
    return "" if picture.control is None else ", minus the neutral control"


def _every(count: int, most: int) -> range:
    """Ticks at whole numbers, no more than ``most``."""
    return range(0, count, next(s for s in (1, 2, 4, 5, 10, 20, 50, 100, 200, 500, count) if s * most >= count))


def _stages(ax: Axes, picture: Picture) -> None:
    """Message numbers, and under them what the messages were written to carry."""
    ax.set_xlabel("message")
    groups = [list(g) for _, g in groupby(range(len(picture.messages)), key=lambda n: picture.messages[n].stage)]
    named = [(g, _short(picture.messages[g[0]].stage, 16)) for g in groups if picture.messages[g[0]].stage]
    if not named:
        return
    last = len(picture.messages) - 1
    designed = any(g[-1] < last or not picture.generated for g, _ in named)
    ax.set_xlabel("message, and what it was written to carry" if designed else "message")
    second = ax.secondary_xaxis("bottom")
    second.set_xticks([(g[0] + g[-1]) / 2 for g, _ in named], [t for _, t in named], rotation=45, ha="right")
    second.tick_params(axis="x", pad=16, length=0)
    for label in second.get_xticklabels():
        label.set_rotation_mode("anchor")
    second.spines[:].set_visible(False)
    ax.xaxis.labelpad = 10 + 4.2 * max(len(t) for _, t in named)  # below the longest, at 45 degrees


def _telling(picture: Picture) -> tuple[int, int]:
    """The message, and the emotion, in which tokens differ most at the chosen point; a message that the model wrote
    itself goes before."""
    at, starts = picture.corrected_tokens[:, picture.point], picture.starts
    spread = np.stack([np.ptp(at[a:b], axis=0) for a, b in pairwise(starts)])
    if picture.generated:
        spread[:-1] = -1
    message, emotion = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(message), int(emotion)


def _mono() -> FontProperties:
    """The font of fixed width, in the size in which a line holds its columns."""
    return FontProperties(family="DejaVu Sans Mono", size=_WIDE * 72 / _COLUMNS / _ADVANCE)


def _laid_out(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Line and column of each text in lines of fixed width: a text that does not fit begins the next line."""
    places, line, column = [], 0, 0
    for text in texts:
        if column and column + _width(text.rstrip()) > _COLUMNS:
            line, column = line + 1, 0
        places.append((line, column))
        column += _width(text)
        if text.endswith("\n"):
            line, column = line + 1, 0
    return places


def _width(text: str) -> int:
    """Columns that a text takes in a font of fixed width."""
    return sum(0 if unicodedata.combining(c) else 1 for c in text.rstrip("\n"))


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_mono())).get_charmap())


def _drawable(text: str) -> str:
    """A token as the font can show it: no control characters, a box for what it lacks, never wider than a line."""
    end = "\n" if text.endswith("\n") else ""
    plain = "".join(" " if c.isspace() else c for c in text.removesuffix("\n"))
    shown = "".join("" if unicodedata.category(c) in ("Cc", "Cf") else c if ord(c) in _glyphs() else "▯" for c in plain)
    return (shown if len(shown) <= _COLUMNS else shown[: _COLUMNS - 1] + "…") + end


def _short(text: str, length: int = _LONG) -> str:
    text = " ".join(_drawable(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
