"""Figures of the leaderboard (seaborn on matplotlib), drawn the same way from the same results.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; models also differ by marker and order. No
figure shows more than `MOST` models: of more, it shows `SOME` at even distances in its order, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from llmct_bench.leaderboards.figures.common import MOST, SOME
from llmct_bench.leaderboards.figures.controls import controls, zero_emotion
from llmct_bench.leaderboards.figures.curves import layer_profile, profiled, retention_curves, with_curves
from llmct_bench.leaderboards.figures.distances import emotion_distances, located
from llmct_bench.leaderboards.figures.panels import forest, ranked_models, ranks, told_apart
from llmct_bench.leaderboards.figures.plane import circumplex_plane, resting
from llmct_bench.leaderboards.figures.shocks import responded, shock_responses
from llmct_bench.leaderboards.figures.tuning import tuning, tuning_pairs
from llmct_bench.plotting import drawing, save
from llmct_bench.results import labels

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard


@dataclass(frozen=True)
class Drawing:
    """A figure: its caption, what of the results it would show (nothing: it is not drawn), how it is drawn, and of how
    many it shows all."""

    caption: str
    subjects: Callable[[Leaderboard], Sized]
    draw: Callable[[Leaderboard], Figure]
    most: int = MOST


FIGURES: dict[str, Drawing] = {
    "controls": Drawing("Why controls matter: a model without emotion, raw and corrected", zero_emotion, controls),
    "forest": Drawing("Estimates with 95 % intervals by trait", ranked_models, forest),
    "ranks": Drawing(
        "Ranks with their 95 % intervals; bars join models that do not differ significantly", told_apart, ranks
    ),
    "layer-profile": Drawing("Separability by relative depth", profiled, layer_profile),
    "circumplex-plane": Drawing(
        "Where neutral text rests in the plane of valence and arousal", resting, circumplex_plane
    ),
    "emotion-distances": Drawing(
        "How far apart the emotions lie inside each model (representational dissimilarity)", located, emotion_distances
    ),
    "shock": Drawing("Response to the same shock by context", responded, shock_responses),
    "retention": Drawing("Retention of an opening's mood", with_curves, retention_curves),
    "tuning": Drawing("From base model to tuned model", tuning_pairs, tuning, SOME),
}


def available(board: Leaderboard) -> Iterator[tuple[str, str]]:
    """Name and caption of every figure that the results allow."""
    for name, figure in FIGURES.items():
        n = len(figure.subjects(board))
        if n:
            yield name, figure.caption + (f" ({SOME} of {n}, evenly spaced)" if n > figure.most else "")


def draw_all(board: Leaderboard, folder: Path, kinds: Sequence[str] = (".svg", ".png")) -> list[Path]:
    """Draw every figure that the results allow, as SVG and PNG or as one of them. Raises ResultError when the disk
    refuses."""
    written = []
    with drawing(folder, labels(board.results).values()):
        for name, _ in available(board):
            written += save(FIGURES[name].draw(board), folder, name, kinds)
    return written
