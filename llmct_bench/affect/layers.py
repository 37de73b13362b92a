"""Choosing the layer on held-out (DEV) items, and saying when the choice means little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.emotions import NAMES
from llmct_bench.stats import Interval, crossnobis, jackknife_t

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerChoice:
    """``profile``: crossnobis d2 between the emotions at each point with its standard error (DEV).

    ``point`` is the shallowest point within one standard error of the best one (Breiman et al. 1984's 1-SE rule);
    ``localised`` is False where more than half of the points are.
    """

    point: int
    depth: float
    localised: bool
    profile: tuple[tuple[float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "point": self.point,
            "depth": self.depth,
            "localised": self.localised,
            "profile": self.profile,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> LayerChoice:
        """Back from plain data."""
        profile = tuple((float(a), float(b)) for a, b in data["profile"])
        return LayerChoice(int(data["point"]), float(data["depth"]), bool(data["localised"]), profile)


def choose_layer(p: Floats, index: pd.DataFrame) -> LayerChoice:
    """Choose a point from DEV scores ``p`` (n_readouts, n_points, n_emotions)."""
    profile = [separability(p[:, i], index) for i in range(p.shape[1])]
    d2 = np.array([i.estimate for i in profile])
    se = np.nan_to_num([i.se for i in profile])
    best = int(np.argmax(d2))
    within = np.flatnonzero(d2 >= d2[best] - se[best])
    last = max(len(d2) - 1, 1)
    pairs = tuple((float(a), float(b)) for a, b in zip(d2, se, strict=True))
    return LayerChoice(int(within[0]), float(within[0]) / last, len(within) <= len(d2) / 2, pairs)


def class_means(p: Floats, index: pd.DataFrame) -> tuple[Floats, list[str]]:
    """Mean score of each scenario and emotion, (n_scenarios, n_emotions, n_scores), with the scenarios, for the core
    emotions that there are. Scenarios that lack one are left out."""
    names = [e for e in NAMES if e in set(index["emotion"])]
    emotional = index["emotion"].isin(names).to_numpy()
    frame = pd.DataFrame(p[emotional], index=pd.MultiIndex.from_frame(index.loc[emotional, ["scenario", "emotion"]]))
    means = frame.groupby(level=["scenario", "emotion"]).mean()
    wide = {s: g.droplevel("scenario").reindex(names) for s, g in means.groupby(level="scenario")}
    complete = {s: g.to_numpy() for s, g in wide.items() if not g.isna().any(axis=None)}
    return np.array(list(complete.values())).reshape(len(complete), len(names), p.shape[1]), [str(s) for s in complete]


def noise_precision(p: Floats, index: pd.DataFrame) -> Floats:
    """Pseudo-inverse of the covariance of scores within emotion x intensity x role, (n_scores, n_scores). The emotion
    axes sum to about zero, so the covariance has one direction of (nearly) no variance, which is dropped."""
    emotional = index["emotion"].isin(NAMES).to_numpy()
    frame = pd.DataFrame(p[emotional])
    keys = [index.loc[emotional, c].to_numpy() for c in ("emotion", "intensity", "role")]
    cells = frame.groupby(keys)
    residual = (frame - cells.transform("mean")).to_numpy()
    covariance = residual.T @ residual / max(len(residual) - cells.ngroups, 1)
    return np.asarray(np.linalg.pinv(covariance, rcond=1e-4, hermitian=True))


def separability(p: Floats, index: pd.DataFrame) -> Interval:
    """Crossnobis d2 between the emotions of scores ``p`` (n_readouts, n_emotions) at one point."""
    means, scenarios = class_means(p, index)
    precision = noise_precision(p, index)
    return jackknife_t(lambda w: crossnobis(means, precision, w), len(scenarios))[0]
