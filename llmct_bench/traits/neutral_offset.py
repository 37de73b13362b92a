"""Neutral offset: where neutral text sits on the model's own valence line."""

from __future__ import annotations

from llmct_bench.emotions import BY_NAME, NAMES, NEUTRAL
from llmct_bench.stats import cluster_t, fieller, sign_flip
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    TraitEstimate,
    complete,
    core_emotions,
    no_estimate,
    ratio_influence,
    result,
)

NAME = "neutral_offset"


def estimate(m: Measurement) -> TraitEstimate:
    """Offset of the neutral items in units of designed intensity, one line per scenario."""
    frame = complete(m.frame)
    if NEUTRAL not in set(frame["emotion"]) or len({BY_NAME[e].valence for e in core_emotions(frame)}) < 2:
        return no_estimate(NAME, "neutral items and core emotions of both signs of valence are needed")
    frame = frame[frame["emotion"].isin((*NAMES, NEUTRAL))].reset_index(drop=True)
    frame["design"] = frame["intensity"] * frame["emotion"].map({e: BY_NAME[e].valence for e in NAMES}).fillna(0)
    emotional = frame[frame["emotion"].isin(NAMES)]
    by = emotional["scenario"]
    means = emotional.groupby("scenario")[["design", "valence"]].mean()
    x = emotional["design"] - by.map(means["design"])
    y = emotional["valence"] - by.map(means["valence"])
    slope = (x * y).groupby(by).sum() / (x * x).groupby(by).sum()
    pooled = float((x * y).sum() / (x * x).sum())
    at_zero = means["valence"] - pooled * means["design"]  # the scenario's line at intensity 0
    neutral = frame[~frame["emotion"].isin(NAMES)].groupby("scenario")["valence"].mean()
    gap = (neutral - at_zero).dropna()
    slope = slope.loc[gap.index]
    interval = fieller(gap, slope)
    steep = cluster_t(slope)
    values = ratio_influence(gap, slope)
    return result(
        NAME,
        interval,
        0.0,
        [str(s) for s in gap.index],
        values,
        sign_flip(gap),
        ("" if steep.low > 0 else "valence does not rise with the designed intensity",),
        {"slope": steep.estimate, "slope_low": steep.low, "slope_high": steep.high},
    )


ESTIMAND = Estimand(
    name=NAME,
    title="Neutral offset",
    design="circumplex",
    formula="(p̄_neutral − a) / b from p_V = a + b·intensity + u_scenario, intensity −3…+3",
    unit="intensity steps",
    range="(−∞, ∞)",
    null=0.0,
    meaning="+ : neutral text lies on the pleasant side of the model's valence line",
    controls=("origin-free: a constant on every state cancels", "neutral twin of the same scenario"),
    validity=("the slope's interval lies above 0",),
    sources=("Fieller 1954",),
    estimate=estimate,
)
