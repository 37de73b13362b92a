"""Level 3: recovered doses against planted ones, at the planted point and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmct_bench.adapters import LoadedModel
from llmct_bench.affect import AffectFit
from llmct_bench.calibration.spike import Bench, Floats, Progress, random_vectors, shared_out, steppable, unit_vectors
from llmct_bench.emotions import NAMES
from llmct_bench.stats import Interval, cluster_t
from llmct_bench.suites import Suite

#: Doses of an emotion that are planted, in neutral SD, and the one of a random direction.
DOSES = (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)
PROBE = 2.0
#: Random directions at each point.
RANDOM = 24


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
    bench = Bench(model, suite, fit, budget, progress)
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
