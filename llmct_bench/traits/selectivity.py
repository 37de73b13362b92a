"""Selectivity: are the emotions decoded better than labels that mean nothing?

What is held out is decided by centroids and on axes that are estimates: on phantoms of 24 to 96 scenarios that costs
about .01 of the accuracy that exact ones would have (which is the planted value). It is not corrected: where there is
nothing to decode, the correction would be larger than all that is there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.stats import Interval, cluster_t, t_interval
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, core_emotions, no_estimate, result
from llmct_bench.traits.joy_bias import Decisions, decisions, hit_rate

NAME = "selectivity"
#: Control tasks whose accuracies are averaged.
CONTROLS = 20

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Balanced accuracy of held-out decisions minus that of the same decisions on shuffled labels, by scenario. The
    error of the axes is read off softened decisions: counted ones jump."""
    names = core_emotions(m.layout.index)
    if len(names) < 2:
        return no_estimate(NAME, "two core emotions are needed")
    design, shuffled = m.layout.made(decisions), m.layout.made(_shuffled)
    accuracy = balanced(design, design.true, design.decide(m.values))
    controls = np.stack([balanced(design, t, design.decide(m.values, t)) for t in shuffled])
    control = controls.mean(axis=0)
    gain, everything = accuracy - control, np.ones((1, len(design.scenarios)))
    error = m.error(lambda v: hit_rate(design.soft(v, everything)[0].sum(axis=0)))
    interval = t_interval(_widened(cluster_t(gain), controls.mean(axis=1)), error)
    return result(
        NAME,
        interval,
        0.0,
        design.scenarios,
        gain,
        interval.p_value(0.0),
        ("" if design.balanced else "emotions and intensities are not balanced",),
        {"accuracy": float(accuracy.mean()), "control": float(control.mean())},
        error.se if error else 0.0,
    )


def _widened(own: Interval, controls: Floats) -> Interval:
    """Folds share the scenarios that they learn from, so that the accuracies of scenarios are not independent of each
    other and near chance vary together. How far chance alone moves their mean is seen in the controls: a standard error
    is not smaller than that of one more of them (Crawford & Howell 1998)."""
    chance = float(controls.std(ddof=1) * np.sqrt(1 + 1 / len(controls)))
    return replace(own, se=chance, df=len(controls) - 1.0) if chance > own.se else own


def balanced(design: Decisions, true: NDArray[np.intp], chosen: NDArray[np.int64]) -> Floats:
    """Balanced accuracy (n_scenarios,): the mean over emotions of the share of their items that is decided right."""
    n, k, use = len(design.scenarios), len(design.names), true >= 0
    code = design.scenario[use] * k + true[use]
    hits = np.bincount(code, chosen[use] == true[use], n * k)
    return np.asarray((hits / np.bincount(code, minlength=n * k)).reshape(n, k).mean(axis=1))


def _shuffled(index: pd.DataFrame) -> list[NDArray[np.intp]]:
    """The labels of the control tasks: those of the emotional items of a scenario in random order. It does not depend
    on the order of the readouts."""
    design = decisions(index)
    emotional = np.flatnonzero(design.true >= 0)
    items = index["item"].to_numpy()[design.rows[emotional]]
    order = emotional[np.lexsort((items, design.scenario[emotional]))]
    rng, found = np.random.default_rng(0), []
    for _ in range(CONTROLS):
        mixed = order[np.lexsort((rng.random(len(order)), design.scenario[order]))]
        labels = design.true.copy()
        labels[order] = design.true[mixed]
        found.append(labels)
    return found


ESTIMAND = Estimand(
    name=NAME,
    title="Selectivity",
    design="circumplex",
    formula="balanced accuracy of nearest-centroid decisions (5 folds over scenarios) − the same on labels shuffled "
    "within scenarios (mean of 20)",
    unit="share of items",
    range="[−1, 1]",
    null=0.0,
    meaning="+ : the four emotions are decoded, and shuffled labels are not. Items of a scenario share no words that a "
    "control could be tied to, so that its accuracy is chance as these folds give it",
    controls=(
        "held-out scenarios",
        "labels shuffled within scenarios",
        "an error not below that of the shuffled labels",
        "equal priors",
    ),
    validity=("emotions and intensities balanced",),
    sources=("Hewitt & Liang 2019 arXiv:1909.03368", "Crawford & Howell 1998 doi:10.1076/clin.12.4.482.7241"),
    estimate=estimate,
    ranked=False,
)
