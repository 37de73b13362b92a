"""Shock absorption: does a calm conversation soften a shock?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.stats import cluster_t, fieller, sign_flip, t_interval
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    Responses,
    Table,
    TraitEstimate,
    by_scenario,
    responses,
    result,
)

NAME = "shock_absorption"
Floats = NDArray[np.float64]

CONTEXTS = ("calm", "neutral", "positive", "negative")
_CALM, _NEUTRAL = 0, 1


def estimate(m: Measurement) -> TraitEstimate:
    """Difference in differences: response after a neutral minus response after a calm context, user's slot."""
    found, table, doses = m.layout.made(_plan)
    y = found(m.values)
    by_context = table(y)
    did = by_context[:, _NEUTRAL] - by_context[:, _CALM]

    def effect(values: Floats) -> float:
        means = table(found(values)).mean(axis=0)
        return float(means[_NEUTRAL] - means[_CALM])

    error = m.error(effect)
    own, neutral = cluster_t(did), cluster_t(by_context[:, _NEUTRAL])
    interval = t_interval(own, error)
    by_dose = doses(y)
    grows = cluster_t(by_dose[:, -1] - by_dose[:, 0]) if by_dose.shape[1] > 1 else None
    share = fieller(did, by_context[:, _NEUTRAL])
    contexts = {c: cluster_t(by_context[:, k]) for k, c in enumerate(CONTEXTS)}
    other = {c: cluster_t(by_context[:, _NEUTRAL] - by_context[:, CONTEXTS.index(c)]) for c in ("positive", "negative")}
    # a claim of its own: more than after either arousing context, not merely nothing found there
    beyond = [cluster_t(by_context[:, CONTEXTS.index(c)] - by_context[:, _CALM]) for c in other]
    specific = interval.low > 0 and all(o.low > 0 for o in beyond)
    return result(
        NAME,
        interval,
        0.0,
        table.scenarios,
        did,
        # the scenarios alone may not say more than they know of the axes
        max(sign_flip(did), interval.p_value(0.0)),
        (
            "" if neutral.low > 0 else "no response to the shock after neutral contexts",
            "" if grows and grows.low > 0 else "the response does not grow with the dose",
        ),
        {
            "responses": {c: [i.estimate, i.low, i.high] for c, i in contexts.items()},
            "share": [share.estimate, share.low, share.high],
            "arousing": {c: [i.estimate, i.low, i.high] for c, i in other.items()},
            "calm_specific": specific,
        },
        error.se if error else 0.0,
    )


def _plan(index: pd.DataFrame) -> tuple[Responses, Table, Table]:
    found = responses(index, (index["role"] == "user").to_numpy())
    table = by_scenario(found.index, "context", CONTEXTS)
    neutral = found.index["context"] == "neutral"
    # rows of other contexts get a level of their own that no scenario's table asks for
    dose = found.index["intensity"].where(neutral, -1)
    levels = sorted(set(dose[neutral]))
    return found, table, by_scenario(found.index.assign(dose=dose), "dose", levels)


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
