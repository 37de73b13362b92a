"""The leaderboard as a Markdown page. Names come from models and data and are escaped."""

from __future__ import annotations

import html
import math
import re
from typing import TYPE_CHECKING

from tabulate import tabulate

from llmct_bench.emotions import NAMES
from llmct_bench.results import ResultCard, labels
from llmct_bench.traits import TraitEstimate

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard, Row, TraitTable

_INTRO = """How the residual stream of each model carries emotion, one table per trait. None of these traits has a
better direction: the tables sort, they do not praise. Every estimate has a 95 % interval over scenarios (cluster t,
Fieller or jackknife), a p-value against its null (Holm-adjusted within the table) and a minimal detectable change
(MDC95). `2 [1–4]` is a rank with its simultaneous 95 % interval from paired tests on shared scenarios; models whose
intervals overlap are not distinguished. Invalid estimates are shown with the reason and never ranked.
"""


def escape(text: object) -> str:
    """Text as it is, in a Markdown table cell: nothing in it acts as HTML, link, emphasis or column border."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]#+|~])", r"\\\1", html.escape(flat, quote=False))


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def p_text(p: float) -> str:
    """A p-value for a table."""
    return "–" if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def to_markdown(board: Leaderboard) -> str:
    """The whole page."""
    parts = [
        f"# {escape(board.title)}\n",
        f"> {escape(board.note)}\n" if board.note else "",
        _INTRO,
        _provenance(board),
    ]
    parts += [_trait(t) for t in board.tables]
    parts += [_figures(board), _models(board), _raw(board), _coverage(board)]
    return "\n".join(p for p in parts if p).rstrip() + "\n"


def _provenance(board: Leaderboard) -> str:
    suites = sorted({f"{escape(r.suite)} ({r.suite_hash[:8]})" for r in board.results})
    models = {r.model["name"] for r in board.results}
    versions = sorted(
        {f"{k} {v}" for r in board.results for k, v in r.provenance.get("packages", {}).items()}
        | {f"{r.run['dtype']} on {r.run['device']}" for r in board.results}
    )
    return f"{len(models)} models · {', '.join(suites)} · {', '.join(map(escape, versions))}\n"


def _trait(table: TraitTable) -> str:
    e = table.estimand
    truth = any(r.truth is not None for r in table.rows)
    header = [
        "rank",
        "model",
        "estimate",
        "95 % CI",
        *(["planted"] if truth else []),
        "p",
        "d_z",
        "MDC95",
        "n",
        "note",
    ]
    rows = [_row(r, truth) for r in table.rows]
    lines = [
        f"## {e.title}\n",
        f"`{e.formula}` · unit: {e.unit} · null: {e.null:g} · suite: {escape(table.suite)}\n",
        f"How to read it: {e.meaning}.\n",
        tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=["left"] * len(header)),
        "",
    ]
    return "\n".join(lines)


def _row(row: Row, truth: bool) -> list[str]:
    t = row.estimate
    rank = "–" if row.rank is None else str(row.rank)
    if row.rank_low is not None:
        rank += f" [{row.rank_low}–{row.rank_high}]"
    planted = [number(row.truth)] if truth else []
    if not t.valid:
        return [
            "–",
            escape(row.model),
            "–",
            "–",
            *planted,
            "–",
            "–",
            "–",
            str(t.n_clusters),
            f"invalid: {escape(t.reason)}",
        ]
    interval = f"[{number(t.low)}, {number(t.high)}]"
    return [
        rank,
        escape(row.model),
        number(t.estimate),
        interval,
        *planted,
        p_text(row.p_holm),
        number(t.effect, 2),
        number(t.mdc95),
        str(t.n_clusters),
        escape(_note(t)),
    ]


def _note(t: TraitEstimate) -> str:
    d = t.details
    if t.trait == "half_life":
        tokens = f"{d['tokens']:.0f} tokens"
        return f"censored: {d['censored']} exchanges; {tokens}" if d.get("censored") else tokens
    if t.trait == "shock_absorption":
        share = d["share"][0]
        part = f"{100 * share:.0f} % of the shock" if isinstance(share, float) else ""
        return part + ("; calm-specific" if d.get("calm_specific") else "")
    if t.trait == "joy_bias":
        return f"accuracy {d['accuracy']:.2f}; neutral → joy {d['default_share'].get('joy', float('nan')):.2f}"
    if t.trait == "separability":
        return f"depth {d['depth']:.2f}"
    return ""


def _figures(board: Leaderboard) -> str:
    from llmct_bench.leaderboards.figures import FIGURES

    shown = [(name, title) for name, (title, available, _) in FIGURES.items() if available(board)]
    return "\n".join(["## Figures\n", *(f"![{title}](figures/{name}.svg)\n" for name, title in shown)])


def _models(board: Leaderboard) -> str:
    rows = []
    names = labels(board.results)
    for r in _first_by_model(board):
        m, layer = r.model, r.fit["layer"]
        size = f"{m['params_b']:g} B" if m.get("params_b") else "–"
        shape = f"{m['layers']} × {m['d_model']}" if m.get("layers") else "–"
        where = f"{layer['point']} ({layer['depth']:.2f})" + ("" if layer["localised"] else ", not localised")
        rows.append([
            escape(names[m["name"], r.commit]), escape(m.get("family") or "–"), size, shape,
            escape(m.get("attention") or "–"), escape(m.get("stage") or "–"), escape(r.commit[:12]),
            where, f"passed, floor {float(r.certificate['floor']):.0e}",
        ])  # fmt: skip
    header = [
        "model",
        "family",
        "size",
        "blocks × width",
        "attention",
        "stage",
        "commit",
        "layer (depth)",
        "certificate",
    ]
    return "## Models\n\n" + tabulate(rows, header, tablefmt="pipe", disable_numparse=True) + "\n"


def _raw(board: Leaderboard) -> str:
    """One row a model: what the uncontrolled reading would say."""
    by_model: dict[str, dict[str, dict[str, object]]] = {}
    names = labels(board.results)
    for r in board.results:
        if r.raw:
            by_model.setdefault(names[r.model["name"], r.commit], {})[r.design] = r.raw
    rows = []
    for name, raw in by_model.items():
        row = [escape(name)]
        circumplex = raw.get("circumplex")
        if circumplex:
            backbone: dict[str, float] = circumplex["backbone"]  # type: ignore[assignment]
            default: dict[str, float] = circumplex["default"]  # type: ignore[assignment]
            top = max(default, key=lambda e: default[e])
            row += [*(number(backbone[e]) for e in NAMES), f"{top} {100 * default[top]:.0f} %"]
        else:
            row += ["–"] * (len(NAMES) + 1)
        gap = raw.get("shock", {}).get("role_gap")
        row.append(number(gap) if isinstance(gap, float) else "–")
        fading = raw.get("retention", {}).get("fading")
        row.append(f"{number(fading[0][1])} → {number(fading[-1][1])}" if isinstance(fading, list) and fading else "–")
        rows.append(row)
    if not rows:
        return ""
    header = ["model", *(f"cos {e}" for e in NAMES), "“default”", "user − assistant", "“fading”"]
    return (
        "## Raw, seed-compatible numbers (never ranked)\n\nCosine with one reference prompt per emotion at the last "
        "token, at the layer of the largest spread, without any control. A model without emotion produces them too.\n\n"
        + tabulate(rows, header, tablefmt="pipe", disable_numparse=True)
        + "\n"
    )


def _coverage(board: Leaderboard) -> str:
    suites = sorted({r.suite for r in board.results})
    names = labels(board.results)
    cells = {(names[r.model["name"], r.commit], r.suite): r for r in board.results}
    rows = [[escape(m), *(_covered(cells.get((m, s))) for s in suites)] for m in sorted({k[0] for k in cells})]
    text = (
        "Readouts measured; those that did not fit into the context are left out, never cut. What one model of a "
        "comparison cannot read is left out for the others too."
    )
    table = tabulate(rows, ["model", *map(escape, suites)], tablefmt="pipe", disable_numparse=True)
    return f"## Coverage\n\n{text}\n\n{table}\n"


def _covered(result: ResultCard | None) -> str:
    if result is None:
        return "not run"
    out = f", {len(result.left_out)} left out" if result.left_out else ""
    out += f", {len(result.not_shared)} more not shared" if result.not_shared else ""
    subset = " (keyworded scored)" if result.subset == "keyworded" else ""
    return f"{result.n_readouts}{out}{subset}"


def _first_by_model(board: Leaderboard) -> list[ResultCard]:
    seen: dict[tuple[str, str], ResultCard] = {}
    for r in board.results:
        seen.setdefault((str(r.model["name"]), r.commit), r)
    return list(seen.values())
