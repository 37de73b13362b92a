"""Cross-lingual transfer: do the emotions of the same events lie where English puts them when they are told in another
language?

Shown, not ranked. It needs whole states of both languages, of which the scan keeps products only (`affect.transfer`).
"""

from __future__ import annotations

from llmct_bench.emotions import NAMES
from llmct_bench.stats import MIN_CLUSTERS, Interval, cluster_t, disattenuated, fieller
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, no_estimate, ratio_influence, result

NAME = "cross_lingual"


def estimate(m: Measurement) -> TraitEstimate:
    """What the original's directions find of the distances in this language, over what its own directions find."""
    found = m.transfer
    if found is None:
        return no_estimate(NAME, "the suite is no translation")
    if len(found.scenarios) < MIN_CLUSTERS:
        few = f"{len(found.scenarios)} scenarios could be read whole in both languages, {MIN_CLUSTERS} are needed"
        return no_estimate(NAME, few)
    interval = fieller(found.cross, found.own)
    apart = {f"this language ({found.language})": found.own, "the original language": found.original}
    return result(
        NAME,
        interval,
        0.0,
        found.scenarios,
        ratio_influence(found.cross, found.own),
        cluster_t(found.cross).p_value(0.0),
        [f"the emotions are not told apart in {k}" for k, v in apart.items() if not cluster_t(v).low > 0],
        {
            "language": found.language,
            "correlation": _numbers(disattenuated(found.cross, found.own, found.original)),
            "by_emotion": {e: _numbers(fieller(*parts)) for e, parts in zip(NAMES, found.by_emotion, strict=True)},
        },
    )


def _numbers(i: Interval) -> list[float]:
    return [i.estimate, i.low, i.high]


ESTIMAND = Estimand(
    name=NAME,
    title="Cross-lingual transfer",
    design="circumplex",
    formula="d²(EN→L) / d²(L→L), d²(A→B) = mean over scenarios s≠t of Σ_e ⟨m_es^A, m_et^B⟩, m_es^A = P⊥ (mean state of "
    "emotion e − mean of all emotions) of scenario s in language A, at the layer of the English axes",
    unit="share",
    range="(−∞, ∞)",
    null=0.0,
    meaning="1: the emotions of this language lie where the English ones lie, and as far apart; 0: elsewhere. It "
    "falls with the angle between the languages and rises where English lies further apart; `correlation` in the "
    "details is the part of the angle alone",
    controls=(
        "the same events told in both languages",
        "cross-validated over scenarios: noise and what a single event adds give 0 in both terms",
        "English against itself: `correlation`",
    ),
    validity=(
        "a suite that translates another scenario by scenario",
        "at least 6 scenarios with all emotions at all intensities in both languages",
        "the emotions are told apart in each of the two languages",
    ),
    sources=("Walther et al. 2016 doi:10.1016/j.neuroimage.2015.12.012", "Fieller 1954"),
    estimate=estimate,
    ranked=False,
    needs="transfer",
)
