"""What the page of a comparison shows, as the tables of the leaderboard's pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmct_bench.comparison.axes import OnAxes
from llmct_bench.comparison.compare import Comparison
from llmct_bench.comparison.differences import AXES_DF, LOGARITHMIC, Difference
from llmct_bench.comparison.geometry import Similarity
from llmct_bench.leaderboards import Leaderboard
from llmct_bench.leaderboards.content import Page
from llmct_bench.leaderboards.content import page as board_page
from llmct_bench.leaderboards.tables import DASH, Cell, Column, Fact, Mark, Table, number, number_cell, p_text, table_of
from llmct_bench.traits import ESTIMANDS


def intro(comparison: Comparison) -> str:
    """What the numbers mean."""
    return f"""Paired on the scenarios that both models were scored on. The error of a difference is that of the mean
over scenarios (cluster t) and that of both models' axes, added as variances (the axes' part counts as
independent between models, with {AXES_DF:g} degrees of freedom each; Satterthwaite). `d` is the
difference in SD of the scenarios' values, pooled over the two models. Verdicts at .05, Holm-adjusted
over all tests of this page (intervals are not): different where the difference is not 0, equivalent
where it is surely smaller than the margin of {comparison.margin:g} SD (two one-sided tests), else
undecided. `n to decide`: the scenarios that would decide it with a power of 80 % if the difference is as
large as it was found; "never" where the error of these axes alone is too large for that. No trait has a
better direction.{_KEYWORDED if any(r.subset == "keyworded" for r in comparison.results) else ""}
"""


_KEYWORDED = """ Phantoms read emotion words and nothing else: with a phantom in it, a comparison is made
on the items that hold some, where a suite has both kinds."""


_SIMILARITY = """Do the same states lie close to each other? Crossnobis distances between all emotion × intensity
cells (neutral included), each model in the space of its own emotion axes (joy, anger, sadness, calm), and the
Spearman correlation ρ of these distances between models. `ρ, halves` compares one model's half of the scenarios with
the other model's other half; the ceiling is what that would be for equal geometries (from each model's own halves),
to what one half can reach at all. `gap` is what is missing to the ceiling's lower end, with its 95 % interval over
scenarios (jackknife): where it lies well above 0 the geometries differ (the error of the axes is not counted, so that
a gap of some hundredths proves nothing). p: Mantel's test against no agreement, shuffling cells. Four axes hold what
differs between the emotions and no more, so that models are easily alike here.
"""
_SHIFT = """The same differences, tuned model minus base model, each on axes of its own: what tuning changed. p and
verdicts are those of the table of differences.
"""

_ON_AXES = """A tuned model read once more, on the axes of its base model: at its layer and in the SD of its neutral
text. On axes of its own every model has a unit of its own, which hides that its whole inside became larger or smaller;
here it does not. `gain`: the response to the emotions (the score on the emotion less that of the neutral twin) as a
multiple of the base model's. `axes`: cosine of the tuned model's own direction with the base's; where it is low, the
emotion has moved to another direction, and what looks like a weak response here need not be one. Only contrasts within
a model are compared: where all of its text lies on another model's axes depends on everything that tuning moved. The
error of the axes, which are the same ones, is added for both models, so that these intervals are rather too wide
(that of the gain is not). p and verdicts: Holm-adjusted over this table.
"""


def page(comparison: Comparison) -> Page:
    """Differences, shift (where a model was tuned from another), similarity; then the models as on a leaderboard."""
    several = len(comparison.models) > 2
    tables = [_differences("Differences", comparison.differences, several)]
    if comparison.shifts:
        tables.append(replace(_differences("Post-training shift", comparison.shifts, True), intro=_SHIFT))
    tables += [_on_axes(found) for found in comparison.on_axes]
    if comparison.similarities:
        tables.append(_similarity(comparison.similarities, several))
    below = board_page(Leaderboard(comparison.results, ()))
    return Page(comparison.title, "", intro(comparison), "", below.provenance, tuple(tables), below.appendix)


def unit(d: Difference) -> str:
    """The unit of a difference."""
    known = ESTIMANDS[d.trait].unit if d.trait in ESTIMANDS else ""
    return f"ln {known}" if d.trait in LOGARITHMIC else known


def title(d: Difference) -> str:
    """What a trait is called."""
    return ESTIMANDS[d.trait].title if d.trait in ESTIMANDS else d.trait


def pair(d: Difference | Similarity) -> str:
    """Which model minus or and which."""
    return f"{d.first} − {d.second}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """An interval as text."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def note(d: Difference) -> str:
    """What else is to be said about a difference."""
    if not d.valid:
        return d.reason
    said = []
    if d.censored:
        said.append("a half-life beyond 1 to 24 exchanges is only a bound")
    elif d.verdict == "different" and d.p_equivalence <= 0.05:
        said.append("smaller than the margin all the same")
    if d.trait in LOGARITHMIC and not d.censored:
        ends = (math.exp(min(v, 50.0)) for v in (d.interval.estimate, d.interval.low, d.interval.high))
        ratio, low, high = (number(v, 2) for v in ends)
        said.append(f"ratio {ratio} [{low}, {high}]")
    return "; ".join(said)


def needed(d: Difference) -> str:
    """The scenarios that would decide, as text."""
    if d.needed is None:
        return DASH
    return "never" if math.isinf(d.needed) else f"{d.needed:,.0f}".replace(",", "\u2009")


def _valid(cell: Callable[[Difference], Cell]) -> Callable[[Difference], Cell]:
    return lambda d: cell(d) if d.valid else Cell(DASH)


#: Differences of more SD than this are drawn at the edge, so that they do not flatten the others.
_DRAWN = 3.0


def _mark(d: Difference) -> Cell:
    estimate, low, high = d.d
    ends = (-math.inf if low < -_DRAWN else _inside(low), math.inf if high > _DRAWN else _inside(high))
    planted = None if d.planted is None else _inside(d.planted / d.sd)
    text = f"{number(estimate, 2)} {interval(low, high, 2)}"
    return Cell(text, estimate, Mark(_inside(estimate), *ends, planted))


def _inside(value: float) -> float:
    return min(max(value, -_DRAWN), _DRAWN)


def _value(d: Difference) -> Cell:
    i = d.interval
    return Cell(f"{number(i.estimate)} {interval(i.low, i.high)}", i.estimate)


_DIFFERENCE: tuple[tuple[Column, Callable[[Difference], Cell]], ...] = (
    (Column("trait", "name"), lambda d: Cell(title(d))),
    (Column("pair"), lambda d: Cell(pair(d))),
    (
        Column("d, 95 % CI", "interval", f"first − second in SD of the scenarios’ values; edges: {_DRAWN:g} and more"),
        _valid(_mark),
    ),
    (Column("verdict"), _valid(lambda d: Cell(d.verdict))),
    (Column("p", "number", "no difference; Holm"), _valid(lambda d: Cell(p_text(d.p_holm), d.p_holm))),
    (
        Column("p, margin", "number", "difference of the margin or more; Holm"),
        _valid(lambda d: Cell(p_text(d.p_equivalence), d.p_equivalence)),
    ),
    (
        Column("n to decide", about="scenarios that would decide it", optional=True),
        lambda d: Cell(needed(d), None if d.needed is None else d.needed),
    ),
    (Column("difference, 95 % CI", about="first minus second"), _valid(_value)),
    (Column("planted", "number", "true difference of phantoms", optional=True), lambda d: number_cell(d.planted)),
    (Column("unit"), lambda d: Cell(unit(d) or DASH)),
    (Column("n", "number", "shared scenarios"), lambda d: number_cell(d.interval.n_clusters, 0)),
    (Column("suite"), lambda d: Cell(d.suite)),
    (Column("note", "note"), lambda d: Cell(note(d) or DASH)),
)


def _gap(s: Similarity) -> Cell:
    g = s.gap
    if not s.valid:
        return Cell(DASH)
    return Cell(f"{number(g.estimate)} {interval(g.low, g.high)}", g.estimate, Mark(g.estimate, g.low, g.high))


_SIMILAR: tuple[tuple[Column, Callable[[Similarity], Cell]], ...] = (
    (Column("pair", "name"), lambda s: Cell(f"{s.first} and {s.second}")),
    (Column("ρ", "number", "all shared scenarios"), lambda s: number_cell(s.rho)),
    (Column("ρ, halves", "number", "one half each, without common scenarios"), lambda s: number_cell(s.rho_halves)),
    (
        Column("ceiling", "text", "for equal geometries, to what a half can reach"),
        lambda s: Cell(f"{number(s.ceiling_low)} to {number(s.ceiling_high)}" if s.valid else DASH, _sort(s)),
    ),
    (Column("gap to the ceiling", "interval", "0: the same geometry; 95 % over scenarios"), _gap),
    (Column("p", "number", "Mantel"), lambda s: Cell(p_text(s.p), s.p)),
    (Column("cells", "number"), lambda s: number_cell(s.n_cells, 0)),
    (Column("n", "number", "shared whole scenarios"), lambda s: number_cell(s.n_scenarios, 0)),
    (Column("suite"), lambda s: Cell(s.suite)),
    (Column("note", "note", optional=True), lambda s: Cell(s.reason or DASH)),
)


def _sort(s: Similarity) -> float | None:
    return s.ceiling_low if s.valid else None


def _differences(name: str, differences: Sequence[Difference], several: bool) -> Table:
    columns = [c for c in _DIFFERENCE if several or c[0].title not in ("pair", "note")]
    made = table_of(name, columns, differences, lambda d: d.valid)
    if several:
        return replace(made, null=0.0)
    facts = (Fact("first − second", pair(differences[0])), *(Fact("note", text) for text in notes(differences)))
    return replace(made, null=0.0, facts=facts)


def notes(differences: Sequence[Difference]) -> list[str]:
    """What else is to be said about differences, each thing once, with the traits that it is said of."""
    said: dict[str, list[str]] = {}
    for d in differences:
        said.setdefault(note(d), []).append(title(d))
    return [f"{', '.join(traits)}: {text}" for text, traits in said.items() if text]


def _on_axes(found: OnAxes) -> Table:
    made = _differences(f"On the axes of the base model, {found.form} format", found.differences, False)
    facts = [Fact(label, text) for label, text in axes_facts(found)]
    return replace(made, intro=_ON_AXES, facts=(*made.facts, *facts))


def axes_facts(found: OnAxes) -> list[tuple[str, str]]:
    """What is said of a model on another's axes beside its differences: labels and texts."""
    facts = [("axes", ", ".join(f"{e} {number(c, 2)}" for e, c in found.cosines.items()))]
    if found.gain is not None:
        g = found.gain
        ends = interval(g.ratio.low, g.ratio.high, 2)
        sizes = f"{number(g.model, 2)} against {number(g.base, 2)} neutral SD of the base, {g.suite}"
        facts.append(("gain", f"{number(g.ratio.estimate, 2)} {ends} ({sizes})"))
    return [f for f in facts if f[1]]


def _similarity(found: Sequence[Similarity], several: bool) -> Table:
    made = table_of("Similarity of emotion geometries", _SIMILAR, found, lambda s: s.valid)
    return replace(made, intro=_SIMILARITY, null=0.0)
