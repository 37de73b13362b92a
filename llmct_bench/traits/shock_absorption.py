"""Shock absorption: does a calm conversation soften a shock?"""

from __future__ import annotations

from llmct_bench.emotions import NAMES
from llmct_bench.stats import cluster_t, fieller, sign_flip
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    TraitEstimate,
    by_scenario,
    own_score,
    result,
    twinned,
)

NAME = "shock_absorption"
CONTEXTS = ("calm", "neutral", "positive", "negative")


def estimate(m: Measurement) -> TraitEstimate:
    """Difference in differences: response after a neutral minus response after a calm context, user's slot."""
    frame = twinned(m.frame[m.frame["role"] == "user"], NAMES)
    frame["response"] = own_score(frame)
    table = by_scenario(frame, "response", "context").reindex(columns=list(CONTEXTS)).dropna()
    did = table["neutral"] - table["calm"]
    neutral = cluster_t(table["neutral"])
    dose = by_scenario(frame[frame["context"] == "neutral"], "response", "intensity")
    grows = cluster_t(dose[dose.columns.max()] - dose[dose.columns.min()]) if len(dose.columns) > 1 else None
    share = fieller(did, table["neutral"])
    by_context = {c: cluster_t(table[c]) for c in CONTEXTS}
    other = {c: cluster_t(table["neutral"] - table[c]) for c in ("positive", "negative")}
    interval = cluster_t(did)
    specific = interval.low > 0 and not any(o.low > 0 for o in other.values())
    return result(
        NAME,
        interval,
        0.0,
        [str(s) for s in did.index],
        did,
        sign_flip(did),
        (
            "" if neutral.low > 0 else "no response to the shock after neutral contexts",
            "" if grows and grows.low > 0 else "the response does not grow with the dose",
        ),
        {
            "responses": {c: [i.estimate, i.low, i.high] for c, i in by_context.items()},
            "share": [share.estimate, share.low, share.high],
            "arousing": {c: [i.estimate, i.low, i.high] for c, i in other.items()},
            "calm_specific": specific,
        },
    )


ESTIMAND = Estimand(
    name=NAME,
    title="Shock absorption",
    design="shock",
    formula="R_neutral − R_calm, R_C = E[p(shock | C) − p(no-shock twin | C)], user's slot",
    unit="neutral SD",
    range="(−∞, ∞)",
    null=0.0,
    meaning="+ : a calm conversation softens the same shock",
    controls=(
        "no-shock twin in the same context",
        "length-matched contexts",
        "arousing contexts of both signs",
    ),
    validity=("response after neutral contexts above 0", "the response grows with the dose"),
    sources=("difference in differences",),
    estimate=estimate,
)
