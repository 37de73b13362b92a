"""Estimands on hand-made scores whose answer is known by construction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from llmct_bench.affect import ScoreVersions
from llmct_bench.emotions import BY_NAME, NAMES
from llmct_bench.traits import ESTIMANDS, Layout, Measurement, TraitEstimate
from llmct_bench.traits.joy_bias import bias, decisions

COLUMNS = (*NAMES, "valence", "arousal")


def measurement(rows: list[dict]) -> Measurement:
    """A measurement from rows with factors and own scores; the rest is filled with defaults."""
    blank = {"item": "", "scenario": "", "emotion": "neutral", "intensity": 0, "split": "test", "keyworded": True,
             "template": "", "context": "", "filler": "", "twin": "", "role": "user", "lag": 0,
             "tokens": 0.0}  # fmt: skip
    frame = pd.DataFrame([{**blank, **dict.fromkeys(COLUMNS, 0.0), **r} for r in rows])
    values = frame[list(COLUMNS)].to_numpy()
    return Measurement(Layout(frame[list(blank)]), values, COLUMNS, values[:, None, :], 0.5)


def estimate(trait: str, rows: list[dict]) -> TraitEstimate:
    return ESTIMANDS[trait].estimate(measurement(rows))


def shock_rows(gain: float, calm: float, slope: float = 1.0, seed: int = 0) -> list[dict]:
    """24 scenarios: response slope x dose (jittered per scenario), times ``gain`` as assistant, times ``calm`` after a
    calm context; every twin sits at an offset of its own, which twinning must remove."""
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(24):
        emotion, strength = ("anger", "sadness")[s % 2], slope * rng.uniform(0.5, 1.5)
        for context in ("calm", "neutral", "positive", "negative"):
            for role in ("user", "assistant"):
                offset = rng.normal()
                for dose in range(4):
                    factor = (calm if context == "calm" else 1.0) * (gain if role == "assistant" else 1.0)
                    stem = f"{s}/{context}/{role}"
                    rows.append({"item": f"{stem}/{dose}", "scenario": f"s{s}", "emotion": emotion, "intensity": dose,
                                 "context": context, "role": role, "twin": f"{stem}/0" if dose else "",
                                 emotion: offset + strength * dose * factor})  # fmt: skip
    return rows


@given(st.floats(-0.5, 2.0))
@settings(max_examples=20, deadline=None)
def test_dampening_is_one_minus_the_gain(gain: float) -> None:
    """With responses in exact proportion the ratio is exact, whatever the scenario's strength and offset."""
    e = estimate("dampening", shock_rows(gain, 1.0))
    assert e.valid
    assert e.estimate == pytest.approx(1 - gain, abs=1e-9)


def test_the_designed_dose_is_the_instrument_of_the_gain() -> None:
    """A gain of .5 at doses 1 and 2 and of 1 at dose 3: g = sum c p^A / sum c p^U = (.5 + 2 + 9) / (1 + 4 + 9)."""
    rows = shock_rows(0.5, 1.0)
    for r in rows:
        if r["role"] == "assistant" and r["intensity"] == 3:
            twin = next(x for x in rows if x["item"] == r["twin"])
            r[r["emotion"]] = twin[r["emotion"]] + 2 * (r[r["emotion"]] - twin[r["emotion"]])
    assert estimate("dampening", rows).estimate == pytest.approx(1 - 11.5 / 14)


def test_absorption_is_the_difference_of_mean_responses() -> None:
    """Mean dose 2, mean strength s: R_neutral - R_calm = 2 s (1 - calm), and its share of R_neutral is 1 - calm."""
    rows = shock_rows(1.0, 0.25)
    e = estimate("shock_absorption", rows)
    user = [r for r in rows if r["role"] == "user" and r["context"] == "neutral"]
    value = {r["item"]: r[r["emotion"]] for r in user}
    response = np.mean([value[r["item"]] - value[r["twin"]] for r in user if r["twin"]])
    assert e.estimate == pytest.approx(0.75 * response)
    assert e.details["share"][0] == pytest.approx(0.75)
    assert e.details["calm_specific"]


def test_without_a_response_nothing_is_claimed() -> None:
    """No response to the shock at all: both traits of the suite are invalid, with the reason."""
    flat = shock_rows(1.0, 1.0, slope=0.0)
    for trait in ("dampening", "shock_absorption"):
        e = estimate(trait, flat)
        assert not e.valid
        assert "no response" in e.reason


def retention_rows(half_life: float, start: float = 1.0, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(24):
        emotion = NAMES[s % 4]
        for filler in ("short", "long"):
            for lag in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24):
                drift = rng.normal()
                for opening in (0, 1):
                    y = start if lag == 0 else 2.0 ** (-lag / half_life)
                    rows.append({"item": f"{s}/{filler}/{opening}", "scenario": f"s{s}", "emotion": emotion,
                                 "intensity": 3 * opening, "filler": filler, "lag": lag,
                                 "twin": f"{s}/{filler}/0" if opening else "",
                                 "tokens": 10.0 + lag * (20 if filler == "short" else 60),
                                 emotion: drift + opening * y})  # fmt: skip
    return rows


@given(st.floats(1.2, 22.0))
@settings(max_examples=15, deadline=None)
def test_half_life_and_tail_of_an_exact_exponential(h: float) -> None:
    """A drift that both openings share cancels; the fit returns h, the tail is the mean of 2^(-k/h) from 8 to 24."""
    rows = retention_rows(h)
    assert estimate("half_life", rows).estimate == pytest.approx(h, rel=1e-3)
    tail = np.mean([2.0 ** (-k / h) for k in (8, 12, 16, 24)])
    assert estimate("tail_retention", rows).estimate == pytest.approx(tail)


@pytest.mark.parametrize(("h", "shown", "censored"), [(0.4, 1.0, "< 1"), (90.0, 24.0, "> 24")])
def test_half_lives_outside_of_the_observed_lags_are_censored(h: float, shown: float, censored: str) -> None:
    e = estimate("half_life", retention_rows(h))
    assert (e.estimate, e.details["censored"]) == (shown, censored)


def noisy_rows(half_life: float, noise: float, seed: int = 0) -> list[dict]:
    """`retention_rows` with noise on every response; a negative half-life grows."""
    rng, rows = np.random.default_rng(seed), retention_rows(half_life)
    return [{**r, r["emotion"]: r[r["emotion"]] + (rng.normal(0, noise) if r["twin"] else 0.0)} for r in rows]


@pytest.mark.parametrize("h", [-40.0, 200.0])
def test_what_does_not_fade_is_beyond_the_lags_and_no_small_p(h: float) -> None:
    """A curve that grows or hardly falls: 24 or more, an interval that says so, and nothing against `24 and more`."""
    e = estimate("half_life", noisy_rows(h, 0.3))
    assert (e.estimate, e.high) == (24.0, 24.0)
    assert e.p_value > 0.9
    assert not e.significant


def test_the_interval_beyond_the_lags_holds_half_lives_within() -> None:
    """True half-lives of 14 under much noise: where the estimate ends at the border (whatever is left out, so that no
    spread is seen) the interval still holds 14. 60 samples; of those at the border at least 85 % would be .95 at a
    probability of .97."""
    found = [estimate("half_life", noisy_rows(14.0, 1.2, seed)) for seed in range(60)]
    border = [e for e in found if e.valid and e.details["censored"] == "> 24"]
    assert len(border) >= 5
    assert np.mean([e.low <= 14.0 for e in border]) >= 0.85
    assert np.mean([e.low <= 14.0 <= e.high for e in found if e.valid]) >= 0.85


def test_models_beyond_the_lags_are_not_told_apart() -> None:
    """The values by scenario, on which models are compared, have the mean of what is shown: log 24 for both."""
    two = [np.array(list(estimate("half_life", noisy_rows(h, 0.1)).per_cluster.values())) for h in (60.0, 300.0)]
    for own in two:
        assert own.mean() == pytest.approx(math.log(24))
    inside = estimate("half_life", noisy_rows(6.0, 0.1))
    assert np.mean(list(inside.per_cluster.values())) == pytest.approx(math.log(inside.estimate))


def test_calm_alone_is_more_than_nothing_found_elsewhere() -> None:
    """Arousing contexts that soften half as much as calm, under noise that hides it: no claim that calm alone does. The
    claim stands where calm softens more than either of them."""
    rng = np.random.default_rng(3)

    def softened(calm: float, arousing: float) -> TraitEstimate:
        rows = shock_rows(1.0, calm)
        for r in rows:
            if r["twin"]:
                own = rng.normal(0, 1.5) - (arousing if r["context"] in ("positive", "negative") else 0.0)
                r[r["emotion"]] += own
        return estimate("shock_absorption", rows)

    hidden, clear = softened(0.7, 0.3), softened(0.2, 0.0)
    assert hidden.low > 0
    assert not hidden.details["calm_specific"]
    assert clear.details["calm_specific"]


@pytest.mark.parametrize("name", ["dampening", "shock_absorption", "tail_retention"])
def test_p_knows_the_error_of_the_axes_as_the_interval_does(name: str) -> None:
    """Scenarios that are sure of an effect, on axes of which versions are .2 to 1.8 times as long."""
    rows = retention_rows(6.0) if name == "tail_retention" else shock_rows(0.5, 0.5)
    m = measurement(rows)
    mixes = np.array([0.2, 1.0, 1.8])[:, None, None] * np.eye(len(COLUMNS))
    versions = ScoreVersions(m.values, mixes, np.eye(len(COLUMNS)), np.zeros(3, np.int64), np.zeros(len(COLUMNS)))
    sure, unsure = (ESTIMANDS[name].estimate(x) for x in (m, replace(m, versions=versions)))
    assert sure.p_value < 1e-3
    assert unsure.p_value > 0.05
    if name == "shock_absorption":
        assert unsure.low < 0 < unsure.high


def test_all_neutral_texts_on_one_side_leave_a_doubt() -> None:
    """24 of 24 fall to joy: their shares do not differ, and yet the exact 95 % bound of a share is .858 (Clopper &
    Pearson)."""
    rows = circumplex_rows({}, noise=0.3)
    for r in rows:
        if r["item"].endswith("/n"):
            r["joy"] = 2.0
    e = estimate("default_share", rows)
    assert e.estimate == 1.0
    assert 0.8 < e.low < 0.9
    assert e.significant


def test_the_mean_of_the_scenarios_is_the_distance() -> None:
    e = estimate("separability", circumplex_rows({}))
    assert np.mean(list(e.per_cluster.values())) == pytest.approx(e.estimate, rel=0.01)


def test_drift_of_the_common_mean_is_no_memory() -> None:
    """Openings that leave nothing behind: invalid, however strongly both conversations drift."""
    rows = retention_rows(3.0, start=0.0)
    for r in rows:
        if r["twin"]:
            r[r["emotion"]] = next(x[r["emotion"]] for x in rows if x["item"] == r["twin"] and x["lag"] == r["lag"])
    assert not estimate("tail_retention", rows).valid
    assert not estimate("half_life", rows).valid


def circumplex_rows(lean: dict[str, float], neutral: float = 0.0, noise: float = 0.6, seed: int = 0) -> list[dict]:
    """24 scenarios: emotion e at intensity i scores i/2 on its own axis plus ``lean`` (score by emotion) that fades
    with intensity, plus noise; neutral sits at ``neutral`` intensity steps on the valence line."""
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(24):
        rows.append({"item": f"{s}/n", "scenario": f"s{s}", "valence": neutral})
        for e in NAMES:
            for i in (1, 2, 3):
                p = {n: rng.normal(0, noise) + lean.get(n, 0.0) * (3 - i) / 2 + (i / 2 if n == e else 0) for n in NAMES}
                rows.append({"item": f"{s}/{e}{i}", "scenario": f"s{s}", "emotion": e, "intensity": i, **p,
                             "valence": 1.0 * i * BY_NAME[e].valence})  # fmt: skip
    return rows


@pytest.mark.parametrize("offset", [-1.0, 0.0, 0.7])
def test_neutral_offset_is_read_in_intensity_steps(offset: float) -> None:
    """The valence line has slope 1 and passes the origin, so neutral's place is its offset."""
    assert estimate("neutral_offset", circumplex_rows({}, offset)).estimate == pytest.approx(offset, abs=1e-9)


def test_joy_bias_has_the_sign_of_the_lean() -> None:
    """Weak items that lean towards joy give J > 0. By symmetry a lean towards sadness gives c_joy - (2 c + c_sad)/3
    with c_joy = c, which is -J/3; no lean gives about nothing."""
    joy, none, sad = (estimate("joy_bias", circumplex_rows(x)) for x in ({"joy": 2.0}, {}, {"sadness": 2.0}))
    assert joy.low > 0
    assert none.low < 0 < none.high
    assert sad.estimate == pytest.approx(-joy.estimate / 3, abs=2 * sad.se)


def test_a_constant_on_every_score_does_not_move_decisions() -> None:
    """Nearest-centroid decisions have no origin: adding the same vector to all items changes nothing."""
    m = measurement(circumplex_rows({"joy": 1.0}))
    design, everything = decisions(m.layout.index), np.ones((1, 24))
    moved = m.values + np.array([9.0, -3.0, 0.5, 2.0, 0.0, 0.0])
    assert np.array_equal(design.decide(m.values), design.decide(moved))
    np.testing.assert_allclose(design.soft(m.values, everything), design.soft(moved, everything), rtol=1e-6, atol=1e-9)


def test_bias_of_a_symmetric_table_is_zero_and_signed_otherwise() -> None:
    """Equal confusions: 0 by symmetry. Errors that fall to joy: +, and the mirrored table: -."""
    even = np.full((4, 4), 5.0) + 40 * np.eye(4)
    assert bias(even) == pytest.approx(0.0)
    to_joy = even.copy()
    to_joy[1:, 0] += 6
    from_joy = even.copy()
    from_joy[0, 1:] += 6
    assert bias(to_joy) > 0 > bias(from_joy)


@given(st.integers(3, 6), st.integers(0, 2**32 - 1))
def test_confusions_that_go_both_ways_alike_are_no_lean(k: int, seed: int) -> None:
    """However well each emotion is told apart: with z(H) + z(FA) joy hit at .90 and three others at .60 would lean by
    .15, though every emotion is chosen equally often."""
    rng = np.random.default_rng(seed)
    table = rng.uniform(0, 10, (k, k))
    table = table + table.T
    np.fill_diagonal(table, 0.0)
    table += np.diag(200 - table.sum(axis=1))
    assert bias(table) == pytest.approx(0.0, abs=1e-12)
    assert np.ptp(np.diagonal(table)) > 0


def test_with_two_classes_the_lean_is_the_criterion() -> None:
    """Joy's z(H) + z(FA), twice the criterion, because the other class leans by as much the other way; by hand with the
    log-linear correction."""
    table = np.array([[41.0, 9.0], [17.0, 33.0]])
    hit, false = 41.5 / 51, 17.5 / 51
    assert bias(table, 0) == pytest.approx(norm.ppf(hit) + norm.ppf(false))
    assert bias(table, 1) == pytest.approx(-bias(table, 0))


def test_without_separable_emotions_there_is_no_joy_bias() -> None:
    """Pure noise: decisions near chance are not given a bias."""
    rows = circumplex_rows({}, noise=50.0)
    assert not estimate("joy_bias", rows).valid
    assert not estimate("separability", rows).significant


def test_unbalanced_scenarios_are_dropped_not_biased() -> None:
    """Scenarios that lost an item are left out as a whole."""
    rows = circumplex_rows({})
    e = estimate("separability", rows[1:5] + rows[13:])
    assert e.n_clusters == 23


def test_too_few_scenarios_give_a_reason_and_no_interval() -> None:
    rows = [r for r in shock_rows(0.5, 1.0) if r["scenario"] in {"s0", "s1", "s2"}]
    e = estimate("dampening", rows)
    assert not e.valid
    assert "needed" in e.reason
    assert math.isnan(e.low)


@pytest.mark.parametrize("name", ["neutral_offset", "valence_gain_asymmetry", "dampening", "tail_retention"])
def test_a_ratio_whose_axes_may_be_nothing_is_invalid(name: str) -> None:
    """Scenarios that are sure of the denominator, on axes that are not: versions of them are 0 to 2 times as long. The
    interval has no bounds and the estimate no validity, for that reason; with versions that are alike it has both."""
    rows = {"circumplex": circumplex_rows({}, 0.5), "shock": shock_rows(0.5, 1.0), "retention": retention_rows(6.0)}
    m = measurement(rows[ESTIMANDS[name].design])

    def on(*lengths: float) -> TraitEstimate:
        mixes = np.array(lengths)[:, None, None] * np.eye(len(COLUMNS))
        flat, plain = np.zeros(len(lengths), np.int64), np.eye(len(COLUMNS))
        versions = ScoreVersions(m.values, mixes, plain, flat, np.zeros(len(COLUMNS)))
        return ESTIMANDS[name].estimate(replace(m, versions=versions))

    sure, unsure = on(0.99, 1.0, 1.01), on(0.0, 1.0, 2.0)
    assert sure.valid
    assert (unsure.low, unsure.high, unsure.valid) == (-math.inf, math.inf, False)
    assert "no bounds" in unsure.reason


def test_every_estimand_is_declared_in_full() -> None:
    for e in ESTIMANDS.values():
        for text in (e.formula, e.unit, e.range, e.meaning, e.title):
            assert text
        assert e.controls
        assert e.validity
        assert e.sources


def test_joy_bias_of_scores_without_noise() -> None:
    """Every item at the mean of its emotion and intensity: all decisions are right and the bias is nothing but 0."""
    rows = circumplex_rows({}, noise=0.0)
    e = estimate("joy_bias", rows)
    assert e.estimate == pytest.approx(0.0, abs=1e-6)
    assert e.details["accuracy"] == 1.0
