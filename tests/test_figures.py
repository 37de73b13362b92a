"""Figures of the leaderboard show the numbers that the results hold: positions are read back from the drawings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from handmade import card, trait
from matplotlib import font_manager
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver

from llmct_bench.leaderboards import Leaderboard, leaderboard
from llmct_bench.leaderboards.figures import FIGURES, available
from llmct_bench.leaderboards.figures.common import MOST, SOME, rows_of, short, thinned
from llmct_bench.leaderboards.figures.curves import retention_curves
from llmct_bench.leaderboards.figures.distances import emotion_distances
from llmct_bench.leaderboards.figures.panels import forest, ranks
from llmct_bench.leaderboards.figures.shocks import shock_responses
from llmct_bench.leaderboards.figures.tuning import tuning, tuning_pairs
from llmct_bench.plotting import EMOTION_COLOURS, characters, drawing
from llmct_bench.results import ResultCard


@pytest.fixture(autouse=True)
def _no_figures() -> Iterator[None]:
    """Every test ends without open figures."""
    yield
    plt.close("all")


def spans(ax: Any) -> list[tuple[float, float, float]]:
    """Low, high and height of all intervals."""
    bars = [c for c in ax.collections if isinstance(c, LineCollection)]
    return [(float(a[0]), float(b[0]), float(a[1])) for c in bars for a, b in c.get_segments()]


def drawn(ax: Any, label: str) -> list[tuple[float, float]]:
    """The points of all lines of a label."""
    return [
        (float(x), float(y)) for a in ax.lines if a.get_label() == label for x, y in zip(*a.get_data(), strict=True)
    ]


def board_of(n: int, shift: float = 1.0) -> Leaderboard:
    rng = np.random.default_rng(0)
    cards = []
    for k in range(n):
        values = {f"s{j}": shift * k + float(v) for j, v in enumerate(rng.normal(0, 0.1, 16))}
        cards.append(card(f"m{k:03}", trait(value=float(np.mean(list(values.values()))), per_cluster=values)))
    return leaderboard(cards)


@pytest.mark.parametrize("n", [1, MOST, MOST + 1, 500])
def test_thinning_keeps_the_ends_and_even_distances(n: int) -> None:
    """All where they are few; otherwise the first, the last and steps that differ by one at most."""
    found = thinned(range(n))
    assert len(found) == (n if n <= MOST else SOME)
    assert (found[0], found[-1]) == (0, n - 1)
    steps = np.diff(found)
    assert n == 1 or steps.max() - steps.min() <= 1


def test_figures_of_many_models_say_that_they_show_some() -> None:
    """Captions and drawings: forty models, `SOME` of them are drawn."""
    board = board_of(40)
    captions = dict(available(board))
    assert set(captions) == {"forest", "ranks"}
    assert all(c.endswith(f"({SOME} of 40, evenly spaced)") for c in captions.values())
    assert "of" not in dict(available(board_of(3)))["forest"].partition("(")[2]
    assert len(drawn(forest(board).axes[0], "estimate, 95 % interval")) == SOME
    assert len(drawn(ranks(board).axes[0], "rank, 95 % interval")) == SOME


def test_ranks_show_intervals_and_bars() -> None:
    """Points at the ranks, lines over the intervals, one bar over two models that do not differ."""
    values = [0.0, 0.0, 5.0]
    noise = np.random.default_rng(1).normal(0, 0.5, (3, 20))
    cards = []
    for k, (value, row) in enumerate(zip(values, noise, strict=True)):
        per_cluster = {f"s{j}": value + float(v - row.mean()) for j, v in enumerate(row)}
        cards.append(card(f"m{k}", trait(value=value, per_cluster=per_cluster)))
    (ax,) = ranks(leaderboard(cards)).axes
    assert drawn(ax, "rank, 95 % interval") == [(1, 0), (2, 1), (3, 2)]
    assert spans(ax) == [(1, 1, 0), (2, 3, 1), (2, 3, 2)]
    assert [y for _, y in drawn(ax, "do not differ significantly")] == [1, 2]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["m2", "m0", "m1"]


def test_shock_responses_stand_at_their_values() -> None:
    """By context, with the interval; calm has the colour of the emotion."""
    responses = {"calm": [1.0, 0.5, 1.5], "neutral": [3.0, 2.0, 4.0], "positive": [2.5, 2.0, 3.0]}
    details = {"responses": responses, "share": [0.2]}
    good = card("good", trait("shock_absorption", details=details))
    bad = card("bad", trait("shock_absorption", valid=False, reason="why", details=details))
    (ax,) = shock_responses(leaderboard([good, bad])).axes
    for context, (value, low, high) in responses.items():
        ((x, y),) = drawn(ax, f"after {context} contexts")
        assert x == value
        assert (low, high, y) in spans(ax)
    (calm,) = [a for a in ax.lines if a.get_label() == "after calm contexts"]
    assert to_hex(calm.get_color()) == EMOTION_COLOURS["calm"].lower()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["good"]


def test_the_fitted_curve_is_the_exponential_of_the_half_life() -> None:
    """An exact 3 * 2^(-k/5) after an arbitrary first reading is drawn as just that, in units of the first reading."""
    lags = [0.0, 1.0, 2.0, 4.0, 8.0, 24.0]
    curve = [[k, y, y - 0.1, y + 0.1] for k in lags for y in [2.0 if k == 0 else 3 * 2 ** (-k / 5)]]
    facts: dict[str, Any] = {"suite": "retention@1.0.0", "design": "retention"}
    tail = trait("tail_retention", details={"curve": curve})
    half = trait("half_life", 5.0, details={"curve": curve, "tokens": 1.0})
    (ax,) = retention_curves(leaderboard([card("m", tail, half, **facts)])).axes
    (fit,) = [a for a in ax.lines if len(a.get_xdata()) == 100]
    x, y = fit.get_data()
    np.testing.assert_allclose(y, 1.5 * 2 ** (-np.asarray(x) / 5), rtol=1e-4)
    assert (x[0], x[-1]) == (1, 24)
    (points,) = [a for a in ax.lines if a.get_label() == "m"]
    np.testing.assert_allclose(points.get_ydata(), [row[1] / 2 for row in curve])
    invalid = replace(half, valid=False, reason="why")
    (ax,) = retention_curves(leaderboard([card("m", tail, invalid, **facts)])).axes
    assert not [a for a in ax.lines if len(a.get_xdata()) == 100]


def arranged(name: str, squares: Any, valid: bool = True) -> ResultCard:
    """A model whose emotions lie at given squared distances."""
    details = {"emotions": ["joy", "anger", "sadness"][: len(squares)], "distances": squares}
    facts: dict[str, Any] = {"suite": "circumplex@1.0.0", "design": "circumplex"}
    reason = "" if valid else "why"
    return card(name, trait("circumplex_geometry", details=details, valid=valid, reason=reason), **facts)


def test_heat_maps_hold_the_distances_on_one_scale() -> None:
    """The roots of the stored distances, negative ones as 0, the diagonal empty, emotions as labels, models by name;
    one scale up to the largest. Models of which no distances are known are left out, invalid geometries are not."""
    wide = [[0.0, 4.0, 9.0], [4.0, 0.0, 16.0], [9.0, 16.0, 0.0]]
    near = [[0.0, 1.0, -0.3], [1.0, 0.0, 0.25], [-0.3, 0.25, 0.0]]
    gone = [[0.0, None, 1.0], [None, 0.0, 1.0], [1.0, 1.0, 0.0]]
    cards = [
        arranged("z/near", near, valid=False),
        arranged("a/wide", wide),
        arranged("gone", gone),
        card("m", trait()),
    ]
    board = leaderboard(cards)
    assert "emotion-distances" in dict(available(board))
    figure = emotion_distances(board)
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in figure.axes if ax.images] == ["a/wide", "z/near"]
    for image, squares in zip(images, (wide, near), strict=True):
        shown = np.ma.filled(image.get_array(), np.nan)
        assert np.isnan(np.diag(shown)).all()
        off = ~np.eye(3, dtype=bool)
        np.testing.assert_allclose(shown[off], np.sqrt(np.maximum(np.array(squares)[off], 0.0)))
        assert image.get_clim() == (0.0, 4.0)
    first = figure.axes[0]
    assert [t.get_text() for t in first.get_yticklabels()] == ["joy", "anger", "sadness"]
    assert [t.get_text() for t in first.get_xticklabels()] == ["joy", "anger", "sadness"]
    assert {t.get_text() for t in first.texts} == {"2.0", "3.0", "4.0"}
    assert "emotion-distances" not in dict(available(leaderboard([*cards[2:], card("m", trait())])))


def test_a_model_without_any_distance_is_drawn() -> None:
    """All emotions in one place: no division by the largest distance."""
    figure = emotion_distances(leaderboard([arranged("flat", [[0.0, 0.0], [0.0, 0.0]])]))
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)


def test_figures_show_the_suite_that_most_models_have() -> None:
    """Not the one whose name is first: two models on the main suite, one of them in German too."""
    facts: dict[str, Any] = {"design": "circumplex"}
    main = [replace(arranged(n, [[0.0, 1.0], [1.0, 0.0]]), suite="circumplex@1.0.0") for n in "ab"]
    german = card("c", main[0].traits[0], suite="circumplex-de@1.0.0", **facts)
    assert [r.model for r in rows_of(leaderboard([*main, german]), "circumplex_geometry")] == ["a", "b"]


# --- names ------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the fonts of matplotlib only."""
    own = [f for f in font_manager.fontManager.ttflist if "matplotlib" in f.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)


NAMES = ["千问/Qwen-中文", "กรุงเทพ/รุ่น", "🙂/модель", "a\\u4e2d", "a中", "x\u202ey", "$a$_b"]


def test_names_without_glyphs_are_written_by_number(
    plain_fonts: None, tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """No warning, no box: what the font lacks stands there by its number, and no two names look the same."""
    leaderboard([card(n, trait(value=k)) for k, n in enumerate(NAMES)]).write(tmp_path)
    assert not [w for w in recwarn if "lyph" in str(w.message)]
    assert not caplog.records
    with drawing(tmp_path, NAMES):
        shown = [short(n, 200) for n in NAMES]
    assert shown[0] == r"\u5343\u95ee/Qwen-\u4e2d\u6587"
    assert shown[3:5] == [r"a\\u4e2d", r"a\u4e2d"]
    assert shown[5] == r"x\u202ey"
    assert len(set(shown)) == len(NAMES)


def test_an_installed_font_is_used_for_what_the_own_one_lacks(
    plain_fonts: None, tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A letter of another font that matplotlib brings along: as it is, and drawn without a warning."""
    own, other = (
        set(font_manager.get_font(font_manager.findfont(name)).get_charmap()) for name in ("DejaVu Sans", "STIXGeneral")
    )
    letter = next(c for c in map(chr, sorted(other - own)) if c.isprintable() and c.isalpha())
    with drawing(tmp_path, [letter]):
        assert short(letter) == letter
        assert short("中") == r"\u4e2d"
    with drawing(tmp_path):
        assert short(letter).startswith("\\")
    leaderboard([card(letter, trait()), card("b", trait())]).write(tmp_path)
    assert not [w for w in recwarn if "lyph" in str(w.message)]
    assert not caplog.records


@pytest.mark.parametrize("name", ["organisation/model-7b-instruct-v0.1", "x" * 60, "中" * 40, "_hidden"])
def test_long_names_keep_both_ends(name: str) -> None:
    """Names that begin alike often end differently; no number is cut in two, and nothing is longer than asked."""
    shown = short(name, 28)
    assert len(shown.replace("\u2009", "")) <= 28
    assert not shown.startswith("_")
    if len(name) > 28:
        head, tail = shown.split("…")
        assert all(re.fullmatch(r"(\\u[0-9a-f]{4}|[^\\])*", part) for part in (head, tail))
        assert "".join(characters(name)).startswith(head)
        assert "".join(characters(name)).endswith(tail)
        assert head
        assert tail


def tuned(name: str, base: str, value: float, **changes: Any) -> ResultCard:
    made = card(name, trait(value=value, **changes))
    return replace(made, model={**made.model, "tuned_from": base})


def test_arrows_lead_from_base_to_tuned_models() -> None:
    """Where both are there and valid, and nowhere else."""
    cards = [
        tuned("base", "", 0.2),
        tuned("chat", "base", 0.7),
        tuned("orphan", "never measured", 0.1),
        tuned("broken", "base", 0.5, valid=False, reason="why"),
    ]
    board = leaderboard(cards)
    assert tuning_pairs(board) == [("base", "chat")]
    (ax,) = tuning(board).axes
    (arrow,) = [c for c in ax.collections if isinstance(c, Quiver)]
    assert (arrow.X[0], arrow.X[0] + arrow.U[0]) == pytest.approx((0.2, 0.7))
    assert (arrow.scale, arrow.angles) == (1, "xy")
    assert "tuning" in dict(available(board))
    assert "tuning" not in dict(available(leaderboard(cards[2:])))


def test_every_figure_has_a_caption_of_its_own() -> None:
    """Captions are alternative texts: none is empty, none stands twice."""
    captions = [f.caption for f in FIGURES.values()]
    assert all(captions)
    assert len(set(captions)) == len(captions)
