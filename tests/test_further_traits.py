"""The traits that are shown but not ranked, on hand-made scores whose answer is known, and their nulls."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import permutations, product

import matplotlib.pyplot as plt
import numpy as np
import pytest
from handmade import card, trait
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from test_traits import circumplex_rows, estimate, measurement

from llmct_bench.adapters import load
from llmct_bench.affect import fit_affect, fit_metric, score
from llmct_bench.calibration.activations import Knobs, design_layout, draw, planted_traits, reference_layout
from llmct_bench.emotions import ALL_NAMES, BY_NAME, NAMES
from llmct_bench.evaluation import Session, evaluate
from llmct_bench.leaderboards import leaderboard
from llmct_bench.leaderboards.figures.plane import circumplex_plane, resting
from llmct_bench.suites import get_suite
from llmct_bench.traits import ESTIMANDS, Measurement, TraitEstimate, measure
from llmct_bench.traits.nulls import null_distribution, permuted, pseudo_emotions

FURTHER = ("default_share", "valence_gain_asymmetry", "circumplex_geometry", "selectivity")


def told_apart(neutral: dict[str, float], noise: float = 0.1, seed: int = 0) -> list[dict]:
    """Emotions that are always told apart; neutral items of scenario s lie at ``neutral`` (share of scenarios by
    emotion, in that order)."""
    rows, rng = circumplex_rows({}, noise=noise, seed=seed), np.random.default_rng(seed)
    near = [e for e, share in neutral.items() for _ in range(round(24 * share))]
    for row in rows:
        if "emotion" not in row:
            nearest = near[int(row["scenario"][1:])]
            row |= {n: rng.normal(0, noise) + (1.0 if n == nearest else 0.0) for n in NAMES}
        row["valence"] += rng.normal(0, noise)
    return rows


def test_default_share_counts_where_neutral_falls() -> None:
    """Half of the neutral items at joy, the others at calm and anger: 12 of 24, with the binomial t interval (the
    centroids have almost no error here), against 1/4."""
    e = estimate("default_share", told_apart({"joy": 0.5, "calm": 0.25, "anger": 0.25}))
    assert e.valid
    assert e.estimate == 0.5
    assert e.details["shares"] == {"joy": 0.5, "anger": 0.25, "sadness": 0.0, "calm": 0.25}
    counted = np.repeat([1.0, 0.0], 12)
    expected = sps.ttest_1samp(counted, 0.25)
    assert (e.low, e.high) == pytest.approx(expected.confidence_interval(0.95), abs=1e-3)
    assert e.p_value == pytest.approx(expected.pvalue, rel=0.02)


def test_default_share_has_no_answer_near_chance() -> None:
    """Emotions that are not told apart, or no neutral items: invalid, with the reason."""
    noise = estimate("default_share", circumplex_rows({}, noise=50.0))
    assert not noise.valid
    assert "told apart" in noise.reason
    rows = [r for r in circumplex_rows({}) if "emotion" in r]
    assert "neutral items" in estimate("default_share", rows).reason


def gains(up: float, down: float, seed: int = 0) -> list[dict]:
    """Valence rises by ``up`` a step in pleasant emotions and falls by ``down`` in unpleasant ones, times a strength of
    the scenario; every emotion has a level of its own."""
    rng = np.random.default_rng(seed)
    rows = circumplex_rows({})
    strength = {r["scenario"]: rng.uniform(0.5, 1.5) for r in rows}
    level = {e: float(rng.normal()) for e in NAMES}
    for r in rows:
        if "emotion" in r:
            gain = up if BY_NAME[r["emotion"]].valence > 0 else -down
            r["valence"] = level[r["emotion"]] + strength[r["scenario"]] * gain * r["intensity"]
    return rows


@given(st.floats(0.2, 3.0), st.floats(0.2, 3.0))
@settings(max_examples=15, deadline=None)
def test_asymmetry_is_the_difference_of_the_gains_in_their_sum(up: float, down: float) -> None:
    """Exact slopes in proportion, whatever the scenario's strength and the emotion's level are."""
    e = estimate("valence_gain_asymmetry", gains(up, down))
    assert e.valid
    assert e.estimate == pytest.approx((up - down) / (up + down), abs=1e-9)
    assert (e.details["positive"][0] > e.details["negative"][0]) == (up > down) or up == pytest.approx(down)


def test_slopes_are_those_of_least_squares() -> None:
    """With noise: the mean over scenarios of the mean slope of two emotions (`scipy.stats.linregress`)."""
    rows, rng = gains(1.0, 0.5), np.random.default_rng(3)
    for r in rows:
        r["valence"] += rng.normal(0, 0.3)

    def slope(s: int, e: str) -> float:
        own = [r for r in rows if r["scenario"] == f"s{s}" and r.get("emotion") == e]
        return float(sps.linregress([r["intensity"] for r in own], [r["valence"] for r in own]).slope)

    up, down = (
        np.mean([sign * slope(s, e) for s in range(24) for e in NAMES if BY_NAME[e].valence == sign])
        for sign in (1, -1)
    )
    found = estimate("valence_gain_asymmetry", rows)
    assert found.estimate == pytest.approx((up - down) / (up + down))
    assert found.low < 1 / 3 < found.high
    assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)


def test_asymmetry_needs_three_intensities_and_a_rise() -> None:
    rows = [r for r in gains(1.0, 0.5) if r.get("intensity", 0) != 2]
    assert "3 intensities" in estimate("valence_gain_asymmetry", rows).reason
    assert "does not rise" in estimate("valence_gain_asymmetry", gains(0.5, -0.6)).reason
    assert "turns round" in estimate("valence_gain_asymmetry", gains(2.0, -0.5)).reason


def placed(emotions: tuple[str, ...], valence: float, arousal: float, noise: float, seed: int = 0) -> Measurement:
    """12 scenarios of emotions at their designed places times intensity, valence and arousal along two directions that
    stand at right angles in the scores of the four emotions."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(9).normal(size=(4, 4)))[0][:2]
    rows = []
    for s in range(12):
        for e in emotions:
            for i in (1, 2, 3):
                at = np.array([valence * BY_NAME[e].valence, arousal * BY_NAME[e].arousal]) * i
                p = at @ directions + rng.normal(0, noise, 4)
                rows.append({"item": f"{s}/{e}{i}", "scenario": f"s{s:02}", "emotion": e, "intensity": i,
                             "valence": at[0], "arousal": at[1], **dict(zip(NAMES, p, strict=True))})  # fmt: skip
    return measurement(rows)


@pytest.mark.parametrize(("valence", "arousal", "wanted"), [(2.0, 1.0, 1.0), (1.0, 2.0, 0.0)])
def test_geometry_finds_the_larger_of_the_designed_dimensions(valence: float, arousal: float, wanted: float) -> None:
    """Four emotions, for which valence and arousal are uncorrelated: PC1 is the larger one. p cannot be below 1/3."""
    e = ESTIMANDS["circumplex_geometry"].estimate(placed(NAMES, valence, arousal, 0.0))
    assert e.valid
    assert e.estimate == pytest.approx(wanted, abs=1e-6)
    assert e.details["pc2_arousal"] == pytest.approx(wanted, abs=1e-6)
    assert sum(e.details["shares"][:2]) == pytest.approx(1.0)
    assert e.details["permutations"] == 24
    assert e.p_value == pytest.approx(1 / 3 if wanted else 1.0)
    assert e.details["p_both"] == pytest.approx(1 / 6 if wanted else 1.0)


def test_geometry_of_twelve_emotions_can_reject_and_matches_an_eigenvalue_problem() -> None:
    """PC1 from the covariance matrix of the cell means and `scipy.stats.pearsonr`; p of thousands of orders."""
    m = placed(ALL_NAMES, 1.0, 0.8, 0.5)
    e = ESTIMANDS["circumplex_geometry"].estimate(m)
    means = m.layout.index.assign(**dict(zip(NAMES, m.values.T, strict=False)))
    means = means.groupby(["emotion", "intensity"])[list(NAMES)].mean()
    vectors = np.linalg.eigh(np.cov(means.to_numpy().T))[1]
    place = [BY_NAME[name].valence * i for name, i in means.index]
    r = sps.pearsonr(means.to_numpy() @ vectors[:, -1], place).statistic
    assert e.estimate == pytest.approx(abs(r))
    assert e.p_value < 0.01
    assert 0 <= e.low < e.estimate < e.high < 1


def test_distances_between_emotions_are_pairs_of_scenarios_multiplied() -> None:
    """By the definition: every ordered pair of scenarios, the inverse of the covariance that emotions and scenarios
    leave, over its rank (noise of full rank here)."""
    m = placed(NAMES, 1.0, 0.5, 0.6, seed=3)
    e = ESTIMANDS["circumplex_geometry"].estimate(m)
    frame = m.layout.index.assign(**dict(zip(NAMES, m.values.T, strict=False)))
    x = np.stack([g.groupby("emotion")[list(NAMES)].mean().loc[list(NAMES)] for _, g in frame.groupby("scenario")])
    n, k, p = x.shape
    rest = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean(axis=(0, 1))
    inverse = np.linalg.inv(np.einsum("sep,seq->pq", rest, rest) / ((n - 1) * (k - 1)))
    for i, j in product(range(k), repeat=2):
        gap = x[:, i] - x[:, j]
        wanted = sum(gap[a] @ inverse @ gap[b] for a, b in permutations(range(n), 2)) / (n * (n - 1) * p)
        assert e.details["distances"][i][j] == pytest.approx(wanted, abs=1e-9)


def test_distances_of_equal_emotions_are_none_on_average() -> None:
    """Noise adds nothing: over 60 draws of emotions in one place the mean is 0, but for 2 / 12 (scenarios) times the
    5 / 28 by which the inverse of a covariance of 33 degrees of freedom is too large. Without cross-validation it would
    be above 2 / 12."""
    above = np.triu_indices(4, 1)
    estimates = (ESTIMANDS["circumplex_geometry"].estimate(placed(NAMES, 0.0, 0.0, 1.0, s)) for s in range(60))
    found = [np.mean(np.array(e.details["distances"])[above]) for e in estimates]
    assert abs(np.mean(found) - 2 / 12 * 5 / 28) < 3 * np.std(found) / np.sqrt(len(found))


def test_permuted_emotions_are_not_rejected_more_often_than_they_should() -> None:
    """Emotions whose means are drawn at random: |r| is no evidence of valence (40 draws; P(> 6 | 40, .05) = .003)."""
    rejected = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        m = placed(ALL_NAMES, 0.0, 0.0, 0.1, seed)
        at = dict(zip(ALL_NAMES, rng.normal(size=(len(ALL_NAMES), 4)), strict=True))
        index = m.layout.index
        shift = np.stack([at[e] * i for e, i in zip(index["emotion"], index["intensity"], strict=True)])
        values = m.values.copy()
        values[:, :4] += shift
        rejected += ESTIMANDS["circumplex_geometry"].estimate(replace(m, values=values)).p_value <= 0.05
    assert rejected <= 6


def test_selectivity_of_emotions_and_of_noise() -> None:
    """Emotions far apart: accuracy 1, control at chance, 1 - 1/4. Noise: nothing."""
    clear, nothing = (estimate("selectivity", circumplex_rows({}, noise=x)) for x in (0.02, 50.0))
    assert clear.details["accuracy"] == 1.0
    assert clear.details["control"] == pytest.approx(0.25, abs=0.03)
    assert clear.estimate == pytest.approx(0.75, abs=0.03)
    assert clear.valid
    assert nothing.low < 0 < nothing.high
    assert nothing.valid


@given(
    st.lists(st.floats(-5, 5), min_size=6, max_size=6),
    st.sampled_from(FURTHER),
)
@settings(max_examples=12, deadline=None)
def test_a_constant_on_every_score_moves_nothing(constant: list[float], name: str) -> None:
    """All of them are origin-free."""
    m = example()
    moved = replace(m, values=m.values + np.array(constant))
    a, b = (ESTIMANDS[name].estimate(x) for x in (m, moved))
    assert (a.estimate, a.low, a.high) == pytest.approx((b.estimate, b.low, b.high), rel=1e-4, abs=1e-6)
    assert a.valid == b.valid


@pytest.mark.parametrize("name", FURTHER)
def test_the_order_of_the_readouts_does_not_matter(name: str) -> None:
    rows = told_apart({"joy": 0.5, "anger": 0.5}, noise=0.5)
    a = estimate(name, rows)
    np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]
    b = estimate(name, rows)
    assert (a.estimate, a.low, a.p_value) == pytest.approx((b.estimate, b.low, b.p_value), rel=1e-6)


@cache
def example() -> Measurement:
    return measurement(told_apart({"joy": 0.5, "anger": 0.5}, noise=0.5))


@pytest.mark.parametrize("offset", [-1.0, 0.6])
def test_resting_is_where_neutral_lies_in_the_plane(offset: float) -> None:
    """In intensity steps; arousal has slope 2 and neutral lies at 1.5: .75 steps."""
    rows = circumplex_rows({}, offset)
    for r in rows:
        r["arousal"] = 2.0 * r["intensity"] * BY_NAME[r["emotion"]].arousal if "emotion" in r else 1.5
    e = estimate("neutral_offset", rows)
    assert e.details["resting"]["valence"] == [e.estimate, e.low, e.high]
    assert e.details["resting"]["arousal"] == pytest.approx([0.75] * 3)


# --- phantoms -----------------------------------------------------------------------------------------------------


def drawn(knobs: Knobs, seed: int, scenarios: int = 24) -> tuple[Measurement, dict[str, float]]:
    """Planted activations, read by a fit of their own, and their truth in its metric."""
    rng = np.random.default_rng(seed)
    reference, layout = draw(reference_layout(), knobs, rng), design_layout("circumplex", scenarios)
    fit = fit_affect(reference)
    metric = fit_metric(reference.array[:, 0], reference.index, fit.roles)
    cosine = fit.axis_cosines
    truth = planted_traits("circumplex", scenarios, knobs, metric)
    return measure(score(draw(layout, knobs, rng), fit), fit.layer, cosine, layout=layout), truth


@cache
def replicates() -> list[tuple[dict[str, TraitEstimate], dict[str, float]]]:
    found = (drawn(Knobs(mood=1.5), seed, 48) for seed in range(24))
    return [({t: ESTIMANDS[t].estimate(m) for t in FURTHER}, truth) for m, truth in found]


@pytest.mark.parametrize("name", ["default_share", "valence_gain_asymmetry", "selectivity"])
def test_planted_values_are_recovered(name: str) -> None:
    """24 data sets: the mean error is within 4 of its standard errors, save that accuracy pays a little for centroids
    that are estimates; 20 intervals hold the truth (P(< 20 | 24, .95) = .006)."""
    found = [(e[name], truth[name]) for e, truth in replicates() if e[name].valid]
    assert len(found) == 24
    off = np.array([e.estimate - t for e, t in found])
    paid = 0.02 if name == "selectivity" else 0.0
    slack = 4 * off.std(ddof=1) / np.sqrt(24)
    assert -slack - paid < off.mean() < slack
    assert sum(e.low <= t <= e.high for e, t in found) >= 20


def test_a_joyful_phantom_rests_nearer_to_joy() -> None:
    """Real transformers with a planted default mood: the share of joy is larger than that of a neutral one, above 1/4
    and where the closed form says; neutral text lies on the pleasant side."""
    suites, session = [get_suite("circumplex").limited(24)], Session()
    made = {}
    for name in ("phantom/joyful", "phantom/neutral"):
        result = evaluate(load(name), suites, session=session)[1]
        made[name] = {t.trait: t for t in result.traits}, result.truth
    (joyful, planted), (neutral, _) = made["phantom/joyful"], made["phantom/neutral"]
    e = joyful["default_share"]
    assert e.valid
    assert e.estimate > neutral["default_share"].estimate
    assert e.low > 0.25
    assert e.low <= planted["default_share"] <= e.high
    assert joyful["neutral_offset"].details["resting"]["valence"][1] > 0


# --- nulls --------------------------------------------------------------------------------------------------------


def test_permuting_keeps_the_items_of_a_scenario() -> None:
    """The same rows of each scenario, neutral ones in their places, other labels; a seed is a draw."""
    m = example()
    one, same, other = (permuted(m, seed) for seed in (1, 1, 2))
    scenario = m.layout.index["scenario"].to_numpy()
    neutral = (m.layout.index["emotion"] == "neutral").to_numpy()
    for s in np.unique(scenario):
        a, b = (np.sort(x.values[scenario == s], axis=0) for x in (m, one))
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.values[neutral], m.values[neutral])
    np.testing.assert_array_equal(one.values, same.values)
    assert not np.array_equal(one.values, other.values)
    assert not np.array_equal(one.values, m.values)


def test_pseudo_emotions_are_neutral_items_only() -> None:
    m = example()
    made = pseudo_emotions(m, 0)
    index = made.layout.index
    neutral = m.values[(m.layout.index["emotion"] == "neutral").to_numpy()]
    assert index.groupby("scenario")["emotion"].apply(lambda e: sorted(e) == sorted(NAMES)).all()
    np.testing.assert_array_equal(np.sort(made.values, axis=0), np.sort(neutral, axis=0))
    with pytest.raises(ValueError, match="neutral items"):
        pseudo_emotions(measurement([r for r in circumplex_rows({}) if "emotion" in r]), 0)


@pytest.mark.parametrize("name", ["separability", "joy_bias", "selectivity"])
def test_under_permuted_labels_nothing_is_left(name: str) -> None:
    """A strong phantom with a mood: the estimates of 60 permutations centre on 0 within 4 of their standard errors,
    p-values are small no more often than .05 allows (P(> 8 | 60, .05) = .005); what is there lies outside of them."""
    m, _ = drawn(Knobs(gain=1.5, mood=2.0), 0)
    found = null_distribution(m, ESTIMANDS[name], 60)
    assert abs(found.mean) < 4 * found.sd / np.sqrt(60)
    assert found.rejected <= 8 / 60
    assert found.p == pytest.approx(1 / 61) or name == "joy_bias"


def test_groups_of_neutral_items_are_no_emotions() -> None:
    """Separability of pseudo-emotions is 0 on the average, and what the emotions have lies outside of it."""
    m, _ = drawn(Knobs(mood=2.0), 1, 48)
    found = null_distribution(m, ESTIMANDS["separability"], 60, pseudo_emotions)
    assert abs(found.mean) < 4 * found.sd / np.sqrt(60)
    assert found.p == pytest.approx(1 / 61)


# --- leaderboard --------------------------------------------------------------------------------------------------


def test_the_plane_shows_resting_states_inside_the_frame() -> None:
    """Points at the values, interval ends too unless they lie outside; the emotions at twice their coordinates; models
    without a resting state, or whose offset is invalid, are left out. Numbers may come from a file (infinities as
    text)."""
    rests = {
        "here": {"valence": [0.5, 0.2, 0.9], "arousal": [-1.0, "-inf", 8.0]},
        "invalid": {"valence": [0.1, 0.0, 0.2], "arousal": [0.1, 0.0, 0.2]},
        "unknown": {"valence": [0.1, 0.0, 0.2], "arousal": [None, None, None]},
    }
    cards = [
        card(n, trait("neutral_offset", details={"resting": r}, valid=n != "invalid"), design="circumplex")
        for n, r in rests.items()
    ]
    board = leaderboard(cards)
    assert [r.model for r in resting(board)] == ["here"]
    (ax,) = circumplex_plane(board).axes
    points = {a.get_label(): tuple(np.ravel(a.get_data())) for a in ax.lines}
    assert points["here"] == (0.5, -1.0)
    assert {n: points["_" + n] for n in NAMES} == {n: (2 * BY_NAME[n].valence, 2 * BY_NAME[n].arousal) for n in NAMES}
    edge = ax.get_xlim()[1]
    ends = [np.ravel(a.get_data()).tolist() for a in ax.lines]
    assert [0.2, 0.9, -1.0, -1.0] in ends
    assert [0.5, 0.5, -edge, edge] in ends
    assert ax.get_legend().get_texts()[0].get_text() == "here"
    plt.close("all")


@pytest.mark.parametrize("name", [*FURTHER, "neutral_offset"])
def test_what_is_shown_but_not_ranked_has_no_rank(name: str) -> None:
    cards = [card(m, trait(name, v), design="circumplex") for m, v in (("a", 0.1), ("b", 0.9))]
    (table,) = (t for t in leaderboard(cards).tables if t.estimand.name == name)
    assert [(r.model, r.rank, r.rank_low, r.rank_high) for r in table.rows] == [(n, None, None, None) for n in "ba"]


@pytest.mark.parametrize(
    ("knobs", "valid"),
    [
        (Knobs(role_gain=0.1), True),
        (Knobs(role_gain=0.3, noise=2.0), True),
        (Knobs(rotation=0.6), True),
        (Knobs(rotation=1.4), False),
        (Knobs(role_gain=-0.5), False),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_turned_axis_is_told_from_a_faint_one(knobs: Knobs, valid: bool, seed: int) -> None:
    """The axis of a slot that hardly responds is mostly noise, and its cosine with the other low for that reason alone;
    one that points elsewhere, or the other way, is a rotation however strong it is."""
    rng = np.random.default_rng(seed)
    fit, layout = fit_affect(draw(reference_layout(), knobs, rng)), design_layout("shock", 96)
    e = ESTIMANDS["dampening"].estimate(
        measure(score(draw(layout, knobs, rng), fit), fit.layer, fit.axis_cosines, layout=layout)
    )
    assert e.valid == valid
    assert ("rotation" in e.reason) == (not valid)
