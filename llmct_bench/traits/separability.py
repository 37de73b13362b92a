"""Separability: can the emotions be told apart inside the model at all?"""

from __future__ import annotations

from llmct_bench.affect import class_means, noise_precision, separability
from llmct_bench.emotions import NAMES
from llmct_bench.stats import crossnobis, jackknife_t
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    TraitEstimate,
    complete,
    core_emotions,
    no_estimate,
    result,
)

NAME = "separability"


def estimate(m: Measurement) -> TraitEstimate:
    """Crossnobis d2 between the emotions at the chosen layer."""
    frame = complete(m.frame)
    if len(core_emotions(frame)) < 2:
        return no_estimate(NAME, "two core emotions are needed")
    p = frame[list(NAMES)].to_numpy()
    means, scenarios = class_means(p, frame)
    precision = noise_precision(p, frame)
    interval, pseudo = jackknife_t(lambda w: crossnobis(means, precision, w), len(scenarios))
    return result(
        NAME,
        interval,
        0.0,
        scenarios,
        pseudo,
        interval.p_value(0.0),
        details={"profile": _profile(m, set(scenarios)), "depth": m.depth},
    )


def _profile(m: Measurement, scenarios: set[str]) -> list[list[float]]:
    """d2 of the same scenarios with its interval at every point: [estimate, low, high]."""
    keep = m.scores.index["scenario"].isin(scenarios).to_numpy()
    index = m.scores.index[keep]
    rows = []
    for point in range(m.scores.values.shape[1]):
        i = separability(m.scores.values[keep, point, : len(NAMES)], index)
        rows.append([i.estimate, i.low, i.high])
    return rows


ESTIMAND = Estimand(
    name=NAME,
    title="Separability",
    design="circumplex",
    formula="d² = mean over pairs e≠f of 1/(M(M−1)P) Σ_{m≠n} δ_mᵀ Σ⁻¹ δ_n, δ_m = mean_e,m − mean_f,m of scenario m",
    unit="squared noise SD",
    range="(−∞, ∞)",
    null=0.0,
    meaning="the larger, the further apart joy, anger, sadness and calm lie inside the model",
    controls=("cross-validated over scenarios: independent noise gives 0",),
    validity=("at least 6 scenarios with all four emotions",),
    sources=("Walther et al. 2016 doi:10.1016/j.neuroimage.2015.12.012", "Diedrichsen & Kriegeskorte 2017"),
    estimate=estimate,
)
