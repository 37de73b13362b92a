"""Separability: can the emotions be told apart inside the model at all?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.affect import Separable, separable
from llmct_bench.emotions import NAMES
from llmct_bench.stats import t_interval
from llmct_bench.traits.estimand import (
    Estimand,
    Measurement,
    TraitEstimate,
    complete,
    core_emotions,
    no_estimate,
    result,
)

NAME = "separability"
_E = len(NAMES)


def estimate(m: Measurement) -> TraitEstimate:
    """Crossnobis d2 between the emotions at the chosen layer. Noise in the axes makes emotions look closer than they
    are; what the versions of the axes say about this bias is taken away."""
    rows, table = m.layout.made(_plan)
    if len(core_emotions(m.layout.index)) < 2:
        return no_estimate(NAME, "two core emotions are needed")
    own, pseudo = table.jackknife(m.values[rows, :_E])
    error = m.error(lambda v: table.d2(v[rows, :_E]))
    bias = float(error.bias[0]) if error else 0.0
    interval = t_interval(own, error, bias)
    return result(
        NAME,
        interval,
        0.0,
        table.scenarios,
        pseudo - bias,
        # without emotion d2 is 0 along any axes, so that the scenarios alone may not say more than they know
        max(own.p_value(0.0), interval.p_value(0.0)),
        details={"profile": _profile(m), "depth": m.depth, "axes_bias": bias},
        se_axes=error.se if error else 0.0,
    )


def _plan(index: pd.DataFrame) -> tuple[NDArray[np.intp], Separable]:
    rows = complete(index)
    return rows, separable(index.iloc[rows].reset_index(drop=True))


def _profile(m: Measurement) -> list[list[float]]:
    """d2 of the same scenarios with its interval over scenarios at every point: [estimate, low, high]."""
    rows, table = m.layout.made(_plan)
    found = []
    for point in range(m.profile.shape[1]):
        i = table.jackknife(m.profile[rows, point, :_E])[0]
        found.append([i.estimate, i.low, i.high])
    return found


ESTIMAND = Estimand(
    name=NAME,
    title="Separability",
    design="circumplex",
    formula="d² = mean over pairs e≠f of 1/(M(M−1)P) Σ_{m≠n} δ_mᵀ Σ⁻¹ δ_n, δ_m = mean_e,m − mean_f,m of scenario m",
    unit="squared noise SD",
    range="(−∞, ∞)",
    null=0.0,
    meaning="the larger, the further apart joy, anger, sadness and calm lie inside the model",
    controls=(
        "cross-validated over scenarios: independent noise gives 0",
        "corrected for the bias of noisy axes (jackknife over the reference's wordings)",
    ),
    validity=("at least 6 scenarios with all four emotions",),
    sources=("Walther et al. 2016 doi:10.1016/j.neuroimage.2015.12.012", "Diedrichsen & Kriegeskorte 2017"),
    estimate=estimate,
)
