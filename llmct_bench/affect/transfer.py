"""Whether the emotions lie in the same directions when the same events are told in another language.

What tells the emotions of a scenario apart in one language is multiplied with what tells those of another scenario
apart in the other, or in the same one. Two scenarios share no noise, so that nothing is added to the products by
chance (cross-validated as crossnobis is: Walther et al. 2016, doi:10.1016/j.neuroimage.2015.12.012).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.emotions import NAMES
from llmct_bench.stats import crossed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Transfer:
    """By scenario, jackknife pseudo-values whose mean is the product of two scenarios, summed over the emotions (each
    minus the mean of all): ``cross`` (n_scenarios,) of the original language and this one, ``own`` of this language
    with itself, ``original`` of the original. ``by_emotion`` (n_emotions, 2, n_scenarios): `cross` and `own` of each.
    ``language``: this one's name."""

    language: str
    scenarios: tuple[str, ...]
    cross: Floats
    own: Floats
    original: Floats
    by_emotion: Floats

    def lacking(self, scenarios: set[str]) -> Transfer:
        """It without some scenarios; exact up to terms of the order 1 / n_scenarios^2."""
        keep = np.array([s not in scenarios for s in self.scenarios], bool)
        return replace(
            self,
            scenarios=tuple(s for s in self.scenarios if s not in scenarios),
            cross=self.cross[keep],
            own=self.own[keep],
            original=self.original[keep],
            by_emotion=self.by_emotion[:, :, keep],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Transfer:
        """Back from `to_json`."""
        arrays = {k: np.array(data[k], np.float64) for k in ("cross", "own", "original", "by_emotion")}
        return Transfer(**{**data, **arrays, "scenarios": tuple(map(str, data["scenarios"]))})


def fit_transfer(
    language: str,
    own: tuple[NDArray[np.floating], pd.DataFrame],
    original: tuple[NDArray[np.floating], pd.DataFrame],
    nuisance: NDArray[np.floating],
) -> Transfer:
    """From the states (n_readouts, d) at one point and the factors of the readouts, of a suite and of what it was
    translated from; ``nuisance`` (k, d), orthonormal, is removed from both. Scenarios count that have every emotion at
    every intensity in both languages; of fewer than three nothing can be left out, and all is NaN."""
    levels = sorted(set(own[1].loc[own[1]["emotion"].isin(NAMES), "intensity"]))
    tables = [_means(*side) for side in (own, original)]
    cells = [(e, i) for e in NAMES for i in levels]
    scenarios = tuple(sorted(set.intersection(*(_whole(t, cells) for t in tables))))
    here, there = (_contrasts(t, scenarios, cells, nuisance) for t in tables)
    return Transfer(
        language,
        scenarios,
        crossed(here, there),
        crossed(here, here),
        crossed(there, there),
        np.stack([[crossed(here[:, [e]], side[:, [e]]) for side in (there, here)] for e in range(len(NAMES))]),
    )


def _means(states: NDArray[np.floating], index: pd.DataFrame) -> pd.DataFrame:
    keys = [index[c].to_numpy() for c in ("scenario", "emotion", "intensity")]
    return pd.DataFrame(np.asarray(states, np.float64)).groupby(keys).mean()


def _whole(table: pd.DataFrame, cells: list[tuple[str, int]]) -> set[str]:
    found: dict[str, set[tuple[str, int]]] = {}
    for scenario, emotion, intensity in table.index:
        found.setdefault(str(scenario), set()).add((emotion, intensity))
    return {s for s, own in found.items() if own >= set(cells)}


def _contrasts(
    table: pd.DataFrame, scenarios: tuple[str, ...], cells: list[tuple[str, int]], nuisance: NDArray[np.floating]
) -> Floats:
    """(n_scenarios, n_emotions, d): each emotion minus the mean of all, in the complement of the nuisance."""
    if not scenarios:
        return np.zeros((0, len(NAMES), table.shape[1]))
    order = pd.MultiIndex.from_tuples([(s, *c) for s in scenarios for c in cells])
    shape = len(scenarios), len(NAMES), len(cells) // len(NAMES), table.shape[1]
    felt = table.reindex(order).to_numpy(np.float64).reshape(shape).mean(axis=2)
    away = felt - felt.mean(axis=1, keepdims=True)
    removed = nuisance.astype(np.float64)
    return np.asarray(away - (away @ removed.T) @ removed)
