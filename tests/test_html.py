"""leaderboard.html: one file that needs nothing else, in which whatever a model is called stays text.

The page is looked at in a browser where one is installed (playwright with a system chromium).
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import card, trait
from hypothesis import given, settings
from hypothesis import strategies as st

from llmct_bench.leaderboards import Leaderboard, Row, TraitTable, leaderboard
from llmct_bench.leaderboards.content import page
from llmct_bench.leaderboards.html import LARGEST, to_html
from llmct_bench.leaderboards.strip import MARGIN, WIDTH, axis_of, strip
from llmct_bench.leaderboards.tables import Mark
from llmct_bench.results import ResultCard
from llmct_bench.traits import ESTIMANDS

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "](javascript:alert(1))",
    "\"'><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "<!-- a --> & &lt;b&gt; <![CDATA[",
    "\u202etxet LTR-ot-LTR\u202c",
    "اسم النموذج",
    "long " + "x" * 295,
    "</style></table></section>",
]


#: Tags that stand inside of a cell.
_INLINE = ("wbr", "svg", "path", "text", "span")


class Reader(HTMLParser):
    """The page as a browser's tokenizer sees it: tags with attributes, and texts by the tag that they stand in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _INLINE:
            self._open = tag
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open][-1] += data

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)


#: In another order as texts than as numbers.
VALUES = (-0.5, 9.0, 11.0, 2.0)


def results(names: tuple[str, ...] = ("m/one", "m/two", "m/three", "m/four")) -> list[ResultCard]:
    """Models of two families on two suites, one of them invalid in a trait, two with planted values."""
    out = []
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        per_cluster = {f"s{j}": VALUES[k % 4] + float(v) for j, v in enumerate(rng.normal(0, 0.05, 12))}
        value = float(np.mean(list(per_cluster.values())))
        facts: dict[str, Any] = {"valid": k != 1, "reason": "" if k != 1 else "why not", "per_cluster": per_cluster}
        shock = trait("shock_absorption", value, details={"share": [0.2]}, **facts)
        one = card(name, trait("dampening", value, per_cluster=per_cluster), shock, truth={"dampening": 0.3 * k})
        made = [replace(one, raw={"role_gap": 0.1 * k})]
        if k != 2:
            absent = trait("tail_retention", 0.5, details={"curve": [[0.0, 2.0, 1.5, 2.5], [8.0, 1.0, 0.5, 1.5]]})
            made.append(card(name, absent, suite="retention@1.0.0", design="retention", left_out=["a", "b"]))
        out += [replace(r, model={**r.model, "family": "red" if k % 2 else "blue"}) for r in made]
    return out


def large(models: int = 500, traits: int = 12) -> Leaderboard:
    """A leaderboard as it would be of hundreds of models, every column in use; ranks are made up."""
    rng = np.random.default_rng(0)
    estimands = [*ESTIMANDS.values()] * 2
    details = {"share": [0.2], "tokens": 120.0, "depth": 0.5, "accuracy": 0.9, "default_share": {"joy": 0.3}}
    tables = []
    for i, estimand in enumerate(estimands[:traits]):
        rows = []
        for k in range(models):
            value = float(rng.normal())
            t = trait(estimand.name, value, valid=k < models - 20, reason="a reason" * (k >= models - 20))
            t = replace(t, details=details, low=value - 0.1, high=value + 0.12345, per_cluster={})
            rank = k + 1 if t.valid else None
            truth = value if k < 11 else None
            rows.append(Row(f"organisation/model-{k:03}-instruct", t, 0.0123, rank, rank, rank, truth, "abcd"))
        tables.append(TraitTable(estimand, f"suite{i}@1.0.0", tuple(rows), 96))
    raw = {
        "circumplex": {"backbone": dict.fromkeys(("joy", "anger", "sadness", "calm"), 0.9), "default": {"joy": 0.5}},
        "shock": {"role_gap": 0.1},
        "retention": {"fading": [[0.0, 0.9], [24.0, 0.7]]},
        "reference": {},
    }
    cards = [
        card(f"organisation/model-{k:03}-instruct", suite=f"{design}@1.0.0", design=design, raw=numbers)
        for k in range(models)
        for design, numbers in raw.items()
    ]
    return Leaderboard(tuple(cards), tuple(tables))


def tags(reader: Reader) -> Counter[tuple[str, ...]]:
    """Every kind of tag with the names of its attributes, and how often it stands there."""
    return Counter((tag, *sorted(attributes)) for tag, attributes in reader.tags if tag != "wbr")


# --- text stays text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    """Names, families, stages, commits, suites, packages, reasons, titles and notes are shown as they are, and the page
    has no tag and no attribute that it would not have with harmless ones."""

    def made(word: str) -> Reader:
        bad = card(word, trait(), trait("shock_absorption", valid=False, reason=word), suite=word)
        bad = replace(bad, commit=word, model={**bad.model, "family": word, "stage": word, "attention": word})
        bad = replace(bad, raw={"role_gap": 0.5}, provenance={"packages": {word: word}})
        board = leaderboard([bad, card("good", trait())], title=word, note=word)
        return Reader(to_html(board))

    hostile, harmless = made(text), made("p" * len(text))
    shown = " ".join(text.split())
    assert tags(hostile) == tags(harmless)
    assert hostile.texts["h1"] == hostile.texts["title"] == [shown]
    assert hostile.texts["th"].count(shown) >= 5  # two traits, models, raw, coverage, missing
    cells = [c.strip() for c in hostile.texts["td"]]
    assert cells.count(shown) >= 4  # family, stage, attention, why it is missing
    assert f"invalid: {shown}" in cells
    assert any(shown in t for t in hostile.texts["bdi"])


@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_name_stays_one_cell(name: str) -> None:
    """Whatever Unicode holds, a name is the text of its row head, and the page can be written."""
    reader = Reader(to_html(leaderboard([card(name, trait())])))
    assert " ".join(name.split()).strip() in [" ".join(t.split()) for t in reader.texts["th"]]
    assert reader.count("script") == 1


def test_the_page_asks_for_nothing() -> None:
    """No address of another place is loaded: only links to sources, own anchors and data; the policy forbids the
    rest, and the hashes in it are those of the style and the script that the page holds."""
    text = leaderboard(results()).to_html()
    reader = Reader(text)
    for tag, attributes in reader.tags:
        assert not {"onclick", "onload", "onerror", "style", "srcset"} & set(attributes)
        if tag == "a":
            assert re.match(r"#[a-z-]|https://doi\.org/10\.", str(attributes["href"]))
        else:
            assert "href" not in attributes
        if "src" in attributes:
            assert str(attributes["src"]).startswith("data:image/svg+xml;base64,")
    assert not {"link", "iframe", "object", "base"} & {t for t, _ in reader.tags}
    assert "url(" not in text
    assert "@import" not in text


# --- content ----------------------------------------------------------------------------------------------------


def test_the_same_results_give_the_same_bytes() -> None:
    """Twice, and whatever the order of the results."""
    once, again, backwards = (to_html(leaderboard(r)) for r in (results(), results(), results()[::-1]))
    assert once == again == backwards


def test_write_writes_the_page_that_to_html_gives(tmp_path: Path) -> None:
    """The file and the method agree, figures included: those in the page are the very files beside it."""
    written = leaderboard(results()).write(tmp_path)
    text = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert text == leaderboard(results()).to_html()
    inside = [base64.b64decode(i) for i in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)]
    assert inside == [p.read_bytes() for p in written if p.suffix == ".svg"]
    assert len(inside) >= 2


def test_the_declaration_of_a_trait_is_on_the_page() -> None:
    """Formula, unit, null, range, meaning, controls, validity and sources, from the estimand itself."""
    reader = Reader(to_html(leaderboard(results())))
    said = " ".join(itertools.chain(*reader.texts.values()))
    for e in (ESTIMANDS[n] for n in ("dampening", "shock_absorption", "tail_retention")):
        for text in (e.formula, e.unit, f"{e.null:g}", e.range, e.meaning, *e.controls, *e.validity):
            assert text in said, text
        assert all(s.split(" doi:")[0] in said for s in e.sources)


def test_markdown_and_page_show_the_same_cells() -> None:
    """Every cell of the Markdown tables stands on the page as well: both are made from one model."""
    board = leaderboard(results())
    reader = Reader(to_html(board))
    shown = {c.strip() for c in (*reader.texts["td"], *reader.texts["th"])}
    lines = [line for line in board.to_markdown().splitlines() if line.startswith("| ")]
    cells = {c.strip() for line in lines for c in line.strip("|").split("|")}
    assert len(cells) > 50
    assert {c for c in cells if c not in shown and "95 % CI" not in c} == set()


def test_invalid_rows_are_last_and_unranked_and_what_is_missing_is_said() -> None:
    """The reason stands in the row and in the list of gaps, next to suites that were not run and readouts left out."""
    board = leaderboard(results())
    (table,) = [t for t in page(board).traits if t.title == "Shock absorption"]
    assert [line.valid for line in table.lines] == [True, True, True, False]
    assert [c.text for c in table.lines[-1].cells][:3] == ["–", "m/two", "–"]
    (missing,) = [t for t in page(board).appendix if "missing" in t.title]
    said = {tuple(c.text for c in line.cells) for line in missing.lines}
    assert ("m/two", "Shock absorption", "why not") in said
    assert ("m/three", "retention@1.0.0", "not run") in said
    assert ("m/one", "retention@1.0.0: 2 readouts", "they do not fit into the context of the model") in said


def test_ties_are_letters_where_models_can_be_compared() -> None:
    """Two pairs far apart are a, a, b, b; where there is one model there is no column."""
    rng = np.random.default_rng(1)
    cards = []
    for name, value in (("a", 5.0), ("b", 5.001), ("c", 0.0), ("d", 0.001)):
        values = {f"s{j}": value + float(v) for j, v in enumerate(rng.normal(0, 0.3, 30))}
        cards.append(card(name, trait(value=float(np.mean(list(values.values()))), per_cluster=values)))
    (table,) = [t for t in page(leaderboard(cards)).traits if t.title == "Dampening"]
    at = [c.title for c in table.columns].index("ties")
    assert [line.cells[at].text for line in table.lines] == ["a", "a", "b", "b"]
    (alone,) = [t for t in page(leaderboard(cards[:1])).traits if t.title == "Dampening"]
    assert "ties" not in [c.title for c in alone.columns]


# --- intervals --------------------------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6)
marks = st.lists(
    st.builds(
        lambda e, a, b, p: Mark(e, e - abs(a), e + abs(b), p), finite, st.floats(), st.floats(), st.none() | finite
    ),
    min_size=1,
    max_size=6,
)


@given(marks, st.none() | st.just(0.0))
@settings(max_examples=200, deadline=None)
def test_every_drawing_stays_on_its_axis(found: list[Mark], null: float | None) -> None:
    """Estimates, planted values and the null lie on the axis in their order; nothing is drawn beyond it, however wide
    or endless an interval is; ticks are few and inside."""
    axis = axis_of(found, null)
    assert axis is not None
    points = sorted(v for m in found for v in (m.estimate, m.planted, null) if v is not None)
    assert axis.low <= points[0] <= points[-1] <= axis.high
    assert [axis.x(p) for p in points] == sorted(axis.x(p) for p in points)
    assert len(axis.ticks) <= 5
    assert all(MARGIN <= axis.x(t) <= WIDTH - MARGIN for t in axis.ticks)
    for mark in found:
        drawn = strip(mark, axis)
        assert "nan" not in drawn
        assert "inf" not in drawn
        numbers = [float(x) for x in re.findall(r"[MHL](-?[\d.e+]+)", drawn)]
        assert all(0 <= x <= WIDTH for x in numbers)


def test_places_are_proportional() -> None:
    """Closed form: 0 at the left end, 2 at the right one, 1 halfway."""
    axis = axis_of([Mark(0, 0, 0), Mark(2, 2, 2), Mark(1, 0.5, 1.5)], None)
    assert axis is not None
    assert [axis.x(v) for v in (0, 1, 2)] == [MARGIN, WIDTH / 2, WIDTH - MARGIN]
    assert f"M{MARGIN + (WIDTH - 2 * MARGIN) / 4:g},7H{WIDTH - MARGIN - (WIDTH - 2 * MARGIN) / 4:g}" in strip(
        Mark(1, 0.5, 1.5), axis
    )


# --- size -------------------------------------------------------------------------------------------------------


def test_figures_that_do_not_fit_are_linked(tmp_path: Path) -> None:
    """The page stays below its bound: what is too large for it is a link to the file beside it, the rest is inside."""
    board = leaderboard(results())
    (tmp_path / "forest.svg").write_bytes(b"x" * LARGEST)
    (tmp_path / "ranks.svg").write_bytes(b"y" * 1000)
    text = to_html(board, sorted(tmp_path.iterdir()))
    assert len(text.encode()) <= LARGEST
    assert 'href="figures/forest.svg"' in text
    assert base64.b64encode(b"y" * 1000).decode() in text
    assert "ranks.svg" not in text
    assert to_html(board, sorted(tmp_path.iterdir())[1:]).count("<figure>") == 1


def test_five_hundred_models_and_twelve_traits_are_small_and_quick() -> None:
    """Below 3 MB with room for more columns and some figures; the time is a sanity check only (about 3 seconds on one
    slow core)."""
    board = large()
    began = time.perf_counter()
    text, markdown = to_html(board), board.to_markdown()
    seconds = time.perf_counter() - began
    print(f"{len(text.encode()) / 1e6:.2f} MB, {seconds:.1f} s")
    assert len(text.encode()) <= 2_800_000
    assert seconds <= 30
    assert text.count("<tr") >= 500 * 14
    assert "model-499" in markdown


# --- in a browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A chromium of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((p for n in ("chromium", "google-chrome", "chromium-browser") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no chromium is installed")
    with api.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A leaderboard on disk, hostile names included: its address."""
    folder = tmp_path_factory.mktemp("page")
    leaderboard([*results(), *results(tuple(HOSTILE[:3]))], title=HOSTILE[0], note=HOSTILE[8]).write(folder)
    return (folder / "leaderboard.html").as_uri()


@pytest.fixture
def visit(browser: Any, written: str) -> Iterator[Any]:
    """Opens the page at a width and in a colour scheme. Errors, dialogs and requests fail the test."""
    contexts, trouble = [], []

    def call(width: int = 1280, scheme: str = "light") -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("console", lambda m: trouble.append(m.text))
        tab.on("pageerror", lambda e: trouble.append(str(e)))
        tab.on("dialog", lambda d: (trouble.append(d.message), d.dismiss()))
        asked = lambda r: None if r.url == written or r.url.startswith("data:") else trouble.append(r.url)  # noqa: E731
        tab.on("request", asked)
        tab.goto(written)
        return tab

    yield call
    for context in contexts:
        context.close()
    assert trouble == []


def column(tab: Any, section: str, title: str) -> list[str]:
    """The texts of a column from top to bottom, rows that are shown only."""
    return list(
        tab.evaluate(
            """([section, title]) => {
              const table = document.querySelector(`#${section} table`);
              const at = [...table.tHead.rows[0].cells].findIndex(h => h.innerText.startsWith(title));
              return [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[at].textContent);
            }""",
            [section, title],
        )
    )


def test_sorting_both_ways_leaves_invalid_last(visit: Any) -> None:
    """By number and not by text; aria-sort says which; the other column heads say nothing."""
    tab = visit()
    head = tab.locator("#shock-absorption thead th", has_text="estimate")
    head.get_by_role("button").click()
    up = column(tab, "shock-absorption", "estimate")
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    down = column(tab, "shock-absorption", "estimate")
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(t.replace("−", "-")) for t in up if t != "–"]
    assert values == sorted(values)
    assert len(set(values)) > 2
    assert up[-2:] == down[-2:] == ["–", "–"]
    assert [float(t.replace("−", "-")) for t in down[:-2]] == values[::-1]
    tab.locator("#shock-absorption thead th", has_text="model").get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(tab, "shock-absorption", "rank")[-2:] == ["–", "–"]


def test_sorting_with_the_keyboard(visit: Any) -> None:
    """Tab reaches a column head, Enter sorts and keeps the focus."""
    tab = visit()
    button = tab.locator("#dampening thead th", has_text="model").get_by_role("button")
    tab.locator("#dampening thead th", has_text="rank").get_by_role("button").focus()
    tab.keyboard.press("Tab")
    assert button.evaluate("b => b === document.activeElement")
    tab.keyboard.press("Enter")
    names = column(tab, "dampening", "model")
    assert names == sorted(names, key=str.lower)
    tab.keyboard.press("Enter")
    assert column(tab, "dampening", "model") == names[::-1]
    assert button.evaluate("b => b === document.activeElement")


def test_filtering_all_tables(visit: Any) -> None:
    """By name, and by family where the table does not even show it; all words must match; an empty box shows all."""
    tab = visit()
    everything = column(tab, "dampening", "model")
    box = tab.get_by_label("Filter models")
    box.fill("M/TWO")
    for section in ("dampening", "models", "coverage", "what-is-missing-and-why"):
        assert set(column(tab, section, "model")) == {"m/two"}, section
    box.fill("red m/")
    assert set(column(tab, "dampening", "model")) == {"m/two", "m/four"}
    assert tab.locator("output").inner_text() == f"2 of {len(everything)} models"
    box.fill("nothing of that kind")
    assert column(tab, "dampening", "model") == []
    box.fill("")
    assert column(tab, "dampening", "model") == everything


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_does_not_scroll_sideways(visit: Any, width: int) -> None:
    """Names and remarks of 300 letters included; wide tables scroll in their own boxes."""
    tab = visit(width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    box = tab.locator("#dampening .box")
    assert box.evaluate("b => b.scrollWidth") >= box.evaluate("b => b.clientWidth")


def luminance(colour: str) -> float:
    """WCAG's relative luminance of rgb(r, g, b)."""
    parts = [int(p) / 255 for p in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_light_and_dark_have_colours_of_their_own_with_contrast(visit: Any) -> None:
    """Dark on light, light on dark, quiet text included, at no less than WCAG's 4.5."""
    papers = []
    for scheme in ("light", "dark"):
        tab = visit(scheme=scheme)
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        papers.append(luminance(paper))
        for selector in ("body", "dt", ".made", "a", ".invalid td", "thead th"):
            ink = tab.evaluate("s => getComputedStyle(document.querySelector(s)).color", selector)
            pair = sorted((luminance(ink), luminance(paper)))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (scheme, selector)
    assert papers[0] > 0.8
    assert papers[1] < 0.1


def test_figures_are_seen_and_links_lead_somewhere(visit: Any) -> None:
    """Every image is decoded under the page's own policy; every entry of the contents is there."""
    tab = visit()
    sizes = tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(sizes) >= 2
    assert all(sizes)
    targets = tab.evaluate("[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash) !== null)")
    assert targets
    assert all(targets)
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_without_a_script_all_is_there(browser: Any, written: str) -> None:
    """Tables, drawings and contents need no script; the box that does is not shown."""
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(written)
    assert tab.locator("#dampening td svg").count() == 7
    assert not tab.locator("form").is_visible()
    context.close()


def test_printed_pages_hold_the_whole_tables(visit: Any) -> None:
    """On paper nothing scrolls, and neither contents nor filter are printed."""
    tab = visit(1050)
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()
    assert not tab.locator("form").is_visible()
    assert tab.locator("#dampening .box").evaluate("b => getComputedStyle(b).overflowX") == "visible"
    assert math.isclose(luminance(tab.evaluate("getComputedStyle(document.body).color")), 0.0)
