"""Words and fillers against the lexicons of others, where those lie beside the repository."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from llmct_bench.emotions import ALL_NAMES, BY_NAME, rated_words
from llmct_bench.suites import shipped_root
from llmct_bench.suites.compose import read_parts

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
GLASGOW, VADER = SHARED / "glasgow-norms" / "glasgow.csv", SHARED / "vader-lexicon" / "vader_lexicon.txt"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skips where the data of others are not at hand."""
    return pytest.mark.skipif(not path.is_file(), reason=f"needs shared/data/{path.parent.name} beside the repository")


def test_every_emotion_has_six_rated_words_and_more() -> None:
    """Two words an intensity at least; ratings within -1 to +1; the emotion's words lie on its side on the average."""
    for name in ALL_NAMES:
        found = [e for e in rated_words().values() if e.emotion == name]
        assert {e.intensity for e in found} == {1, 2, 3}
        assert len(found) >= 6
        assert all(-1 <= v <= 1 for e in found for v in (e.valence, e.arousal))
        valence, arousal = (float(np.mean([getattr(e, k) for e in found])) for k in ("valence", "arousal"))
        assert valence * BY_NAME[name].valence > 0, name
        if abs(BY_NAME[name].arousal) > 0.5 and name != "sadness":  # grief is rated as both
            assert arousal * BY_NAME[name].arousal > 0, name


@needs(GLASGOW)
def test_ratings_agree_with_human_norms() -> None:
    """Words that the Glasgow norms (Scott et al. 2019) have too: valence r >= .9, arousal r >= .5."""
    with GLASGOW.open(encoding="utf-8", newline="") as file:
        norms = {r["word"]: (float(r["valence_mean"]), float(r["arousal_mean"])) for r in csv.DictReader(file)}
    both = [(e, norms[w]) for w, e in rated_words().items() if w in norms]
    assert len(both) >= 40
    assert np.corrcoef([e.valence for e, _ in both], [n[0] for _, n in both])[0, 1] >= 0.9
    assert np.corrcoef([e.arousal for e, _ in both], [n[1] for _, n in both])[0, 1] >= 0.5


@needs(VADER)
def test_fillers_of_retention_are_neutral() -> None:
    """By VADER (Hutto & Gilbert 2014; -4 to +4 a word): near 0 on the average over words, and none far from it."""
    lines = (line.split("\t") for line in VADER.read_text(encoding="utf-8").splitlines())
    rating = {parts[0].lower(): float(parts[1]) for parts in lines if len(parts) > 1}
    means = []
    for filler in read_parts(shipped_root() / "retention")["fillers"]:
        for length in ("short", "long"):
            found = re.findall(r"[a-z']+", " ".join(filler[length]).lower())
            means.append(sum(rating.get(w, 0.0) for w in found) / len(found))
    assert abs(np.mean(means)) < 0.05
    assert max(map(abs, means)) < 0.3
