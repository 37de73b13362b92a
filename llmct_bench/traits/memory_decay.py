"""Memory decay: how long does the mood of an opening stay in the state? Tail retention and half-life."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.emotions import NAMES
from llmct_bench.stats import Interval, cluster_t, fieller, fit_half_life, jackknife_t, sign_flip
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    TraitEstimate,
    by_scenario,
    no_estimate,
    own_score,
    ratio_influence,
    result,
    twinned,
)

#: The tail is what is left after so many exchanges, observed up to the last one; a model whose context ends before
#: that is not compared on a shorter tail.
TAIL, LAST = 8, 24
#: Half-lives outside of the lags that were observed are only known to lie outside.
SHORTEST, LONGEST = 1.0, 24.0

Floats = NDArray[np.float64]


def curve(m: Measurement) -> pd.DataFrame:
    """y(k) per episode (rows) and lag (columns): own-emotion score, emotional minus neutral opening, mean over filler
    lengths."""
    frame = twinned(m.frame, NAMES)
    frame["y"] = own_score(frame)
    return by_scenario(frame, "y", "lag")


def tail_retention(m: Measurement) -> TraitEstimate:
    """mean of y(k >= 8) / y(0)."""
    y = curve(m)
    lags = [int(k) for k in y.columns]
    late = [k for k in lags if k >= TAIL]
    if 0 not in lags or max(late, default=0) < LAST:
        return no_estimate("tail_retention", f"the lags to {LAST} do not fit into the context")
    tail, start = y[late].mean(axis=1), y[0]
    opening = cluster_t(start)
    return result(
        "tail_retention",
        fieller(tail, start),
        0.0,
        [str(s) for s in y.index],
        ratio_influence(tail, start),
        sign_flip(tail),
        ("" if opening.low > 0 else "the opening itself leaves no emotion to remember",),
        {"curve": _curve(y)},
    )


def half_life(m: Measurement) -> TraitEstimate:
    """Half-life in exchanges of an exponential through y(k >= 1): lag 0 is reading, not memory."""
    y = curve(m)
    lags = np.array([int(k) for k in y.columns if int(k) >= 1], dtype=np.float64)
    if max(lags, default=0) < LAST:
        return no_estimate("half_life", f"the lags to {LAST} do not fit into the context")
    data = y[list(lags)].to_numpy(np.float64)
    log_h, pseudo = jackknife_t(lambda w: float(np.log(fit_half_life(lags, w @ data / w.sum()).half_life)), len(data))
    estimate, low, high = (float(np.exp(np.clip(v, -50, 50))) for v in (log_h.estimate, log_h.low, log_h.high))
    interval = Interval(_censor(estimate), _censor(low), _censor(high), log_h.se, log_h.n_clusters)
    early, late = data[:, lags <= 2].mean(axis=1), data[:, lags >= lags.max() * 0.75].mean(axis=1)
    remembered = cluster_t(early)
    made = result(
        "half_life",
        interval,
        LONGEST,
        [str(s) for s in y.index],
        pseudo,
        sign_flip(early - late),
        ("" if remembered.low > 0 else "no emotion is left after the opening, so no half-life",),
        {
            "curve": _curve(y),
            "censored": ""
            if SHORTEST < estimate < LONGEST
            else f"< {SHORTEST:g}"
            if estimate <= SHORTEST
            else f"> {LONGEST:g}",
            "tokens": _in_tokens(m),
            "log_se": log_h.se,
        },
    )
    # the standard error is on the log scale; in exchanges it is h times that
    return replace(made, se=interval.estimate * log_h.se, effect=float("nan"))


def _censor(h: float) -> float:
    return float(min(max(h, SHORTEST), LONGEST))


def _curve(y: pd.DataFrame) -> list[list[float]]:
    rows = []
    for k in y.columns:
        i = cluster_t(y[k])
        rows.append([float(k), i.estimate, i.low, i.high])
    return rows


def _in_tokens(m: Measurement) -> float:
    """Half-life in tokens: the same fit over the distance in tokens between opening and readout, on cell means
    (filler length x lag)."""
    frame = twinned(m.frame, NAMES)
    frame["y"] = own_score(frame)
    start = frame[frame["lag"] == 0].set_index("item")["tokens"]
    frame["distance"] = frame["tokens"] - frame["item"].map(start)
    cells = frame[frame["lag"] > 0].groupby(["filler", "lag"])[["distance", "y"]].mean()
    return fit_half_life(cells["distance"], cells["y"]).half_life


TAIL_RETENTION = Estimand(
    name="tail_retention",
    title="Tail retention",
    design="retention",
    formula="mean_{k≥8} y(k) / y(0), y(k) = p(emotional opening, k) − p(neutral opening, k)",
    unit="share",
    range="(−∞, ∞)",
    null=0.0,
    meaning="1: after eight exchanges the mood is as strong as it was on average while the opening was read; 0: gone",
    controls=("length-matched neutral opening", "identical fillers", "short and long fillers crossed"),
    validity=("the effect of the opening at lag 0 lies above 0",),
    sources=("Fieller 1954",),
    estimate=tail_retention,
)
HALF_LIFE = Estimand(
    name="half_life",
    title="Half-life",
    design="retention",
    formula="h of y(k) = a·2^(−k/h), k ≥ 1, least squares; interval on log h",
    unit="exchanges",
    range="[1, 24], censored outside",
    null=LONGEST,
    meaning="exchanges after which half of the remembered mood is gone; p tests against no decay",
    controls=("length-matched neutral opening", "identical fillers", "short and long fillers crossed"),
    validity=("the effect after the first exchanges lies above 0",),
    sources=("Tukey 1958 (jackknife)",),
    estimate=half_life,
)
