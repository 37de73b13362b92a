"""Cross-lingual transfer: loops over pairs, drawn patterns with a planted angle, and phantoms that know a second
language, in which every word of the first has another name."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import ortho_group

from llmct_bench import leaderboard, wrap
from llmct_bench.adapters import LoadedModel
from llmct_bench.affect import Transfer, fit_affect, fit_transfer
from llmct_bench.benchmark import estimated
from llmct_bench.emotions import NAMES
from llmct_bench.evaluation import evaluate
from llmct_bench.models import PANEL
from llmct_bench.models.phantoms import mechanism
from llmct_bench.models.phantoms.build import build
from llmct_bench.models.phantoms.tokenizer import build_tokenizer, vocabulary
from llmct_bench.results import ResultCard, ResultStore
from llmct_bench.scanner import scan
from llmct_bench.suites import Suite, Turn, get_card, get_suite, list_suites
from llmct_bench.traits import ESTIMANDS, Layout, Measurement, TraitEstimate
from llmct_bench.verify import verify

TRANSFER = ESTIMANDS["cross_lingual"]
NOTHING = np.zeros((0, 5), np.float32)


def table(n: int, levels: int = 2) -> pd.DataFrame:
    """The factors of n scenarios."""
    rows = [(f"s{s:02d}", e, i) for s in range(n) for e in NAMES for i in range(1, levels + 1)]
    return pd.DataFrame(rows, columns=["scenario", "emotion", "intensity"])


def estimate(found: Transfer | None) -> TraitEstimate:
    empty = np.zeros((0, 6))
    return TRANSFER.estimate(Measurement(Layout(table(0)), empty, (), empty[:, None], 0.0, transfer=found))


def products(one: np.ndarray, other: np.ndarray, index: pd.DataFrame, without: str = "") -> float:
    """d2 from its definition, one pair of scenarios at a time."""
    names = [s for s in sorted(index["scenario"].unique()) if s != without]
    keys = [index[c].to_numpy() for c in ("scenario", "emotion", "intensity")]

    def patterns(states: np.ndarray) -> dict[str, np.ndarray]:
        cells = pd.DataFrame(states).groupby(keys).mean()
        felt = {s: np.stack([cells.loc[s, e].mean(axis=0) for e in NAMES]) for s in names}
        return {s: f - f.mean(axis=0) for s, f in felt.items()}

    a, b = patterns(one), patterns(other)
    return float(np.mean([(a[s] * b[t]).sum() for s, t in permutations(names, 2)]))


# --- the products -----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 6), st.integers(0, 2**32 - 1))
def test_the_products_are_those_of_the_definition(n: int, seed: int) -> None:
    """Pseudo-values from leaving every scenario out by hand; a cell may have several readouts, and in any order."""
    rng = np.random.default_rng(seed)
    index = pd.concat([table(n), table(n).sample(5, random_state=seed % 1000)], ignore_index=True)
    here, there = rng.normal(size=(2, len(index), 5))
    mixed = rng.permutation(len(index))
    found = fit_transfer("xx", (here, index), (there[mixed], index.iloc[mixed].reset_index(drop=True)), NOTHING)
    assert found.scenarios == tuple(sorted(index["scenario"].unique()))
    for values, pair in ((found.cross, (here, there)), (found.own, (here, here)), (found.original, (there, there))):
        whole = products(*pair, index)
        assert values.mean() == pytest.approx(whole)
        left = [products(*pair, index, s) for s in found.scenarios]
        assert values == pytest.approx(n * whole - (n - 1) * np.array(left))
    assert found.by_emotion.sum(axis=0) == pytest.approx(np.stack([found.cross, found.own]))


def test_what_counts() -> None:
    """Nuisance is removed; a scenario that lacks a cell in one language does not count, neither does neutral text."""
    rng, index = np.random.default_rng(0), table(5)
    here, there = rng.normal(size=(2, len(index), 5))
    away = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
    plain = fit_transfer("xx", (here, index), (there, index), away)
    shifted = here + 9 * rng.normal(size=(len(index), 2)) @ away
    assert fit_transfer("xx", (shifted, index), (there, index), away).cross == pytest.approx(plain.cross)
    assert fit_transfer("xx", (shifted, index), (there, index), NOTHING).cross != pytest.approx(plain.cross)
    neutral = pd.DataFrame({"scenario": ["s00"], "emotion": ["neutral"], "intensity": [0]})
    more = pd.concat([index, neutral], ignore_index=True), np.concatenate([here, 50 + here[:1]])
    assert fit_transfer("xx", (more[1], more[0]), (there, index), away).own == pytest.approx(plain.own)
    fewer = index.iloc[1:].reset_index(drop=True)
    lacking = fit_transfer("xx", (here, index), (there[1:], fewer), away)
    assert lacking.scenarios == ("s01", "s02", "s03", "s04")
    assert np.isnan(fit_transfer("xx", (here[:16], index[:16]), (there, index), away).cross).all()
    assert Transfer.from_json(plain.to_json()).to_json() == plain.to_json()


def patterns(
    rng: np.random.Generator, n: int, angle: float, size: float, noise: float = 1.0, width: int = 30
) -> Transfer:
    """Emotions along four directions in one language, and along directions turned away by an angle in the other, where
    they are ``size`` times as far apart."""
    frame = np.linalg.qr(rng.normal(size=(width, width)))[0]
    one, turned = frame[:4], np.cos(angle) * frame[:4] + np.sin(angle) * frame[4:8]
    index = table(n)
    emotion = index["emotion"].map({e: k for k, e in enumerate(NAMES)}).to_numpy()
    here = size * turned[emotion] + noise * rng.normal(size=(len(index), width))
    there = one[emotion] + noise * rng.normal(size=(len(index), width))
    return fit_transfer("xx", (here, index), (there, index), np.zeros((0, width)))


@pytest.mark.parametrize(("angle", "size"), [(0.0, 1.0), (1.0, 1.0), (0.6, 0.7), (np.pi / 2, 1.0)])
def test_the_interval_holds_the_planted_share(angle: float, size: float) -> None:
    """cos(angle) / size, and the angle alone. The jackknife overstates the error of a product of noise with noise
    (Efron & Stein 1981), so that intervals hold rather more than .95 of 300 (271 has a probability of .0005), not
    fewer."""
    rng, held, aimed, valid, estimates = np.random.default_rng(7), 0, 0, 0, []
    truth = np.cos(angle) / size
    for _ in range(300):
        e = estimate(patterns(rng, 24, angle, size))
        valid += e.valid
        estimates.append(e.estimate)
        held += e.low <= truth <= e.high
        aimed += e.details["correlation"][1] <= np.cos(angle) <= e.details["correlation"][2]
    assert min(held, aimed) >= 271
    assert held < 300
    assert valid >= 240  # in some samples the language's own distances are not surely above 0
    assert np.median(estimates) == pytest.approx(truth, abs=0.06)


def test_without_shared_directions_the_null_is_rejected_as_often_as_it_may_be() -> None:
    rng = np.random.default_rng(8)
    rejected = sum(estimate(patterns(rng, 24, np.pi / 2, 1.0)).p_value <= 0.05 for _ in range(300))
    assert 4 <= rejected <= 27  # P = .997 at .05


def test_noise_adds_nothing_to_a_distance() -> None:
    """Where products of a scenario with itself are not left out, noise makes the language's own distances larger and
    the share smaller: in each such product there are 30 x 3 x 1.5^2 / 2 = 101 of noise, in the mean of all 4.2."""
    rng = np.random.default_rng(9)
    found = [patterns(rng, 24, 0.0, 1.0, noise=1.5) for _ in range(100)]
    assert np.mean([f.own.mean() for f in found]) == pytest.approx(3.0, rel=0.05)  # 4 directions minus their mean
    assert np.mean([f.cross.mean() for f in found]) == pytest.approx(3.0, rel=0.05)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0))
@settings(max_examples=15, deadline=None)
def test_basis_and_scale(seed: int, scale: float) -> None:
    rng, index = np.random.default_rng(seed), table(6)
    here, there = rng.normal(size=(2, len(index), 5)) + 2 * np.eye(5)[:4].repeat(2, axis=0)[np.arange(len(index)) % 8]
    away, turn = np.eye(5)[4:], ortho_group.rvs(5, random_state=seed % 2**31)
    usual = estimate(fit_transfer("xx", (here, index), (there, index), away))
    turned = estimate(fit_transfer("xx", (here @ turn, index), (there @ turn, index), away @ turn))
    louder = estimate(fit_transfer("xx", (scale * here, index), (scale * there, index), away))
    apart = estimate(fit_transfer("xx", (scale * here, index), (there, index), away))
    for e in (turned, louder):
        assert (e.estimate, e.low, e.high) == pytest.approx((usual.estimate, usual.low, usual.high))
    assert apart.estimate == pytest.approx(usual.estimate / scale)
    assert apart.details["correlation"] == pytest.approx(usual.details["correlation"])


def test_it_says_why_there_is_no_number() -> None:
    rng, index = np.random.default_rng(10), table(8)
    felt = 3 * np.eye(5)[:4].repeat(2, axis=0)[np.arange(len(index)) % 8] + 0.1 * rng.normal(size=(len(index), 5))
    flat = 0.1 * rng.normal(size=(len(index), 5))
    few = index[:40]
    reasons = {
        "no translation": None,
        "5 scenarios could be read": fit_transfer("xx", (felt[:40], few), (felt, index), NOTHING),
        "0 scenarios could be read": fit_transfer("xx", (felt[:0], index[:0]), (felt, index), NOTHING),
        "this language (xx)": fit_transfer("xx", (flat, index), (felt, index), NOTHING),
        "the original language": fit_transfer("xx", (felt, index), (flat, index), NOTHING),
    }
    for words, found in reasons.items():
        e = estimate(found)
        assert not e.valid
        assert words in e.reason
    assert estimate(fit_transfer("xx", (felt, index), (felt, index), NOTHING)).valid


# --- through the main job: a second language ---------------------------------------------------------------------


def translated(text: str) -> str:
    return re.sub(r"[a-z]+(?:'[a-z]+)?", lambda w: "x" + w[0], text.lower())


@cache
def english() -> Suite:
    """Keyworded scenarios of the shipped suite: phantoms read words of the lexicon."""
    whole = get_suite("circumplex")
    keyworded = replace(whole, items=tuple(i for i in whole.items if i.keyworded))
    return keyworded.limited(12)


@cache
def second() -> Suite:
    """The same in the other language."""
    card = english().card.model_copy(update={"name": "circumplex-xx", "language": "xx", "original": "circumplex"})
    items = [i.model_copy(update={"messages": (_told(i.messages[0]),)}) for i in english().items]
    return Suite(card, tuple(items))


def _told(turn: Turn) -> Turn:
    return turn.model_copy(update={"content": translated(turn.content)})


@cache
def words() -> tuple[str, ...]:
    texts = [m.content for name in ("reference", "circumplex") for i in get_suite(name).items for m in i.messages]
    own = vocabulary(texts)
    return (*own, *(w for w in map(translated, own) if w not in own))


def bilingual(change: Any) -> LoadedModel:
    """A phantom for which a word's translation is the word itself but for its load (n_emotions,), which is changed."""
    spec = next(s for s in PANEL if s.name == "neutral")
    tokenizer = build_tokenizer(sorted(words()))
    module, place = build(spec, tokenizer), tokenizer.get_vocab()
    rows = module.model.embed_tokens.weight
    lexical = np.zeros((len(NAMES), mechanism.D_MODEL))
    lexical[:, : mechanism.FEATURES] = mechanism.LEXICAL_AMPLITUDE * mechanism.directions().lexical
    with torch.no_grad():
        for word in words():
            if translated(word) not in place or word not in place:
                continue
            row = rows[place[word]].double().numpy().copy()
            (load,) = mechanism.loads([word], spec.gain)
            row += (change(load) - load) @ lexical
            row[mechanism.ROGUE] = 0.0
            row[mechanism.ROGUE] = np.sqrt(mechanism.NORM**2 - (row**2).sum())
            rows[place[translated(word)]] = torch.from_numpy(row).to(rows.dtype)
    return wrap(module, tokenizer, "bilingual")


def run(change: Any, store: ResultStore | None = None, suite: Suite | None = None) -> tuple[ResultCard, TraitEstimate]:
    cards = evaluate(bilingual(change), [suite or second()], store=store)
    card = next(c for c in cards if c.design == "circumplex")
    return card, next(t for t in card.traits if t.trait == TRANSFER.name)


def swapped(load: np.ndarray) -> np.ndarray:
    """Words of joy mean sadness in the other language, and the other way round."""
    order = [{"joy": "sadness", "sadness": "joy"}.get(e, e) for e in NAMES]
    return load[[NAMES.index(e) for e in order]]


def test_the_same_states_in_both_languages_are_one() -> None:
    _, e = run(lambda load: load)
    assert e.valid
    assert e.details["language"] == "xx"
    assert (e.estimate, e.low, e.high) == pytest.approx((1.0, 1.0, 1.0), abs=1e-4)
    assert e.details["correlation"] == pytest.approx([1.0] * 3, abs=1e-4)


def test_a_language_that_feels_twice_as_much() -> None:
    """The mechanism is linear in the loads, so that English finds half of the distance, along the same directions."""
    _, e = run(lambda load: 2 * load)
    assert e.low <= 0.5 <= e.high
    assert e.estimate == pytest.approx(0.5, abs=0.02)
    assert e.details["correlation"][0] == pytest.approx(1.0, abs=0.02)
    assert e.significant


def test_swapped_words_against_states_that_were_scanned_whole() -> None:
    """The trait from whole states of both suites at the fit's point, by the definition. Joy and sadness transfer with
    the wrong sign, anger and calm as they are."""
    card, e = run(swapped)
    model = bilingual(swapped)
    (reference,) = (c for c in evaluate(model, []) if c.design == "reference")
    point = reference.fit["layer"]["point"]
    here, there = (scan(model, s) for s in (second(), english()))
    nuisance = fit_affect(scan(model, get_suite("reference"))).nuisance.astype(np.float64)
    states = [s.array[:, point].astype(np.float64) for s in (here, there)]
    states = [s - (s @ nuisance.T) @ nuisance for s in states]
    cross, own = products(*states, here.index), products(states[0], states[0], here.index)
    assert e.estimate == pytest.approx(cross / own, abs=1e-5)
    joy, anger, sadness, calm = (e.details["by_emotion"][k][0] for k in ("joy", "anger", "sadness", "calm"))
    assert max(joy, sadness) < 0.2 < 0.8 < min(anger, calm)
    assert card.transfer is not None


def test_a_language_without_emotion_has_none_to_transfer() -> None:
    _, e = run(lambda load: 0 * load)
    assert not e.valid
    assert "not told apart in this language (xx)" in e.reason


def test_it_is_stored_shown_verified_and_estimated_again(tmp_path: Path) -> None:
    """Of the English suite there is no such trait and no table of it."""
    store = ResultStore(tmp_path / "results")
    card, own = run(lambda load: 2 * load, store)
    plain = evaluate(bilingual(lambda load: 2 * load), [english()], store=store)[1]
    assert TRANSFER.name not in {t.trait for t in plain.traits}
    assert plain.transfer is None
    (stored,) = (c for c in store.cards() if c.suite == card.suite)
    scores = store.scores(stored)
    again = {t.trait: t for t in estimated(stored, scores)}
    assert again[TRANSFER.name].to_json() == own.to_json()
    scenario = next(iter(own.per_cluster))
    lost = [f"{i}[0]" for i in scores.index.loc[scores.index["scenario"] == scenario, "item"]]
    less = {t.trait: t for t in estimated(stored, scores, lost)}[TRANSFER.name]
    assert list(less.per_cluster) == list(own.per_cluster)[1:]
    assert less.estimate == pytest.approx(own.estimate, abs=0.02)
    board = leaderboard(list(store.cards()))
    assert [t.suite for t in board.tables if t.estimand.name == TRANSFER.name] == [card.suite]
    assert "Cross-lingual transfer" in board.to_markdown()
    assert [f for f in verify(tmp_path) if "certificate" not in str(f.place)] == []


def test_short_runs_and_shipped_translations() -> None:
    """Four scenarios are too few for any trait; every shipped translation tells scenarios of its original."""
    (_, card) = evaluate(bilingual(lambda load: load), [second().limited(4)])
    assert not any(t.valid for t in card.traits)
    assert card.transfer is not None
    assert len(card.transfer["scenarios"]) == 4
    names = [f"circumplex-{language}" for language in ("ar", "de", "es", "fr", "zh")]
    assert [n for n in list_suites() if get_card(n).original == "circumplex"] == names
    translations = [get_suite(n) for n in names]
    cells = {(i.scenario, i.emotion, i.intensity) for i in get_suite("circumplex").items}
    for s in translations:
        assert len(s.scenarios) == 48
        assert {(i.scenario, i.emotion, i.intensity) for i in s.items} <= cells
