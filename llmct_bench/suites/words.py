"""How texts are cut into words for counting: no model's tokenizer, the same for every language."""

from __future__ import annotations

import re

#: A word (with an apostrophe inside), one character of a script without spaces, or a mark.
_UNIT = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+(?:'[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+)?"
    r"|[^\w\s]"
)


def units(text: str) -> list[str]:
    """Words and marks in lower case: what lengths are counted in."""
    return _UNIT.findall(text.lower())


def words(text: str) -> list[str]:
    """The words alone."""
    return [u for u in units(text) if u[0].isalnum()]


def shingles(text: str, size: int = 3) -> frozenset[tuple[str, ...]]:
    """Runs of ``size`` words, for likeness of texts."""
    w = words(text)
    return frozenset(tuple(w[i : i + size]) for i in range(max(len(w) - size + 1, 1)))


def lemma(word: str) -> str:
    """A crude stem: enough to see that *delighted* and *delight* are one word."""
    for ending in ("fulness", "edness", "ness", "fully", "edly", "ing", "ful", "ity", "ed", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word
