"""Dampening: does the same text move the model less in the assistant's slot than in the user's?"""

from __future__ import annotations

from dataclasses import replace

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
    ratio_influence,
    responses,
    result,
)

NAME = "dampening"
#: Where the cosine between the axes of the two slots is surely below this, a weaker response is a turned one.
ALIGNED = 0.5

Floats = NDArray[np.float64]


def estimate(m: Measurement) -> TraitEstimate:
    """1 − g, g the ratio of the designed responses in the two slots, after neutral contexts."""
    found, table, emotions = m.layout.made(_plan)
    dose = found.index["intensity"].to_numpy(np.float64)

    def slots(values: Floats) -> Floats:
        """Designed response by scenario and slot (user, assistant)."""
        return table(found(values) * dose)

    user, assistant = slots(m.values).T
    error = m.error(lambda v: slots(v).mean(axis=0)[::-1])
    gain = fieller(assistant, user, error=error)
    interval = replace(gain, estimate=1 - gain.estimate, low=1 - gain.high, high=1 - gain.low)
    heard = cluster_t(user)
    apart = t_interval(cluster_t(user - assistant), m.error(lambda v: slots(v).mean(axis=0) @ (1.0, -1.0)))
    cosines = {e: m.role_cosine[e] for e in emotions if e in m.role_cosine}
    turned = [cosine for cosine, high in cosines.values() if high < ALIGNED]
    return result(
        NAME,
        interval,
        0.0,
        table.scenarios,
        1 - ratio_influence(assistant, user),
        # the scenarios alone may not say more than they know of the axes
        max(sign_flip(user - assistant), apart.p_value(0.0)),
        (
            "" if heard.low > 0 else "no response in the user's slot to compare with",
            f"the slots have axes of their own (cosine {max(min(turned), -1.0):.2f}): a rotation, not dampening"
            if turned
            else "",
        ),
        {"user": heard.estimate, "assistant": cluster_t(assistant).estimate, "axis_cosine": cosines},
        error.se_of_ratio(gain.estimate, float(user.mean())) if error else 0.0,
    )


def _plan(index: pd.DataFrame) -> tuple[Responses, Table, tuple[str, ...]]:
    found = responses(index, (index["context"] == "neutral").to_numpy())
    table = by_scenario(found.index, "role", ("user", "assistant"))
    return found, table, tuple(found.index["emotion"].unique())


ESTIMAND = Estimand(
    name=NAME,
    title="Dampening",
    design="shock",
    formula="1 − g, g = Σ c p^assistant / Σ c p^user over twinned items, c = designed dose (instrument)",
    unit="share",
    range="(−∞, ∞)",
    null=0.0,
    meaning="+ : the same text moves the model less as assistant than as user",
    controls=("same text in both slots", "no-shock twin in the same slot", "designed dose as instrument"),
    validity=(
        "the response in the user's slot lies above 0",
        "the cosine between the axes of the two slots is not surely below .5",
    ),
    sources=("Fieller 1954", "Wald 1940 (instrument)"),
    estimate=estimate,
)
