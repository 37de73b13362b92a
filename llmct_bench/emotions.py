"""The vocabulary of affect: emotions, their place on the circumplex, and the project's own lexicon.

Coordinates follow the circumplex model of affect (Russell 1980, doi:10.1037/h0077714): the four emotions of
the pilot stand for the four quadrants of valence x arousal.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

NEUTRAL = "neutral"


@dataclass(frozen=True)
class Emotion:
    """One emotion: its name and its quadrant, valence and arousal each -1 or +1."""

    name: str
    valence: int
    arousal: int


EMOTIONS: tuple[Emotion, ...] = (
    Emotion("joy", +1, +1),
    Emotion("anger", -1, +1),
    Emotion("sadness", -1, -1),
    Emotion("calm", +1, -1),
)
NAMES: tuple[str, ...] = tuple(e.name for e in EMOTIONS)
BY_NAME: dict[str, Emotion] = {e.name: e for e in EMOTIONS}


@dataclass(frozen=True)
class LexiconEntry:
    """A word that names an emotion.

    ``intensity`` is 1 (mild) to 3 (extreme). ``use`` says which suites may hold the word: ``reference``
    (axes are fitted on it) or ``trait`` (scores are taken on it), so that no lemma is shared between the two.
    """

    word: str
    emotion: str
    intensity: int
    use: str


@cache
def lexicon() -> dict[str, LexiconEntry]:
    """The lexicon by word (lower case)."""
    text = resources.files("llmct_bench").joinpath("lexicon.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {r["word"]: LexiconEntry(r["word"], r["emotion"], int(r["intensity"]), r["use"]) for r in rows}


def words(emotion: str, intensity: int, use: str) -> list[str]:
    """The words of one cell of the lexicon, in file order."""
    return [e.word for e in lexicon().values() if (e.emotion, e.intensity, e.use) == (emotion, intensity, use)]
