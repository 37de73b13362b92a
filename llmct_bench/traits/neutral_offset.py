"""Neutral offset: where neutral text sits on the model's own valence line.

Shown, not ranked: a model whose emotions share a common direction (what emotional text has that neutral text has not)
shows an offset as large as that direction's shadow on the valence axis, also without any mood. On phantoms that is a
few tenths of an intensity step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llmct_bench.affect import averages
from llmct_bench.emotions import BY_NAME, NAMES, NEUTRAL
from llmct_bench.stats import Interval, LeftOut, cluster_t, fieller, t_interval
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

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Offset of the neutral items in units of designed intensity, one line per scenario. ``resting`` in the details:
    the same of valence and of arousal, each with its interval: where neutral text rests in the plane."""
    found, core = set(m.layout.index["emotion"]), core_emotions(m.layout.index)
    told = {k: build for k, build in _PLANE.items() if len({getattr(BY_NAME[e], k) for e in core}) > 1}
    if NEUTRAL not in found or "valence" not in told:
        return no_estimate(NAME, "neutral items and core emotions of both signs of valence are needed")
    lines = m.layout.made(_valence)
    gap, slope, error, interval = _offset(m, lines, "valence")
    steep = cluster_t(slope)
    resting = {k: _offset(m, m.layout.made(build), k)[3] for k, build in told.items()}
    return result(
        NAME,
        interval,
        0.0,
        lines.scenarios,
        ratio_influence(gap, slope),
        # the ratio is 0 where its numerator is
        t_interval(cluster_t(gap), error).p_value(0.0),
        ("" if steep.low > 0 else "valence does not rise with the designed intensity",),
        {
            "slope": steep.estimate,
            "slope_low": steep.low,
            "slope_high": steep.high,
            "resting": {k: [i.estimate, i.low, i.high] for k, i in resting.items()},
        },
        error.se_of_ratio(interval.estimate, float(slope.mean())) if error else 0.0,
    )


def _offset(m: Measurement, lines: _Lines, name: str) -> tuple[Floats, Floats, LeftOut | None, Interval]:
    """How far neutral lies above the line of a score at intensity 0 and the line's slope, per scenario, what their
    means inherit from the axes, and their ratio."""
    at = m.names.index(name)
    gap, slope = lines(m.values[:, at])
    error = m.error(lambda v: [x.mean() for x in lines(v[:, at])])
    return gap, slope, error, fieller(gap, slope, error=error)


@dataclass(frozen=True)
class _Lines:
    """The line of a score (valence, arousal) in each scenario: designed intensity ``x`` of its emotional rows, with the
    sign that the emotion has there, centred and not, and averages."""

    scenarios: tuple[str, ...]
    emotional: NDArray[np.intp]
    x: Floats
    deviation: Floats
    mean: csr_array
    neutral: NDArray[np.intp]
    neutral_mean: csr_array

    def __call__(self, score: Floats) -> tuple[Floats, Floats]:
        """Per scenario: how far neutral lies above the line at intensity 0 (the slope pooled), and the slope."""
        y = score[self.emotional]
        norm = self.mean @ self.deviation**2
        slope = (self.mean @ (self.deviation * y)) / norm
        pooled = float((slope * norm).sum() / norm.sum())
        at_zero = self.mean @ y - pooled * (self.mean @ self.x)
        return np.asarray(self.neutral_mean @ score[self.neutral] - at_zero), np.asarray(slope)


def _valence(index: pd.DataFrame) -> _Lines:
    return _lines(index, {e: BY_NAME[e].valence for e in NAMES})


def _arousal(index: pd.DataFrame) -> _Lines:
    return _lines(index, {e: BY_NAME[e].arousal for e in NAMES})


#: Where neutral text rests in the plane of the circumplex is told by both.
_PLANE: dict[str, Callable[[pd.DataFrame], _Lines]] = {"valence": _valence, "arousal": _arousal}


def _lines(index: pd.DataFrame, signs: dict[str, float]) -> _Lines:
    rows = complete(index)
    own = index.iloc[rows]
    emotional, neutral = own["emotion"].isin(NAMES).to_numpy(), (own["emotion"] == NEUTRAL).to_numpy()
    scenarios = tuple(sorted(set(own.loc[neutral, "scenario"]) & set(own.loc[emotional, "scenario"])))
    code = own["scenario"].map({s: i for i, s in enumerate(scenarios)}).fillna(-1).to_numpy(np.intp)
    sign = own["emotion"].map(signs).fillna(0.0)
    x = (own["intensity"] * sign).to_numpy(np.float64)[emotional]
    mean = averages(code[emotional], len(scenarios))
    deviation = x - (mean @ x)[code[emotional]]
    return _Lines(
        scenarios,
        rows[emotional],
        x,
        deviation,
        mean,
        rows[neutral],
        averages(code[neutral], len(scenarios)),
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
    ranked=False,
)
