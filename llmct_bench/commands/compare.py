"""`llmct-bench compare`: two to six measured models against each other, from stored results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmct_bench.commands.options import AUTO, AsJson, Bars, Loading, Output, loads_models, print_table
from llmct_bench.errors import LlmctError, ResultError

if TYPE_CHECKING:
    from llmct_bench.adapters import LoadedModel
    from llmct_bench.comparison import Comparison, Difference, OnAxes
    from llmct_bench.results import ResultCard, ResultStore
    from llmct_bench.suites import Suite

#: Columns of a terminal that everything fits into.
_WIDE = 100


@loads_models
def compare(
    models: Annotated[list[str], typer.Argument(help="Two to six names as in the leaderboard, or folders of models.")],
    output: Output = Path("."),
    to: Annotated[Path | None, typer.Option(help="Write the page to this folder; default: OUTPUT/reports.")] = None,
    margin: Annotated[
        float, typer.Option(help="Smallest difference of interest, in SD of the scenarios' values.", min=0.0)
    ] = 0.2,
    axes_of: Annotated[
        str, typer.Option(help="A base model: load the models tuned from it and read them on its axes as well.")
    ] = "",
    plain: Annotated[
        bool, typer.Option("--plain", help="With --axes-of: read them also in the format of models without a template.")
    ] = False,
    loading: Loading = AUTO,
    as_json: AsJson = False,
) -> None:
    """Compare measured models pair by pair: differences, equivalence, similarity of their emotion geometries.

    Everything comes from stored results; only --axes-of runs models again, and the options of loading are for it.
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise typer.BadParameter(f"{margin:g} is no margin: a number above 0", param_hint="--margin")
    if plain and not axes_of:
        raise typer.BadParameter("a format is chosen for models that are read again", param_hint="--plain")
    from llmct_bench.comparison import write

    names = {_name(m): m for m in models}
    found = compared(output, list(names), margin)
    if axes_of:
        found = replace(found, on_axes=tuple(_on_axes(found, output, names, _name(axes_of), plain, loading)))
    written = write(found, to or output / "reports")
    if as_json:
        print(json.dumps(_json(found), allow_nan=False))
        return
    _print(found)
    print(f"\ncomparison: {written[0]}")


def compared(output: Path, models: list[str], margin: float) -> Comparison:
    """The comparison of models whose results lie under ``output/results``, on what all of them can read."""
    from llmct_bench.benchmark import comparable
    from llmct_bench.comparison import chosen
    from llmct_bench.comparison import compare as compare_results

    store = _store(output)
    stored = list(store.cards())
    if not stored:
        raise ResultError(f"no results under {store.root}: run `llmct-bench run` first")
    return compare_results(comparable(chosen(stored, models), store), store.scores, margin)


def _store(output: Path) -> ResultStore:
    from llmct_bench.results import ResultStore

    return ResultStore(output / "results")


def _name(model: str) -> str:
    """The name that results give a model: that of its folder, if it is one."""
    from llmct_bench.models import get_model

    return get_model(model).name if (Path(model) / "config.json").is_file() else model


def _on_axes(
    found: Comparison, output: Path, names: dict[str, str], base: str, plain: bool, loading: Loading
) -> Iterator[OnAxes]:
    """The other models of a comparison on the axes of one of them. ``names``: of the results, and what to load."""
    from llmct_bench.adapters import load
    from llmct_bench.affect import from_projections
    from llmct_bench.comparison import on_axes
    from llmct_bench.evaluation import Session
    from llmct_bench.results import labels
    from llmct_bench.scanner import read_next_words

    store, label = _store(output), labels(found.results)
    mine: dict[str, list[ResultCard]] = {}
    for r in found.results:
        mine.setdefault(label[str(r.model["name"]), r.commit], []).append(r)
    base = base if base in mine else base.lower()
    if base not in mine:
        raise ResultError(f"the axes of {base} are not to be had: name one of the compared models, {', '.join(mine)}")
    suites = {r.suite: _suite(r) for r in mine[base] if r.design != "reference"}
    others = [m for m in mine if m != base]
    for name in others:
        source = mine[name][0].model["source"]
        if source == "local" and not (Path(names.get(name, name)) / "config.json").is_file():
            raise ResultError(f"{name} was measured from a folder: name that folder to have it read once more")
        if plain and source == "phantom":
            raise ResultError(f"{name}: phantoms are built for their template and read no plain format")
        shapes = [tuple(mine[m][0].model[k] for k in ("model_type", "layers", "d_model")) for m in (name, base)]
        if shapes[0] != shapes[1]:
            told = [f"{kind} with {layers} blocks of width {width}" for kind, layers, width in shapes]
            raise ResultError(f"{name} ({told[0]}) has no place for the axes of {base} ({told[1]})")
    fit = _fit(store, mine[base][0])
    if fit is None:
        raise ResultError(f"the axes of {base} are not stored under {store.root}: run it again")
    bars = Bars()
    with bars.bars:
        session = Session(progress=bars)
        for name in others:
            model = load(names.get(name, name.partition("@")[0]), loading.options)
            if model.commit != mine[name][0].commit:
                raise ResultError(f"{name} was measured at {mine[name][0].commit}, and {model.commit} is at hand now")
            for form, formed in forms(model, plain):

                def read(r: ResultCard, formed: LoadedModel = formed) -> Any:
                    suite = suites[r.suite]
                    spoken = read_next_words(formed, suite, session.budget)
                    return replace(from_projections(session.project(formed, suite, fit), fit), next_words=spoken)

                own = _fit(store, mine[name][0])
                yield on_axes(
                    (name, base), mine[base], fit, read, store.scores, own=own, form=form, margin=found.margin
                )


def forms(model: LoadedModel, plain: bool) -> Iterator[tuple[Any, LoadedModel]]:
    """A model in its own format, and ``plain`` without its chat template."""
    chat = model.tokenizer.chat_template is not None
    yield ("chat" if chat else "plain"), model
    if chat and plain:
        tokenizer = copy(model.tokenizer)
        tokenizer.chat_template = None
        yield "plain", replace(model, tokenizer=tokenizer)


def _fit(store: ResultStore, result: ResultCard) -> Any:
    return store.fit(str(result.model["name"]), result.commit, result.fit["reference"])


def _suite(result: ResultCard) -> Suite:
    """The suite of a result, as it was then."""
    from llmct_bench.suites import get_suite

    name, _, version = result.suite.rpartition("@")
    limit = version.partition("~limit")[2]
    try:
        suite = get_suite(name).limited(int(limit or 0))
    except LlmctError as error:
        raise ResultError(f"{result.suite} cannot be read on other axes: {error}") from error
    if suite.content_hash != result.suite_hash:
        raise ResultError(f"{result.suite} is not what it was when {result.model['name']} was measured: run it again")
    return suite


def _print(found: Comparison) -> None:
    from llmct_bench.comparison.content import axes_facts, interval, pair
    from llmct_bench.leaderboards.figures.common import short
    from llmct_bench.leaderboards.tables import number, p_text

    _say(f"{found.title}: first minus second, paired on shared scenarios; margin {found.margin:g} SD, p by Holm")
    _differences(found.differences)
    if found.shifts:
        _say("\nPost-training shift, tuned minus base, each on its own axes")
        _differences(found.shifts)
    for on in found.on_axes:
        _say(f"\n{on.model} on the axes of {on.base}, {on.form} format")
        for label, text in axes_facts(on):
            _say(f"{label}: {text}")
        _differences(on.differences)
    if found.similarities:
        _say("\nSimilarity of emotion geometries, each model on its own axes (Spearman ρ of crossnobis distances)\n")
        rows = []
        for s in found.similarities:
            facts = [f"{short(s.first)}\n{short(s.second)}", number(s.rho), number(s.rho_halves)]
            if s.valid:
                ceiling = f"{number(s.ceiling_low)} to {number(s.ceiling_high)}"
                facts += [ceiling, f"{number(s.gap.estimate)} {interval(s.gap.low, s.gap.high)}", p_text(s.p)]
            rows.append([*facts, *["–"] * (6 - len(facts))])
        print_table(rows, ["pair", "ρ", "ρ, halves", "ceiling", "gap to it, 95 % CI", "p"])
        for s in found.similarities:
            if not s.valid:
                _say(f"{pair(s)}: {s.reason}")
    if any(d.needed is not None for d in found.differences):
        _say("\nn needed: the scenarios that would probably decide it; never: the axes' error alone is too large")


def _differences(differences: Sequence[Difference]) -> None:
    """A table for each pair and suite, and under it what else is to be said."""
    from llmct_bench.comparison.content import interval, needed, notes, pair, title, unit
    from llmct_bench.leaderboards.tables import number, p_text

    order = {k: i for i, k in enumerate(dict.fromkeys((pair(d), d.suite) for d in differences))}
    ordered = sorted(differences, key=lambda d: order[pair(d), d.suite])
    for (models, suite), some in groupby(ordered, lambda d: (pair(d), d.suite)):
        own = list(some)
        rows = []
        for d in (d for d in own if d.valid):
            decide = "" if d.needed is None else f", {needed(d)}"
            ends = f"{number(d.d[0], 2)} {interval(*d.d[1:], 2)}"
            value = f"{number(d.interval.estimate)} {unit(d)}"
            rows.append([title(d), value, ends, p_text(d.p_holm), d.verdict + decide])
        scenarios = {d.interval.n_clusters for d in own if d.valid}
        some_of = f", {max(scenarios)} scenarios" if scenarios else ""
        _say(f"\n{models}, {suite}{some_of}")
        if rows:
            print_table(rows, ["trait", "difference", "d, 95 % CI", "p", "verdict, n needed"])
        for text in notes(own):
            _say(text)


def _say(text: str) -> None:
    """A paragraph no wider than a terminal, in which names are not broken."""
    print("\n" * text.startswith("\n") + fill(text.strip(), _WIDE, break_long_words=False, break_on_hyphens=False))


def _json(found: Comparison) -> dict[str, Any]:
    def difference(d: Difference) -> dict[str, Any]:
        estimate, low, high = d.d if d.valid else (math.nan,) * 3
        more = {"d": estimate, "d_low": low, "d_high": high, "verdict": d.verdict if d.valid else None}
        return {**asdict(d), **more}

    made = {
        "models": list(found.models),
        "margin": found.margin,
        "differences": [difference(d) for d in found.differences],
        "shifts": [difference(d) for d in found.shifts],
        "on_axes": [{**asdict(o), "differences": [difference(d) for d in o.differences]} for o in found.on_axes],
        "similarities": [asdict(s) for s in found.similarities],
    }
    plain: dict[str, Any] = _plain(made)
    return plain


def _plain(value: Any) -> Any:
    """Strict JSON: NaN is null, and an infinite number of scenarios the text inf."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
