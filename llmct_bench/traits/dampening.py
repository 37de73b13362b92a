"""Dampening: does the same text move the model less in the assistant's slot than in the user's?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.stats import cluster_t, fieller, sign_flip
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
#: Below this cosine between the axes of the two slots a weaker response is a turned one, not a dampened one.
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
    turned = min((m.role_cosine.get(e, 1.0) for e in emotions), default=1.0)
    return result(
        NAME,
        interval,
        0.0,
        table.scenarios,
        1 - ratio_influence(assistant, user),
        sign_flip(user - assistant),
        (
            "" if heard.low > 0 else "no response in the user's slot to compare with",
            ""
            if turned >= ALIGNED
            else f"the slots have axes of their own (cosine {turned:.2f}): a rotation, not dampening",
        ),
        {"user": heard.estimate, "assistant": cluster_t(assistant).estimate, "axis_cosine": m.role_cosine},
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
    range="(−∞, 1]",
    null=0.0,
    meaning="+ : the same text moves the model less as assistant than as user",
    controls=("same text in both slots", "no-shock twin in the same slot", "designed dose as instrument"),
    validity=(
        "the response in the user's slot lies above 0",
        "the axes fitted in the two slots have a cosine of at least .5",
    ),
    sources=("Fieller 1954", "Wald 1940 (instrument)"),
    estimate=estimate,
)
