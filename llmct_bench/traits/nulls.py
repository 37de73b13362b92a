"""Nulls of the circumplex: what an estimand gives where there is nothing, on the scores of the model itself.

Permuted labels keep the items and take away their emotions. Pseudo-emotions are random groups of neutral items: what
then still looks like an emotion is hubness, a place in the middle that is nearest too often. In both the axes are held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.traits.estimand import Estimand, Layout, Measurement

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Null:
    """An estimand under a null: ``observed``, and ``estimates`` and ``p_values`` (draws,) without the trait."""

    observed: float
    estimates: Floats
    p_values: Floats

    @property
    def mean(self) -> float:
        """Mean of the draws."""
        return float(np.nanmean(self.estimates))

    @property
    def sd(self) -> float:
        """Standard deviation of the draws."""
        return float(np.nanstd(self.estimates, ddof=1))

    @property
    def p(self) -> float:
        """Two-sided p-value of the observed estimate: how many draws lie as far from their mean (Phipson & Smyth 2010,
        doi:10.2202/1544-6115.1585), of those that have an estimate. NaN without an observed one."""
        if not np.isfinite(self.observed):
            return float("nan")
        away = np.abs(self.estimates[np.isfinite(self.estimates)] - self.mean)
        return float((np.sum(away >= abs(self.observed - self.mean)) + 1) / (len(away) + 1))

    @property
    def rejected(self) -> float:
        """Share of the draws whose own p-value is at most .05: .05 where the estimand's test is right."""
        return float(np.mean(self.p_values <= 0.05))


def permuted(m: Measurement, seed: int) -> Measurement:
    """The measurement with the labels (emotion and intensity) of each scenario's emotional items in random order; it
    does not depend on the order of the readouts."""
    index = m.layout.index
    emotional = np.flatnonzero(index["emotion"] != NEUTRAL)
    names, scenario = index["item"].to_numpy()[emotional], index["scenario"].to_numpy()[emotional]
    order = np.lexsort((names, scenario))
    mixed = np.lexsort((np.random.default_rng(seed).random(len(order)), scenario[order]))
    rows = np.arange(len(index))
    rows[emotional[order]] = emotional[order][mixed]
    return _of_rows(m, m.layout, rows)


def pseudo_emotions(m: Measurement, seed: int) -> Measurement:
    """Neutral items alone, in random groups: the core emotions are names that are drawn, one item of each makes a
    scenario. Raises ValueError where there are too few neutral items for one."""
    index = m.layout.index
    neutral = np.flatnonzero(index["emotion"] == NEUTRAL)
    neutral = neutral[np.argsort(index["item"].to_numpy()[neutral], kind="stable")]
    k, groups = len(NAMES), len(neutral) // len(NAMES)
    if groups == 0:
        raise ValueError(f"{len(neutral)} neutral items, {k} are needed")
    rows = np.random.default_rng(seed).permutation(neutral)[: groups * k]
    own = index.iloc[rows].reset_index(drop=True)
    own = own.assign(emotion=np.tile(NAMES, groups), intensity=1, scenario=np.repeat(_numbered(groups), k))
    return _of_rows(m, Layout(own), rows)


def null_distribution(
    m: Measurement, estimand: Estimand, draws: int, make: Callable[[Measurement, int], Measurement] = permuted
) -> Null:
    """The estimand on ``draws`` measurements without the trait (`permuted`, `pseudo_emotions`), valid or not."""
    found = [estimand.estimate(make(m, seed)) for seed in range(draws)]
    estimates, p = ([getattr(e, k) for e in found] for k in ("estimate", "p_value"))
    return Null(estimand.estimate(m).estimate, np.array(estimates, np.float64), np.array(p, np.float64))


def _numbered(n: int) -> list[str]:
    return [f"{i:0{len(str(n))}d}" for i in range(n)]


def _of_rows(m: Measurement, layout: Layout, rows: NDArray[np.intp]) -> Measurement:
    return replace(m, layout=layout, values=m.values[rows], profile=m.profile[rows], versions=None)
