"""Dampening: does the same text move the model less in the assistant's slot than in the user's?"""

from __future__ import annotations

from dataclasses import replace

from llmct_bench.emotions import NAMES
from llmct_bench.stats import cluster_t, fieller, sign_flip
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    TraitEstimate,
    by_scenario,
    own_score,
    ratio_influence,
    result,
    twinned,
)

NAME = "dampening"


def estimate(m: Measurement) -> TraitEstimate:
    """1 − g, g the ratio of the designed responses in the two slots, after neutral contexts."""
    frame = twinned(m.frame[m.frame["context"] == "neutral"], NAMES)
    frame["response"] = own_score(frame) * frame["intensity"]
    table = by_scenario(frame, "response", "role")
    if not {"user", "assistant"} <= set(table.columns):
        table = table.reindex(columns=["user", "assistant"]).dropna()
    user, assistant = table["user"], table["assistant"]
    gain = fieller(assistant, user)
    interval = replace(gain, estimate=1 - gain.estimate, low=1 - gain.high, high=1 - gain.low)
    heard = cluster_t(user)
    values = 1 - ratio_influence(assistant, user)
    return result(
        NAME,
        interval,
        0.0,
        [str(s) for s in table.index],
        values,
        sign_flip(user - assistant),
        ("" if heard.low > 0 else "no response in the user's slot to compare with",),
        {"user": heard.estimate, "assistant": cluster_t(assistant).estimate, "axis_cosine": m.role_cosine},
    )


ESTIMAND = Estimand(
    name=NAME,
    title="Dampening",
    design="shock",
    formula="1 − g, g = Σ c p^assistant / Σ c p^user over twinned items, c = designed dose (instrument)",
    unit="share",
    range="(−∞, 1]",
    null=0.0,
    meaning="+ : the same text moves the model less as assistant than as user",
    controls=("same text in both slots", "no-shock twin in the same slot", "designed dose as instrument"),
    validity=("the response in the user's slot lies above 0",),
    sources=("Fieller 1954", "Wald 1940 (instrument)"),
    estimate=estimate,
)
