"""A trait is one declared estimand: what is estimated, in which unit, against which null, valid under what."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from llmct_bench.affect import FitConstants, LayerChoice, Scores, ScoreVersions, Transfer, averages
from llmct_bench.emotions import NAMES
from llmct_bench.scanner import NextWords
from llmct_bench.stats import MIN_CLUSTERS, Interval, LeftOut, left_out

Floats = NDArray[np.float64]
T = TypeVar("T")


class Layout:
    """The factors of a suite's readouts, and what estimands work out from them once, however often the same design is
    scored (other axes, simulated data)."""

    def __init__(self, index: pd.DataFrame) -> None:
        self.index = index
        self._made: dict[Callable[[pd.DataFrame], Any], Any] = {}

    def made(self, build: Callable[[pd.DataFrame], T]) -> T:
        """``build(index)``, kept."""
        if build not in self._made:
            self._made[build] = build(self.index)
        return cast(T, self._made[build])


@dataclass(frozen=True)
class Measurement:
    """What an estimand sees: the scores of one suite, at the layer that was chosen on other data.

    ``values`` (n_readouts, n_scores) in neutral SD at that layer, columns ``names``; ``profile`` (n_readouts, n_points,
    n_scores) at all of them; ``role_cosine``: by emotion, between the axes of the roles, and its upper bound;
    ``versions``: the scores at that layer on other axes; ``constants``: what the fit knows beside them; ``next_words``:
    what the model would say; ``transfer`` from the language of which the suite is a translation.
    """

    layout: Layout
    values: Floats
    names: tuple[str, ...]
    profile: Floats
    depth: float
    role_cosine: dict[str, tuple[float, float]] = field(default_factory=dict)
    versions: ScoreVersions | None = None
    constants: FitConstants | None = None
    next_words: NextWords | None = None
    transfer: Transfer | None = None

    def error(self, statistic: Callable[[Floats], ArrayLike]) -> LeftOut | None:
        """What ``statistic`` of the scores (n_readouts, n_scores) inherits from the axes; None where their versions are
        not known."""
        if self.versions is None:
            return None
        without = np.array([np.atleast_1d(statistic(v)) for v in self.versions], dtype=np.float64)
        if not np.isfinite(without).all():
            return None
        return left_out(statistic(self.versions.usual), without, self.versions.strata)


def measure(
    scores: Scores,
    layer: LayerChoice,
    role_cosine: Sequence[Sequence[float | None]],
    keyworded_only: bool = False,
    without: Collection[str] = (),
    layout: Layout | None = None,
) -> Measurement:
    """The measurement of a suite at a fit's layer; ``role_cosine`` as in `AffectFit.axis_cosines`. ``keyworded_only``
    keeps the items that hold lexicon words (phantoms read nothing else); ``without`` names readouts (``ITEM[READ]``)
    that are left out because another model of the comparison cannot read them. ``layout``: of these very readouts, if
    there is one."""
    keep = scores.index["keyworded"].to_numpy(bool) if keyworded_only else np.ones(len(scores.index), bool)
    if without:
        names = [f"{item}[{read}]" for item, read in zip(scores.index["item"], scores.index["read"], strict=True)]
        keep = keep & ~np.isin(names, list(without))
    profile, versions, constants, transfer = scores.values, scores.versions, scores.constants, scores.transfer
    if without:
        lost = set(scores.index["scenario"][np.isin(names, list(without))])
        if constants is not None and constants.backbone is not None:
            constants = replace(constants, backbone=constants.backbone.lacking(lost))
        transfer = transfer.lacking(lost) if transfer is not None else None
    if not keep.all():
        profile, versions = profile[keep], versions.rows(keep) if versions is not None else None
    return Measurement(
        layout or Layout(scores.index[keep].reset_index(drop=True)),
        profile[:, layer.point],
        scores.names,
        profile,
        layer.depth,
        {e: (_number(c), _number(high)) for e, (c, high) in zip(NAMES, role_cosine, strict=True)},
        versions,
        constants,
        scores.next_words,
        transfer,
    )


@dataclass(frozen=True)
class TraitEstimate:
    """The result of one estimand for one model.

    ``per_cluster`` holds one (linearised) value a scenario, whose mean is the estimate: models are compared on it
    pair by pair. ``se`` is the standard error over scenarios and axes, ``se_axes`` the part of the axes
    (of `joy_output`: of its content-free prompts). ``effect`` is
    d_z = (estimate - null) / SD over clusters. ``reason`` says why an invalid estimate is invalid. NaN means that there
    is no such number.
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
    se_axes: float = 0.0

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
        numbers = ("estimate", "low", "high", "se", "p_value", "effect", "se_axes")
        clusters = {k: _number(v) for k, v in data["per_cluster"].items()}
        return TraitEstimate(**{**data, **{k: _number(data[k]) for k in numbers}, "per_cluster": clusters})


@dataclass(frozen=True)
class Estimand:
    """The declaration of a trait and the function that estimates it.

    ``design`` is the suite design it needs. ``null`` is the value of a model without the trait, NaN where
    that is a value of each model's own (permuted labels). ``meaning`` says
    what + means. ``validity`` lists the conditions under which a number is given at all. ``needs``: a field of the
    measurement that only some suites of the design have; the others do not have the trait.
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
    #: the values by scenario are natural logarithms of the unit
    logarithmic: bool = False
    needs: str = ""


def result(
    trait: str,
    interval: Interval,
    null: float,
    clusters: Sequence[str],
    per_cluster: ArrayLike,
    p_value: float,
    problems: Sequence[str] = (),
    details: dict[str, Any] | None = None,
    se_axes: float = 0.0,
) -> TraitEstimate:
    """Assemble a TraitEstimate; the first of ``problems`` (empty strings do not count) makes it invalid, and so does an
    interval without bounds (Fieller's, where the denominator cannot be told from 0). ``se_axes``: the part of the
    interval's standard error that is the axes'."""
    reasons = [p for p in problems if p]
    if interval.n_clusters < MIN_CLUSTERS:
        reasons.insert(0, f"{interval.n_clusters} scenarios, {MIN_CLUSTERS} are needed for an interval")
    if not reasons and not math.isfinite(interval.estimate):
        reasons.append("the estimate is not a finite number")
    if not reasons and math.isinf(interval.high - interval.low):
        reasons.append("the interval has no bounds: with the error of the axes the denominator may be 0")
    values = np.asarray(per_cluster, dtype=np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    effect = (interval.estimate - null) / spread if spread > 0 else float("nan")
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
        se_axes,
    )


def no_estimate(trait: str, reason: str) -> TraitEstimate:
    """The invalid estimate of a trait for which there are no data."""
    nan = float("nan")
    return TraitEstimate(trait, nan, nan, nan, nan, nan, nan, 0, False, reason)


def core_emotions(index: pd.DataFrame) -> tuple[str, ...]:
    """The core emotions that a table has, in their order: suites made of other data sets may lack some."""
    present = set(index["emotion"])
    return tuple(e for e in NAMES if e in present)


def complete(index: pd.DataFrame) -> NDArray[np.intp]:
    """The rows of the scenarios that still have every emotion x intensity cell (some items may not have fitted into
    the context), so that the design stays balanced."""
    wanted = index.groupby(["emotion", "intensity"]).ngroups
    cells = index.drop_duplicates(["scenario", "emotion", "intensity"]).groupby("scenario").size()
    return np.flatnonzero(index["scenario"].isin(cells.index[cells == wanted]))


@dataclass(frozen=True)
class Responses:
    """The readouts that have a twin, and how a response is read off scores: the score on the readout's own emotion
    minus that of its twin (same item pair, same lag). Readouts whose twin was left out are left out too. ``index``: the
    factors of these readouts."""

    index: pd.DataFrame
    rows: NDArray[np.intp]
    twins: NDArray[np.intp]
    axis: NDArray[np.intp]

    def __call__(self, values: Floats) -> Floats:
        """Responses (n,) from scores (n_readouts, n_scores)."""
        return np.asarray(values[self.rows, self.axis] - values[self.twins, self.axis])


def responses(index: pd.DataFrame, among: NDArray[np.bool_] | None = None) -> Responses:
    """The responses of a table of readouts, or of those ``among`` it (n_readouts,)."""
    place = {key: i for i, key in enumerate(zip(index["item"], index["lag"], strict=True))}
    twin = [place.get(key, -1) for key in zip(index["twin"], index["lag"], strict=True)]
    known = np.array([t >= 0 for t in twin], bool) & (index["twin"] != "").to_numpy()
    known &= index["emotion"].isin(NAMES).to_numpy()
    rows = np.flatnonzero(known if among is None else known & among)
    own = index.iloc[rows].reset_index(drop=True)
    axis = own["emotion"].map({e: k for k, e in enumerate(NAMES)}).to_numpy(np.intp)
    return Responses(own, rows, np.array(twin, np.intp)[rows], np.asarray(axis, np.intp))


@dataclass(frozen=True)
class Table:
    """Averages by scenario (rows) and level of a factor (columns); scenarios that lack a level are dropped."""

    scenarios: tuple[str, ...]
    levels: tuple[Any, ...]
    matrix: csr_array

    def __call__(self, y: Floats) -> Floats:
        """(n_scenarios, n_levels) from one value a readout (n,)."""
        return np.asarray(self.matrix @ y).reshape(len(self.scenarios), len(self.levels))


def by_scenario(index: pd.DataFrame, across: str, levels: Sequence[Any] | None = None) -> Table:
    """The table of a factor's ``levels``: by default those that occur."""
    columns = tuple(sorted(index[across].unique()) if levels is None else levels)
    counts = (
        index.groupby(["scenario", across]).size().unstack(fill_value=0).reindex(columns=list(columns), fill_value=0)
    )
    whole = tuple(str(s) for s in counts.index[(counts > 0).all(axis=1)])
    row = index["scenario"].map({s: i for i, s in enumerate(whole)})
    column = index[across].map({c: i for i, c in enumerate(columns)})
    code = (row * len(columns) + column).fillna(-1).to_numpy(np.intp)
    return Table(whole, columns, averages(code, len(whole) * len(columns)))


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
