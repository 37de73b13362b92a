"""What the words alone give away: a bag-of-words classifier beside which every claim about states should stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmct_bench.emotions import ALL_NAMES
from llmct_bench.stats import Interval, cluster_t
from llmct_bench.suites.schema import Item
from llmct_bench.suites.words import words


@dataclass(frozen=True)
class Baseline:
    """Balanced accuracy with its interval over scenarios, the recall of each emotion, and chance."""

    items: int
    accuracy: Interval
    recall: dict[str, float]

    @property
    def chance(self) -> float:
        """1 / number of emotions."""
        return 1 / len(self.recall)


def bag_of_words(items: Sequence[Item]) -> Baseline | None:
    """Multinomial naive Bayes on word counts, leave-one-scenario-out; None without two emotions or two scenarios.

    Neutral items are left out; the words are those of the message that is read. Add-one smoothing, equal priors, words
    that the training scenarios do not have are ignored (Manning et al. 2008, ch. 13). Balanced accuracy is the mean of
    the recalls; the interval is a cluster t interval over the scenarios' accuracies.
    """
    rows = [i for i in items if i.intensity > 0]
    emotions = [e for e in ALL_NAMES if any(i.emotion == e for i in rows)]
    scenarios = sorted({i.scenario for i in rows})
    if len(emotions) < 2 or len(scenarios) < 2:
        return None
    texts = [words(i.messages[i.reads[-1]].content) for i in rows]
    vocabulary = {w: n for n, w in enumerate(sorted({w for t in texts for w in t}))}
    counts = np.zeros((len(rows), len(vocabulary)))
    for n, text in enumerate(texts):
        np.add.at(counts[n], [vocabulary[w] for w in text], 1.0)
    label = np.array([emotions.index(i.emotion) for i in rows])
    scenario = np.array([scenarios.index(i.scenario) for i in rows])
    whole = np.stack([counts[label == k].sum(axis=0) for k in range(len(emotions))])
    right = np.zeros(len(rows), bool)
    for s in range(len(scenarios)):
        out = scenario == s
        held = np.stack([counts[out & (label == k)].sum(axis=0) for k in range(len(emotions))])
        table = whole - held
        known = table.sum(axis=0) > 0
        likelihood = np.log((table + 1) / (table.sum(axis=1, keepdims=True) + known.sum()))
        right[out] = (counts[out] @ np.where(known, likelihood, 0.0).T).argmax(axis=1) == label[out]
    recall = {e: float(right[label == k].mean()) for k, e in enumerate(emotions)}
    per_scenario = cluster_t([right[scenario == s].mean() for s in range(len(scenarios))])
    balanced = float(np.mean(list(recall.values())))
    shift = balanced - per_scenario.estimate  # 0 in a balanced design
    accuracy = Interval(
        balanced, per_scenario.low + shift, per_scenario.high + shift, per_scenario.se, per_scenario.n_clusters
    )
    return Baseline(len(rows), accuracy, recall)
