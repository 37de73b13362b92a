"""Persona offset: the resting mood of the assistant persona, the same neutral text in both slots.

Shown, not ranked: a role vector that lies partly along valence for any reason at all looks like a mood. How much of it
would lie along a random direction is known, and the p-value asks whether there is more than that; it cannot ask why.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.stats import Interval, LeftOut, cluster_t, t_interval
from llmct_bench.traits.estimand import Estimand, Measurement, Table, TraitEstimate, by_scenario, no_estimate, result

NAME = "persona_offset"

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """Valence of the neutral text as assistant minus as user. Scores are centred on the neutral mean of each role, so
    that the difference of these means is added again: with it they cancel, and their error with them."""
    fit = m.constants
    if fit is None or not np.isfinite([*fit.role_shift, fit.role_random]).all():
        return no_estimate(NAME, "what the assistant's role shifts is not known: the reference lacks a role")
    resting, assistant, table = m.layout.made(_plan)
    whole = _with_roles(m, resting, assistant, fit.role_shift)
    found = {name: _difference(whole, table, name) for name in m.names}
    own, error, interval = found["valence"]
    others = {name: [i.estimate, i.low, i.high] for name, (_, _, i) in found.items() if name != "valence"}
    return result(
        NAME,
        interval,
        0.0,
        table.scenarios,
        own,
        _p_value(interval, fit.role_random),
        (),
        {"random": fit.role_random, **others},
        error.se if error else 0.0,
    )


def _plan(index: pd.DataFrame) -> tuple[NDArray[np.bool_], Floats, Table]:
    """Which readouts are the dose-0 items after neutral contexts, which of those the assistant says (n, 1), and their
    means by scenario and slot."""
    resting = np.asarray((index["intensity"] == 0) & (index["context"] == "neutral"), bool)
    own = index[resting].reset_index(drop=True)
    assistant = np.asarray(own["role"] == "assistant", np.float64)[:, None]
    return resting, assistant, by_scenario(own, "role", ("user", "assistant"))


def _with_roles(m: Measurement, resting: NDArray[np.bool_], assistant: Floats, shift: Floats) -> Measurement:
    """The neutral items alone, centred on the user's mean in both roles."""
    v = m.versions.rows(resting) if m.versions is not None else None
    versions = replace(v, parts=v.parts + assistant * v.role_shift) if v is not None else None
    return replace(m, values=m.values[resting] + assistant * shift, versions=versions)


def _difference(m: Measurement, table: Table, name: str) -> tuple[Floats, LeftOut | None, Interval]:
    """Assistant minus user on one score: by scenario, what its mean inherits from the axes, and its interval."""
    at = m.names.index(name)

    def slots(values: Floats) -> Floats:
        user, assistant = table(values[:, at]).T
        return np.asarray(assistant - user)

    own = slots(m.values)
    error = m.error(lambda v: slots(v).mean())
    return own, error, t_interval(cluster_t(own), error)


def _p_value(interval: Interval, random: float) -> float:
    """With the shift along random directions as one more error, whose size is known (Satterthwaite's degrees of
    freedom). At a point that knows no role both are exactly 0."""
    se = float(np.hypot(interval.se, random))
    if se == 0:
        return float(interval.estimate == 0)
    df = interval.df * (se / interval.se) ** 4 if interval.se > 0 else np.inf
    return replace(interval, se=se, df=df).p_value(0.0)


ESTIMAND = Estimand(
    name=NAME,
    title="Persona offset",
    design="shock",
    formula="E[p_V(neutral text as assistant) − p_V(same text as user)] after neutral contexts, roles not centred",
    unit="neutral SD",
    range="(−∞, ∞)",
    null=0.0,
    meaning="+ : the same neutral text lies on the pleasant side when the assistant says it. The interval is that of "
    "the shift itself; p asks more: whether it is larger than what the role's vector puts on a random direction "
    "(`random` in the details). A role vector may lie along valence for other reasons than a mood",
    controls=(
        "same text in both slots",
        "the role's shift along random directions",
        "arousal and the emotions beside it",
    ),
    validity=("the reference has both roles",),
    sources=("Welch 1947 (sum of two variances)", "Timkey & van Schijndel 2021 arXiv:2109.04404"),
    estimate=estimate,
    ranked=False,
)
