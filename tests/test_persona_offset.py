"""The resting mood of the assistant persona, against closed forms, and the size that a role's vector has anyhow."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from test_traits import measurement, shock_rows

from llmct_bench.adapters import load
from llmct_bench.affect import AffectFit, FitConstants, ScoreVersions, fit_affect, fit_metric, score
from llmct_bench.calibration.activations import (
    Knobs,
    design_layout,
    draw,
    expected,
    neutral_covariance,
    planted_traits,
    reference_layout,
)
from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.evaluation import evaluate
from llmct_bench.scanner import States
from llmct_bench.suites import get_suite
from llmct_bench.traits import ESTIMANDS, Measurement, TraitEstimate, measure

SHIFT = np.array([0.3, 0.1, -0.2, 0.0, 0.7, -0.4])


def estimate(m: Measurement) -> TraitEstimate:
    return ESTIMANDS["persona_offset"].estimate(m)


def resting(mood: float, noise: float = 0.2, seed: int = 0) -> Measurement:
    """The hand-made shocks; valence of neutral text lies ``mood`` higher as assistant, on scores that are centred by
    role and miss ``SHIFT``."""
    rng = np.random.default_rng(seed)
    rows = shock_rows(0.5, 1.0)
    for r in rows:
        r["valence"] = rng.normal(0, noise) + (mood - SHIFT[4] if r["role"] == "assistant" else 0.0)
        if r["intensity"] > 0 or r["context"] != "neutral":
            r["valence"] += 100.0  # nothing but neutral text at rest counts
    return replace(measurement(rows), constants=FitConstants(SHIFT, 0.5))


@given(st.floats(-3, 3))
@settings(max_examples=10, deadline=None)
def test_it_is_the_mean_difference_of_the_slots(mood: float) -> None:
    """The t interval over scenarios; p with the random direction's variance beside it."""
    m = resting(mood)
    e = estimate(m)
    own = m.layout.index[(m.layout.index["intensity"] == 0) & (m.layout.index["context"] == "neutral")]
    values = {(r.scenario, r.role): m.values[r.Index, 4] for r in own.itertuples()}
    by_scenario = [values[s, "assistant"] - values[s, "user"] + SHIFT[4] for s in own["scenario"].unique()]
    truth = sps.ttest_1samp(by_scenario, 0)
    assert e.valid
    assert e.estimate == pytest.approx(np.mean(by_scenario))
    assert (e.low, e.high) == pytest.approx(tuple(truth.confidence_interval()))
    se = np.hypot(sps.sem(by_scenario), 0.5)
    df = 23 * (se / sps.sem(by_scenario)) ** 4
    assert e.p_value == pytest.approx(2 * sps.t.sf(abs(np.mean(by_scenario)) / se, df))
    assert sorted(e.details) == sorted(["random", *NAMES, "arousal"])
    assert e.details["calm"][0] == pytest.approx(m.values[own.index, 3][(own["role"] == "assistant")].mean()
                                                 - m.values[own.index, 3][(own["role"] == "user")].mean())  # fmt: skip


def test_a_shift_within_random_directions_is_not_significant() -> None:
    """The same sure shift: significant beside a small role vector, not beside a large one; the interval stays."""
    m = resting(1.0)
    small, large = (estimate(replace(m, constants=FitConstants(SHIFT, r))) for r in (0.1, 2.0))
    assert small.significant
    assert not large.significant
    assert large.valid
    assert (small.low, small.high) == (large.low, large.high)


def test_axes_that_differ_carry_the_shift_of_their_own() -> None:
    """A version of the axes sees the role's shift on its own directions: if versions are the scores times 0.9, 1 and
    1.1, the standard error of the axes is that of the whole shift, (2/3 (0.01 + 0.01))^(1/2) of it."""
    m = resting(1.0)
    versions = ScoreVersions(
        m.values, np.array([0.9, 1.0, 1.1])[:, None, None] * np.eye(6), np.eye(6), np.zeros(3, int), SHIFT
    )
    e = estimate(replace(m, versions=versions))
    assert e.se_axes == pytest.approx(abs(e.estimate) * np.sqrt(2 / 3 * 0.02))


def test_without_both_roles_it_is_not_known() -> None:
    for constants in (None, FitConstants(np.full(6, np.nan), np.nan)):
        e = estimate(replace(resting(1.0), constants=constants))
        assert not e.valid
        assert "lacks a role" in e.reason


def test_at_a_point_that_knows_no_role_it_is_nothing() -> None:
    """The embeddings: the same text is the same state."""
    m = resting(0.0)
    nothing = replace(m, values=np.zeros_like(m.values), constants=FitConstants(np.zeros(6), 0.0))
    e = estimate(nothing)
    assert (e.estimate, e.p_value, e.valid) == (0.0, 1.0, True)


# --- drawn states -------------------------------------------------------------------------------------------------


@cache
def drawn(knobs: Knobs, seed: int) -> tuple[States, AffectFit, Measurement, float]:
    """A reference, its fit, 24 shocks on it, and the truth in its metric."""
    rng = np.random.default_rng(seed)
    reference, layout = draw(reference_layout(), knobs, rng), design_layout("shock", 24)
    fit = fit_affect(reference)
    truth = planted_traits("shock", 24, knobs, fit_metric(reference.array[:, 0], reference.index, fit.roles))
    m = measure(score(draw(layout, knobs, rng), fit), fit.layer, np.ones((4, 2)), layout=layout)
    return reference, fit, m, truth["persona_offset"]


@pytest.mark.parametrize("persona", [0.0, 1.0])
def test_planted_personas_are_recovered(persona: float) -> None:
    """10 data sets: the mean error is within 4 of its standard errors, 8 intervals hold the truth (P(< 8 | 10, .95) =
    .01); the truth is 0 where nothing is planted, but for what of the role's vector the fitted metric leaves there."""
    found = [drawn(Knobs(persona=persona), seed) for seed in range(10)]
    estimates, truths = [estimate(m) for _, _, m, _ in found], np.array([t for *_, t in found])
    off = np.array([e.estimate for e in estimates]) - truths
    assert abs(off.mean()) < 4 * off.std(ddof=1) / np.sqrt(10)
    assert sum(e.low <= t <= e.high for e, t in zip(estimates, truths, strict=True)) >= 8
    assert np.abs(truths).max() < 0.1 if persona == 0 else truths.min() > 0.3


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_without_a_persona_nothing_is_found(gain: float) -> None:
    """10 data sets with a role vector of 2 and no mood (P(> 2 | 10, .05) = .01)."""
    rejected = sum(estimate(drawn(Knobs(gain=gain), seed)[2]).p_value <= 0.05 for seed in range(10))
    assert rejected <= 2


def test_the_mean_of_the_role_cancels() -> None:
    """Another neutral mean of the assistant's role moves every score of the assistant, and not the offset."""
    reference, fit, m, _ = drawn(Knobs(persona=1.0), 0)
    away = np.random.default_rng(5).normal(size=reference.array.shape[2])
    offsets, parts = fit.offsets.copy(), fit.versions.offsets.copy()
    offsets[0, 0] += fit.directions[0].astype(float) @ away
    parts[0] += fit.versions.parts.astype(float) @ away
    moved = replace(fit, offsets=offsets, versions=replace(fit.versions, offsets=parts))
    assert fit.roles[0] == "assistant"
    states = draw(m.layout, Knobs(persona=1.0), np.random.default_rng(1))
    one, two = (measure(score(states, f), f.layer, np.ones((4, 2)), layout=m.layout) for f in (fit, moved))
    assert not np.allclose(one.values, two.values)
    a, b = estimate(one), estimate(two)
    assert (a.estimate, a.low, a.high) == pytest.approx((b.estimate, b.low, b.high))


def test_the_random_size_is_that_of_random_directions() -> None:
    """Against 4000 random directions in the exact metric: root mean square of the role's shift along them over that of
    their neutral SD; the fit's estimate lies within 15 % of it."""
    knobs = Knobs(persona=1.0)
    reference, fit, _, _ = drawn(knobs, 3)
    metric = fit_metric(reference.array[:, 0], reference.index, fit.roles)
    index, h = reference.index, expected(reference_layout(), knobs)
    neutral = (index["emotion"] == NEUTRAL).to_numpy()
    user, assistant = (h[neutral & (index["role"] == r).to_numpy()].mean(axis=0) for r in ("user", "assistant"))
    directions = np.random.default_rng(0).normal(size=(4000, h.shape[1]))
    directions -= (directions @ metric.nuisance.T) @ metric.nuisance
    shift = directions @ (assistant - user)
    variance = np.einsum("kp,pq,kq->k", directions, neutral_covariance(knobs), directions)
    assert fit.role_random == pytest.approx(np.sqrt((shift**2).mean() / variance.mean()), rel=0.15)


def test_without_a_role_vector_the_random_size_is_about_nothing() -> None:
    """Noise in the two means adds nothing to it: with the same states in both roles it is at most that of chance."""
    reference, _, _, _ = drawn(Knobs(), 4)
    h = reference.array.copy()
    role = (reference.index["role"] == "assistant").to_numpy()
    neutral = (reference.index["emotion"] == NEUTRAL).to_numpy()
    exact = expected(reference_layout(), Knobs())
    h[role, 0] -= (exact[role & neutral].mean(axis=0) - exact[~role & neutral].mean(axis=0)).astype(np.float32)
    fit = fit_affect(replace(reference, array=h, last=h))
    assert fit.role_random < 0.1


def test_the_persona_of_a_compiled_phantom_is_read() -> None:
    """A real transformer: joy that is added in the assistant's role, as large as the closed form says."""
    card = evaluate(load("phantom/persona"), [get_suite("shock").limited(8)])[1]
    (e,) = (t for t in card.traits if t.trait == "persona_offset")
    assert card.truth["persona_offset"] > 5
    assert e.low <= card.truth["persona_offset"] <= e.high
    assert e.details["joy"][1] > 0 > e.details["sadness"][2]
