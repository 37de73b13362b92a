"""`llmct-bench compare`: two to six measured models against each other, from stored results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmct_bench.commands.options import AsJson, Output, print_table
from llmct_bench.errors import ResultError

if TYPE_CHECKING:
    from llmct_bench.comparison import Comparison, Difference


def compare(
    models: Annotated[list[str], typer.Argument(help="Two to six names as in the leaderboard.")],
    output: Output = Path("."),
    margin: Annotated[
        float, typer.Option(help="Smallest difference of interest, in SD of the scenarios' values.", min=0.0)
    ] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Compare measured models pair by pair: differences, equivalence, similarity of their emotion geometries."""
    if not (margin > 0 and math.isfinite(margin)):
        raise typer.BadParameter(f"{margin:g} is no margin: a number above 0", param_hint="--margin")
    from llmct_bench.comparison import write

    found = compared(output, models, margin)
    written = write(found, output / "reports")
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
    from llmct_bench.results import ResultStore

    store = ResultStore(output / "results")
    stored = list(store.cards())
    if not stored:
        raise ResultError(f"no results under {store.root}: run `llmct-bench run` first")
    return compare_results(comparable(chosen(stored, models), store), store.scores, margin)


def _print(found: Comparison) -> None:
    from llmct_bench.comparison.content import interval, needed, note, pair, title, unit
    from llmct_bench.leaderboards.tables import number, p_text

    def table(differences: tuple[Difference, ...]) -> None:
        rows: list[list[Any]] = []
        for d in differences:
            facts = [title(d), *([pair(d)] if len(found.models) > 2 else []), d.suite]
            if not d.valid:
                rows.append([*facts, "–", d.reason, "", "", "", ""])
                continue
            value = f"{number(d.interval.estimate)} {unit(d)}"
            ends = f"{number(d.d[0], 2)} {interval(*d.d[1:], 2)}"
            decide = "" if d.needed is None else f", n {needed(d)}" if math.isfinite(d.needed) else f", {needed(d)}"
            rows.append([*facts, value, ends, p_text(d.p_holm), d.verdict + decide, d.interval.n_clusters, note(d)])
        pairs = ["pair"] if len(found.models) > 2 else []
        print_table(rows, ["trait", *pairs, "suite", "difference", "d, 95 % CI", "p", "verdict", "n", "note"])

    print(f"{found.title}: first minus second, paired on shared scenarios; margin {found.margin:g} SD, p by Holm\n")
    table(found.differences)
    if found.shifts:
        print(f"\npost-training shift ({pair(found.shifts[0])}: tuned minus base)\n")
        table(found.shifts)
    if found.similarities:
        print("\nsimilarity of emotion geometries, each model on its own axes (Spearman ρ of crossnobis distances)\n")
        rows = []
        for s in found.similarities:
            ceiling = f"{number(s.ceiling_low)} to {number(s.ceiling_high)}" if s.valid else s.reason
            gap = f"{number(s.gap.estimate)} {interval(s.gap.low, s.gap.high)}" if s.valid else "–"
            rows.append([f"{s.first} and {s.second}", number(s.rho), number(s.rho_halves), ceiling, gap, p_text(s.p)])
        print_table(rows, ["pair", "ρ", "ρ, halves", "ceiling", "gap to it, 95 % CI", "p"])


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
