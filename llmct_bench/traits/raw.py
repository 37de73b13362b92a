"""The seed-compatible reading: raw cosine with one reference prompt per emotion, at the last token.

These numbers are shown beside the corrected ones and never ranked: most of a raw cosine is the common mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmct_bench.affect import Scores
from llmct_bench.emotions import NAMES
from llmct_bench.suites.compose import PROBE_LAG


def raw_summary(scores: Scores, design: str) -> dict[str, Any]:
    """Raw numbers of a suite at the point where the mean cosines of the emotions spread most (the seed's rule).

    Always: ``point``, ``spread`` (max - min), ``backbone`` (mean cosine with each emotion), ``default`` (share of
    readouts at which each emotion is the nearest). By design: ``role_gap`` (user - assistant, shock), ``fading``
    (mean cosine by lag, retention, emotional openings). Empty for the reference itself.
    """
    if design == "reference":
        return {}
    mean = scores.raw.mean(axis=0)
    spread = mean.max(axis=1) - mean.min(axis=1)
    point = int(spread.argmax())
    raw = scores.raw[:, point]
    nearest = raw.argmax(axis=1)
    out: dict[str, Any] = {
        "point": point,
        "spread": float(spread[point]),
        "backbone": {e: float(v) for e, v in zip(NAMES, mean[point], strict=True)},
        "default": {e: float(np.mean(nearest == k)) for k, e in enumerate(NAMES)},
    }
    level = raw.mean(axis=1)
    role, lag = scores.index["role"].to_numpy(), scores.index["lag"].to_numpy()
    if design == "shock" and {"user", "assistant"} <= set(role):
        out["role_gap"] = float(level[role == "user"].mean() - level[role == "assistant"].mean())
    if design == "retention":
        opened = scores.index["intensity"].to_numpy() > 0
        lags = [k for k in np.unique(lag[opened]) if k != PROBE_LAG]
        out["fading"] = [[float(k), float(level[opened & (lag == k)].mean())] for k in lags]
    return out
