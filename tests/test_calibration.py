"""Planted states, the study on them and its page: against closed forms, hand-counted files and each other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from typer.testing import CliRunner

from llmct_bench.adapters import Point
from llmct_bench.affect import AffectFit, Metric, fit_affect, fit_metric, score
from llmct_bench.calibration import performance, report, study
from llmct_bench.calibration.activations import (
    LEVEL_FULL,
    TOPIC_VARIANCE,
    WIDTH,
    Knobs,
    design_layout,
    directions,
    draw,
    expected,
    felt,
    geometry,
    neutral_covariance,
    planted_traits,
    reference_layout,
)
from llmct_bench.calibration.performance import Summary, summaries
from llmct_bench.calibration.report import Certificate
from llmct_bench.calibration.study import NOTHING, PLAIN, Cell, replicate, run_study
from llmct_bench.cli import app
from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.scanner import States
from llmct_bench.scanner.render import INDEX_COLUMNS
from llmct_bench.suites import get_suite
from llmct_bench.suites.compose import LAGS, PROBE_LAG
from llmct_bench.traits import ESTIMANDS, Layout, measure

JOY, ANGER, SADNESS, CALM = range(4)
DESIGNS = ("circumplex", "shock", "retention")
#: Drawn states have no head, and no truth about what it says.
HEADLESS = ("joy_output", "text_internal_gap")
#: Traits of all suites of a design: what a translation has beside them is not drawn.
DRAWN = {t: e for t, e in ESTIMANDS.items() if not e.needs}
FIGURES = ("recovered", "coverage", "power", "matrix")
#: A phantom with a little of everything.
BUSY = Knobs(mood=1.0, persona=0.5, role_gain=0.7, absorption=0.4, half_life=6.0)


def readouts(*facts: dict[str, Any]) -> Layout:
    """A layout with one readout a dict; what is not named is that of a neutral message of the user."""
    usual = dict.fromkeys(INDEX_COLUMNS, "") | {"emotion": NEUTRAL, "intensity": 0, "role": "user", "lag": 0}
    return Layout(pd.DataFrame([{**usual, "scenario": "s", "item": str(n), **f} for n, f in enumerate(facts)]))


def neutral_items(n: int, each: int = 1) -> Layout:
    """``n`` neutral readouts, ``each`` to a scenario."""
    index = readouts({}).index.loc[[0] * n].reset_index(drop=True)
    return Layout(index.assign(scenario=[f"s{i // each}" for i in range(n)]))


def feels(knobs: Knobs, **facts: Any) -> list[float]:
    """What one readout feels: joy, anger, sadness, calm."""
    return [float(v) for v in felt(readouts(facts).index, knobs)[0]]


def noise(layout: Layout, knobs: Knobs, seed: int) -> np.ndarray:
    """What drawing adds to the expected states, in units of h / norm."""
    return (draw(layout, knobs, np.random.default_rng(seed)).array[:, 0] - expected(layout, knobs)) / knobs.norm


@cache
def all_traits(knobs: Knobs, scenarios: int = 6) -> dict[str, float]:
    """The planted value of every trait."""
    return {k: v for d in ("reference", *DESIGNS) for k, v in planted_traits(d, scenarios, knobs).items()}


# --- drawn states -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [Knobs(), Knobs(mood=1.0, tint=2.0, rogue=20.0, norm=3.0, noise=0.7, scenario=1.1)])
def test_neutral_states_have_the_planted_moments(knobs: Knobs) -> None:
    """20000 neutral states: every mean within 4.5 standard errors, the covariance in units of the planted one is 1."""
    n = 20_000
    states = draw(neutral_items(n), knobs, np.random.default_rng(1)).array[:, 0].astype(np.float64)
    covariance = neutral_covariance(knobs)
    off = states - expected(readouts({}), knobs)
    assert np.abs(off.mean(axis=0) / np.sqrt(np.diag(covariance) / n)).max() < 4.5
    white = np.linalg.solve(np.linalg.cholesky(covariance), off.T)
    assert np.abs(np.cov(white) - np.eye(WIDTH)).max() < 0.05  # standard error .007 off and .01 on the diagonal


def test_every_cell_of_a_design_has_its_own_mean() -> None:
    """300 scenarios of shocks: no dimension of any of the 64 cells is off by more than 5 standard errors."""
    layout = design_layout("shock", 300)
    off = noise(layout, BUSY, 2)
    cells = pd.DataFrame(off).groupby([layout.index[c] for c in ("emotion", "context", "role", "intensity")])
    z = cells.mean() / np.sqrt(np.diag(neutral_covariance(BUSY))) * np.sqrt(150)
    assert z.shape == (64, WIDTH)
    assert z.abs().to_numpy().max() < 5


def test_readouts_of_a_scenario_share_its_part_only() -> None:
    """Cross-covariance of two readouts: scenario^2 within scenarios, and 0 between them (without rogue dimensions)."""
    knobs, n, g = Knobs(scenario=0.5, rogue=0.0), 10_000, geometry()
    frame = np.concatenate([g.emotions, g.rotated, [g.role, g.drift]])  # orthonormal, and free of topics
    off = noise(neutral_items(2 * n, each=2), knobs, 3) @ frame.T
    first, second = off[::2], off[1::2]
    assert np.abs(first.T @ second / n - 0.25 * np.eye(len(frame))).max() < 0.06  # standard error .0126
    assert np.abs(first[1:].T @ second[:-1] / n).max() < 0.06


def retention_pairs(knobs: Knobs) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Readouts after an emotional opening, what drawing adds to them, and what it adds to their twins."""
    layout = design_layout("retention", 60)
    index, off = layout.index, noise(layout, knobs, 4)
    at = {key: i for i, key in enumerate(zip(index["item"], index["lag"], strict=True))}
    rows = np.flatnonzero(index["twin"] != "")
    partner = [at[key] for key in zip(index["twin"].iloc[rows], index["lag"].iloc[rows], strict=True)]
    return index.iloc[rows], off[rows], off[partner]


def test_twins_of_retention_share_their_topics() -> None:
    """The words of a turn are those of its twin's: along the topics twins differ by their noise only, while other
    turns, fillers and scenarios have topics of their own."""
    index, own, twin = retention_pairs(Knobs(rogue=0.0))
    topics = geometry().topics.T
    own, twin = own @ topics, twin @ topics
    assert own.var() == pytest.approx(TOPIC_VARIANCE + 1.25, rel=0.1)
    assert (own - twin).var() == pytest.approx(2.0, rel=0.15)  # the scenario's part is shared, too
    short = (index["filler"] == "short").to_numpy()
    for other in (own[short] - own[~short], np.diff(own, axis=0)):
        assert other.var() == pytest.approx(2 * (TOPIC_VARIANCE + 1), rel=0.12)


def test_twins_of_retention_share_their_rogue_values() -> None:
    """ "Twins share topic and rogue values": in the rogue dimensions twins differ by their noise only."""
    _, own, twin = retention_pairs(Knobs())
    assert (own - twin)[:, geometry().rogue > 0].var() == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("design", ["reference", *DESIGNS])
def test_a_seed_is_a_data_set(design: str) -> None:
    """The same seed draws the same states, another seed other ones in every readout."""
    layout = reference_layout() if design == "reference" else design_layout(design, 6)
    a, b, c = (draw(layout, BUSY, np.random.default_rng(s)).array for s in (5, 5, 6))
    assert a.dtype == np.float32
    assert np.array_equal(a, b)
    assert (a != c).any(axis=(1, 2)).all()


def test_a_replicate_is_its_cell_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell and seed give the replicate; cells of a kind share their draws, so that the same phantom gives the same;
    another seed, another kind or another phantom give another."""
    monkeypatch.setattr(study, "DESIGNS", ("shock",))
    cell = Cell("one-a", BUSY, 6)
    made = [replicate(c, s) for c, s in ((cell, 0), (cell, 0), (replace(cell, name="one-b"), 0))]
    assert made[0] == made[1] == made[2]
    other = [(cell, 1), (replace(cell, name="two-a"), 0), (replace(cell, knobs=PLAIN), 0)]
    made += [replicate(c, s) for c, s in other]
    assert len({m["dampening"][0] for m in made}) == 4


@pytest.mark.parametrize("design", DESIGNS)
def test_designs_are_crossed_as_the_shipped_suites(design: str) -> None:
    """Each scenario has the readouts of a shipped one: dose, context, filler, role, lag, and the cell of the twin. Only
    the probe that ends a shipped episode is not drawn: it enters no trait."""
    suite = [i for i in get_suite(design).items if i.keyworded]
    rows = [
        {"item": i.id, "scenario": i.scenario, "emotion": i.emotion, "intensity": i.intensity, "context": i.context,
         "filler": i.filler, "twin": i.twin, "role": i.messages[-1].role,
         "lag": read // 2 if i.filler else 0}
        for i in suite
        for read in i.reads
        if not (i.filler and read // 2 == PROBE_LAG)
    ]  # fmt: skip

    def crossing(frame: pd.DataFrame) -> set[tuple[Any, ...]]:
        frame = frame if design == "circumplex" else frame.assign(emotion="")  # of a scenario, not of a cell
        columns = ["emotion", "intensity", "context", "filler", "role"]
        cell = {r["item"]: tuple(r[c] for c in columns) for r in frame.to_dict("records")}
        of = [(s, (*cell[i], lag, cell.get(t))) for s, i, lag, t in frame[["scenario", "item", "lag", "twin"]].values]
        found = {tuple(sorted((c for s, c in of if s == name), key=str)) for name in frame["scenario"].unique()[:8]}
        assert len(found) == 1
        return found

    drawn = design_layout(design, 8).index
    assert crossing(drawn) == crossing(pd.DataFrame(rows))
    assert drawn["scenario"].nunique() == 8


# --- what is felt -----------------------------------------------------------------------------------------------


def test_emotion_is_intensity_times_gain() -> None:
    """Each emotion on its own axis, in proportion to its dose; neutral text feels nothing."""
    assert feels(Knobs(), emotion="sadness", intensity=2) == [0, 0, 2, 0]
    assert feels(Knobs(gain=0.5), emotion="calm", intensity=3) == [0, 0, 0, 1.5]
    assert feels(Knobs()) == [0, 0, 0, 0]


def test_the_mood_is_joy_where_nothing_else_is_felt() -> None:
    """Full in neutral text, less with every unit of emotion, gone from LEVEL_FULL = 2.5 on and never reversed."""
    assert LEVEL_FULL == 2.5
    knobs = Knobs(mood=2.0)
    assert feels(knobs) == [2, 0, 0, 0]
    assert feels(knobs, emotion="anger", intensity=1) == pytest.approx([2 * 0.6, 1, 0, 0])
    assert feels(knobs, emotion="anger", intensity=2) == pytest.approx([2 * 0.2, 2, 0, 0])
    assert feels(knobs, emotion="anger", intensity=3) == [0, 3, 0, 0]
    assert feels(knobs, emotion="joy", intensity=1) == pytest.approx([1 + 2 * 0.6, 0, 0, 0])
    assert feels(knobs, context="negative") == pytest.approx([2 * 0.6, 1, 0, 0])
    assert feels(replace(knobs, role_gain=0.5), emotion="anger", intensity=2, role="assistant") == pytest.approx(
        [2 * 0.6, 1, 0, 0]
    )
    assert feels(replace(knobs, mood=-1.0), emotion="calm", intensity=2) == pytest.approx([-0.2, 0, 0, 2])
    assert feels(replace(knobs, gain=3.0), emotion="anger", intensity=1) == pytest.approx([3.6, 3, 0, 0])


def test_the_persona_is_joy_as_assistant() -> None:
    """The same joy on every state of the assistant, whatever else is felt, and none on the user's."""
    knobs = Knobs(persona=0.5)
    assert feels(knobs, role="assistant") == [0.5, 0, 0, 0]
    assert feels(knobs, role="assistant", emotion="anger", intensity=3) == [0.5, 3, 0, 0]
    assert feels(knobs) == [0, 0, 0, 0]
    assert feels(Knobs(persona=0.5, mood=1.0), role="assistant") == [1.5, 0, 0, 0]


def test_the_role_gain_scales_the_assistant_only() -> None:
    """0.6 of three is 1.8 as assistant, and three as user."""
    knobs = Knobs(role_gain=0.6)
    assert feels(knobs, role="assistant", emotion="sadness", intensity=3) == pytest.approx([0, 0, 1.8, 0])
    assert feels(knobs, role="user", emotion="sadness", intensity=3) == [0, 0, 3, 0]


def test_contexts_have_moods() -> None:
    """A calm, pleasant or unpleasant conversation adds one unit of calm, joy or anger; a neutral one adds nothing."""
    moods = {"calm": CALM, "positive": JOY, "negative": ANGER}
    for context in ("calm", "neutral", "positive", "negative"):
        wanted = [float(moods.get(context) == k) for k in range(4)]
        assert feels(Knobs(), context=context) == wanted
        wanted[ANGER] += 2
        assert feels(Knobs(), context=context, emotion="anger", intensity=2) == wanted


def test_absorption_weakens_shocks_in_calm_contexts_only() -> None:
    """A quarter off the shock after a calm conversation, whose own calm stays as it is; nothing off elsewhere."""
    knobs, shock = Knobs(absorption=0.25), {"emotion": "anger", "intensity": 2}
    assert feels(knobs, context="calm", **shock) == [0, 1.5, 0, 1]
    assert feels(knobs, context="calm") == [0, 0, 0, 1]
    for context in ("neutral", "positive", "negative", ""):
        assert feels(knobs, context=context, **shock) == feels(Knobs(), context=context, **shock)


@pytest.mark.parametrize("half_life", [0.25, 3.0, 16.0])
def test_emotion_is_halved_after_a_half_life(half_life: float) -> None:
    """Where fillers follow the opening, 3 becomes 1.5 and .75 after one and two half-lives; a conversation without
    fillers does not decay."""
    knobs, opening = Knobs(half_life=half_life), {"emotion": "joy", "intensity": 3}
    for times, left in ((0, 3.0), (1, 1.5), (2, 0.75)):
        assert feels(knobs, lag=times * half_life, filler="long", **opening) == pytest.approx([left, 0, 0, 0])
    assert feels(knobs, lag=2 * half_life, **opening) == [3, 0, 0, 0]


def test_knobs_act_on_states_as_they_say() -> None:
    """tint: joy on every state; drift: a step a lag; norm: a factor; rogue: its dimensions only; rotation: the angle
    between the axes of the two roles."""
    layout, g = Layout(pd.concat([design_layout(d, 4).index for d in DESIGNS], ignore_index=True)), geometry()
    index, plain = layout.index, expected(layout, BUSY)
    np.testing.assert_allclose(expected(layout, replace(BUSY, tint=2.0)) - plain, [2.0 * g.emotions[JOY]] * len(index))
    moved = expected(layout, replace(BUSY, drift=4.0)) - plain
    np.testing.assert_allclose(moved, 3.0 * np.outer(index["lag"], g.drift), atol=1e-12)
    np.testing.assert_allclose(expected(layout, replace(BUSY, norm=7.0)), 7.0 * plain)
    rogue = expected(layout, replace(BUSY, rogue=90.0)) - plain
    assert np.allclose(rogue[:, :2], 60.0)
    assert np.allclose(rogue[:, 2:], 0.0)
    shocks = readouts(*({"role": r, "emotion": "anger", "intensity": i} for r in ("user", "assistant") for i in (0, 1)))
    h = expected(shocks, Knobs(rotation=0.6))
    assert (h[1] - h[0]) @ (h[3] - h[2]) == pytest.approx(np.cos(0.6))
    assert np.linalg.norm(h[3] - h[2]) == pytest.approx(1.0)


# --- what is planted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"norm": 10.0}, {"norm": 0.01}, {"tint": 5.0}, {"tint": -3.0}, {"drift": 4.0}, {"drift": -2.0}],
    ids=lambda c: "".join(f"{k}={v:g}" for k, v in c.items()),
)
def test_norm_tint_and_drift_change_no_answer(change: dict[str, float]) -> None:
    """What only scales or moves all states leaves every planted trait, up to rounding."""
    knobs = replace(BUSY, rotation=0.4)
    assert all_traits(replace(knobs, **change)) == pytest.approx(all_traits(knobs), rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("gain", [0.5, 0.85, 1.0, 1.2])
def test_dampening_is_one_minus_the_role_gain(gain: float) -> None:
    """Exactly, whatever the assistant's persona, the absorption and the gain of both roles."""
    for knobs in (Knobs(), Knobs(gain=2.0, persona=0.7, absorption=0.3, noise=1.5)):
        assert planted_traits("shock", 6, replace(knobs, role_gain=gain))["dampening"] == pytest.approx(1 - gain)


@pytest.mark.parametrize("absorption", [0.0, 0.05, 0.4, 0.8, 1.0])
def test_the_share_that_is_absorbed_is_the_knob(absorption: float) -> None:
    """R_neutral - R_calm = absorption x R_neutral, R_neutral = 2 (the mean dose) x what a unit of anger or sadness
    moves on its own axis."""
    knobs = Knobs(absorption=absorption, role_gain=0.7)
    axes, emotions = directions(knobs), geometry().emotions
    response = 2 * np.mean([axes[e] @ emotions[e] for e in (ANGER, SADNESS)])
    assert response > 0.5
    assert planted_traits("shock", 6, knobs)["shock_absorption"] == pytest.approx(absorption * response)


@pytest.mark.parametrize("half_life", [1.5, 6.0, 16.0])
def test_tail_and_half_life_follow_from_the_half_life(half_life: float) -> None:
    """The tail is the mean of 2^(-k/h) over the lags from 8 on, and h is h."""
    assert [k for k in LAGS if k >= 8] == [8, 12, 16, 24]
    found = planted_traits("retention", 8, Knobs(half_life=half_life))
    assert found["tail_retention"] == pytest.approx(np.mean([2 ** (-k / half_life) for k in (8, 12, 16, 24)]))
    assert found["half_life"] == pytest.approx(half_life, rel=1e-3)


def test_the_plain_phantom_is_at_the_nulls() -> None:
    """No dampening, no absorption, no tail; without any emotion there is no answer, but that nothing is told apart and
    that the assistant's mood is the user's."""
    plain, nothing = all_traits(PLAIN), dict(all_traits(NOTHING))
    for trait in ("dampening", "shock_absorption", "tail_retention"):
        assert plain[trait] == pytest.approx(0.0, abs=1e-9)
    assert nothing.pop("separability") == nothing.pop("selectivity") == nothing.pop("persona_offset") == 0.0
    assert all(np.isnan(v) for v in nothing.values())


@pytest.fixture(scope="module")
def drawn() -> tuple[AffectFit, Metric]:
    """A fit to a drawn reference, of shipped size, and the metric that it has found."""
    reference = draw(reference_layout(), BUSY, np.random.default_rng(1))
    fit = fit_affect(reference)
    return fit, fit_metric(reference.array[:, 0], reference.index, fit.roles)


def axes_by_hand(knobs: Knobs, metric: Metric | None = None) -> np.ndarray:
    """Axes of the emotions without error, (4, WIDTH): difference of means over slots and intensities, without the
    nuisance of the metric, and as long as makes the SD of neutral text 1. By default the metric of the planted
    covariance."""
    covariance = neutral_covariance(knobs)
    if metric is None:
        u, s, _ = np.linalg.svd(covariance)
        k = next(k for k in range(1, WIDTH) if s[k:].sum() <= 0.5 * s.sum() and s[k] <= 0.2 * s[k:].sum())
        nuisance = u[:, :k].T
    else:
        nuisance = metric.nuisance
    cells = [{"emotion": e, "intensity": i, "role": r} for e in NAMES for i in (1, 2, 3) for r in ("user", "assistant")]
    means = expected(readouts(*cells), knobs).reshape(4, 6, WIDTH).mean(axis=1)
    away = means - means.mean(axis=0)
    axes = away - away @ nuisance.T @ nuisance
    return np.stack([a / np.sqrt(a @ covariance @ a) for a in axes])


@pytest.mark.parametrize("knobs", [BUSY, Knobs(norm=7.0, rotation=0.5, noise=0.6)], ids=["busy", "turned"])
def test_exact_axes_by_hand(knobs: Knobs, drawn: tuple[AffectFit, Metric]) -> None:
    """In the metric of the population and in a fitted one; neutral text has SD 1 on every axis."""
    for metric in (None, drawn[1]):
        found, wanted = directions(knobs, metric), axes_by_hand(knobs, metric)
        np.testing.assert_allclose(found[:4], wanted, rtol=1e-7, atol=1e-9)
        units = [np.sqrt(a @ neutral_covariance(knobs) @ a) for a in found]
        np.testing.assert_allclose(units, 1.0)


def test_separability_is_the_distance_in_noise(drawn: tuple[AffectFit, Metric]) -> None:
    """Mean squared Mahalanobis distance of the emotions' means over the rank of their noise, for all pairs; in the
    metric of the population and in that of a fit."""
    items = readouts(*({"emotion": e, "intensity": i} for e in NAMES for i in (1, 2, 3)))
    found = []
    for metric in (None, drawn[1]):
        a = axes_by_hand(BUSY, metric)
        means = (expected(items, BUSY) @ a.T).reshape(4, 3, 4).mean(axis=1)
        values, vectors = np.linalg.eigh(a @ neutral_covariance(BUSY) @ a.T)
        keep = values > 1e-4 * values.max()
        white = means @ vectors[:, keep] / np.sqrt(values[keep])
        pairs = [np.sum((white[i] - white[j]) ** 2) for i, j in combinations(range(4), 2)]
        found.append(planted_traits("circumplex", 6, BUSY, metric)["separability"])
        assert found[-1] == pytest.approx(np.mean(pairs) / keep.sum())
    assert found[0] != pytest.approx(found[1], rel=1e-4)  # two questions, not one


def joy_bias_by_hand(axes: np.ndarray, knobs: Knobs, scenarios: int, draws: int = 100_000) -> float:
    """Bias of nearest-centroid decisions on the twelve emotional items under their noise and a quarter more of it, with
    its own large sample."""
    a = axes[:4]
    spread = a @ neutral_covariance(knobs) @ a.T
    items = readouts(*({"emotion": e, "intensity": i} for e in NAMES for i in (1, 2, 3)))
    points, true = expected(items, knobs) @ a.T, np.repeat(range(4), 3)
    centroids = np.stack([points[true == k].mean(axis=0) for k in range(4)])
    within = spread + np.mean([np.outer(d, d) for d in points - centroids[true]], axis=0)
    precision = np.linalg.pinv(within, rcond=1e-4, hermitian=True)
    z = np.random.default_rng(11).multivariate_normal(np.zeros(4), 1.25 * spread, size=draws // 2, method="svd")
    table = np.zeros((4, 4))
    for point, k in zip(points, true, strict=True):
        delta = (point + np.concatenate([z, -z]))[:, None] - centroids
        chosen = np.einsum("nkp,pq,nkq->nk", delta, precision, delta).argmin(axis=1)
        table[k] += np.bincount(chosen, minlength=4) / draws * scenarios
    rate = (table + 0.5) / (table.sum(axis=1)[:, None] + 1)
    lean = [
        np.mean([(sps.norm.ppf(rate[f, e]) - sps.norm.ppf(rate[e, f])) / 2 for f in range(4) if f != e])
        for e in range(4)
    ]
    return float(lean[0] - np.mean(lean[1:]))


def test_the_planted_joy_bias_has_no_error_of_its_own(drawn: tuple[AffectFit, Metric]) -> None:
    """Where nothing leans it is about 0, and in a fitted metric it is the integral over the noise: to .004, a tenth of
    the standard error of an estimate from 192 scenarios."""
    cases = [(PLAIN, None), (BUSY, None), (BUSY, drawn[1])]
    found = [planted_traits("circumplex", 24, knobs, metric)["joy_bias"] for knobs, metric in cases]
    by_hand = [joy_bias_by_hand(axes_by_hand(knobs, metric), knobs, 24) for knobs, metric in cases]
    assert found == pytest.approx(by_hand, abs=0.004)
    assert min(found[1:]) > 0.04  # a mood leans


# --- the fit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [BUSY, Knobs(norm=7.0, tint=2.0, rogue=90.0)], ids=["busy", "moved"])
def test_the_fit_tends_to_the_fit_in_the_population(knobs: Knobs) -> None:
    """40 times the reference: every direction is the population's (cosine above .98, plain and in units of neutral
    noise), its length within 5 %, and held-out neutral states have scores of mean 0 and SD 1."""
    once = reference_layout().index
    many = Layout(pd.concat([once.assign(scenario=once["scenario"] + f"/{i}") for i in range(40)], ignore_index=True))
    states = draw(many, knobs, np.random.default_rng(7))
    fit = fit_affect(states)
    wanted, covariance = directions(knobs), neutral_covariance(knobs)
    found = fit.directions[0].astype(np.float64)
    for metric in (np.eye(WIDTH), covariance):
        inner = np.einsum("kp,pq,kq->k", found, metric, wanted)
        own, true = (np.sqrt(np.einsum("kp,pq,kq->k", a, metric, a)) for a in (found, wanted))
        assert (inner / own / true > 0.98).all()
        np.testing.assert_allclose(own / true, 1.0, atol=0.05)
    fresh = once[(once["emotion"] == NEUTRAL) & (once["split"] == "dev")]
    fresh = fresh.loc[fresh.index.repeat(20)].assign(scenario=[f"t{i}" for i in range(20 * len(fresh))])
    values = score(draw(Layout(fresh.reset_index(drop=True)), knobs, np.random.default_rng(8)), fit).values[:, 0]
    np.testing.assert_allclose(values.mean(axis=0), 0.0, atol=0.1)
    np.testing.assert_allclose(values.std(axis=0), 1.0, atol=0.08)
    given = directions(knobs, fit_metric(states.array[:, 0], states.index, fit.roles))  # in its own metric: closer
    inner = np.einsum("kp,pq,kq->k", found, covariance, given) / np.sqrt(
        np.einsum("kp,pq,kq->k", found, covariance, found)
    )
    assert (inner > 0.995).all()


@pytest.mark.parametrize("design", DESIGNS)
def test_planted_in_a_metric_is_what_exact_axes_make_of_noise_free_states(
    design: str, drawn: tuple[AffectFit, Metric]
) -> None:
    """Expected states, scored and estimated as drawn ones are, on a fit whose axes have no error. Separability and
    what counts decisions are in units of noise, which noise-free states do not have; drawn states have no head, so that
    nothing is said."""
    layout, (fit, metric) = design_layout(design, 12), drawn
    exact = directions(BUSY, metric)
    offsets = np.stack([exact @ metric.mean[r] for r in fit.roles])[:, None]
    fit = replace(fit, directions=exact[None].astype(np.float32), offsets=offsets)
    array = expected(layout, BUSY).astype(np.float32)[:, None]
    scores = replace(score(States(array, array, layout.index, (Point("resid", 0),), (), None), fit), versions=None)
    cosine = fit.axis_cosines
    measured = measure(scores, fit.layer, cosine)
    found = planted_traits(design, 12, BUSY, metric)
    assert set(found) == {e.name for e in DRAWN.values() if e.design == design}
    for trait in set(found) - {"separability", "joy_bias", "default_share", "selectivity", "circumplex_rsa"}:
        made = ESTIMANDS[trait].estimate(measured)
        assert made.valid == (trait not in HEADLESS)
        assert found[trait] == pytest.approx(made.estimate, rel=2e-4, abs=2e-4, nan_ok=not made.valid)


@pytest.fixture(scope="module")
def replicates() -> list[dict[str, list[float | None]]]:
    """30 data sets of 24 scenarios, each with a fit of its own."""
    cell = Cell("unbiased", Knobs(role_gain=0.7, absorption=0.4, half_life=6.0), 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "DESIGNS", ("shock", "retention"))
        return [replicate(cell, seed) for seed in range(30)]


@pytest.mark.parametrize("trait", ["dampening", "shock_absorption", "tail_retention"])
def test_estimates_are_unbiased_in_the_fitted_metric(trait: str, replicates: list[dict[str, list[float]]]) -> None:
    """The mean of estimate minus truth in the fitted metric is within 3.5 of its standard errors, which are small
    beside what is planted; all estimates are valid."""
    found = np.array([r[trait] for r in replicates])
    assert (found[:, 4] == 1).all()
    off = found[:, 0] - found[:, 5]
    se = off.std(ddof=1) / np.sqrt(len(off))
    assert abs(off.mean()) < 3.5 * se
    assert se < 0.15 * found[:, 5].mean()


@cache
def covered() -> dict[tuple[str, int], tuple[float, float]]:
    """Share of 60 data sets, by trait and number of scenarios, whose interval holds the truth in its fit's metric: with
    the error of the axes, and without it."""
    knobs = Knobs(mood=1.0, persona=0.5, role_gain=0.7)
    hits: dict[tuple[str, int], list[list[bool]]] = {}
    for seed in range(60):
        rng = np.random.default_rng([seed, 77])
        reference = draw(reference_layout(), knobs, rng)
        fit = fit_affect(reference)
        metric = fit_metric(reference.array[:, 0], reference.index, fit.roles)
        cosine = fit.axis_cosines
        for design, trait, n in (
            ("circumplex", "separability", 24),
            ("shock", "dampening", 24),
            ("circumplex", "separability", 192),
        ):
            layout = design_layout(design, n)
            whole = measure(score(draw(layout, knobs, rng), fit), fit.layer, cosine, layout=layout)
            made = [ESTIMANDS[trait].estimate(m) for m in (whole, replace(whole, versions=None))]
            assert all(m.valid for m in made)
            truth = planted_traits(design, n, knobs, metric)[trait]
            hits.setdefault((trait, n), []).append([m.low <= truth <= m.high for m in made])
    return {case: tuple(np.mean(h, axis=0)) for case, h in hits.items()}


@pytest.mark.parametrize(("trait", "scenarios"), [("separability", 24), ("dampening", 24), ("separability", 192)])
def test_intervals_hold_the_truth_in_the_metric_of_the_fit(trait: str, scenarios: int) -> None:
    """.95 is meant; 60 data sets tell it from .85 by three and a half of its standard errors (.028)."""
    assert covered()[trait, scenarios][0] >= 0.85


def test_many_scenarios_do_not_make_up_for_the_axes() -> None:
    """192 scenarios, and their error alone: the interval of separability misses the truth clearly more often."""
    with_axes, without = covered()["separability", 192]
    assert without < 0.85
    assert without < with_axes - 0.1


# --- the study --------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def line(cell: Cell, seed: int, traits: dict[str, list[float | None]]) -> str:
    """A replicate as a line of its file."""
    condition = {"method": study.METHOD, "knobs": asdict(cell.knobs), "scenarios": cell.scenarios}
    return json.dumps({"seed": seed, **condition, "traits": traits}) + "\n"


def quota(cell: Cell) -> int:
    """Four replicates of the first cell, two of the second."""
    return {"coverage-24": 4, "null-24": 2}[cell.name]


@contextmanager
def two_cells() -> Iterator[list[Cell]]:
    """A study of two conditions with six scenarios, on shocks only."""
    found = [Cell("coverage-24", BUSY, 6), Cell("null-24", PLAIN, 6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "DESIGNS", ("shock",))
        patch.setattr(study, "cells", lambda: found)
        yield found


@pytest.fixture
def tiny() -> Iterator[list[Cell]]:
    """The conditions of the small study, which may be changed."""
    with two_cells() as found:
        yield found


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, never stopped."""
    folder = tmp_path_factory.mktemp("study")
    with two_cells():
        run_study(folder, quota)
    return folder


@pytest.fixture
def whole(in_one_go: Path, tmp_path: Path) -> Path:
    """A copy of the study that was never stopped."""
    return Path(shutil.copytree(in_one_go, tmp_path / "whole"))


def test_a_study_is_its_replicates(tiny: list[Cell], whole: Path) -> None:
    """Every line is what `replicate` gives for its seed, in strict JSON; every seed is there once."""
    for cell in tiny:
        rows = study.read(whole, cell)
        assert [r["seed"] for r in rows] == list(range(quota(cell)))
        assert rows[-1]["traits"] == json.loads(json.dumps(replicate(cell, rows[-1]["seed"]), allow_nan=False))
    assert sorted(contents(whole)) == ["coverage-24.jsonl", "null-24.jsonl"]


def test_a_stopped_study_goes_on_where_it_was(tiny: list[Cell], whole: Path, tmp_path: Path) -> None:
    """Stopped twice and started again: the same bytes as in one go, each replicate made once; where it stops first,
    both cells have half of theirs."""
    made: list[str] = []

    def stopping(after: int) -> Callable[[Cell, int], None]:
        known: list[str] = []

        def progress(cell: Cell, done: int) -> None:
            if cell.name not in known:  # what was there before
                known.append(cell.name)
                assert done == made.count(cell.name)
                return
            assert done == 1
            made.append(cell.name)
            if len(made) == after:
                raise KeyboardInterrupt

        return progress

    for after in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            run_study(tmp_path / "parts", quota, stopping(after))
    assert sorted(made[:3]) == ["coverage-24", "coverage-24", "null-24"]
    run_study(tmp_path / "parts", quota, stopping(99))
    assert len(made) == 6
    assert contents(tmp_path / "parts") == contents(whole)


def test_replicates_that_are_there_are_kept(tiny: list[Cell], tmp_path: Path) -> None:
    """A line that no replicate would give stays as it is, the missing seeds are added; then nothing is left to do."""
    cell, path = tiny[0], tmp_path / "coverage-24.jsonl"
    path.write_text(line(cell, 1, {"dampening": [9.0, 8.0, 10.0, 0.5, 1.0, 9.0]}))
    before = path.read_bytes()
    run_study(tmp_path, lambda c: 3 * (c == cell))
    assert path.read_bytes().startswith(before)
    assert [r["seed"] for r in study.read(tmp_path, cell)] == [1, 0, 2]
    assert not (tmp_path / "null-24.jsonl").exists()
    after, seen = contents(tmp_path), []
    run_study(tmp_path, lambda c: 3 * (c == cell), lambda c, n: seen.append((c.name, n)))
    assert seen == [("coverage-24", 3), ("null-24", 0)]
    run_study(tmp_path, lambda c: 2 * (c == cell))  # fewer than there are
    assert contents(tmp_path) == after


@pytest.mark.parametrize("left", [1, 200, -2, -1], ids=["a brace", "half", "all but the end", "no newline"])
def test_a_torn_line_is_made_again(tiny: list[Cell], whole: Path, left: int) -> None:
    """A kill while the last line was written: its seed is made again as it was (unless only the newline is missing)
    and nothing is glued to the rest of it."""
    cell, path = tiny[0], whole / "coverage-24.jsonl"
    rows = study.read(whole, cell)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
    intact = 4 if left == -1 else 3
    assert study.read(whole, cell) == rows[:intact]
    run_study(whole, lambda c: 5 * (c == cell))
    again = study.read(whole, cell)
    assert again[:4] == rows
    assert [r["seed"] for r in again] == [0, 1, 2, 3, 4]


def test_lines_of_other_knobs_do_not_count(tiny: list[Cell], whole: Path) -> None:
    """A cell of an older study that has planted something else is made anew; its lines are not read."""
    cell = replace(tiny[0], knobs=replace(BUSY, mood=0.25))
    tiny[0] = cell
    assert study.read(whole, cell) == []
    assert summaries(whole, [cell]) == []
    run_study(whole, lambda c: c == cell)
    assert [r["knobs"]["mood"] for r in study.read(whole, cell)] == [0.25]
    assert len((whole / "coverage-24.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("what", ["another method", "no method at all", "other scenarios"])
def test_lines_of_another_study_do_not_count(
    what: str, tiny: list[Cell], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicates of an older method, of one that has not said which, or of other sizes are not mixed with new ones."""
    path = whole / "coverage-24.jsonl"
    assert len(study.read(whole, tiny[0])) == 4
    if what == "another method":
        monkeypatch.setattr(study, "METHOD", study.METHOD + 1)
    elif what == "other scenarios":
        tiny[0] = replace(tiny[0], scenarios=7)
    else:
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "method"}) + "\n" for r in rows))
    assert study.read(whole, tiny[0]) == []
    assert summaries(whole, [tiny[0]]) == []
    run_study(whole, lambda c: c == tiny[0])
    assert [r["seed"] for r in study.read(whole, tiny[0])] == [0]
    assert len(path.read_text().splitlines()) == 5


@pytest.mark.parametrize(("full", "few"), [(2000, 200), (100, 10), (7, 2), (2, 2)])
def test_planned_sizes(full: int, few: int) -> None:
    """All replicates for coverage and nulls at three sizes, a tenth, but at least two, for the other cells."""
    planned = study.planned(full)
    assert list(planned) == [c.name for c in study.cells()]
    most = {f"{kind}-{n}" for kind in ("coverage", "null", "nothing", "shuffled") for n in (24, 96, 192)}
    assert {k for k in planned if k in most} == most
    assert {k: v for k, v in planned.items() if k not in most} == {k: few for k in planned if k not in most}
    assert {planned[k] for k in most} == {full}


def test_a_look_has_something_for_every_part_of_the_page() -> None:
    """Cells of the study all of them: two sizes of coverage (what power asks for needs two), a null of each kind, every
    knob of the matrix and its base, and two doses of each knob, from two replicates where a spread is shown."""
    wanted = study.sketched()
    names = {c.name for c in study.cells()}
    assert set(wanted) <= names
    assert {"coverage-24", "coverage-96", "null-24", "nothing-24", "shuffled-24"} <= set(wanted)
    assert {n for n in names if n.startswith("matrix")} <= set(wanted)
    for knob in study.DOSES:
        assert sum(n.startswith(f"dose-{knob}-") for n in wanted) == 2
    assert all(n >= 2 for name, n in wanted.items() if not name.startswith("matrix"))
    assert all(n >= 1 for n in wanted.values())


def test_cells_turn_one_knob_at_a_time() -> None:
    """The cells of matrix and doses differ from the plain phantom by their knob only, and names are unique."""
    cells = {c.name: c for c in study.cells()}
    assert len(cells) == len(study.cells())
    assert asdict(cells["matrix-base"].knobs) == asdict(Knobs())
    turned = 0
    for name, cell in cells.items():
        kind, _, rest = name.partition("-")
        if kind in ("matrix", "dose") and rest != "base":
            knob, value = (rest, study.TURNED[rest][0]) if kind == "matrix" else (rest.split("-")[0], None)
            changed = {k: v for k, v in asdict(cell.knobs).items() if v != asdict(Knobs())[k]}
            assert set(changed) <= {knob}
            assert value is None or changed == {knob: value}
            turned += 1
    assert turned == len(study.TURNED) + sum(map(len, study.DOSES.values()))


# --- its summaries ----------------------------------------------------------------------------------------------

#: Dampening .4 is planted here.
HAND = Cell("by-hand", Knobs(role_gain=0.6), 6)


def summary(folder: Path, cell: Cell, *numbers: list[float | None], trait: str = "dampening") -> Summary:
    """The summary of handmade replicates: estimate, low, high, p, valid, truth in the metric of the fit."""
    (folder / f"{cell.name}.jsonl").write_text("".join(line(cell, s, {trait: n}) for s, n in enumerate(numbers)))
    found = summaries(folder, [cell])
    assert [(s.cell, s.trait) for s in found] == [(cell.name, trait)]
    return found[0]


def test_a_summary_by_hand(tmp_path: Path) -> None:
    """Four valid replicates and an invalid one, which only counts against validity. Bounds and p = .05 are inside."""
    found = summary(
        tmp_path,
        HAND,
        [0.50, 0.30, 0.70, 0.01, 1.0, 0.45],  # holds .4 and .45, rejects
        [0.30, 0.20, 0.35, 0.05, 1.0, 0.50],  # holds neither, rejects
        [0.40, 0.39, 0.60, 0.20, 1.0, 0.38],  # holds .4 only
        [0.60, 0.10, 0.90, 0.04, 1.0, 0.90],  # holds both, rejects
        [9.00, None, None, None, 0.0, 0.40],
    )
    assert (found.replicates, found.valid) == (5, 0.8)
    assert found.truth == pytest.approx(0.4)
    assert found.mean == pytest.approx(0.45)
    assert found.bias == pytest.approx(0.05)
    assert found.empirical_se == pytest.approx(np.sqrt((0.05**2 + 0.15**2 + 0.05**2 + 0.15**2) / 3))
    assert (found.coverage, found.conditional, found.rejected) == (0.75, 0.5, 0.75)


def test_conditional_coverage_is_by_the_truth_of_the_replicate(tmp_path: Path) -> None:
    """All intervals hold their own truth and none the planted one."""
    found = summary(tmp_path, HAND, *([c, c - 0.1, c + 0.1, 0.5, 1.0, c] for c in (1.0, 2.0, 3.0)))
    assert (found.coverage, found.conditional, found.rejected) == (0.0, 1.0, 0.0)


def test_replicates_of_a_trait_are_those_that_have_it(tmp_path: Path) -> None:
    """Unranked traits are estimated in the first replicates only: the others do not make their shares any surer."""
    numbers: list[float | None] = [0.4, 0.3, 0.5, 0.01, 1.0, 0.4]
    rows = [line(HAND, s, {"dampening": numbers, **({"shock_absorption": numbers} if s < 2 else {})}) for s in range(5)]
    (tmp_path / "by-hand.jsonl").write_text("".join(rows))
    found = {s.trait: s for s in summaries(tmp_path, [HAND])}
    assert {t: s.replicates for t, s in found.items()} == {"dampening": 5, "shock_absorption": 2}
    assert found["shock_absorption"].error(1.0) > found["dampening"].error(1.0)


def test_without_valid_replicates_there_are_no_numbers(tmp_path: Path) -> None:
    """None valid: validity 0, the truth, and nothing else. One valid: no spread."""
    invalid: list[float | None] = [None, None, None, None, 0.0, None]
    none = summary(tmp_path, HAND, invalid, invalid)
    assert (none.replicates, none.valid) == (2, 0.0)
    assert none.truth == pytest.approx(0.4)
    for name in ("mean", "bias", "empirical_se", "coverage", "conditional", "rejected"):
        assert np.isnan(getattr(none, name))
    one = summary(tmp_path, HAND, invalid, [0.5, 0.3, 0.7, 0.01, 1.0, 0.5])
    assert (one.valid, one.mean, one.coverage, one.rejected) == (0.5, 0.5, 1.0, 1.0)
    assert np.isnan(one.empirical_se)


def test_without_a_truth_there_is_no_coverage(tmp_path: Path) -> None:
    """In the phantom without emotions nothing is planted: no bias and no coverage, but rejections are counted."""
    cell = Cell("empty", NOTHING, 6)
    found = summary(tmp_path, cell, [1.0, 0.5, 1.5, 0.01, 1.0, None], [0.0, -1.0, 1.0, 0.9, 1.0, None])
    assert (found.valid, found.mean, found.rejected) == (1.0, 0.5, 0.5)
    for name in ("truth", "bias", "coverage", "conditional"):
        assert np.isnan(getattr(found, name))


def test_summaries_have_an_order_and_leave_out_what_is_not_there(tmp_path: Path) -> None:
    """Cell by cell in the order asked for, traits in their own order; absent cells and traits are left out."""
    numbers: list[float | None] = [0.5, 0.3, 0.7, 0.01, 1.0, 0.5]
    cells = [HAND, replace(HAND, name="absent"), replace(HAND, name="another")]
    (tmp_path / "by-hand.jsonl").write_text(line(HAND, 0, {"half_life": numbers, "joy_bias": numbers}))
    (tmp_path / "another.jsonl").write_text(line(HAND, 0, {"dampening": numbers}))
    found = [(s.cell, s.trait) for s in summaries(tmp_path, cells[::-1])]
    assert found == [("another", "dampening"), ("by-hand", "joy_bias"), ("by-hand", "half_life")]


@pytest.mark.parametrize(
    ("replicates", "valid", "share", "error"),
    [
        (96, 1.0, 0.5, np.sqrt(0.5 * 0.5 / 100)),  # (48 + 2) / (96 + 4)
        (16, 1.0, 0.0, np.sqrt(0.1 * 0.9 / 20)),
        (16, 1.0, 1.0, np.sqrt(0.1 * 0.9 / 20)),
        (32, 0.5, 0.25, np.sqrt(0.3 * 0.7 / 20)),  # (4 + 2) / (16 + 4)
        (50, 0.0, 0.5, np.nan),
        (50, 1.0, np.nan, np.nan),
    ],
)
def test_monte_carlo_errors(replicates: int, valid: float, share: float, error: float) -> None:
    """Agresti & Coull: two hits and two misses more, among the valid replicates; no number without any."""
    blank = dict.fromkeys(("truth", "mean", "bias", "empirical_se", "coverage", "conditional", "rejected"), np.nan)
    found = Summary(cell="c", trait="t", replicates=replicates, valid=valid, **blank).error(share)
    assert found == pytest.approx(error, nan_ok=True)


# --- its page ---------------------------------------------------------------------------------------------------

#: Replicates that hold the truth, and the truth in the metric of the fit, of 100 (20 with 192 scenarios); else 95 %.
HITS = {
    ("coverage-24", "dampening"): (95, 80),
    ("coverage-96", "joy_bias"): (80, 95),
    ("coverage-96", "half_life"): (100, 100),
    ("coverage-192", "half_life"): (20, 20),
}
#: Replicates that reject, of 100; else 5.
REJECTED = {("null-24", "joy_bias"): 30, ("null-96", "tail_retention"): 0, ("null-96", "separability"): 100}
#: The same where nothing can be found; of these 10, none and 60 are valid at the three sizes.
BY_CHANCE = {("shuffled-24", "dampening"): 10, ("nothing-24", "dampening"): 2, ("shuffled-192", "separability"): 30}
#: Mean of a trait where a knob is turned; else 1, and 3 for the knob's own trait, so that a change of 2 is 1.
MEANS = {
    ("persona", "dampening"): 1.08,
    ("tint", "joy_bias"): 1.5,
    ("rogue", "tail_retention"): 0.8,
    ("drift", "dampening"): 5.0,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """All conditions of the study with six scenarios, whose truths are quickly known."""
    found = [replace(c, scenarios=6) for c in study.cells()]
    for module in (study, performance):
        monkeypatch.setattr(module, "cells", lambda: found)
    return found


def interval(holds: bool, given: bool) -> tuple[float, float, float]:
    """Low, high and the truth in the metric of the fit, such that the truth and that truth are held or not."""
    low, high = (-1e6, 1e6) if holds else (1e6, 3e6)
    return low, high, 2e6 if holds != given else 0.0


def handmade_numbers(name: str, trait: str) -> list[list[float | None]]:
    """The replicates of a trait in a cell."""
    kind, _, rest = name.partition("-")
    if kind == "coverage":
        n = 20 if rest == "192" else 100
        truth, given = HITS.get((name, trait), (n * 95 // 100, n * 95 // 100))
        made = []
        for i in range(n):
            low, high, axes = interval(i < truth, i < given)
            made.append([0.25, low, high, 0.5, 1.0, axes])
        return made
    if kind == "null":
        rejected = REJECTED.get((name, trait), 5)
        return [[0.0, -1.0, 1.0, 0.01 if i < rejected else 0.5, 1.0, 0.0] for i in range(100)]
    if kind in ("nothing", "shuffled"):
        valid = {"24": 10, "96": 0, "192": 60}[rest]
        rejected = BY_CHANCE.get((name, trait), 5)
        return [[0.0, -1.0, 1.0, 0.01 if i < rejected else 0.5, float(i < valid), None] for i in range(100)]
    if kind == "matrix":
        own = study.TURNED.get(rest, (0.0, ""))[1] == trait
        mean, valid = (
            MEANS.get((rest, trait), 3.0 if own else 1.0),
            8 if (rest, trait) == ("drift", "dampening") else 20,
        )
        return [[mean, mean - 1, mean + 1, 0.01, float(i < valid), mean] for i in range(20)]
    return [[0.1 * i, 0.0, 1.0, 0.01 * i, 1.0, 0.5] for i in range(10)]


@pytest.fixture(scope="module")
def handmade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of all cells, with six scenarios, whose numbers are known."""
    folder = tmp_path_factory.mktemp("handmade")
    for cell in study.cells():
        table = {t: handmade_numbers(cell.name, t) for t in DRAWN}
        rows = zip(*table.values(), strict=True)
        lines = (line(replace(cell, scenarios=6), s, dict(zip(table, row, strict=True))) for s, row in enumerate(rows))
        (folder / f"{cell.name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def page(small: list[Cell], handmade: Path) -> list[list[list[str]]]:
    """The tables of the page of the handmade study: for each its rows, header first."""
    text = report.to_markdown(Certificate(summaries(handmade)))
    found = []
    for part in text.split("\n\n"):
        rows = [[c.strip() for c in row.strip("|").split("|")] for row in part.splitlines() if row.startswith("|")]
        if rows:
            found.append([rows[0], *rows[2:]])
    assert len(found) == 4
    return found


def bold(table: list[list[str]]) -> dict[tuple[str, ...], list[int]]:
    """Columns that are marked, by the keys of their row: its trait and size, or its knob."""
    keys = table[0].index("scenarios") + 1 if "scenarios" in table[0] else 1
    marked = {tuple(row[:keys]): [i for i, c in enumerate(row) if "**" in c] for row in table[1:]}
    return {k: v for k, v in marked.items() if v}


def test_the_report_is_complete_and_the_same_twice(small: list[Cell], handmade: Path, tmp_path: Path) -> None:
    """All cells: a page, strict JSON and four figures as SVG and PNG, which are what they say; byte for byte again."""
    first, second = (report.write(Certificate(summaries(handmade)), tmp_path / name) for name in "ab")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert {p.relative_to(tmp_path / "a") for p in first} == {p.relative_to(tmp_path / "b") for p in second}
    wanted = {f"figures/calibration-{f}.{suffix}" for f in FIGURES for suffix in ("svg", "png")}
    files = contents(tmp_path / "a")
    assert set(files) == {"calibration.md", "calibration.json", *wanted}
    assert {p.relative_to(tmp_path / "a").as_posix() for p in first} == set(files)
    for name in wanted:
        if name.endswith("png"):
            assert files[name].startswith(b"\x89PNG")
        else:
            assert ElementTree.fromstring(files[name]).tag.endswith("svg")
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", files["calibration.md"].decode())
    assert sorted(links) == sorted(f"figures/calibration-{f}.svg" for f in FIGURES)
    rows = json.loads(files["calibration.json"], parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))["drawn"]
    assert [(r["cell"], r["trait"]) for r in rows] == [(c.name, t) for c in small for t in DRAWN]
    by = {(r["cell"], r["trait"]): r for r in rows}
    assert by["coverage-24", "dampening"]["conditional"] == 0.8
    assert by["null-24", "joy_bias"]["rejected"] == 0.3
    assert by["nothing-96", "dampening"]["mean"] is None


def test_the_page_tells_the_most_replicates(small: list[Cell], handmade: Path) -> None:
    """The largest number of replicates of a condition stands in the text."""
    assert "up to 100 replicates" in report.to_markdown(Certificate(summaries(handmade)))


def test_missed_coverage_is_marked(page: list[list[list[str]]]) -> None:
    """.80 of 100 is out of .94 to .96 by more than two errors of .040, and 1.00 of 100 by more than two of .013; .95
    is not, nor is 1.00 of 20. Nothing else is marked."""
    table = page[0]
    rows = {tuple(r[:2]): r for r in table[1:]}
    assert len(rows) == len(table) - 1 == len(DRAWN) * 3
    assert bold(table) == {("dampening", "24"): [5], ("joy_bias", "96"): [6], ("half_life", "96"): [5, 6]}
    assert rows["dampening", "24"][5:] == ["**0.800 ± 0.040** missed", "0.950 ± 0.025"]
    assert rows["joy_bias", "96"][6] == "**0.800 ± 0.040** missed"
    assert rows["half_life", "96"][5:] == ["**1.000 ± 0.013** missed"] * 2
    assert rows["half_life", "192"][5:] == ["1.000 ± 0.056"] * 2
    for trait, size in rows:  # all estimates are .25
        row = rows[trait, size]
        if trait in HEADLESS:
            assert row[2:4] == ["–", "–"]
            continue
        assert float(row[3]) == pytest.approx(0.25 - float(row[2]), abs=1.01e-3)
        assert row[4] == "0.000"


def test_false_rejections_are_marked(page: list[list[list[str]]]) -> None:
    """.30 and 0 of 100 miss .04 to .06 by more than two errors, .05 does not. Where nothing can be found, what is valid
    and rejects is counted among all replicates, and only too many are marked: .30 is, .10 is too many by less than two
    errors of .031, and 0 is not too few."""
    table = page[1]
    rows = {tuple(r[:2]): r[2:] for r in table[1:]}
    assert len(rows) == len(DRAWN) * 3
    assert bold(table) == {("joy_bias", "24"): [3], ("tail_retention", "96"): [3], ("separability", "192"): [4]}
    assert rows["separability", "192"][1:] == [
        "not null there", "**0.300 ± 0.045** missed (valid 0.60)", "0.050 ± 0.025 (valid 0.60)"
    ]  # fmt: skip
    assert rows["joy_bias", "24"][1:] == [
        "**0.300 ± 0.045** missed", "0.050 ± 0.025 (valid 0.10)", "0.050 ± 0.025 (valid 0.10)"
    ]  # fmt: skip
    assert rows["tail_retention", "96"][1:] == [
        "**0.000 ± 0.013** missed", "0.000 ± 0.013 (valid 0.00)", "0.000 ± 0.013 (valid 0.00)"
    ]  # fmt: skip
    assert rows["dampening", "24"][1:] == [
        "0.050 ± 0.025", "0.100 ± 0.031 (valid 0.10)", "0.020 ± 0.019 (valid 0.10)"
    ]  # fmt: skip


def test_the_closed_form_says_which_traits_are_at_their_null(page: list[list[list[str]]]) -> None:
    """Those, and only those, of the plain phantom are judged: by how far the truth lies from the null, which stands
    beside them. Three must be there whatever the metric is; separability is not."""
    plain = all_traits(PLAIN)
    away = {t: plain[t] - e.null for t, e in DRAWN.items()}
    wanted = {t for t, a in away.items() if abs(a) <= (0.1 if t == "half_life" else 0.02)}
    rows = page[1][1:]
    assert {r[0] for r in rows if r[3] != "not null there"} == wanted
    assert {"dampening", "shock_absorption", "tail_retention"} <= wanted
    assert "separability" not in wanted
    assert {r[0] for r in rows if r[2] == "–"} == {t for t, a in away.items() if np.isnan(a)}
    assert {t for t, a in away.items() if np.isnan(a)} == {*HEADLESS, "circumplex_geometry", "circumplex_rsa"}
    assert all(float(r[2]) == pytest.approx(away[r[0]], abs=6e-4) for r in rows if r[2] != "–")


def test_what_moves_other_traits_is_marked(page: list[list[list[str]]]) -> None:
    """Changes over that of the own knob: .04 passes, .25 and -.10 are marked, the diagonal is 1 and never marked; an
    estimate that is mostly invalid is called so and not judged. In brackets the same ratio of what is planted."""
    table = page[3]
    rows = {r[0].split(" = ")[0]: dict(zip(table[0][1:], r[1:], strict=True)) for r in table[1:]}
    own = {trait: knob for knob, (_, trait) in study.TURNED.items() if trait}
    for knob, row in rows.items():
        for trait in row:
            base, turned, other = (
                all_traits(replace(Knobs(), **({k: study.TURNED[k][0]} if k else {})))[trait]
                for k in ("", own[trait], knob)
            )
            value, planted_, rest = re.fullmatch(r"(\S+) \(([+-][\d.]+)\)(.*)", row[trait]).groups()
            assert float(planted_) == pytest.approx((other - base) / (turned - base), abs=0.0051)
            row[trait] = value + rest
    assert [r[0] for r in table[1:]] == [f"{k} = {v:g}" for k, (v, _) in study.TURNED.items()]
    assert {key[0].split(" = ")[0] for key in bold(table)} == {"tint", "rogue"}
    moved = {(k, t): v for k, row in rows.items() for t, v in row.items() if v != "+0.00"}
    assert moved == {(knob, trait): "+1.00" for trait, knob in own.items()} | {
        ("persona", "dampening"): "+0.04",
        ("tint", "joy_bias"): "**+0.25**",
        ("rogue", "tail_retention"): "**-0.10**",
        ("drift", "dampening"): "+2.00, invalid",
    }


def test_what_can_be_detected() -> None:
    """With 80 % power, two-sided at .05: (1.960 + 0.842) standard errors; a size that is missing is a dash."""
    shares = {"truth": 0.3, "mean": 0.3, "bias": 0.0, "coverage": 0.95, "conditional": 0.95, "rejected": 0.5}
    found = [
        Summary(f"coverage-{n}", "dampening", 100, 1.0, empirical_se=se, **shares) for n, se in ((24, 0.1), (192, 0.03))
    ]
    page = report.to_markdown(Certificate(found)).splitlines()
    row = next(r for r in page if r.startswith("| dampening") and r.count("|") == 7)
    power = sps.norm.ppf(0.975) + sps.norm.ppf(0.8)
    assert [c.strip() for c in row.split("|")[2:5]] == [f"{power * 0.1:.3f}", "–", f"{power * 0.03:.3f}"]


#: Parts of a study, by the cells that are there, and the figures that can be made of them.
PARTS: dict[str, tuple[str, set[str]]] = {
    "nothing at all": ("^$", set()),
    "one size of coverage": ("coverage-96", {"coverage"}),
    "nulls": ("null", set()),
    "plain nulls, a size without emotion": ("null|nothing-24", set()),
    "no base": ("matrix-(?!base)", {"matrix"}),
    "base only": ("matrix-base", set()),
    "one knob": ("matrix-(base|tint)", {"matrix"}),
    "one dose": ("dose-absorption-0.2", {"recovered", "power"}),
}


def write_part(name: str, handmade: Path, folder: Path) -> Path:
    """Put a part of the handmade study into a folder and write the report on it beside it."""
    (folder / "study").mkdir()
    for path in handmade.iterdir():
        if re.match(PARTS[name][0], path.stem):
            shutil.copy(path, folder / "study")
    report.write(Certificate(summaries(folder / "study")), folder / "reports")
    return folder / "reports"


@pytest.mark.parametrize("name", PARTS)
def test_a_study_under_way_is_reported(name: str, small: list[Cell], handmade: Path, tmp_path: Path) -> None:
    """Where cells are missing the page shows the others: only their figures, strict JSON of exactly their rows."""
    made = write_part(name, handmade, tmp_path)
    assert {p.stem for p in (made / "figures").iterdir()} == {f"calibration-{f}" for f in PARTS[name][1]}
    text = (made / "calibration.json").read_text(encoding="utf-8")
    rows = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))["drawn"]
    assert {r["cell"] for r in rows} == {p.stem for p in (tmp_path / "study").iterdir()}
    assert not re.search(r"\bnan\b", (made / "calibration.md").read_text(encoding="utf-8"))


def test_the_page_shows_no_figure_that_is_not_there(small: list[Cell], handmade: Path, tmp_path: Path) -> None:
    """Every picture on the page of an incomplete study is a file."""
    made = write_part("nulls", handmade, tmp_path)
    for link in re.findall(r"!\[[^]]*\]\(([^)]*)\)", (made / "calibration.md").read_text(encoding="utf-8")):
        assert (made / link).is_file()


# --- the command ------------------------------------------------------------------------------------------------


def test_calibrate_makes_the_study_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two replicates of two cells and their report, whose files are named on stdout; again: no further replicate and
    the same bytes."""
    tiny = [Cell("coverage-24", BUSY, 6), Cell("null-24", PLAIN, 6)]
    for module in (study, performance):
        monkeypatch.setattr(module, "cells", lambda: tiny)
    monkeypatch.setattr("llmct_bench.commands.calibration._WITHOUT", ())  # level 3 has a test of its own

    def lines(replicates: int) -> dict[str, list[str]]:
        done = CliRunner().invoke(
            app, ["calibrate", "--output", str(tmp_path), "--replicates", str(replicates), "--seeds", "0"]
        )
        assert done.exit_code == 0, done.output
        named = [tmp_path / row for row in done.stdout.splitlines()]
        assert set(named) == {p for p in (tmp_path / "reports").rglob("*") if p.is_file()}
        return {p.name: p.read_text().splitlines() for p in (tmp_path / "calibration").iterdir()}

    first = lines(2)
    assert {name: len(rows) for name, rows in first.items()} == {"coverage-24.jsonl": 2, "null-24.jsonl": 2}
    assert set(json.loads(first["null-24.jsonl"][0])["traits"]) == set(DRAWN)
    assert sorted(contents(tmp_path / "reports")) == [
        "calibration.json", "calibration.md", "figures/calibration-coverage.png", "figures/calibration-coverage.svg"
    ]  # fmt: skip
    everything = contents(tmp_path)
    assert lines(2) == first
    assert contents(tmp_path) == everything


def test_a_quick_look_measures_a_panel_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without stored results a phantom is measured for the section of level 2, apart from the results of the user, and
    is not measured again; a line of the study that there was stays."""
    monkeypatch.setattr(study, "cells", lambda: [Cell("coverage-24", BUSY, 6)])
    monkeypatch.setattr(performance, "cells", study.cells)
    for name, value in {"_WITHOUT": (), "_PANEL": ("phantom/dampened",), "_SHOWN": ("shock",), "_FEW": 6}.items():
        monkeypatch.setattr(f"llmct_bench.commands.calibration.{name}", value)

    def look() -> str:
        done = CliRunner().invoke(app, ["calibrate", "--quick", "--output", str(tmp_path), "--seeds", "0"])
        assert done.exit_code == 0, done.output
        return (tmp_path / "reports" / "calibration.md").read_text(encoding="utf-8")

    page = look()
    assert "# Level 2: compiled transformers" in page
    assert re.search(r"\| dampening +\| 1 ", page)
    assert len((tmp_path / "calibration" / "coverage-24.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "results").exists()
    before = contents(tmp_path)
    assert look() == page
    assert contents(tmp_path) == before


def test_one_replicate_is_too_few(tmp_path: Path) -> None:
    """A single replicate has no spread: refused as wrong usage, nothing is made."""
    done = CliRunner().invoke(app, ["calibrate", "--output", str(tmp_path), "--replicates", "1"])
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []
