"""A model on the axes of another: what tuning changed, in the terms of the base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llmct_bench.affect import AffectFit, LayerChoice, Scores, averages
from llmct_bench.comparison.differences import MARGIN, Difference, adjusted, paired
from llmct_bench.emotions import NAMES
from llmct_bench.errors import ResultError
from llmct_bench.results import ResultCard
from llmct_bench.stats import MIN_CLUSTERS, Interval, fieller, left_out
from llmct_bench.traits import ESTIMANDS, Measurement, estimate_all, measure
from llmct_bench.traits.estimand import Responses, responses

Floats = NDArray[np.float64]
#: The format in which a model is read: the one of its chat template, or the one of models that have none.
Form = Literal["chat", "plain"]


@dataclass(frozen=True)
class Gain:
    """Mean response of a ``model`` and of its ``base`` to the emotions of a suite, in neutral SD of the base, and their
    ``ratio``, whose interval knows that the axes are the same."""

    suite: str
    model: float
    base: float
    ratio: Interval


@dataclass(frozen=True)
class OnAxes:
    """``model`` read on the axes of ``base``: at its layer and in its neutral SD, the model's text in a ``form``.

    ``differences``: model minus base, trait by trait, adjusted among themselves; both models' errors of the axes are
    added though the axes are the same, so that intervals are rather too wide. ``gain`` of the response, None where no
    suite has neutral twins. ``cosines`` of the model's own direction of each emotion with the base's, at that layer.
    """

    model: str
    base: str
    form: Form
    differences: tuple[Difference, ...]
    gain: Gain | None
    cosines: dict[str, float] = field(default_factory=dict)


def on_axes(
    names: tuple[str, str],
    base: Sequence[ResultCard],
    fit: AffectFit,
    read: Callable[[ResultCard], Scores],
    scores: Callable[[ResultCard], Scores],
    *,
    own: AffectFit | None = None,
    form: Form = "chat",
    margin: float = MARGIN,
) -> OnAxes:
    """Compare a model with the model that it was tuned from on the axes of that one.

    ``names`` of model and base; ``base``: the results of the base model, whose axes are ``fit``; ``read`` gives the
    scores of the model on these axes on the suite of a result, ``scores`` the stored ones of the base. ``own``: the
    model's own axes. Estimates are made again on what both can read. Raises ResultError where there is no suite.
    """
    pairs = [(r, *_measurements(r, read(r), scores(r))) for r in base if r.design != "reference"]
    if not pairs:
        raise ResultError(f"{names[1]} has no result but its reference: run it on a suite first")
    found: list[Difference] = []
    for r, ours, theirs in pairs:
        estimates = {t.trait: t for t in estimate_all(theirs, r.design)}
        mine = estimate_all(ours, r.design)
        found += [paired(t, estimates[t.trait], suite=r.suite, names=names, margin=margin) for t in mine]
    found.sort(key=lambda d: list(ESTIMANDS).index(d.trait))
    gain = next(filter(None, (_gain(*p) for p in pairs)), None)
    at = fit.layer.point
    cosines = _cosines(own.directions[at], fit.directions[at]) if own is not None else {}
    return OnAxes(*names, form, tuple(adjusted(found)), gain, cosines)


def _measurements(result: ResultCard, ours: Scores, theirs: Scores) -> tuple[Measurement, Measurement]:
    """Both models on the readouts that both can read."""
    names = [{f"{i}[{r}]" for i, r in zip(s.index["item"], s.index["read"], strict=True)} for s in (ours, theirs)]
    without = (names[0] ^ names[1]) | set(result.not_shared)
    layer, cosine = LayerChoice.from_json(result.fit["layer"]), result.fit["role_cosine"]
    one, other = (measure(s, layer, cosine, result.subset == "keyworded", without) for s in (ours, theirs))
    return one, other


def _gain(result: ResultCard, ours: Measurement, theirs: Measurement) -> Gain | None:
    found = [m.layout.made(_responses) for m in (ours, theirs)]
    shared = sorted(set(found[0].scenarios) & set(found[1].scenarios))
    if len(shared) < MIN_CLUSTERS:
        return None
    each = [f.on(shared) for f in found]

    def means(one: Floats, other: Floats) -> Floats:
        return np.array([f(v).mean() for f, v in zip(each, (one, other), strict=True)])

    here = means(ours.values, theirs.values)
    error = None
    if ours.versions is not None and theirs.versions is not None:
        without = [means(*pair) for pair in zip(ours.versions, theirs.versions, strict=True)]
        error = left_out(here, np.array(without), ours.versions.strata)
    ratio = fieller(each[0](ours.values), each[1](theirs.values), error=error)
    return Gain(result.suite, float(here[0]), float(here[1]), ratio)


@dataclass(frozen=True)
class _Means:
    """Mean response of each scenario, whatever the emotion."""

    scenarios: tuple[str, ...]
    response: Responses
    matrix: csr_array

    def __call__(self, values: Floats) -> Floats:
        return np.asarray(self.matrix @ self.response(values))

    def on(self, scenarios: Sequence[str]) -> _Means:
        """Those of some scenarios."""
        place = {s: i for i, s in enumerate(self.scenarios)}
        return replace(self, scenarios=tuple(scenarios), matrix=self.matrix[[place[s] for s in scenarios]])


def _responses(index: pd.DataFrame) -> _Means:
    found = responses(index)
    code, names = pd.factorize(found.index["scenario"], sort=True)
    return _Means(tuple(map(str, names)), found, averages(code, len(names)))


def _cosines(own: NDArray[np.float32], base: NDArray[np.float32]) -> dict[str, float]:
    """Cosine of each emotion's directions (n_scores, d_model)."""
    a, b = (x[: len(NAMES)].astype(np.float64) for x in (own, base))
    cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return dict(zip(NAMES, cosine.tolist(), strict=True))
