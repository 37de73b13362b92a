"""Text-internal gap: scipy's Mann-Whitney, loops over pairs, the binormal closed form, phantoms with another head."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from scipy import stats as sps
from scipy.sparse import csr_array

from llmct_bench.adapters import LoadedModel, load
from llmct_bench.affect import PLANE, averages
from llmct_bench.benchmark import estimated
from llmct_bench.emotions import NAMES, lexicon
from llmct_bench.evaluation import evaluate
from llmct_bench.models import PhantomSpec, get_model
from llmct_bench.results import ResultStore
from llmct_bench.scanner import NextWords, read_next_words
from llmct_bench.stats import cluster_t, clustered_auc
from llmct_bench.suites import Suite, get_suite
from llmct_bench.traits import ESTIMANDS, Layout, Measurement, TraitEstimate

GAP = ESTIMANDS["text_internal_gap"]
VALENCE = (*NAMES, *PLANE).index("valence")
#: So weak in emotion that some pairs are confused inside.
QUIET = PhantomSpec("quiet", "", gain=0.3, seed=5)


def by_cluster(cluster: np.ndarray, n: int) -> csr_array:
    return averages(np.asarray(cluster, np.intp), n)


def pairs(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """The mean over pairs of different clusters of the mean over their items, one at a time."""
    names, means = sorted(set(a)), []
    for s in names:
        for t in names:
            if s != t:
                won = [float(u > v) + 0.5 * float(u == v) for u in x[a == s] for v in y[b == t]]
                means.append(np.mean(won))
    return float(np.mean(means))


# --- the statistic ----------------------------------------------------------------------------------------------


@given(st.integers(3, 7), st.integers(0, 2**32 - 1), st.booleans())
def test_it_is_the_mean_over_pairs_and_its_jackknife(n: int, seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = (np.repeat(np.arange(n), rng.integers(1, 4, n)) for _ in range(2))
    x, y = rng.normal(0.5, 1, len(a)), rng.normal(0, 1, len(b))
    if tied:
        x, y = np.round(x), np.round(y)
    found = clustered_auc(x, y, by_cluster(a, n), by_cluster(b, n))
    whole = pairs(x, y, a, b)
    assert found.mean() == pytest.approx(whole)
    if n > 3:
        left = [pairs(x[a != s], y[b != s], a[a != s], b[b != s]) for s in range(n)]
        assert found == pytest.approx(n * whole - (n - 1) * np.array(left))


def test_it_is_mann_whitney_but_for_pairs_within_a_cluster() -> None:
    rng, n = np.random.default_rng(1), 40
    x, y = rng.normal(0.8, 1, n), rng.normal(0, 1, n)
    one = by_cluster(np.arange(n), n)
    every = sps.mannwhitneyu(x, y).statistic
    assert clustered_auc(x, y, one, one).mean() == pytest.approx((every - (x > y).sum()) / (n * (n - 1)))


def test_it_knows_no_scale_and_ties_count_half() -> None:
    rng, n = np.random.default_rng(2), 12
    x, y, one = rng.normal(0.8, 1, n), rng.normal(0, 1, n), by_cluster(np.arange(n), n)
    usual = clustered_auc(x, y, one, one)
    assert clustered_auc(np.exp(3 * x), np.exp(3 * y), one, one) == pytest.approx(usual)
    assert clustered_auc(-x, -y, one, one) == pytest.approx(1 - usual)
    assert clustered_auc(y, x, one, one).mean() == pytest.approx(1 - usual.mean())
    assert clustered_auc(0 * x, 0 * y, one, one) == pytest.approx(np.full(n, 0.5))
    assert clustered_auc(1e-3 * x, 1e-3 * y, one, one, resolution=1.0) == pytest.approx(np.full(n, 0.5))
    assert np.isnan(clustered_auc(x[:2], y[:2], by_cluster(np.arange(2), 2), by_cluster(np.arange(2), 2))).all()


def drawn(rng: np.random.Generator, n: int, shift: float, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """A joyful and two negative items in each of n clusters, whose effect all three share."""
    scenario = rng.normal(0, shared, n)
    return shift + scenario + rng.normal(0, 1, n), np.repeat(scenario, 2) + rng.normal(0, 1, 2 * n)


def area(shift: float, shared: float) -> float:
    """Binormal: P(N(shift, 2 (1 + shared^2)) > 0), for items of different clusters."""
    return float(sps.norm.cdf(shift / np.sqrt(2 * (1 + shared**2))))


def test_its_interval_holds_the_binormal_area() -> None:
    """400 samples of 40 clusters: P(371 <= held <= 391 | 400, .95) = .99. Items taken for clusters of their own would
    not do: the shared effect makes their pairs alike."""
    rng, n, held = np.random.default_rng(3), 40, 0
    own, other = by_cluster(np.arange(n), n), by_cluster(np.repeat(np.arange(n), 2), n)
    for _ in range(400):
        x, y = drawn(rng, n, 1.2, 1.0)
        held += cluster_t(clustered_auc(x, y, own, other)).contains(area(1.2, 1.0))
    assert 366 <= held <= 394


# --- the trait on drawn numbers ---------------------------------------------------------------------------------


@cache
def layout(n: int) -> Layout:
    """One joyful, one angry and one sad item in each of n scenarios."""
    told = [(f"s{s:03d}", e) for s in range(n) for e in ("joy", "anger", "sadness")]
    return Layout(pd.DataFrame([{"item": f"{s}/{e}", "scenario": s, "emotion": e} for s, e in told]))


def estimate(inside: np.ndarray, text: np.ndarray, of: Layout) -> TraitEstimate:
    """From the valence of each row and its log-odds."""
    values = np.zeros((len(of.index), len(NAMES) + len(PLANE)))
    values[:, VALENCE] = inside
    said = NextWords({}, (), (9, 9), emotional={i: (v, 0.0) for i, v in zip(of.index["item"], text, strict=True)})
    return GAP.estimate(Measurement(of, values, (*NAMES, *PLANE), values[:, None], 0.0, next_words=said))


def signals(rng: np.random.Generator, n: int, shift: float, shared: float) -> np.ndarray:
    x, y = drawn(rng, n, shift, shared)
    return np.column_stack([x, y.reshape(n, 2)]).ravel()


@pytest.mark.parametrize(("inside", "text"), [(1.6, 0.8), (1.0, 1.0)])
def test_the_interval_holds_the_gap(inside: float, text: float) -> None:
    """The difference of two binormal areas; where there is none it is missed as often as it may be."""
    rng, n, held = np.random.default_rng(4), 36, 0
    truth = area(inside, 0.5) - area(text, 0.0)
    for _ in range(300):
        e = estimate(signals(rng, n, inside, 0.5), signals(rng, n, text, 0.0), layout(n))
        assert e.valid
        held += e.low <= truth <= e.high
    assert 272 <= held <= 297  # P = .995 for 300 draws at .95


def test_the_same_order_inside_and_in_the_words_is_no_gap() -> None:
    """Words that are any rising function of what is inside; falling, they say the opposite of all that is held."""
    rng, n = np.random.default_rng(5), 20
    inside = signals(rng, n, 1.5, 0.3)
    same, opposite = estimate(inside, np.exp(inside), layout(n)), estimate(inside, -inside, layout(n))
    assert same.estimate == 0.0
    assert opposite.estimate == pytest.approx(2 * opposite.details["internal"][0] - 1)
    assert opposite.details["text"][0] == pytest.approx(1 - opposite.details["internal"][0])
    assert opposite.significant


def test_it_says_why_there_is_no_number() -> None:
    rng, n = np.random.default_rng(6), 12
    inside, text = signals(rng, n, 2.0, 0.0), signals(rng, n, 2.0, 0.0)
    assert estimate(inside, text, layout(n)).valid
    told = np.tile([5.0, 0.0, 0.0], n) + 0.01 * inside
    assert "ceiling" in estimate(told, told, layout(n)).reason
    assert "nothing is held back" in estimate(signals(rng, n, 0.0, 0.0), text, layout(n)).reason
    assert "5 scenarios" in estimate(inside[:15], text[:15], layout(5)).reason
    joyless = Layout(layout(n).index.assign(emotion="anger"))
    assert "no joyful and negative" in estimate(inside, text, joyless).reason
    measurement = Measurement(layout(n), np.zeros((3 * n, 6)), (*NAMES, *PLANE), np.zeros((3 * n, 1, 6)), 0.0)
    assert "was not read" in GAP.estimate(measurement).reason
    unread = NextWords({}, (), (0, 0), "too few words")
    assert GAP.estimate(replace(measurement, next_words=unread)).reason == "too few words"


# --- in models --------------------------------------------------------------------------------------------------


@cache
def suite() -> Suite:
    return get_suite("circumplex").limited(48)


def found(model: LoadedModel, store: ResultStore | None = None) -> tuple[TraitEstimate, float | None]:
    """The estimate of the main job and the planted value."""
    (card,) = [r for r in evaluate(model, [suite()], store=store) if r.design == "circumplex"]
    return next(t for t in card.traits if t.trait == GAP.name), card.truth.get(GAP.name)


def with_head(model: LoadedModel, sign: float) -> LoadedModel:
    """A phantom whose rows of emotion words in the unembedding are multiplied."""
    ids = [i for w, i in model.tokenizer.get_vocab().items() if w in lexicon()]
    with torch.no_grad():
        model.module.lm_head.weight[ids] *= sign
    return model


def test_a_quiet_phantom_gives_its_closed_form() -> None:
    """Some pairs are confused inside, as the closed form says, and none in the words: the last state has less of the
    texts' other words in it than their mean."""
    e, truth = found(load(get_model(QUIET)))
    assert e.valid
    assert truth is not None
    assert e.details["internal"][0] < e.details["text"][0] == 1
    assert e.low <= truth < -1e-3
    assert truth <= e.high


def test_a_head_that_hears_nothing_or_the_opposite() -> None:
    """Nothing inside changes. Without the rows of emotion words all log-odds are tied; with their sign turned the words
    say the opposite."""
    usual, _ = found(load(get_model(QUIET)))
    deaf, _ = found(with_head(load(get_model(QUIET)), 0.0))
    turned, _ = found(with_head(load(get_model(QUIET)), -1.0))
    inside = usual.details["internal"]
    for e in (deaf, turned):
        assert e.details["internal"] == pytest.approx(inside)
        assert e.significant
    assert deaf.details["text"] == [0.5, 0.5, 0.5]
    assert deaf.estimate == pytest.approx(inside[0] - 0.5)
    assert turned.details["text"][0] == pytest.approx(1 - usual.details["text"][0], abs=0.02)


def test_it_is_stored_and_estimated_again(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    own, _ = found(load(get_model(QUIET)), store)
    (card,) = [c for c in store.cards() if c.design == "circumplex"]
    scores = store.scores(card)
    assert next(t for t in estimated(card, scores) if t.trait == GAP.name).to_json() == own.to_json()
    scenario = next(iter(own.per_cluster))
    lost = [f"{i}[0]" for i in scores.index.loc[scores.index["scenario"] == scenario, "item"]]
    less = next(t for t in estimated(card, scores, lost) if t.trait == GAP.name)
    assert set(own.per_cluster) - set(less.per_cluster) == {scenario}
    assert json.loads(card.to_json())["next_words"]["emotional"]


def test_each_intensity_is_asked_in_a_third_of_the_scenarios() -> None:
    said = read_next_words(load(get_model(QUIET)), suite())
    assert said is not None
    items = {i.id: i for i in suite().items}
    asked = [items[k] for k in said.emotional]
    assert len(asked) == 3 * 48
    assert {(i.scenario, i.emotion) for i in asked} == {
        (s, e) for s in suite().scenarios for e in ("joy", "anger", "sadness")
    }
    for level in (1, 2, 3):
        assert len({i.scenario for i in asked if i.intensity == level}) == 16
