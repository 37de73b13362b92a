"""Memory decay: how long does the mood of an opening stay in the state? Tail retention and half-life."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llmct_bench.affect import averages
from llmct_bench.stats import (
    Interval,
    cluster_t,
    compare_decays,
    fieller,
    fit_half_life,
    half_lives,
    jackknife_t,
    sign_flip,
    t_interval,
)
from llmct_bench.suites.compose import PROBE_LAG
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    Responses,
    Table,
    TraitEstimate,
    by_scenario,
    no_estimate,
    ratio_influence,
    responses,
    result,
)

#: The tail is what is left after so many exchanges, observed up to the last one; a model whose context ends before
#: that is not compared on a shorter tail.
TAIL, LAST = 8, 24
#: Half-lives outside of the lags that were observed are only known to lie outside.
SHORTEST, LONGEST = 1.0, 24.0
#: Early lags, and late ones as a share of the last.
_EARLY, _LATE = 2.0, 0.75

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Episodes:
    """y(k) per episode and lag: own-emotion response, emotional minus neutral opening, mean over filler lengths.
    ``probed`` has one more column, the probe that takes the opening up again, where it could be read. ``cells``: the
    mean distance in tokens from the opening, by filler length and lag."""

    responses: Responses
    table: Table
    probed: Table | None
    distance: Floats
    cells: csr_array

    @property
    def lags(self) -> Floats:
        return np.array(self.table.levels, dtype=np.float64)


def tail_retention(m: Measurement) -> TraitEstimate:
    """mean of y(k >= 8) / y(0)."""
    e = m.layout.made(_episodes)
    lags = e.lags
    if 0 not in lags or lags.max(initial=0) < LAST:
        return no_estimate("tail_retention", f"the lags to {LAST} do not fit into the context")
    late = lags >= TAIL
    y = e.table(e.responses(m.values))
    tail, start = y[:, late].mean(axis=1), y[:, 0]

    def means(values: Floats) -> list[float]:
        curve = e.table(e.responses(values)).mean(axis=0)
        return [float(curve[late].mean()), float(curve[0])]

    error = m.error(means)
    opening, left = cluster_t(start), t_interval(cluster_t(tail), m.error(lambda v: means(v)[0]))
    interval = fieller(tail, start, error=error)
    return result(
        "tail_retention",
        interval,
        0.0,
        e.table.scenarios,
        ratio_influence(tail, start),
        # the scenarios alone may not say more than they know of the axes
        max(sign_flip(tail), left.p_value(0.0)),
        ("" if opening.low > 0 else "the opening itself leaves no emotion to remember",),
        {"curve": _curve(lags, y), "shape": _shape(lags, y), "probe": _probe(m, e)},
        error.se_of_ratio(interval.estimate, opening.estimate) if error else 0.0,
    )


def half_life(m: Measurement) -> TraitEstimate:
    """Half-life in exchanges of an exponential through y(k >= 1): lag 0 is reading, not memory."""
    e = m.layout.made(_episodes)
    after = e.lags >= 1
    lags = e.lags[after]
    if lags.max(initial=0) < LAST:
        return no_estimate("half_life", f"the lags to {LAST} do not fit into the context")
    y = e.table(e.responses(m.values))
    data = y[:, after]

    def log_half_life(weights: Floats) -> Floats:
        return np.log(half_lives(lags, weights @ data / weights.sum(axis=1, keepdims=True)))

    own, pseudo = jackknife_t(log_half_life, len(data))
    error = m.error(lambda v: np.log(half_lives(lags, e.table(e.responses(v)).mean(axis=0)[None, after])))
    log_h = t_interval(own, error)
    estimate, low, high = (float(np.exp(np.clip(v, -50, 50))) for v in (log_h.estimate, log_h.low, log_h.high))
    remembered, p_value = cluster_t(data[:, lags <= _EARLY].mean(axis=1)), _below(log_h, float(np.log(LONGEST)))
    if not SHORTEST < estimate < LONGEST:
        # curves that end at the border of the search do so whatever is left out: their spread is no error
        low, high, p_value = _by_ratio(lags, data)
    interval = Interval(_censor(estimate), _censor(low), _censor(high), log_h.se, log_h.n_clusters)
    made = result(
        "half_life",
        interval,
        LONGEST,
        e.table.scenarios,
        # beyond the lags that were observed models are not told apart
        pseudo - pseudo.mean() + np.log(_censor(estimate)),
        p_value,
        ("" if remembered.low > 0 else "no emotion is left after the opening, so no half-life",),
        {
            "curve": _curve(e.lags, y),
            "censored": ""
            if SHORTEST < estimate < LONGEST
            else f"< {SHORTEST:g}"
            if estimate <= SHORTEST
            else f"> {LONGEST:g}",
            "tokens": fit_half_life(e.distance, e.cells @ e.responses(m.values)).half_life,
            "log_se": log_h.se,
        },
        interval.estimate * error.se if error else 0.0,
    )
    # the standard error is on the log scale; in exchanges it is h times that
    return replace(made, se=interval.estimate * log_h.se, effect=float("nan"))


def _by_ratio(lags: Floats, data: Floats) -> tuple[float, float, float]:
    """Bounds of the half-life, and the one-sided p of 24 and more, from the late over the early effect, which rises
    with it (Fieller): they hold where the curve does not fall at all."""
    early, late = lags <= _EARLY, lags >= _LATE * lags.max()
    first, last = data[:, early].mean(axis=1), data[:, late].mean(axis=1)
    found = fieller(last, first)
    grid = np.geomspace(SHORTEST, LONGEST, 2001)
    curve = np.exp2(-lags / grid[:, None])
    share = curve[:, late].mean(axis=1) / curve[:, early].mean(axis=1)
    low, high = (float(np.interp(np.nan_to_num(v, nan=0.0), share, grid)) for v in (found.low, found.high))
    return low, high, _below(cluster_t(last - share[-1] * first), 0.0)


def _below(found: Interval, value: float) -> float:
    """One-sided p of the t test against ``value`` and more."""
    two_sided = found.p_value(value)
    return two_sided / 2 if found.estimate < value else 1 - two_sided / 2


def _episodes(index: pd.DataFrame) -> _Episodes:
    found = responses(index)
    lag = found.index["lag"]
    levels = sorted(set(lag) - {PROBE_LAG})
    start = dict(zip(index.loc[index["lag"] == 0, "item"], index.loc[index["lag"] == 0, "tokens"], strict=True))
    distance = (found.index["tokens"] - found.index["item"].map(start)).to_numpy(np.float64)
    later = ((lag > 0) & (lag != PROBE_LAG) & np.isfinite(distance)).to_numpy()
    code = np.full(len(lag), -1)
    code[later] = found.index[later].groupby(["filler", "lag"]).ngroup()
    cells = averages(code, int(code.max(initial=-1)) + 1)
    probed = by_scenario(found.index, "lag", [0, LAST, PROBE_LAG]) if PROBE_LAG in set(lag) and LAST in levels else None
    return _Episodes(found, by_scenario(found.index, "lag", levels), probed, cells @ np.nan_to_num(distance), cells)


def _probe(m: Measurement, e: _Episodes) -> dict[str, list[float]]:
    """Control: what comes back when the opening is taken up again. ``kept`` = y(probe) / y(0), ``regained`` = [y(probe)
    - y(24)] / y(0), each with its interval: absent at neutral text is not forgotten where this is above 0."""
    if e.probed is None or len(e.probed.scenarios) == 0:
        return {}
    start, last, probe = e.probed(e.responses(m.values)).T
    shares = {"kept": fieller(probe, start), "regained": fieller(probe - last, start)}
    return {k: [i.estimate, i.low, i.high] for k, i in shares.items()}


def _shape(lags: Floats, y: Floats) -> dict[str, Any]:
    """AICc weights of five curves through the lags after the opening, and the verdict."""
    after = lags >= 1
    data = y[:, after]
    if after.sum() < 6 or len(data) < after.sum() + 3:
        return {}
    try:
        found = compare_decays(lags[after], data.mean(axis=0), np.cov(data.T, ddof=1) / len(data), len(data))
    except ValueError:  # no variance between the episodes: nothing to weigh the curves by
        return {}
    return {"verdict": found.verdict, "weights": found.weights}


def _censor(h: float) -> float:
    return float(min(max(h, SHORTEST), LONGEST))


def _curve(lags: Floats, y: Floats) -> list[list[float]]:
    rows = []
    for k, column in zip(lags, y.T, strict=True):
        i = cluster_t(column)
        rows.append([float(k), i.estimate, i.low, i.high])
    return rows


TAIL_RETENTION = Estimand(
    name="tail_retention",
    title="Tail retention",
    design="retention",
    formula="mean_{k≥8} y(k) / y(0), y(k) = p(emotional opening, k) − p(neutral opening, k)",
    unit="share",
    range="(−∞, ∞)",
    null=0.0,
    meaning="1: after eight exchanges the mood is as strong as it was on average while the opening was read; 0: gone",
    controls=(
        "length-matched neutral opening",
        "identical fillers",
        "short and long fillers crossed",
        "re-mention probe",
    ),
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
    meaning="exchanges after which half of the remembered mood is gone; p (one-sided) tests against a "
    "half-life of 24 and more. Models beyond the lags that were observed are not told apart",
    controls=("length-matched neutral opening", "identical fillers", "short and long fillers crossed"),
    validity=("the effect after the first exchanges lies above 0",),
    sources=("Tukey 1958 (jackknife)", "Fieller 1954 (bounds beyond the observed lags)"),
    estimate=half_life,
    logarithmic=True,
)
