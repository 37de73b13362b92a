"""From the rows of a foreign data set to a balanced suite: label, filter, draw, deal into blocks. No network here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from llmct_bench.emotions import EMOTIONS, NEUTRAL
from llmct_bench.errors import SuiteError
from llmct_bench.suites.schema import Item, Turn
from llmct_bench.suites.source import Ratings, Source

Row = Mapping[str, Any]
#: Foreign labels have no intensity: their items count as clear (2 of 3).
INTENSITY = 2


class _Drawn(NamedTuple):
    key: str
    emotion: str
    text: str
    ratings: tuple[float, float] | None


def sample(rows: Iterable[Row], source: Source, names: Mapping[str, str] | None = None) -> list[Item]:
    """The items of a source's rows: the same for the same rows in any order.

    Of each emotion the `Sample.blocks` texts with the smallest hash are drawn (fewer where an emotion has fewer: the
    design stays balanced); the i-th of each make block i. Rows of one cluster, and equal texts, count once. ``names``
    are the names of numbered labels, so that a map may use either. Raises SuiteError where a column is missing or an
    emotion finds no text.
    """
    best: dict[str, _Drawn] = {}  # the row of every cluster with the smallest hash
    for row in rows:
        text = " ".join(str(_cell(row, source.columns.text, source) or "").split())
        if not source.words[0] <= len(text.split()) <= source.words[1]:
            continue
        ratings = _ratings(row, source)
        emotion = by_ratings(*ratings, source.ratings) if ratings and source.ratings else _label(row, source, names)
        if emotion:
            key = _hash(source.sample.seed, text)
            cluster = _cell(row, source.columns.cluster, source) if source.columns.cluster else None
            cluster = key if cluster is None else str(cluster)  # a row without one stands for itself
            drawn = _Drawn(key, emotion, text, ratings)
            best[cluster] = min(best.get(cluster, drawn), drawn)
    found: dict[str, list[_Drawn]] = {}
    for drawn in sorted({d.key: d for d in sorted(best.values(), reverse=True)}.values()):
        found.setdefault(drawn.emotion, []).append(drawn)
    wanted = dict.fromkeys(source.labels.values()) if source.labels else {e.name: None for e in EMOTIONS}
    missing = [e for e in wanted if not found.get(e)]
    if missing:
        raise SuiteError(
            f"{source.name}: no text of {', '.join(missing)}: check labels, columns and words in suite.yaml"
        )
    blocks = min(source.sample.blocks, *(len(rows) for rows in found.values()))
    return [
        Item(
            id=f"block-{b:04d}/{emotion}",
            scenario=f"block-{b:04d}",
            emotion=emotion,
            intensity=0 if emotion == NEUTRAL else INTENSITY,
            messages=(Turn(role="user", content=found[emotion][b].text),),
            reads=(0,),
            keyworded=False,
            valence=(found[emotion][b].ratings or (None, None))[0],
            arousal=(found[emotion][b].ratings or (None, None))[1],
        )
        for b in range(blocks)
        for emotion in sorted(found)
    ]


def by_ratings(valence: float, arousal: float, rule: Ratings) -> str:
    """The core emotion of a quadrant, neutral, or nothing, for ratings from -1 to +1."""
    if abs(valence) >= rule.margin and abs(arousal) >= rule.margin:
        return next(e.name for e in EMOTIONS if e.valence * valence > 0 and e.arousal * arousal > 0)
    middle = max(abs(valence), abs(arousal)) < rule.margin / 2
    return NEUTRAL if middle else ""


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}|{text.lower()}".encode()).hexdigest()


def _cell(row: Row, column: str, source: Source) -> Any:
    if column not in row:
        raise SuiteError(f"{source.name}: no column {column!r}; there are {', '.join(map(str, row))}")
    return row[column]


def _label(row: Row, source: Source, names: Mapping[str, str] | None) -> str:
    """The emotion that all of a row's labels map to, else nothing."""
    value = _cell(row, source.columns.label, source)
    if isinstance(value, str) and source.columns.separator:
        value = [v.strip() for v in value.split(source.columns.separator)]
    labels = value if isinstance(value, list | tuple) else [value]
    found = {source.labels.get(str(v)) or source.labels.get((names or {}).get(str(v), ""), "") for v in labels}
    return found.pop() if len(found) == 1 else ""


def _ratings(row: Row, source: Source) -> tuple[float, float] | None:
    rule = source.ratings
    if rule is None:
        return None
    values = []
    for column in (source.columns.valence, source.columns.arousal):
        try:
            value = float(_cell(row, column, source))
        except (TypeError, ValueError):
            raise SuiteError(f"{source.name}: column {column!r} holds {row[column]!r}, not a number") from None
        if not (math.isfinite(value) and rule.low <= value <= rule.high):
            raise SuiteError(f"{source.name}: {column} = {value:g} lies outside of {rule.low:g} to {rule.high:g}")
        values.append(2 * (value - rule.low) / (rule.high - rule.low) - 1)
    return values[0], values[1]
