"""Valence gain asymmetry: does pleasant text move the model more per step of intensity than unpleasant text?

Shown, not ranked: a default mood moves it too, because a joy that gives way as other emotions grow makes the pleasant
slope flatter and the unpleasant one steeper; and an axis on which the emotions lie unevenly (its metric is the model's
own) shows an asymmetry of some hundredths to a tenth on phantoms whose gains are all alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llmct_bench.affect import averages
from llmct_bench.emotions import BY_NAME
from llmct_bench.stats import cluster_t, fieller, t_interval
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

NAME = "valence_gain_asymmetry"
#: With fewer intensities a slope within a sign is the same thing as an offset.
INTENSITIES = 3

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """(b+ − b−) / (b+ + b−), a ratio of sums over scenarios."""
    slopes, at = m.layout.made(_slopes), m.names.index("valence")
    if slopes is None:
        return no_estimate(NAME, f"{INTENSITIES} intensities of pleasant and of unpleasant emotions are needed")

    def sides(values: Floats) -> tuple[Floats, Floats]:
        """Difference and sum of the slopes, per scenario."""
        up, down = slopes(values[:, at])
        return up - down, up + down

    difference, total = sides(m.values)
    error = m.error(lambda v: [x.mean() for x in sides(v)])
    interval = fieller(difference, total, error=error)
    gains = [cluster_t(b) for b in slopes(m.values[:, at])]
    return result(
        NAME,
        interval,
        0.0,
        slopes.scenarios,
        ratio_influence(difference, total),
        t_interval(cluster_t(difference), error).p_value(0.0),  # 0 is in Fieller's interval where it is in this one
        (
            "" if cluster_t(total).low > 0 else "valence does not rise with the designed intensity",
            "" if min(g.high for g in gains) > 0 else "valence turns round: a slope lies below 0",
        ),
        {k: [g.estimate, g.low, g.high] for k, g in zip(("positive", "negative"), gains, strict=True)},
        error.se_of_ratio(interval.estimate, float(total.mean())) if error else 0.0,
    )


@dataclass(frozen=True)
class _Slopes:
    """Of the pleasant and of the unpleasant rows of each scenario: intensity as deviation from the emotion's mean, and
    its sum with scores over the scenario in units of its sum of squares (``matrix``, n_scenarios x n_rows)."""

    scenarios: tuple[str, ...]
    sides: tuple[tuple[float, NDArray[np.intp], csr_array], ...]

    def __call__(self, valence: Floats) -> tuple[Floats, Floats]:
        """Slopes per scenario, both positive where valence follows the design."""
        up, down = (sign * (matrix @ valence[rows]) for sign, rows, matrix in self.sides)
        return np.asarray(up), np.asarray(down)


def _slopes(index: pd.DataFrame) -> _Slopes | None:
    """None where a sign lacks intensities."""
    rows = complete(index)
    own = index.iloc[rows]
    names = core_emotions(own)
    scenarios = tuple(sorted(own["scenario"].unique()))
    place = {s: i for i, s in enumerate(scenarios)}
    sides = []
    for sign in (1.0, -1.0):
        use = own["emotion"].isin([e for e in names if BY_NAME[e].valence == sign]).to_numpy()
        mine = own[use]
        if mine["intensity"].nunique() < INTENSITIES:
            return None
        code = mine["scenario"].map(place).to_numpy(np.intp)
        emotion = mine.groupby(["scenario", "emotion"]).ngroup().to_numpy(np.intp)
        x = mine["intensity"].to_numpy(np.float64)
        x = x - (averages(emotion, int(emotion.max()) + 1) @ x)[emotion]
        norm = np.bincount(code, x**2, len(scenarios))
        sides.append(
            (sign, rows[use], csr_array((x / norm[code], (code, np.arange(len(x)))), (len(scenarios), len(x))))
        )
    return _Slopes(scenarios, tuple(sides))


ESTIMAND = Estimand(
    name=NAME,
    title="Valence gain asymmetry",
    design="circumplex",
    formula="(b₊ − b₋) / (b₊ + b₋), b₊, b₋ = slopes of ±p_V on intensity within pleasant and unpleasant emotions",
    unit="share",
    range="[−1, 1] where both slopes are positive",
    null=0.0,
    meaning="+ : a step of intensity moves the model's valence more in pleasant than in unpleasant text. A default "
    "mood that gives way to other emotions moves it to −",
    controls=("origin-free: slopes within emotions", "same scenarios at every intensity"),
    validity=(
        "at least 3 intensities of each sign",
        "the sum of the slopes surely above 0",
        "neither slope surely below 0",
    ),
    sources=("Fieller 1954 doi:10.1111/j.2517-6161.1954.tb00159.x",),
    estimate=estimate,
    ranked=False,
)
