"""Emotional backbone: how much of what tells the emotions apart in new text lies in the dimensions of the old?

Shown, not ranked. It is a trait of the reference suite: it needs whole states, which no other suite keeps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmct_bench.affect import Backbone
from llmct_bench.emotions import NAMES
from llmct_bench.stats import cluster_t, fieller, left_out
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, no_estimate, ratio_influence, result

NAME = "backbone"
_NOTHING = "held-out emotions are not told apart: there is no scatter to capture"

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Captured over total scatter, a ratio of means over pairs of held-out topics. Noise in the training means turns
    the dimensions away from where the emotions are; what leaving out wordings says about this bias is taken away."""
    found = m.constants.backbone if m.constants is not None else None
    if found is None:
        return no_estimate(NAME, "too few held-out topics of the reference share no wording")
    raw = float(found.captured.mean()), float(found.total.mean())
    if not raw[1] > 0:
        return no_estimate(NAME, _NOTHING)
    versions = np.column_stack([found.without, np.full(len(found.without), raw[1])])
    error = left_out(raw, versions, found.strata)
    captured = found.captured - error.bias[0]
    interval = fieller(captured, found.total, error=error)
    scatter = cluster_t(found.total)
    return result(
        NAME,
        interval,
        0.0,
        found.topics,
        ratio_influence(captured, found.total),
        found.p_value,
        ("" if scatter.low > 0 and found.scatter_p <= 0.05 else _NOTHING,),
        {
            "dims": found.dims,
            "permuted": found.permuted / raw[1],
            "random": found.dims / found.width,
            "scatter_p": found.scatter_p,
            "axes_bias": float(error.bias[0]) / raw[1],
            "transfer": _transfer(found),
        },
        error.se_of_ratio(interval.estimate, raw[1]),
    )


def _transfer(found: Backbone) -> dict[str, list[float]]:
    """By emotion: the share of its distance from neutral in the dimensions of the other three, with its interval over
    topics."""
    shares = {e: fieller(*parts) for e, parts in zip(NAMES, found.transfer, strict=True)}
    return {e: [i.estimate, i.low, i.high] for e, i in shares.items()}


ESTIMAND = Estimand(
    name=NAME,
    title="Emotional backbone",
    design="reference",
    formula="Σ_{s≠t} Σ_e ⟨U m_es, U m_et⟩ / Σ_{s≠t} Σ_e ⟨m_es, m_et⟩, m_et = mean of emotion e − mean of all in DEV "
    "topic t, U = projection on the centred class means of FIT; pairs of topics without a common word",
    unit="share",
    range="(−∞, ∞), in expectation [0, 1]",
    null=0.0,
    meaning="1: what tells joy, anger, sadness and calm apart in new topics and new words lies in the three dimensions "
    "that the training text spans; p against dimensions of permuted training words. An emotion that lies in those of "
    "the other three (`transfer`) shows what all emotions have that neutral text has not; it needs no circumplex",
    controls=(
        "cross-validated over topics and words: noise adds nothing",
        "training words with permuted emotions",
        "random dimensions: k / d′",
        "corrected for the bias of noisy training means (jackknife over the wordings)",
    ),
    validity=("the held-out scatter lies above 0, over topics and under permuted words", "at least 6 held-out topics"),
    sources=(
        "Walther et al. 2016 doi:10.1016/j.neuroimage.2015.12.012",
        "Fieller 1954",
        "Efron & Stein 1981 doi:10.1214/aos/1176345462",
    ),
    estimate=estimate,
    ranked=False,
)
