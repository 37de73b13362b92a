"""The leaderboard: the same bytes from the same results, honest ranks, and names that stay text."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from handmade import ENVIRONMENT, card, command, trait
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from markdown_it import MarkdownIt

from llmct_bench.leaderboards import Leaderboard, TraitTable, leaderboard
from llmct_bench.leaderboards.markdown import escape
from llmct_bench.leaderboards.tables import number, p_text
from llmct_bench.results import ResultCard, ResultStore

HOSTILE = [
    "<script>alert(1)</script>|x",
    "[a](javascript:b)",
    "![i](http://evil.example/x.png)",
    "<http://evil.example>",
    "`a`|`b`",
    "*a* _b_ __c__ ~~d~~",
    "&lt;b&gt; &amp; &#60;i>",
    "a\\|b\\",
    "a\n| b |\n\n# c",
    "--- | ---",
    "</td></table>",
]


@pytest.fixture(autouse=True)
def _no_figures() -> Iterator[None]:
    """Every test begins and ends without open figures."""
    yield
    plt.close("all")


def results() -> list[ResultCard]:
    """Three models in two suites, valid and invalid estimates, planted values."""
    profile = {"depth": 0.5, "profile": [[0.1, 0.0, 0.2], [0.5, 0.4, 0.6], [0.9, 0.7, 1.1]]}
    curve = {"curve": [[0.0, 2.0, 1.5, 2.5], [8.0, 1.0, 0.5, 1.5], [16.0, 0.5, 0.1, 0.9]]}
    out = []
    for k, name in enumerate(("m/one", "m/two", "m/three")):
        absent = trait(
            "shock_absorption", 9.0, valid=k == 0, reason="" if k == 0 else "no response", details={"share": [0.2]}
        )
        out.append(card(name, trait("dampening", 0.1 * k), absent, truth={"dampening": 0.1}))
        facts: dict[str, Any] = {"suite": "circumplex@1.0.0", "design": "circumplex"}
        out.append(card(name, trait("separability", 1.0 + k, details=profile), **facts))
        facts = {"suite": "retention@1.0.0", "design": "retention"}
        out.append(card(name, trait("tail_retention", 0.5, details=curve), **facts))
    return out


def table_of(board: Leaderboard, name: str) -> TraitTable:
    """The one table of a trait."""
    (found,) = [t for t in board.tables if t.estimand.name == name and t.rows]
    return found


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def rendered_cells(page: str) -> list[str]:
    """The text of every table cell as a Markdown reader shows it. Anything but text in a cell, and any HTML or foreign
    link on the page, fails the test."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    reader.validateLink = lambda _: True  # otherwise it hides javascript: links by itself
    tokens = reader.parse(page)
    cells = []
    for before, token in pairwise(tokens):
        assert token.type != "html_block", token.content
        children = token.children or []
        kinds = {c.type for c in children}
        assert not kinds & {"html_inline", "link_open"}, token.content
        assert all(str(c.attrs["src"]).startswith("figures/") for c in children if c.type == "image")
        if before.type in ("td_open", "th_open"):
            assert kinds <= {"text", "text_special"}, token.content
            cells.append("".join(c.content for c in children))
    return cells


# --- reproducible -----------------------------------------------------------------------------------------------


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    """Page, SVG and PNG are equal whatever the order of the results; all figures but the phantom's are drawn."""
    leaderboard(results()).write(tmp_path / "a")
    leaderboard(results()[::-1]).write(tmp_path / "b")
    files = tree(tmp_path / "a")
    names = ("forest", "ranks", "layer-profile", "retention")
    pages = {"leaderboard.md", "leaderboard.html"}
    assert set(files) == pages | {*(f"figures/{n}.{s}" for n in names for s in ("svg", "png"))}
    assert files == tree(tmp_path / "b")


def test_report_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Stored results and another hash seed lead to the very files that were written here."""
    for result in results():
        ResultStore(tmp_path / "results").save(result, None)
    leaderboard(results()).write(tmp_path / "here")
    seed = {**ENVIRONMENT, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        command("report", "--output", tmp_path), env=seed, capture_output=True, encoding="utf-8", check=True
    )
    assert tree(tmp_path / "reports") == tree(tmp_path / "here")
    assert str(tmp_path / "reports" / "leaderboard.md") in done.stdout.splitlines()


def test_another_number_gives_another_page() -> None:
    """The page is not constant."""
    one, other = ([card("m", trait(value=v))] for v in (0.5, 0.501))
    assert leaderboard(one).to_markdown() != leaderboard(other).to_markdown()


def test_a_page_leaves_no_figures_open() -> None:
    """Writing many pages in one process does not fill the memory with figures."""
    leaderboard(results()).to_markdown()
    assert plt.get_fignums() == []


# --- hostile text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_escape_leaves_text_as_text(text: str) -> None:
    """A Markdown reader shows exactly the text, in one cell."""
    page = f"| {escape(text)} | end |\n|---|---|\n| {escape(text)} | end |\n"
    assert rendered_cells(page) == [" ".join(text.split()), "end"] * 2


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text_on_the_page(text: str) -> None:
    """Names of models, families, commits and packages and the reasons of invalid estimates show up as they are."""
    bad = card(text, trait(), trait("shock_absorption", valid=False, reason=text, details={"share": [0.2]}))
    bad = replace(bad, commit=text[:12], model={**bad.model, "family": text, "stage": text, "attention": text})
    bad = replace(bad, raw={"role_gap": 0.5}, provenance={"packages": {text: text}})
    page = leaderboard([bad, card("good", trait())]).to_markdown()
    cells, shown = rendered_cells(page), " ".join(text.split())
    assert cells.count(shown) >= 2 + 4 + 1 + 1  # two traits, four columns of "Models", raw numbers, coverage
    assert f"invalid: {shown}" in cells
    assert not re.search(r"<(?!\s)", page.replace("< .001", ""))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_titles_and_notes_stay_text(text: str) -> None:
    """Title and remark of a report are shown as they are."""
    shown = " ".join(text.split())
    page = leaderboard([card("m", trait())], title=text, note=text).to_markdown()
    rendered_cells(page)
    inline = [t for t in MarkdownIt("commonmark").parse(page) if t.type == "inline"]
    assert ["".join(c.content for c in t.children or []) for t in inline[:2]] == [shown, shown]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "[a](javascript:b)", "a|b|c"])
def test_hostile_names_of_suites_stay_text(text: str) -> None:
    """A suite may come from anywhere; its name is text as well."""
    page = leaderboard([card("m", trait(), suite=text)]).to_markdown()
    assert text in rendered_cells(page)


def test_figures_take_any_name(tmp_path: Path) -> None:
    """SVG files stay well-formed and hold no script, whatever the models are called."""
    names = ["--><script>alert(1)</script>", "a&b<c", "a_b^c", "x" * 200]
    cards = [replace(r, model={**r.model, "name": f"{n} {k}"}) for k, n in enumerate(names) for r in results()[:3]]
    written = [p for p in leaderboard(cards).write(tmp_path) if p.suffix == ".svg"]
    assert {p.stem for p in written} == {"forest", "ranks", "layer-profile", "retention"}
    for path in written:
        tags = {e.tag.rpartition("}")[2] for e in ElementTree.parse(path).iter() if isinstance(e.tag, str)}
        assert "path" in tags
        assert "script" not in tags


def test_dollar_signs_in_a_name_are_no_formula(tmp_path: Path) -> None:
    """A name that is no valid TeX does not stop the report."""
    written = leaderboard([card(r"a$\frac{$b", trait())]).write(tmp_path)
    assert {p.name for p in written} >= {"leaderboard.md", "forest.svg", "forest.png"}


# --- ranks ------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_and_ranked_by_value() -> None:
    """The largest estimate is first, equal ones go by name, ranks count from 1."""
    values = {"b": 0.5, "d": -2.0, "a": 0.5, "c": 3.0, "e": 0.0}
    rows = table_of(leaderboard([card(n, trait(value=v)) for n, v in values.items()]), "dampening").rows
    assert [(r.model, r.rank) for r in rows] == [("c", 1), ("a", 2), ("b", 3), ("e", 4), ("d", 5)]


def test_invalid_estimates_are_never_ranked() -> None:
    """They stand last by name with their reason, without a number, however large it is, and without weight in the
    adjustment of the others."""
    bad = [card(n, trait(value=99.0, valid=False, reason=f"why {n}", p_value=0.5)) for n in ("z", "y")]
    good = [card(n, trait(value=v, p_value=0.02)) for n, v in (("a", 1.0), ("b", 2.0))]
    board = leaderboard(bad + good)
    rows = table_of(board, "dampening").rows
    assert [(r.model, r.rank, r.rank_low, r.rank_high) for r in rows[2:]] == [(n, None, None, None) for n in ("y", "z")]
    assert [r.rank for r in rows[:2]] == [1, 2]
    assert [r.p_holm for r in rows[:2]] == pytest.approx([0.04, 0.04])
    lines = [c.strip() for n in ("y", "z") for c in re.findall(rf"(?m)^\| –.*\| {n} .*why {n}.*$", board.to_markdown())]
    assert len(lines) == 2
    assert "99" not in "".join(lines)


def test_only_invalid_estimates_still_make_a_page(tmp_path: Path) -> None:
    """Nothing to rank and nothing to draw is no error."""
    leaderboard([card("a", trait(valid=False, reason="why"))]).write(tmp_path)
    assert "invalid: why" in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert set(tree(tmp_path)) == {"leaderboard.md", "leaderboard.html"}


@given(arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(6, 9)), elements=st.floats(-3, 3, width=16)))
@settings(max_examples=60, deadline=None)
def test_rank_intervals_contain_the_rank(data: np.ndarray[Any, Any]) -> None:
    """Whatever the values per scenario are, 1 <= low <= rank <= high <= number of models."""
    cards = []
    for k, row in enumerate(data):
        per_cluster = {f"s{j}": float(v) for j, v in enumerate(row)}
        cards.append(card(f"m{k}", trait(value=float(row.mean()), per_cluster=per_cluster)))
    table = table_of(leaderboard(cards), "dampening")
    assert (table.rows[0].rank is None) == (table.reliability < 0.7)
    for row in table.rows if table.rows[0].rank else ():
        assert 1 <= row.rank_low <= row.rank <= row.rank_high <= len(data)


def spread(value: float, names: range) -> dict[str, float]:
    return {f"s{j:02}": value + 0.001 * (j % 3) for j in names}


def test_clear_differences_give_narrow_intervals_and_none_wide_ones() -> None:
    """Models far apart on the same scenarios have one rank each; equal ones share all ranks."""
    apart = [card(f"m{v}", trait(value=float(v), per_cluster=spread(v, range(12)))) for v in range(3)]
    same = [card(f"m{v}", trait(value=0.0, per_cluster=spread(0.0, range(12)))) for v in range(3)]
    for cards, wanted in ((apart, [(1, 1), (2, 2), (3, 3)]), (same, [(1, 3)] * 3)):
        rows = table_of(leaderboard(cards), "dampening").rows
        assert [(r.rank_low, r.rank_high) for r in rows] == wanted


def test_too_few_shared_scenarios_give_no_interval() -> None:
    """Models that share five scenarios are listed without an interval, and the page shows the bare rank."""
    cards = [card(n, trait(per_cluster=spread(0.5, range(a, a + 8)))) for n, a in (("a", 0), ("b", 3))]
    board = leaderboard(cards)
    table = table_of(board, "dampening")
    assert table.shared_scenarios == 5
    assert [(r.rank, r.rank_low) for r in table.rows] == [(1, None), (2, None)]
    assert re.search(r"(?m)^\| 1 +\| a ", board.to_markdown())


def test_rank_intervals_contain_the_rank_when_scenarios_differ() -> None:
    """A model that was measured on more scenarios than the other is ranked within its own interval too."""
    low_then_high = {**spread(0.0, range(10)), **spread(5.0, range(10, 20))}
    middle = spread(1.0, range(10))
    cards = [
        card(n, trait(value=float(np.mean(list(p.values()))), per_cluster=p))
        for n, p in (("a", low_then_high), ("b", middle))
    ]
    for row in table_of(leaderboard(cards), "dampening").rows:
        assert row.rank_low <= row.rank <= row.rank_high, row.model


# --- what does not mix ------------------------------------------------------------------------------------------


def test_versions_of_a_suite_do_not_mix() -> None:
    """Two versions give two tables, each with its own models; so do two contents under one version."""
    cards = [card("a", trait()), card("b", trait(), suite="shock@2.0.0"), card("c", trait(), suite_hash="f" * 16)]
    found = [(t.suite, [r.model for r in t.rows]) for t in leaderboard(cards).tables if t.estimand.name == "dampening"]
    assert found == [("shock@1.0.0", ["a"]), ("shock@1.0.0", ["c"]), ("shock@2.0.0", ["b"])]


def test_two_commits_of_a_model_are_told_apart() -> None:
    """The commit is part of the name where a model was measured at several, and only there."""
    cards = [card("a", trait(), commit="1111111111"), card("a", trait(), commit="2222222222"), card("b", trait())]
    rows = table_of(leaderboard(cards), "dampening").rows
    assert [r.model for r in rows] == ["a@11111111", "a@22222222", "b"]


def test_coverage_tells_two_commits_apart() -> None:
    """Each commit's readouts are listed."""
    cards = [card("a", trait(), commit="1" * 8, n_readouts=111), card("a", trait(), commit="2" * 8, n_readouts=222)]
    cells = rendered_cells(leaderboard(cards).to_markdown())
    assert {"111", "222"} <= set(cells)


def test_coverage_says_what_was_left_out_and_not_run() -> None:
    """Readouts that did not fit are counted, suites that were not run are named."""
    cards = [card("a", trait(), left_out=["x", "y"]), card("b", trait(), suite="retention@1.0.0", design="retention")]
    cells = rendered_cells(leaderboard(cards).to_markdown())
    assert "64, 2 left out" in cells
    assert cells.count("not run") == 2


def test_planted_values_have_a_column_only_where_they_are_known() -> None:
    """Trained models have no truth column; phantoms do."""
    known = card("p", trait(), truth={"dampening": 0.25})
    assert "planted" not in rendered_cells(leaderboard([card("a", trait())]).to_markdown())
    cells = rendered_cells(leaderboard([known, card("a", trait())]).to_markdown())
    assert "planted" in cells
    assert "0.250" in cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (-float("inf"), "−∞"),
        (-1.23456, "−1.235"),
        (0.0, "0.000"),
    ],
)
def test_numbers_of_the_tables(value: float | None, text: str) -> None:
    """Three digits, a true minus sign, and no nan or inf."""
    assert number(value) == text


@pytest.mark.parametrize(("p", "text"), [(float("nan"), "–"), (0.0005, "< .001"), (0.04, ".040"), (1.0, "1.000")])
def test_p_values_of_the_tables(p: float, text: str) -> None:
    """Three digits without a leading zero."""
    assert p_text(p) == text
