"""Figures of the leaderboard show the numbers that the results hold: positions are read back from the drawings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from handmade import card, trait
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver

from llmct_bench.leaderboards import Leaderboard, leaderboard
from llmct_bench.leaderboards.figures import FIGURES, available
from llmct_bench.leaderboards.figures.common import MOST, SOME, thinned
from llmct_bench.leaderboards.figures.curves import retention_curves
from llmct_bench.leaderboards.figures.panels import forest, ranks
from llmct_bench.leaderboards.figures.shocks import shock_responses
from llmct_bench.leaderboards.figures.tuning import tuning, tuning_pairs
from llmct_bench.plotting import EMOTION_COLOURS
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
