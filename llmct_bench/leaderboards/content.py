"""What a leaderboard shows, made once for all renderings.

A new column is one entry of ``_TRAIT``, ``_MODELS`` or ``_RAW``: its head and the function that makes its cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmct_bench.emotions import NAMES
from llmct_bench.leaderboards.tables import DASH, Cell, Column, Fact, Mark, Table, number, number_cell, p_text, table_of
from llmct_bench.results import ResultCard, labels
from llmct_bench.traits import TraitEstimate
from llmct_bench.traits.verdict import verdict

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row, TraitTable

INTRO = """How the residual stream of each model carries emotion, one table per trait. None of these traits has a
better direction: the tables sort, they do not praise. Every estimate has a 95 % interval over scenarios (cluster t,
Fieller or jackknife) that also holds the error of the emotion axes (jackknife over the wordings of the reference), a
p-value against its null (Holm-adjusted within the table) and a minimal detectable change (MDC95). `2 [1–4]` is a rank
with its simultaneous 95 % interval from paired tests on shared scenarios. Invalid estimates are shown with the reason
and never ranked, nor is a trait that orders these models with a split-half reliability below .7.
"""
TIES = """Models that share a letter under ties do not differ significantly (paired t tests on the scenarios that all
ranked models share, Holm-adjusted over all pairs of a table, .05)."""


@dataclass(frozen=True)
class Page:
    """Everything but the figures. ``traits`` come before the figures, ``appendix`` after them. ``ties`` explains the
    letters, for pages that show them."""

    title: str
    note: str
    intro: str
    ties: str
    provenance: tuple[str, ...]
    traits: tuple[Table, ...]
    appendix: tuple[Table, ...]


def page(board: Leaderboard) -> Page:
    """What is shown of a leaderboard. Tables without rows are left out, save those of traits."""
    appendix = (_models(board), _raw(board), _coverage(board), _missing(board))
    traits = tuple(_trait(t) for t in board.tables)
    return Page(board.title, board.note, INTRO, TIES, _provenance(board), traits, tuple(t for t in appendix if t.lines))


def _provenance(board: Leaderboard) -> tuple[str, ...]:
    """How many models, which suites, on what: plain texts."""
    suites = sorted({f"{r.suite} ({r.suite_hash[:8]})" for r in board.results})
    models = {r.model["name"] for r in board.results}
    versions = sorted(
        {f"{k} {v}" for r in board.results for k, v in r.provenance.get("packages", {}).items()}
        | {f"{r.run['dtype']} on {r.run['device']}" for r in board.results}
    )
    return f"{len(models)} models", ", ".join(suites), ", ".join(versions)


# --- traits -------------------------------------------------------------------------------------------------------


def _rank(row: Row) -> Cell:
    span = f" [{row.rank_low}–{row.rank_high}]" if row.rank_low is not None else ""
    return Cell(f"{row.rank or DASH}{span}", row.rank)


def _interval(row: Row) -> Cell:
    t = row.estimate
    text = f"[{number(t.low)}, {number(t.high)}]"
    return Cell(text, t.low, Mark(t.estimate, t.low, t.high, row.truth))


def _note(t: TraitEstimate) -> str:
    if not t.valid:
        return f"invalid: {t.reason}"
    d = t.details
    if t.trait == "half_life":
        tokens = f"{d['tokens']:.0f} tokens"
        return f"censored: {d['censored']} exchanges; {tokens}" if d.get("censored") else tokens
    if t.trait == "shock_absorption":
        share = d["share"][0]
        part = f"{number(round(100 * share, 0) + 0.0, 0)} % of the shock" if isinstance(share, float) else ""
        return part + ("; calm-specific" if d.get("calm_specific") else "")
    if t.trait == "joy_bias":
        return f"accuracy {d['accuracy']:.2f}; neutral → joy {d['default_share'].get('joy', float('nan')):.2f}"
    if t.trait == "separability":
        return f"depth {d['depth']:.2f}"
    return ""


def _valid(cell: Callable[[Row], Cell]) -> Callable[[Row], Cell]:
    """The cell of a valid estimate; invalid ones have no number there."""
    return lambda row: cell(row) if row.estimate.valid else Cell(DASH)


_TRAIT: tuple[tuple[Column, Callable[[Row], Cell]], ...] = (
    (Column("rank", "number", "with its simultaneous 95 % interval"), _rank),
    (Column("model", "name"), lambda r: Cell(r.model)),
    (Column("estimate", "number"), _valid(lambda r: number_cell(r.estimate.estimate))),
    (Column("95 % CI", "interval", "over scenarios and axes; sorts by its lower end"), _valid(_interval)),
    (Column("planted", "number", "the true value of a phantom", optional=True), lambda r: number_cell(r.truth)),
    (
        Column("ties", about="models that share a letter do not differ significantly", optional=True, page_only=True),
        _valid(lambda r: Cell(r.ties or DASH)),
    ),
    (
        Column("p", "number", "against the null, Holm-adjusted within the table"),
        _valid(lambda r: Cell(p_text(r.p_holm), r.p_holm)),
    ),
    (
        Column("d_z", "number", "(estimate − null) / SD over scenarios"),
        _valid(lambda r: number_cell(r.estimate.effect, 2)),
    ),
    (
        Column("SE of axes", "number", "the part of the standard error that the axes have"),
        _valid(lambda r: number_cell(r.estimate.se_axes)),
    ),
    (Column("MDC95", "number", "minimal detectable change"), _valid(lambda r: number_cell(r.estimate.mdc95))),
    (Column("n", "number", "scenarios"), lambda r: number_cell(r.estimate.n_clusters, 0)),
    (Column("note", "note"), lambda r: Cell(_note(r.estimate))),
)


_UNRANKED = {True: "", False: " Shown, not ranked."}


def _trait(table: TraitTable) -> Table:
    e = table.estimand
    facts = (
        Fact("formula", e.formula, code=True),
        Fact("unit", e.unit),
        Fact("null", f"{e.null:g}" if math.isfinite(e.null) else "permuted emotions"),
        Fact("range", e.range, page_only=True),
        Fact("suite", table.suite),
        *([] if math.isnan(table.reliability) else [Fact("reliability of the order", f"{table.reliability:.2f}")]),
        Fact("controls", "; ".join(e.controls), page_only=True),
        Fact("valid where", "; ".join(e.validity), page_only=True),
        Fact("sources", "; ".join(e.sources), page_only=True),
    )
    made = table_of(e.title, _TRAIT, table.rows, lambda r: r.estimate.valid)
    tried = verdict(e.name)
    intro = f"How to read it: {e.meaning}.{_UNRANKED[e.ranked]}" + (f" {tried.sentence}" if tried else "")
    return replace(made, facts=facts, intro=intro, null=e.null if math.isfinite(e.null) else None)


# --- models and raw numbers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """A model as it was measured: what it is called, and its results."""

    name: str
    results: list[ResultCard]

    @property
    def first(self) -> ResultCard:
        return self.results[0]

    def fact(self, key: str) -> Any:
        return self.first.model.get(key)

    @property
    def floor(self) -> float | None:
        found = [r.run["floor"] for r in self.results if r.run.get("floor") is not None]
        return max(found) if found else None

    def raw(self, design: str, key: str) -> Any:
        """A raw number of the last result of a design; None where there is none."""
        return next((r.raw.get(key) for r in reversed(self.results) if r.design == design), None)


def _shape(m: _Measured) -> Cell:
    blocks = m.fact("layers")
    return Cell(f"{blocks} × {m.fact('d_model')}", blocks) if blocks else Cell(DASH)


def _layer(m: _Measured) -> Cell:
    layer = m.first.fit["layer"]
    where = f"{layer['point']} ({layer['depth']:.2f})" + ("" if layer["localised"] else ", not localised")
    return Cell(where, layer["depth"])


def _certificate(m: _Measured) -> Cell:
    floor = float(m.first.certificate["floor"])
    return Cell(f"passed, floor {floor:.0e}", floor)


_MODELS: tuple[tuple[Column, Callable[[_Measured], Cell]], ...] = (
    (Column("model", "name"), lambda m: Cell(m.name)),
    (Column("family", find=True), lambda m: Cell(m.fact("family") or DASH)),
    (
        Column("size", "number", "parameters"),
        lambda m: Cell(f"{m.fact('params_b'):g} B", m.fact("params_b")) if m.fact("params_b") else Cell(DASH),
    ),
    (Column("blocks × width"), _shape),
    (Column("attention"), lambda m: Cell(m.fact("attention") or DASH)),
    (Column("stage", find=True, about="of training"), lambda m: Cell(m.fact("stage") or DASH)),
    (Column("commit"), lambda m: Cell(m.first.commit[:12])),
    (Column("layer (depth)", about="where the scores were taken"), _layer),
    (Column("certificate", about="of the adapter; floor: its largest numerical error"), _certificate),
    (
        Column("score floor", "number", "largest change of a score in other passes, neutral SD"),
        lambda m: Cell(f"{f:.0e}", f) if (f := m.floor) is not None else Cell(DASH),
    ),
)


def _default(m: _Measured) -> Cell:
    shares: dict[str, float] = m.raw("circumplex", "default") or {}
    top = max(shares, key=lambda e: shares[e], default="")
    return Cell(f"{top} {100 * shares[top]:.0f} %", shares[top]) if top else Cell(DASH)


def _fading(m: _Measured) -> Cell:
    curve = m.raw("retention", "fading")
    return Cell(f"{number(curve[0][1])} → {number(curve[-1][1])}", curve[-1][1] - curve[0][1]) if curve else Cell(DASH)


def _backbone(emotion: str) -> Callable[[_Measured], Cell]:
    return lambda m: number_cell((m.raw("circumplex", "backbone") or {}).get(emotion))


_RAW: tuple[tuple[Column, Callable[[_Measured], Cell]], ...] = (
    (Column("model", "name"), lambda m: Cell(m.name)),
    *((Column(f"cos {e}", "number"), _backbone(e)) for e in NAMES),
    (Column("“default”", about="the nearest emotion of most readouts"), _default),
    (Column("user − assistant", "number"), lambda m: number_cell(m.raw("shock", "role_gap"))),
    (Column("“fading”", about="mean cosine at the first → the last lag"), _fading),
)


def _models(board: Leaderboard) -> Table:
    return table_of("Models", _MODELS, _measured(board))


def _raw(board: Leaderboard) -> Table:
    intro = (
        "Cosine with one reference prompt per emotion at the last token, at the layer of the largest spread, without "
        "any control. A model without emotion produces them too."
    )
    measured = [m for m in _measured(board) if any(r.raw for r in m.results)]
    return replace(table_of("Raw, seed-compatible numbers (never ranked)", _RAW, measured), intro=intro, apart=True)


def _measured(board: Leaderboard) -> list[_Measured]:
    """Every model and commit with its results."""
    names = labels(board.results)
    found: dict[str, list[ResultCard]] = {}
    for r in board.results:
        found.setdefault(names[str(r.model["name"]), r.commit], []).append(r)
    return [_Measured(name, results) for name, results in found.items()]


# --- coverage -----------------------------------------------------------------------------------------------------


def _coverage(board: Leaderboard) -> Table:
    suites = sorted({r.suite for r in board.results})
    names = labels(board.results)
    cells = {(names[r.model["name"], r.commit], r.suite): r for r in board.results}

    def covered(suite: str) -> Callable[[str], Cell]:
        return lambda model: _covered(cells.get((model, suite)))

    columns: list[tuple[Column, Callable[[str], Cell]]] = [(Column("model", "name"), Cell)]
    columns += [(Column(s, foreign=True), covered(s)) for s in suites]
    intro = (
        "Readouts measured; those that did not fit into the context are left out, never cut. What one model of a "
        "comparison cannot read is left out for the others too."
    )
    return replace(table_of("Coverage", columns, sorted({k[0] for k in cells})), intro=intro)


def _covered(result: ResultCard | None) -> Cell:
    if result is None:
        return Cell("not run")
    out = f", {len(result.left_out)} left out" if result.left_out else ""
    out += f", {len(result.not_shared)} more not shared" if result.not_shared else ""
    subset = " (keyworded scored)" if result.subset == "keyworded" else ""
    return Cell(f"{result.n_readouts}{out}{subset}", result.n_readouts)


def _missing(board: Leaderboard) -> Table:
    columns: tuple[tuple[Column, Callable[[tuple[str, str, str]], Cell]], ...] = (
        (Column("model", "name"), lambda m: Cell(m[0])),
        (Column("missing", "note"), lambda m: Cell(m[1])),
        (Column("why", "note"), lambda m: Cell(m[2])),
    )
    gaps = sorted({*_gaps(board), *_invalid(board)})
    return replace(table_of("What is missing, and why", columns, gaps), page_only=True)


def _gaps(board: Leaderboard) -> Iterable[tuple[str, str, str]]:
    """Suites that were not run and readouts that were not used: model, what, why."""
    suites, names = {r.suite for r in board.results}, labels(board.results)
    run: dict[str, set[str]] = {}
    for r in board.results:
        name = names[r.model["name"], r.commit]
        run.setdefault(name, set()).add(r.suite)
        if r.left_out:
            yield name, f"{r.suite}: {len(r.left_out)} readouts", "they do not fit into the context of the model"
        if r.not_shared:
            yield name, f"{r.suite}: {len(r.not_shared)} readouts", "another model of the comparison cannot read them"
    for name, known in run.items():
        yield from ((name, suite, "not run") for suite in suites - known)


def _invalid(board: Leaderboard) -> Iterable[tuple[str, str, str]]:
    """Invalid estimates, those of one model with one reason together: model, traits, why."""
    found: dict[tuple[str, str], list[str]] = {}
    for table in board.tables:
        for row in table.rows:
            if not row.estimate.valid:
                found.setdefault((row.model, row.estimate.reason), []).append(table.estimand.title)
    for (model, reason), traits in found.items():
        yield model, ", ".join(dict.fromkeys(traits)), reason
