"""Default share: which emotion do neutral texts fall to? Is joy the setting that a model starts from?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llmct_bench.affect import averages
from llmct_bench.emotions import NEUTRAL
from llmct_bench.stats import cluster_t, jackknife_t, t_interval
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, core_emotions, no_estimate, result
from llmct_bench.traits.joy_bias import Decisions, decisions, doubts, hit_rate

NAME = "default_share"
#: The emotions among which neutral text falls, and the groups of scenarios that are left out together.
_K, _GROUPS = 4, 24

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Share of the neutral items that the decisions of `joy_bias` give to joy. What the centroids (from the same
    scenarios) and the axes add to its error is read off softened decisions: counted ones jump."""
    names = core_emotions(m.layout.index)
    if len(names) < _K or NEUTRAL not in set(m.layout.index["emotion"]):
        return no_estimate(NAME, "neutral items and all four core emotions are needed")
    design, joy = m.layout.made(decisions), names.index("joy")
    chosen = design.decide(m.values)
    by_emotion = _shares(design, chosen)
    n, own = len(design.scenarios), cluster_t(by_emotion[:, joy])

    def softened(values: Floats, weights: Floats) -> Floats:
        return np.asarray(design.soft_neutral(values, weights)[:, :, joy].mean(axis=1))

    centroids, _ = jackknife_t(lambda w: softened(m.values, w), n, groups=_GROUPS)
    everything = np.ones((1, n))
    error = m.error(lambda v: softened(v, everything))
    # where all or none fall to joy they do not differ, and yet not every such text would (Agresti & Coull 1998)
    middle = (by_emotion[:, joy].sum() + 2) / (n + 4)
    least = np.sqrt(middle * (1 - middle) / (n + 4))
    se = float(np.hypot(max(own.se, least), np.nan_to_num(centroids.se)))
    interval = t_interval(replace(own, se=se), error)
    right = cluster_t(hit_rate(design.confusion(chosen)))
    return result(
        NAME,
        replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 1.0)),
        1 / _K,
        design.scenarios,
        by_emotion[:, joy],
        interval.p_value(1 / _K),
        doubts(design, right),
        {"shares": dict(zip(names, by_emotion.mean(axis=0).tolist(), strict=True)), "accuracy": right.estimate},
        error.se if error else 0.0,
    )


def _shares(design: Decisions, chosen: NDArray[np.int64]) -> Floats:
    """(n_scenarios, n_emotions): where the neutral items of a scenario fall."""
    neutral = design.true < 0
    return np.asarray(averages(design.scenario[neutral], len(design.scenarios)) @ np.eye(_K)[chosen[neutral]])


ESTIMAND = Estimand(
    name=NAME,
    title="Default share",
    design="circumplex",
    formula="share of neutral items whose nearest emotion centroid is joy's; null 1/K, K = 4",
    unit="share",
    range="[0, 1]",
    null=1 / _K,
    meaning="above 1/4: neutral text lies nearest to joy more often than an even split would have it. It says which of "
    "four places is nearest, not that the text is joyful: neutral text may lie far from all of them",
    controls=(
        "origin-free: a constant on every state cancels",
        "centroids from other scenarios",
        "equal priors",
        "the shares of the other emotions beside it",
    ),
    validity=("emotions and intensities balanced", "accuracy of the decisions surely above 1.25 × chance"),
    sources=("Mahalanobis 1936", "Cameron & Miller 2015 doi:10.3368/jhr.50.2.317"),
    estimate=estimate,
    ranked=False,
)
