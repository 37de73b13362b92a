"""Level 3: a known vector is added to a model's residual stream, and the instrument has to find it.

A dose of d (neutral SD) of emotion e at a point is the step d u_e on every content token of the message that is read.
u_e is the shortest vector that moves the score of e by 1 and the other emotions as little as the axes allow. There are
four emotions, but their axes are differences from a common mean, so that a weighted sum of them is 0: they span three
dimensions. With n the unit vector of those weights, the score changes that any vector can make are the y with
<n, y> = 0; of those with y_e = 1 the smallest has y_f = -n_e n_f / (1 - n_e^2): a third of the dose with the opposite
sign where the weights are equal. It is the column of the pseudo-inverse of the directions, scaled to 1. All changes are
known exactly, so all scores are held against what was planted.

Dimensions with massive values are left alone: in floating point they cannot hold a small step (at a value of 4000 in
float32 the next number is 0.0002 away), which would be an error of the planting and not of the reading.

Every readout is run in a row of its own. Spiked and unspiked runs have the same passes, so that what lies before the
spike is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.affect import AffectFit, Scores, from_projections
from llmct_bench.emotions import NAMES
from llmct_bench.errors import ModelError
from llmct_bench.scanner import Batch, BatchEdit, render, scan_projected
from llmct_bench.stats import Interval, cluster_t
from llmct_bench.suites import Suite
from llmct_bench.suites.compose import LAGS
from llmct_bench.traits import TraitEstimate, estimate_all, measure, unavailable

Floats = NDArray[np.float64]
Progress = Callable[[int], None]

#: Doses of an emotion that are planted, in neutral SD, and the one of a random direction.
DOSES = (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)
PROBE = 2.0
#: Random directions at each point.
RANDOM = 24
#: Planted traits: neutral SD per step of designed intensity, the assistant's share of it, the share that a calm context
#: takes away, and exchanges until half of it is gone.
STEP, ROLE_GAIN, ABSORPTION, HALF_LIFE = 1.0, 0.7, 0.5, 6.0
#: Weight below which a singular value of the directions is a rounding error of an axis that depends on the others.
_DEPENDENT = 1e-4
#: A dimension is massive where its largest value in the reference states is so many times the median dimension's.
_MASSIVE = 10.0


# --- the spike ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spike:
    """``doses[i] @ vectors`` is added at ``point`` to every content token of readout i: ``doses`` (n_readouts, k) and
    ``vectors`` (k, d_model), float64."""

    point: Point
    doses: Floats
    vectors: Floats

    def edit(self) -> BatchEdit:
        """The spike as an edit of a scan."""
        return BatchEdit(self.point, self._add)

    def _add(self, batch: Batch, value: Tensor) -> Tensor:
        pieces = [np.concatenate([np.arange(a, b) for a, b in r.pieces]) for r in batch.reads]
        steps = (self.doses[[r.index for r in batch.reads]] @ self.vectors).astype(np.float32)
        step = torch.from_numpy(np.repeat(steps, [len(p) for p in pieces], axis=0)).to(value)
        places = torch.from_numpy(np.concatenate(pieces)).to(value.device)
        return value.reshape(-1, value.shape[-1]).index_add(0, places, step).reshape(value.shape)


def steppable(references: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The dimensions (d_model,) without massive values in some states (n, d_model) of a point."""
    size = np.abs(references).max(axis=0)
    return np.asarray(size <= _MASSIVE * np.median(size))


def unit_vectors(directions: NDArray[np.floating], where: NDArray[np.bool_] | None = None) -> Floats:
    """The vectors u_e (k, d_model) of directions (k, d_model), zero but for the dimensions ``where``. Each moves its
    own score by 1 and the others as little as possible: not at all where the directions are independent. Raises
    ModelError where a direction is zero."""
    rows = _within(directions, where)
    inverse = np.linalg.pinv(rows, rcond=_DEPENDENT).T
    own = (rows * inverse).sum(axis=1)
    if not (own > _DEPENDENT).all():
        raise ModelError("an emotion has no axis at this point of the model, so no dose of it can be planted there")
    return np.asarray(inverse / own[:, None])


def random_vectors(
    directions: NDArray[np.floating],
    norm: float,
    count: int,
    seed: Sequence[int],
    where: NDArray[np.bool_] | None = None,
) -> Floats:
    """``count`` seeded random vectors (count, d_model) of length ``norm``, zero but for the dimensions ``where``, that
    move no score along ``directions``."""
    rows = _within(directions, where)
    drawn = _within(np.random.default_rng(seed).normal(size=(count, rows.shape[1])), where)
    _, size, basis = np.linalg.svd(rows, full_matrices=False)
    basis = basis[size > 1e-9 * size.max()]
    for _ in range(2):  # once more for what rounding left
        drawn -= drawn @ basis.T @ basis
    return np.asarray(norm * drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def _within(rows: NDArray[np.floating], where: NDArray[np.bool_] | None) -> Floats:
    return np.asarray(rows, np.float64) * (1.0 if where is None else where)


def shared_out(index: pd.DataFrame, levels: int, seed: int = 0) -> NDArray[np.intp]:
    """One of ``levels`` for each row of an index, evenly within each scenario and in a seeded random order, so that
    levels are not tied to the design."""
    rng, out, begin = np.random.default_rng(seed), np.zeros(len(index), np.intp), 0
    for scenario in index["scenario"].unique():
        rows = np.flatnonzero(index["scenario"] == scenario)
        out[rows] = rng.permutation((begin + np.arange(len(rows))) % levels)
        begin += len(rows)
    return out


# --- recovered against planted ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """What became of doses planted at point ``planted``, in the score of their own ``emotion`` ("all": whatever it is)
    at point ``read``: the line of recovered over planted, one per scenario, and the share ``r2`` of the variance of all
    shifts that one line explains. At the planted point the truth is slope 1, intercept 0; after it the slope is what
    the model transmits."""

    planted: int
    read: int
    emotion: str
    slope: Interval
    intercept: Interval
    r2: float


@dataclass(frozen=True)
class Undirected:
    """Shift of an emotion's score per unit of dose under random directions that are as long as the emotions' vectors
    and move no score where they are planted: the mean over directions, their standard deviation, and the largest."""

    planted: int
    read: int
    emotion: str
    mean: Interval
    spread: float
    largest: float


@dataclass(frozen=True)
class SpikeIn:
    """Level 3 for one model. ``point``: the fit's layer. By planted point: ``errors``, the largest difference between
    recovered and planted in any score of any readout at that point (neutral SD, rounding only), and ``before``, the
    largest shift of any score at an earlier point (0: states do not depend on what comes after)."""

    model: str
    suite: str
    point: int
    n_readouts: int
    n_scenarios: int
    responses: tuple[Response, ...]
    random: tuple[Undirected, ...]
    errors: dict[int, float]
    before: dict[int, float]

    def response(self, planted: int, read: int, emotion: str = "all") -> Response:
        """One line of the table. Raises KeyError where there is none."""
        for r in self.responses:
            if (r.planted, r.read, r.emotion) == (planted, read, emotion):
                return r
        raise KeyError((planted, read, emotion))


def spike_in(
    model: LoadedModel,
    suite: Suite,
    fit: AffectFit,
    *,
    points: Sequence[int] | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress = lambda tokens: None,
) -> SpikeIn:
    """Plant doses of all emotions at ``points`` (numbers of block boundaries; default: the fit's layer, the one half
    way to it, and the first block's output) and read them there and at all later boundaries. Raises ModelError as a
    scan does, and where an emotion has no axis at a point."""
    chosen = fit.layer.point
    sources = sorted({chosen, *(p for p in (chosen // 2, 1) if 1 <= p <= chosen)} if points is None else set(points))
    bench = _Bench(model, suite, fit, budget, progress)
    index, names = bench.rendered.index, bench.plain.names
    scenario = index["scenario"].to_numpy()
    own = [names.index(e) for e in NAMES]
    drawn = shared_out(index, len(NAMES) * len(DOSES), seed)
    emotion, dose = drawn % len(NAMES), np.array(DOSES)[drawn // len(NAMES)]
    which = shared_out(index, RANDOM, seed + 1)
    rows = np.arange(len(index))
    responses: list[Response] = []
    undirected: list[Undirected] = []
    errors, before = {}, {}
    for p in sources:
        directions = fit.directions[p].astype(np.float64)
        where = steppable(fit.references[p])
        vectors = unit_vectors(directions[own], where)
        planted = np.zeros((len(index), len(NAMES)))
        planted[rows, emotion] = dose
        shift = bench.shift(p, planted, vectors)
        errors[p] = float(np.abs(shift[:, p] - planted @ vectors @ directions.T).max())
        before[p] = float(np.abs(shift[:, :p]).max(initial=0.0))
        length = float(np.linalg.norm(vectors, axis=1).mean())
        noise = random_vectors(directions, length, RANDOM, (seed, p), where)
        strayed = bench.shift(p, PROBE * np.eye(RANDOM)[which], noise)[:, :, own] / PROBE
        for q in range(p, shift.shape[1]):
            heard = shift[rows, q, np.array(own)[emotion]]
            for e, name in enumerate((*NAMES, "all")):
                use = emotion == e if name != "all" else np.ones(len(index), bool)
                responses.append(Response(p, q, name, *_line(dose[use], heard[use], scenario[use])))
            by_direction = np.stack([strayed[which == k, q].mean(axis=0) for k in np.unique(which)])
            for e, name in enumerate(NAMES):
                v = by_direction[:, e]
                undirected.append(Undirected(p, q, name, cluster_t(v), float(v.std(ddof=1)), float(np.abs(v).max())))
    return SpikeIn(
        model.card.name,
        suite.key,
        chosen,
        len(index),
        int(index["scenario"].nunique()),
        tuple(responses),
        tuple(undirected),
        errors,
        before,
    )


class _Bench:
    """One model on one suite, with and without spikes."""

    def __init__(self, model: LoadedModel, suite: Suite, fit: AffectFit, budget: int | None, progress: Progress):
        self.rendered = render(suite, model.tokenizer, model.context)
        self._model, self._suite, self._fit = model, suite, fit
        self._budget, self._progress = budget, progress
        self.plain = self._scores(None)

    def spiked(self, point: int, doses: Floats, vectors: Floats) -> Scores:
        """The scores under a spike."""
        return self._scores(Spike(Point("resid", point), doses, vectors))

    def shift(self, point: int, doses: Floats, vectors: Floats) -> Floats:
        """By how much a spike moves every score, (n_readouts, n_points, n_scores)."""
        return np.asarray(self.spiked(point, doses, vectors).values - self.plain.values)

    def _scores(self, spike: Spike | None) -> Scores:
        """An edit that changes nothing makes the plain run the same passes."""
        edit = spike.edit() if spike else BatchEdit(Point("resid", 0), lambda batch, value: value)
        found = scan_projected(
            self._model,
            self._suite,
            self._fit.directions,
            self._fit.references,
            budget=self._budget,
            rendered=self.rendered,
            progress=self._progress,
            edit=edit,
        )
        return from_projections(found, self._fit)


def _line(x: Floats, y: Floats, scenario: NDArray[Any]) -> tuple[Interval, Interval, float]:
    """Slope and intercept of y over x, a least-squares line in each scenario with two different x, and R² of one line
    through all."""
    lines = []
    for s in np.unique(scenario):
        use = scenario == s
        if np.ptp(x[use]) > 0:
            lines.append(np.polyfit(x[use], y[use], 1))
    slopes, intercepts = np.array(lines).reshape(-1, 2).T
    total = float(((y - y.mean()) ** 2).sum()) if len(y) else 0.0
    r2 = 1 - float(((y - np.polyval(np.polyfit(x, y, 1), x)) ** 2).sum()) / total if total > 0 else float("nan")
    return cluster_t(slopes), cluster_t(intercepts), r2


# --- planted traits ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """A trait that is planted in whatever model: ``dose`` says for a row of the index (a named tuple) how much of the
    row's own emotion is added, in neutral SD; ``truth`` what traits that makes in a model without any of its own."""

    name: str
    design: str
    dose: Callable[[Any], float]
    truth: dict[str, float]


def _dampened(row: Any) -> float:
    return float(STEP * row.intensity * (ROLE_GAIN if row.role == "assistant" else 1.0))


def _absorbed(row: Any) -> float:
    return float(STEP * row.intensity * (1 - ABSORPTION if row.context == "calm" else 1.0))


def _faded(row: Any) -> float:
    return float(STEP * row.intensity * 2.0 ** (-row.lag / HALF_LIFE))


#: Doses of a shock are 1, 2 and 3; the tail is what is left after eight exchanges and more.
PLANTS = (
    Plant("dampened", "shock", _dampened, {"dampening": 1 - ROLE_GAIN, "shock_absorption": 0.0}),
    Plant("absorbing", "shock", _absorbed, {"dampening": 0.0, "shock_absorption": 2 * STEP * ABSORPTION}),
    Plant(
        "fading",
        "retention",
        _faded,
        {"tail_retention": float(np.mean([2.0 ** (-k / HALF_LIFE) for k in LAGS if k >= 8])), "half_life": HALF_LIFE},
    ),
)


@dataclass(frozen=True)
class PlantedTrait:
    """A planted trait and what the benchmark makes of it at the fit's layer. ``recovered``: the estimate on the spiked
    model, whose own response is in it. ``expected``: the same estimate from the unspiked scores and the planted doses
    (what the own response makes of the truth; an exact scan gives this number). ``alone``: the estimate from the
    shifts, the model's own response taken away: this is the planted value, for every model."""

    plant: str
    trait: str
    suite: str
    planted: float
    recovered: TraitEstimate
    expected: float
    alone: float


def planted_doses(plant: Plant, index: pd.DataFrame) -> Floats:
    """Doses (n_readouts, n_emotions) of a plant: each row on its own emotion, rows of other emotions none."""
    out = np.zeros((len(index), len(NAMES)))
    for i, row in enumerate(index.itertuples(index=False)):
        if row.emotion in NAMES:
            out[i, NAMES.index(str(row.emotion))] = plant.dose(row)
    return out


def plant_traits(
    model: LoadedModel,
    suites: Sequence[Suite],
    fit: AffectFit,
    *,
    plants: Sequence[Plant] = PLANTS,
    budget: int | None = None,
    progress: Progress = lambda tokens: None,
) -> list[PlantedTrait]:
    """Plant every trait in a model on the suites of its design and estimate it as the benchmark does. A suite of which
    the model can read nothing has invalid estimates. Raises ModelError as a scan does."""
    made: list[PlantedTrait] = []
    p = fit.layer.point
    directions = fit.directions[p].astype(np.float64)
    own_axes = directions[[fit.scores.index(e) for e in NAMES]]
    vectors = unit_vectors(own_axes, steppable(fit.references[p]))
    for suite in suites:
        own = [plant for plant in plants if plant.design == suite.card.design]
        if not own:
            continue
        if not render(suite, model.tokenizer, model.context).readouts:
            reason = f"the model can read no item (context {model.context} tokens)"
            made += [
                PlantedTrait(plant.name, t.trait, suite.key, plant.truth[t.trait], t, float("nan"), float("nan"))
                for plant in own
                for t in unavailable(suite.card.design, reason)
                if t.trait in plant.truth
            ]
            continue
        bench = _Bench(model, suite, fit, budget, progress)
        for plant in own:
            doses = planted_doses(plant, bench.rendered.index)
            spiked = bench.spiked(p, doses, vectors)
            ideal = bench.plain.values.copy()
            ideal[:, p] += doses @ vectors @ directions.T
            expected = _estimates(replace(bench.plain, values=ideal), suite, fit)
            alone = _estimates(replace(spiked, values=spiked.values - bench.plain.values), suite, fit)
            for trait, found in _estimates(spiked, suite, fit).items():
                if trait in plant.truth:
                    truth, one, two = plant.truth[trait], expected[trait].estimate, alone[trait].estimate
                    made.append(PlantedTrait(plant.name, trait, suite.key, truth, found, one, two))
    return made


def _estimates(scores: Scores, suite: Suite, fit: AffectFit) -> dict[str, TraitEstimate]:
    cosine = fit.role_cosine[fit.layer.point].tolist()
    return {t.trait: t for t in estimate_all(measure(scores, fit.layer, cosine), suite.card.design)}
