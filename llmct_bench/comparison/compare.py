"""From stored results of two to six models to their comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from llmct_bench.affect import LayerChoice, Scores
from llmct_bench.comparison.axes import OnAxes
from llmct_bench.comparison.differences import LOGARITHMIC, MARGIN, Difference, adjusted, paired
from llmct_bench.comparison.geometry import Similarity, similarity
from llmct_bench.errors import ResultError, UnknownName
from llmct_bench.models.cards import registry
from llmct_bench.results import ResultCard, labels
from llmct_bench.stats import Interval
from llmct_bench.traits import ESTIMANDS, Measurement, TraitEstimate, estimate_all, measure
from llmct_bench.traits.distances import geometry

#: More models are no comparison by pairs but a leaderboard.
MOST = 6


@dataclass(frozen=True)
class Comparison:
    """Models by the names that results give them, in the order in which they were asked for, the ``results`` that were
    compared, and for each pair its ``differences`` (first minus second) and ``similarities``. ``shifts``: the
    differences of pairs of which one model was made by tuning the other, tuned minus base; ``on_axes``: models read
    on the axes of another one as well."""

    models: tuple[str, ...]
    results: tuple[ResultCard, ...]
    differences: tuple[Difference, ...]
    similarities: tuple[Similarity, ...]
    shifts: tuple[Difference, ...]
    margin: float = MARGIN
    on_axes: tuple[OnAxes, ...] = ()

    @property
    def title(self) -> str:
        """Of the page."""
        return " vs ".join(self.models)


def chosen(results: Iterable[ResultCard], models: Sequence[str]) -> list[ResultCard]:
    """The results of some models: by name, or NAME@COMMIT where a model was measured at several commits.

    Raises UnknownName for a model without results, and ResultError for fewer than two or more than `MOST` models.
    """
    found = list(results)
    names = labels(found)
    by_label = {label: key for key, label in names.items()}
    wanted = [m if m in by_label else m.lower() for m in models]
    for asked, name in zip(models, wanted, strict=True):
        several = [label for label in by_label if label.startswith(f"{name}@")]
        if name not in by_label and several:
            raise ResultError(f"{name} was measured at several commits: name one of {', '.join(several)}")
        if name not in by_label:
            raise UnknownName("measured model", asked, by_label)
    if len(set(wanted)) != len(wanted) or not 2 <= len(wanted) <= MOST:
        raise ResultError(f"two to {MOST} different models can be compared, not {', '.join(wanted) or 'none'}")
    place = {by_label[name]: i for i, name in enumerate(wanted)}
    mine = [r for r in found if (r.model["name"], r.commit) in place]
    return sorted(mine, key=lambda r: (place[r.model["name"], r.commit], r.suite, r.suite_hash))


def compare(
    results: Sequence[ResultCard], scores: Callable[[ResultCard], Scores], margin: float = MARGIN
) -> Comparison:
    """Compare models pair by pair on the suites that both have, in the order in which they first stand in ``results``
    (of `chosen`, made comparable), and where one was scored on keyworded items only, on these. ``scores`` gives the
    stored scores of a result; ``margin`` is the smallest difference of interest in SD of the scenarios' values. Raises
    ResultError where no two models share a suite."""
    results = _on_shared_items(results, scores)
    names = labels(results)
    mine: dict[str, list[ResultCard]] = {}
    for r in results:
        mine.setdefault(names[str(r.model["name"]), r.commit], []).append(r)
    shared = [(a, b, *pair) for a, b in combinations(mine, 2) for pair in _common(mine[a], mine[b])]
    if not shared:
        has = "; ".join(f"{m} has {', '.join(_suites(own)) or 'none'}" for m, own in mine.items())
        raise ResultError(f"no suite with traits was run on two of these models: {has}")
    rank = {trait: i for i, trait in enumerate(ESTIMANDS)}
    raw = [d for a, b, r, s in shared for d in _differences((a, b), r, s, margin)]
    raw.sort(key=lambda d: rank.get(d.trait, len(rank)))
    differences = adjusted(raw)
    tuned = _tuned(mine)
    turned = {(d.first, d.second) for d in differences} - tuned
    shifts = [
        d.reversed() if (d.first, d.second) in turned else d
        for d in differences
        if {(d.first, d.second), (d.second, d.first)} & tuned
    ]
    similar = [_similarity((a, b), r, s, scores) for a, b, r, s in shared if r.design == "circumplex"]
    return Comparison(tuple(mine), tuple(results), tuple(differences), tuple(similar), tuple(shifts), margin)


def _on_shared_items(results: Sequence[ResultCard], scores: Callable[[ResultCard], Scores]) -> list[ResultCard]:
    """Results on all items of a suite estimated on its keyworded items where another one was (phantoms read nothing
    else)."""
    narrow = {(r.suite, r.suite_hash) for r in results if r.subset == "keyworded"}
    made = []
    for r in results:
        if (r.suite, r.suite_hash) in narrow and r.subset != "keyworded":
            r = replace(r, subset="keyworded")
            if r.n_readouts:
                r = replace(r, traits=estimate_all(_measured(r, scores), r.design))
        made.append(r)
    return made


def _measured(result: ResultCard, scores: Callable[[ResultCard], Scores]) -> Measurement:
    """The stored scores of a result on the items that it is compared on."""
    layer = LayerChoice.from_json(result.fit["layer"])
    only = result.subset == "keyworded"
    return measure(scores(result), layer, result.fit["role_cosine"], only, result.not_shared)


def _suites(results: Sequence[ResultCard]) -> list[str]:
    return [r.suite for r in results if r.design != "reference"]


def _common(first: Sequence[ResultCard], second: Sequence[ResultCard]) -> list[tuple[ResultCard, ResultCard]]:
    """The pairs of results on the same suite; of different versions only where there is no pair of one version."""
    pairs = [(r, s) for r in first for s in second if r.suite == s.suite and r.design != "reference"]
    whole = {r.suite for r, s in pairs if r.suite_hash == s.suite_hash}
    return [(r, s) for r, s in pairs if r.suite_hash == s.suite_hash or r.suite not in whole]


def _incomparable(first: ResultCard, second: ResultCard) -> str:
    """Why two results on a suite cannot be compared item by item; empty where they can."""
    if first.suite_hash != second.suite_hash:
        return "measured on different versions of the suite"
    if first.fit.get("reference_hash") != second.fit.get("reference_hash"):
        return "measured on the axes of different references"
    return ""


def _differences(names: tuple[str, str], first: ResultCard, second: ResultCard, margin: float) -> Iterator[Difference]:
    reason, others = _incomparable(first, second), {t.trait: t for t in second.traits}
    for t in first.traits:
        if t.trait not in others:
            continue
        if reason:
            nothing = Interval(math.nan, math.nan, math.nan, math.nan, 0)
            yield Difference(t.trait, first.suite, *names, nothing, margin=margin, reason=reason)
        else:
            planted = _planted(t, first.truth.get(t.trait), second.truth.get(t.trait))
            yield paired(t, others[t.trait], suite=first.suite, names=names, margin=margin, planted=planted)


def _planted(t: TraitEstimate, first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return math.log(first / second) if t.trait in LOGARITHMIC else first - second


def _similarity(
    names: tuple[str, str], first: ResultCard, second: ResultCard, scores: Callable[[ResultCard], Scores]
) -> Similarity:
    reason = _incomparable(first, second)
    if reason:
        return Similarity(*names, first.suite, reason=reason)
    for name, r in zip(names, (first, second), strict=True):
        if not r.n_readouts:
            return Similarity(*names, first.suite, reason=f"{name}: the model can read no item")
    measured = [_measured(r, scores) for r in (first, second)]
    made = [geometry(m.values, m.layout.index) for m in measured]
    return similarity(made[0], made[1], names, first.suite)


def _tuned(models: dict[str, list[ResultCard]]) -> set[tuple[str, str]]:
    """(tuned, base) for models of which one was made of the other, directly or over stages that the registry knows."""
    by_name: dict[str, list[str]] = {}
    for label, own in models.items():
        by_name.setdefault(str(own[0].model["name"]), []).append(label)
    found = set()
    for label, own in models.items():
        parent, seen = str(own[0].model.get("tuned_from") or ""), {str(own[0].model["name"])}
        while parent and parent not in seen:
            found |= {(label, base) for base in by_name.get(parent, ())}
            seen.add(parent)
            parent = registry()[parent].tuned_from if parent in registry() else ""
    return found
