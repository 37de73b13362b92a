"""A trait is one declared estimand: what is estimated, in which unit, against which null, valid under what."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from llmct_bench.affect import LayerChoice, Scores
from llmct_bench.emotions import NAMES
from llmct_bench.stats import MIN_CLUSTERS, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """What an estimand sees: the scores of one suite, at the layer that was chosen on other data.

    ``frame``: the suite's index with one column a score (neutral SD) at the chosen point. ``profile``: all points.
    """

    frame: pd.DataFrame
    scores: Scores
    point: int
    depth: float
    role_cosine: dict[str, float] = field(default_factory=dict)


def measure(
    scores: Scores,
    layer: LayerChoice,
    role_cosine: Sequence[float],
    keyworded_only: bool = False,
    without: Collection[str] = (),
) -> Measurement:
    """The measurement of a suite at a fit's layer; ``role_cosine`` per emotion at that layer. ``keyworded_only`` keeps
    the items that hold lexicon words (phantoms read nothing else); ``without`` names readouts (``ITEM[READ]``) that are
    left out because another model of the comparison cannot read them."""
    keep = scores.index["keyworded"].to_numpy(bool) if keyworded_only else np.ones(len(scores.index), bool)
    if without:
        names = [f"{item}[{read}]" for item, read in zip(scores.index["item"], scores.index["read"], strict=True)]
        keep = keep & ~np.isin(names, list(without))
    index = scores.index[keep].reset_index(drop=True)
    kept = replace(scores, values=scores.values[keep], raw=scores.raw[keep], index=index)
    columns = pd.DataFrame(kept.values[:, layer.point], columns=list(kept.names))
    cosine = {e: float(c) for e, c in zip(NAMES, role_cosine, strict=True)}
    return Measurement(pd.concat([index, columns], axis=1), kept, layer.point, layer.depth, cosine)


@dataclass(frozen=True)
class TraitEstimate:
    """The result of one estimand for one model.

    ``per_cluster`` holds one (linearised) value a scenario, whose mean is the estimate: models are compared on it
    pair by pair. ``effect`` is d_z = (estimate - null) / SD over clusters. ``reason`` says why an invalid estimate
    is invalid. NaN means that there is no such number.
    """

    trait: str
    estimate: float
    low: float
    high: float
    se: float
    p_value: float
    effect: float
    n_clusters: int
    valid: bool
    reason: str = ""
    per_cluster: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def mdc95(self) -> float:
        """Minimal detectable change 1.96 sqrt(2) SEM between two measurements (Weir 2005)."""
        return 1.96 * math.sqrt(2.0) * self.se

    @property
    def significant(self) -> bool:
        """Valid, and the null is rejected at .05."""
        return self.valid and self.p_value <= 0.05

    def to_json(self) -> dict[str, Any]:
        """Plain data; NaN and infinities as None or text so that the file is strict JSON."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> TraitEstimate:
        """Back from `to_json`."""
        numbers = ("estimate", "low", "high", "se", "p_value", "effect")
        clusters = {k: _number(v) for k, v in data["per_cluster"].items()}
        return TraitEstimate(**{**data, **{k: _number(data[k]) for k in numbers}, "per_cluster": clusters})


@dataclass(frozen=True)
class Estimand:
    """The declaration of a trait and the function that estimates it.

    ``design`` is the suite design it needs. ``null`` is the value of a model without the trait. ``meaning`` says
    what + means. ``validity`` lists the conditions under which a number is given at all.
    """

    name: str
    title: str
    design: str
    formula: str
    unit: str
    range: str
    null: float
    meaning: str
    controls: tuple[str, ...]
    validity: tuple[str, ...]
    sources: tuple[str, ...]
    estimate: Callable[[Measurement], TraitEstimate]
    ranked: bool = True


def result(
    trait: str,
    interval: Interval,
    null: float,
    clusters: Sequence[str],
    per_cluster: ArrayLike,
    p_value: float,
    problems: Sequence[str] = (),
    details: dict[str, Any] | None = None,
) -> TraitEstimate:
    """Assemble a TraitEstimate; the first of ``problems`` (empty strings do not count) makes it invalid."""
    reasons = [p for p in problems if p]
    if interval.n_clusters < MIN_CLUSTERS:
        reasons.insert(0, f"{interval.n_clusters} scenarios, {MIN_CLUSTERS} are needed for an interval")
    if not reasons and not math.isfinite(interval.estimate):
        reasons.append("the estimate is not a finite number")
    spread = interval.se * math.sqrt(max(interval.n_clusters, 1))
    effect = (interval.estimate - null) / spread if spread > 0 else float("nan")
    values = np.asarray(per_cluster, dtype=np.float64)
    return TraitEstimate(
        trait,
        interval.estimate,
        interval.low,
        interval.high,
        interval.se,
        p_value,
        effect,
        interval.n_clusters,
        not reasons,
        reasons[0] if reasons else "",
        {c: float(v) for c, v in zip(clusters, values, strict=True)},
        details or {},
    )


def no_estimate(trait: str, reason: str) -> TraitEstimate:
    """The invalid estimate of a trait for which there are no data."""
    nan = float("nan")
    return TraitEstimate(trait, nan, nan, nan, nan, nan, nan, 0, False, reason)


def core_emotions(frame: pd.DataFrame) -> tuple[str, ...]:
    """The core emotions that a table has, in their order: suites made of other data sets may lack some."""
    present = set(frame["emotion"])
    return tuple(e for e in NAMES if e in present)


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the scenarios that still have every emotion x intensity cell (some items may not have fitted into
    the context), so that the design stays balanced."""
    wanted = frame.groupby(["emotion", "intensity"]).ngroups
    cells = frame.drop_duplicates(["scenario", "emotion", "intensity"]).groupby("scenario").size()
    return frame[frame["scenario"].isin(cells.index[cells == wanted])].reset_index(drop=True)


def twinned(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows that have a twin, with the twin's value (same item pair, same lag) subtracted from ``columns``. Rows
    whose twin was left out are left out too."""
    rows = frame[frame["twin"] != ""]
    partner = frame.set_index(["item", "lag"])[list(columns)]
    wanted = pd.MultiIndex.from_frame(rows[["twin", "lag"]])
    present = wanted.isin(partner.index)
    rows = rows[present].copy()
    rows[list(columns)] = rows[list(columns)].to_numpy() - partner.loc[wanted[present]].to_numpy()
    return rows


def own_score(frame: pd.DataFrame) -> Floats:
    """Each row's score on the axis of its own emotion."""
    table = frame[list(NAMES)].to_numpy(np.float64)
    return np.asarray(table[np.arange(len(frame)), [NAMES.index(e) for e in frame["emotion"]]])


def by_scenario(frame: pd.DataFrame, value: str, across: str) -> pd.DataFrame:
    """Mean of ``value`` per scenario (rows) and level of ``across`` (columns); incomplete scenarios are dropped."""
    return frame.pivot_table(index="scenario", columns=across, values=value, aggfunc="mean").dropna()


def ratio_influence(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """One value a cluster whose mean is the ratio of means: theta + (a - theta b) / mean(b)."""
    a, b = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if len(a) == 0 or b.mean() == 0:
        return np.full(a.shape, np.nan)
    theta = a.mean() / b.mean()
    return np.asarray(theta + (a - theta * b) / b.mean())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(float(value))
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
