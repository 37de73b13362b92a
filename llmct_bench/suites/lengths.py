"""How long a suite is for a model's tokenizer, and how well twins match there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmct_bench.suites.schema import Item


@dataclass(frozen=True)
class Lengths:
    """Tokens of the messages that differ between twins, for one tokenizer: the median of item / twin over items, the
    middle 95 % of it, the share of items off by more than 10 %, and tokens of the longest conversation's texts."""

    median: float
    low: float
    high: float
    off: float
    longest: int
    pairs: int

    @property
    def balanced(self) -> bool:
        """The median is within 10 %; also where there are no twins."""
        return self.pairs == 0 or 0.9 <= self.median <= 1.1


def token_lengths(items: Sequence[Item], tokenizer: Any, opening: bool = False) -> Lengths:
    """Count tokens. ``opening``: twins differ in the first message that is read (retention), not in the last."""
    place = 0 if opening else -1
    texts = sorted({m.content for i in items for m in i.messages})
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    count = {t: len(e) for t, e in zip(texts, encoded, strict=True)}
    by_id = {i.id: i for i in items}

    def own(item: Item) -> int:
        return count[item.messages[item.reads[place]].content]

    ratios = np.array([own(i) / own(by_id[i.twin]) for i in items if i.twin])
    longest = max(sum(count[m.content] for m in i.messages) for i in items)
    if not len(ratios):
        return Lengths(float("nan"), float("nan"), float("nan"), 0.0, longest, 0)
    low, median, high = np.quantile(ratios, [0.025, 0.5, 0.975])
    off = float(np.mean(np.abs(ratios - 1) > 0.1 + 1e-9))
    return Lengths(float(median), float(low), float(high), off, longest, len(ratios))
