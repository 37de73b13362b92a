"""Level 4: zero change. How far does a trait move when nothing that matters is changed?

The rounding floor is what other passes (budgets of tokens, the order of the items) do to an estimate, the dtype's what
half precision does to it. There is no second wording of the suites, so the error of the wording is measured on parallel
forms: two disjoint random halves of the scenarios are estimated as if each was a suite.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from llmct_bench.adapters import LoadedModel, resolve
from llmct_bench.affect import AffectFit, Scores, from_projections
from llmct_bench.errors import ModelError, SuiteError
from llmct_bench.scanner import read_next_words, render, scan_projected
from llmct_bench.suites import Suite
from llmct_bench.traits import TraitEstimate, estimate_all, measure, unavailable

Progress = Callable[[int], None]

#: Tokens per pass of the runs that must not differ from the usual one; in each the items come in the opposite order.
BUDGETS = (256, 700, 8192)
#: Random halvings for the parallel forms.
SPLITS = 20


@dataclass(frozen=True)
class Floor:
    """The noise floor of a trait of a model, in the unit of the trait, beside its estimate and standard error.

    ``rounding``: largest change of the estimate over `BUDGETS`. ``dtype``: its change when the weights are cast to
    bfloat16 (axes as they were fitted); for information, no part of the floor. NaN where the model was not in float32,
    or where the copy is not finite or does not fit into memory. ``forms``: the parallel-forms error, the standard
    deviation over random halvings of the difference between the two half-suites' estimates, over sqrt(2) for one of the
    two and over sqrt(2) again for the whole length. It holds what the choice of the scenarios does, nonlinearities of
    the estimate included, and is to be near ``se`` where that is honest; NaN where no halves can be estimated (twelve
    scenarios are needed).
    """

    trait: str
    suite: str
    estimate: float
    se: float
    valid: bool
    reason: str
    rounding: float
    dtype: float
    forms: float


def noise_floor(
    model: LoadedModel,
    suites: Sequence[Suite],
    fit: AffectFit,
    *,
    budgets: Sequence[int] = BUDGETS,
    splits: int = SPLITS,
    seed: int = 0,
    progress: Progress = lambda tokens: None,
) -> dict[str, Floor]:
    """The floor of every trait of the suites (one a design) on a fit that stays as it is. Raises ModelError as a scan
    does, SuiteError for two suites of one design."""
    designs = [s.card.design for s in suites]
    if len(set(designs)) < len(designs):
        raise SuiteError("a noise floor is of one suite a design: " + ", ".join(s.key for s in suites))
    half = _in_half(model)
    out: dict[str, Floor] = {}
    for suite in suites:
        if not render(suite, model.tokenizer, model.context).readouts:
            reason = f"the model can read no item (context {model.context} tokens)"
            found = {t.trait: t for t in unavailable(suite.card.design, reason)}
            rounding = dtype = forms = dict.fromkeys(found, math.nan)
        else:
            keyworded = _keyworded_only(model, suite)
            scores = _scores(model, suite, fit, None, progress)
            found = _estimates(scores, suite, fit, keyworded)
            backwards = replace(suite, items=suite.items[::-1])
            others = [
                _estimates(_scores(model, backwards, fit, budget, progress), suite, fit, keyworded)
                for budget in budgets
            ]
            rounding = {t: max((_change(o[t], e) for o in others), default=math.nan) for t, e in found.items()}
            dtype = _dtype_change(half, suite, fit, keyworded, found, progress)
            forms = _forms(list(found), scores, suite, fit, keyworded, splits, seed)
        for trait, e in found.items():
            facts = (trait, suite.key, e.estimate, e.se, e.valid, e.reason)
            out[trait] = Floor(*facts, rounding[trait], dtype[trait], forms[trait])
    return out


def _keyworded_only(model: LoadedModel, suite: Suite) -> bool:
    """As in the main job: phantoms read lexicon words and nothing else."""
    some = suite.card.design == "circumplex" and any(i.keyworded for i in suite.items)
    return model.card.phantom is not None and some


def _scores(model: LoadedModel, suite: Suite, fit: AffectFit, budget: int | None, progress: Progress) -> Scores:
    parts = (fit.layer.point, fit.versions.parts)
    found = scan_projected(model, suite, fit.directions, fit.references, parts=parts, budget=budget, progress=progress)
    return replace(from_projections(found, fit), next_words=read_next_words(model, suite, budget))


def _estimates(scores: Scores, suite: Suite, fit: AffectFit, keyworded: bool) -> dict[str, TraitEstimate]:
    cosine = fit.axis_cosines
    return {t.trait: t for t in estimate_all(measure(scores, fit.layer, cosine, keyworded), suite.card.design)}


def _change(other: TraitEstimate, usual: TraitEstimate) -> float:
    return abs(other.estimate - usual.estimate)


def _in_half(model: LoadedModel) -> LoadedModel | None:
    """A copy of a float32 model in bfloat16; None for other models, and where there is no memory for one."""
    if model.dtype != "float32":
        return None
    try:
        module = copy.deepcopy(model.module).to(torch.bfloat16)
    except torch.OutOfMemoryError:
        return None
    return replace(model, module=module, adapter=resolve(module))


def _dtype_change(
    half: LoadedModel | None,
    suite: Suite,
    fit: AffectFit,
    keyworded: bool,
    usual: dict[str, TraitEstimate],
    progress: Progress,
) -> dict[str, float]:
    try:
        if half is not None:
            found = _estimates(_scores(half, suite, fit, None, progress), suite, fit, keyworded)
            return {t: _change(found[t], e) for t, e in usual.items()}
    except ModelError:  # not finite in bfloat16: there is no number for this column
        pass
    return dict.fromkeys(usual, math.nan)


def _forms(
    traits: Sequence[str], scores: Scores, suite: Suite, fit: AffectFit, keyworded: bool, splits: int, seed: int
) -> dict[str, float]:
    """The parallel-forms error of each trait; halvings in which a half has no estimate do not count."""
    rng, scenario = np.random.default_rng(seed), scores.index["scenario"].to_numpy()
    names = np.unique(scenario.astype(str))
    differences: dict[str, list[float]] = {trait: [] for trait in traits}
    for _ in range(splits):
        one = np.isin(scenario.astype(str), rng.permutation(names)[: len(names) // 2])
        a, b = (_estimates(_part(scores, rows), suite, fit, keyworded) for rows in (one, ~one))
        for trait in traits:
            differences[trait].append(a[trait].estimate - b[trait].estimate)
    return {t: _spread(d) / 2 for t, d in differences.items()}


def _part(scores: Scores, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Scores:
    index = scores.index[rows].reset_index(drop=True)
    versions = scores.versions.rows(rows) if scores.versions is not None else None
    return replace(scores, values=scores.values[rows], raw=scores.raw[rows], index=index, versions=versions)


def _spread(differences: Sequence[float]) -> float:
    """Root mean square: the halves are exchangeable, so their difference is 0 on average."""
    d = np.array([v for v in differences if math.isfinite(v)])
    return float(np.sqrt(np.mean(d**2))) if len(d) > 1 else math.nan
