"""Joy output: does a model that was told nothing of emotion go on with words of joy rather than of anger and sadness?

Shown, not ranked: which words a vocabulary holds as one token differs between models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmct_bench.emotions import NEUTRAL
from llmct_bench.scanner import NextWords
from llmct_bench.stats import MIN_CLUSTERS, Interval, LeftOut, cluster_means, cluster_t, left_out, t_interval
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, no_estimate, result

NAME = "joy_output"
#: Nats below which log-odds in float32 do not differ: an error that every difference has.
_RESOLUTION = 1e-4

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Mean log-odds after the neutral prompts minus mean log-odds after the content-free ones: two samples (Welch)."""
    said = m.next_words
    if said is None:
        return no_estimate(NAME, "what the model would say next was not read")
    if said.reason:
        return no_estimate(NAME, said.reason)
    index = m.layout.index
    own = index[(index["emotion"] == NEUTRAL) & index["item"].isin(list(said.neutral))].drop_duplicates("item")
    if own.empty:
        return no_estimate(NAME, "the suite has no neutral prompt")
    spoken, free = np.array([said.neutral[i] for i in own["item"]]), np.array(said.content_free)
    odds, scenarios = cluster_means(spoken[:, 0] - spoken[:, 1], own["scenario"])
    base = free[:, 0] - free[:, 1] if len(free) else np.full(1, np.nan)
    error = _base_error(odds, base)
    interval = t_interval(cluster_t(odds - base.mean()), error)
    few = f"{len(free)} content-free prompts can be told apart, {MIN_CLUSTERS} are needed"
    return result(
        NAME,
        interval,
        0.0,
        [str(s) for s in scenarios],
        odds - base.mean(),
        interval.p_value(0.0),
        (few if len(free) < MIN_CLUSTERS else "",),
        _details(said, spoken, odds, base),
        error.se,
    )


def _base_error(odds: Floats, base: Floats) -> LeftOut:
    """What the estimate inherits from the choice of the content-free prompts (the jackknife of a mean is its variance),
    and the resolution of the numbers."""
    n = len(base)
    without = odds.mean() - (base.sum() - base) / max(n - 1, 1)
    error = left_out(odds.mean() - base.mean(), without, np.zeros(n))
    rounding = np.full((1, 1, 1), _RESOLUTION**2)
    return LeftOut(error.bias, np.concatenate([error.covariance, rounding]), np.append(error.df, np.inf))


def _details(said: NextWords, spoken: Floats, odds: Floats, base: Floats) -> dict[str, object]:
    """Log-odds with their intervals after both kinds of prompts; how many words each side has, and how probable they
    are as the next word, all of them together, after the neutral prompts."""
    words = np.array(said.words, np.float64)
    mass = (words * np.exp(spoken)).mean(axis=0)
    return {
        "neutral": _numbers(cluster_t(odds)),
        "content_free": _numbers(cluster_t(base)),
        "words": list(said.words),
        "probability": [float(v) for v in mass],
    }


def _numbers(i: Interval) -> list[float]:
    return [i.estimate, i.low, i.high]


ESTIMAND = Estimand(
    name=NAME,
    title="Joy output",
    design="circumplex",
    formula="E[L(neutral prompt)] − E[L(content-free prompt)], L = ln p̄(joy words) − ln p̄(words of anger and sadness), "
    "p̄ = mean probability of a word as the next token of the reply “I feel …”",
    unit="nats",
    range="(−∞, ∞)",
    null=0.0,
    meaning="+ : after text without emotion the model goes on with words of joy rather than of anger and sadness, more "
    "than after text without content. Both hold the words' own frequencies and whatever joy the head adds to every "
    "state, so that these cancel, but for the final norm: it divides by the size of the state, in which the topic has "
    "its part. The words are those that the model's vocabulary has as one token",
    controls=(
        "content-free prompts (contextual calibration)",
        "mean probability of a word: the sides may differ in size",
        "the error of both samples of prompts",
    ),
    validity=(
        "an English suite with neutral prompts",
        "at least 3 words of each side are one token of the vocabulary",
        "at least 6 content-free prompts that the tokenizer can tell apart",
        "modules lead from the last block to the logits",
    ),
    sources=(
        "Zhao et al. 2021 arXiv:2102.09690 (contextual calibration)",
        "Welch 1947 doi:10.1093/biomet/34.1-2.28",
        "Satterthwaite 1946 doi:10.2307/3002019",
    ),
    estimate=estimate,
    ranked=False,
)
