"""The vocabulary of affect: emotions, their place on the circumplex, and the project's own lexicon.

Coordinates follow the circumplex model of affect (Russell 1980, doi:10.1037/h0077714). The four core emotions, on
which all axes are fitted, stand for the four quadrants of valence x arousal; the further ones are only ever looked
at on those axes. The coordinates of the further ones are this project's own assignment after that model.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

NEUTRAL = "neutral"


@dataclass(frozen=True)
class Emotion:
    """One emotion: its name, valence and arousal, each from -1 to +1 (the core emotions stand in the corners)."""

    name: str
    valence: float
    arousal: float


EMOTIONS: tuple[Emotion, ...] = (
    Emotion("joy", +1, +1),
    Emotion("anger", -1, +1),
    Emotion("sadness", -1, -1),
    Emotion("calm", +1, -1),
)
FURTHER: tuple[Emotion, ...] = (
    Emotion("fear", -0.8, +0.8),
    Emotion("disgust", -0.8, +0.3),
    Emotion("love", +0.9, +0.2),
    Emotion("boredom", -0.4, -0.8),
    Emotion("annoyance", -0.6, +0.4),
    Emotion("apathy", -0.3, -0.9),
    Emotion("confusion", -0.3, +0.3),
    Emotion("peace", +0.7, -0.8),
)
#: The core emotions. Everything is measured on their axes.
NAMES: tuple[str, ...] = tuple(e.name for e in EMOTIONS)
#: All emotions that an item may have.
ALL_NAMES: tuple[str, ...] = tuple(e.name for e in (*EMOTIONS, *FURTHER))
BY_NAME: dict[str, Emotion] = {e.name: e for e in (*EMOTIONS, *FURTHER)}


@dataclass(frozen=True)
class LexiconEntry:
    """A word that names an emotion.

    ``intensity`` is 1 (mild) to 3 (extreme). ``use`` says which suites may hold the word: ``reference``
    (axes are fitted on it) or ``trait`` (scores are taken on it), so that no lemma is shared between the two;
    ``further`` words name the further emotions, and suites were not kept free of them. ``valence`` and ``arousal``
    (-1 to +1): this project's own ratings of the word standing alone, the mean of two ratings that were given by a
    language model in two roles, word by word and without a data set. They are no human norms; against the Glasgow
    norms of the words that both have see ``tests/test_shared_data.py``.
    """

    word: str
    emotion: str
    intensity: int
    use: str
    valence: float
    arousal: float


@cache
def rated_words() -> dict[str, LexiconEntry]:
    """Every word of the list, for all emotions, by word (lower case)."""
    text = resources.files("llmct_bench").joinpath("lexicon.csv").read_text(encoding="utf-8")
    return {
        r["word"]: LexiconEntry(
            r["word"], r["emotion"], int(r["intensity"]), r["use"], float(r["valence"]), float(r["arousal"])
        )
        for r in csv.DictReader(text.splitlines())
    }


@cache
def lexicon() -> dict[str, LexiconEntry]:
    """The words of the core emotions, which suites hold and phantoms read."""
    return {w: e for w, e in rated_words().items() if e.use in ("reference", "trait")}


def words(emotion: str, intensity: int, use: str) -> list[str]:
    """The words of one cell of the lexicon, in file order."""
    return [e.word for e in lexicon().values() if (e.emotion, e.intensity, e.use) == (emotion, intensity, use)]
