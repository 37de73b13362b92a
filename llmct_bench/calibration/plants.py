"""Level 3: whole traits planted in a model, and what the benchmark makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from llmct_bench.adapters import LoadedModel
from llmct_bench.affect import AffectFit, Scores
from llmct_bench.calibration.spike import Bench, Floats, Progress, steppable, unit_vectors
from llmct_bench.emotions import NAMES
from llmct_bench.scanner import render
from llmct_bench.suites import Suite
from llmct_bench.suites.compose import LAGS
from llmct_bench.traits import TraitEstimate, estimate_all, measure, unavailable

#: Neutral SD per step of designed intensity, the assistant's share of it, the share that a calm context takes away, and
#: exchanges until half of it is gone.
STEP, ROLE_GAIN, ABSORPTION, HALF_LIFE = 1.0, 0.7, 0.5, 6.0


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
        bench = Bench(model, suite, fit, budget, progress)
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
    cosine = fit.axis_cosines
    return {t.trait: t for t in estimate_all(measure(scores, fit.layer, cosine), suite.card.design)}
