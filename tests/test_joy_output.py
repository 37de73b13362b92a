"""Joy output: transformers' own logits one prompt at a time, phantoms' closed form, scipy's Welch test."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as sps
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmct_bench.adapters import LoadedModel, load, wrap
from llmct_bench.benchmark import estimated
from llmct_bench.calibration import planted_words
from llmct_bench.emotions import lexicon
from llmct_bench.evaluation import evaluate
from llmct_bench.models import PANEL, PhantomSpec, get_model
from llmct_bench.models.phantoms.tokenizer import build_tokenizer
from llmct_bench.results import ResultCard, ResultStore
from llmct_bench.scanner import NextWords, read_next_words
from llmct_bench.scanner.next_words import CONTENT_FREE, side_tokens
from llmct_bench.suites import Item, Suite, SuiteCard, Turn, get_suite
from llmct_bench.traits import ESTIMANDS, Layout, Measurement, TraitEstimate

SPECIAL = ["<s>", "<|end|>", "<|user|>", "<|assistant|>", "<unk>"]
TEMPLATE = "<s>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
JOY = {w for w, e in lexicon().items() if e.emotion == "joy"}
NEGATIVE = {w for w, e in lexicon().items() if e.emotion in ("anger", "sadness")}


@cache
def suite(scenarios: int = 10) -> Suite:
    return get_suite("circumplex").limited(scenarios)


def neutral(of: Suite) -> dict[str, str]:
    """Item -> text."""
    return {i.id: i.messages[0].content for i in of.items if i.emotion == "neutral"}


def emotional(of: Suite) -> dict[str, str]:
    """Item -> text: joy, anger and sadness, at an intensity that changes from scenario to scenario."""
    turn = {s: (1, 2, 3)[n % 3] for n, s in enumerate(sorted(of.scenarios))}
    return {
        i.id: i.messages[0].content
        for i in of.items
        if i.emotion in ("joy", "anger", "sadness") and i.intensity == turn[i.scenario]
    }


@cache
def core(words: int) -> str:
    """A byte-level BPE that has learned some words of each side, each with the blank before it."""
    made = Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    text = [f"{w} " * 2 for w in (" I feel", *sorted(JOY)[:words], *sorted(NEGATIVE)[: words + 4])]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" " + t for t in text], trainer)
    return made.to_str()


def tokenizer(chat: bool = True, words: int = 12) -> Any:
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(core(words)),
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:4],
    )
    made.chat_template = TEMPLATE if chat else None
    return made


def tiny(kind: str, chat: bool = True, seed: int = 0, **settings: Any) -> LoadedModel:
    """A random transformer: rotary positions, learned positions and norms with biases, or capped logits."""
    torch.manual_seed(seed)
    spoken = tokenizer(chat)
    size = {"vocab_size": len(spoken), "initializer_range": 0.4, **settings}
    narrow = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    module: Any = {
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**narrow, **size)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, **size)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**narrow, **size, final_logit_softcapping=3.0)),
    }[kind]()
    return wrap(module.eval(), spoken, kind)


def by_hand(model: LoadedModel, text: str, chat: bool) -> tuple[float, float]:
    """From the written-out prompt through the model itself: mean probabilities, in double precision."""
    text = f"<s><|user|>{text}<|end|><|assistant|>I feel" if chat else f"User: {text}\n\nAssistant: I feel"
    ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    vocabulary = model.tokenizer.get_vocab()
    with torch.inference_mode():
        p = torch.softmax(model.module(input_ids=ids).logits[0, -1].double(), -1).numpy()
    sides = ([vocabulary[f"Ġ{w}"] for w in words if f"Ġ{w}" in vocabulary] for words in (JOY, NEGATIVE))
    joy, negative = (float(np.log(p[side].mean())) for side in sides)
    return joy, negative


def estimate(said: NextWords | None, of: Suite | None = None) -> TraitEstimate:
    """The trait from next words alone; the rest of a measurement is not looked at."""
    rows = [{"item": i.id, "scenario": i.scenario, "emotion": i.emotion} for i in (of or suite()).items]
    index = pd.DataFrame(rows)
    nothing = np.zeros((len(index), 6))
    return ESTIMANDS["joy_output"].estimate(
        Measurement(Layout(index), nothing, (), nothing[:, None], 0.0, next_words=said)
    )


def planted_output(spec: PhantomSpec, model: LoadedModel, of: Suite) -> float:
    """The trait of the closed form."""
    return estimate(planted_words(spec, model.tokenizer, of, model.context), of).estimate


def read(model: LoadedModel, of: Suite | None = None, budget: int | None = None) -> NextWords:
    found = read_next_words(model, of or suite(), budget)
    assert found is not None
    return found


def numbers(said: NextWords) -> np.ndarray:
    return np.array([*said.neutral.values(), *said.emotional.values(), *said.content_free])


# --- against the model itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "gemma2"])
def test_they_are_the_models_own_probabilities(kind: str, chat: bool) -> None:
    model = tiny(kind, chat)
    said = read(model)
    texts, felt = neutral(suite()), emotional(suite())
    assert not said.reason
    assert list(said.neutral) == list(texts)
    assert list(said.emotional) == list(felt)
    assert len(said.content_free) == len(CONTENT_FREE) == 12
    vocabulary = model.tokenizer.get_vocab()
    assert said.words == tuple(sum(f"Ġ{w}" in vocabulary for w in words) for words in (JOY, NEGATIVE))
    assert min(said.words) >= 8
    wanted = [by_hand(model, t, chat) for t in (*texts.values(), *felt.values(), *CONTENT_FREE)]
    assert np.ptp(wanted, axis=0).min() > 0.1  # prompts matter
    assert numbers(said) == pytest.approx(np.array(wanted), abs=2e-5)


def test_the_interval_is_welchs() -> None:
    """scipy's test of two samples, and its interval, on log-odds that were taken by hand."""
    model = tiny("qwen2")
    e = estimate(read(model))
    one, other = (
        [a - b for a, b in (by_hand(model, t, True) for t in some)]
        for some in (neutral(suite()).values(), CONTENT_FREE)
    )
    test = sps.ttest_ind(one, other, equal_var=False)
    assert e.valid
    assert e.estimate == pytest.approx(np.mean(one) - np.mean(other), abs=1e-4)
    assert (e.low, e.high) == pytest.approx(tuple(test.confidence_interval()), abs=2e-4)
    assert e.p_value == pytest.approx(test.pvalue, rel=1e-3)
    assert list(e.per_cluster) == sorted(i.scenario for i in suite().items if i.emotion == "neutral")
    assert np.mean(list(e.per_cluster.values())) == pytest.approx(e.estimate)
    assert e.details["neutral"][0] - e.details["content_free"][0] == pytest.approx(e.estimate)
    assert e.se_axes == pytest.approx(np.std(other, ddof=1) / np.sqrt(12), rel=1e-3)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
@pytest.mark.parametrize("budget", [1, 60, 4000])
def test_batches_and_order_change_nothing(kind: str, budget: int) -> None:
    """One prompt a pass, a few, and all in one, the items backwards."""
    model, backwards = tiny(kind), replace(suite(), items=suite().items[::-1])
    usual, other = read(model), read(model, backwards, budget)
    same = {k: {i: getattr(other, k)[i] for i in getattr(usual, k)} for k in ("neutral", "emotional")}
    assert numbers(replace(other, **same)) == pytest.approx(numbers(usual), abs=2e-5)
    a, b = estimate(usual), estimate(other)
    assert (a.estimate, a.low, a.high) == pytest.approx((b.estimate, b.low, b.high), abs=1e-4)


def test_half_precision_is_read_as_the_model_computes_it() -> None:
    """bfloat16, with a norm that has weights and biases: within what bfloat16 does to logits."""
    model = tiny("gpt2")
    model.module.to(torch.bfloat16)
    texts = (*neutral(suite()).values(), *emotional(suite()).values(), *CONTENT_FREE)
    wanted = [by_hand(model, t, True) for t in texts]
    assert numbers(read(model)) == pytest.approx(np.array(wanted), abs=0.15)


# --- what must and what must not move it ------------------------------------------------------------------------


def test_swapped_sides_give_the_opposite() -> None:
    said = read(tiny("qwen2"))
    swap = lambda pairs: [(b, a) for a, b in pairs]  # noqa: E731
    other = replace(
        said,
        neutral=dict(zip(said.neutral, swap(said.neutral.values()), strict=True)),
        content_free=tuple(swap(said.content_free)),
    )
    a, b = estimate(said), estimate(other)
    assert (a.estimate, a.low, a.high, a.p_value) == pytest.approx((-b.estimate, -b.high, -b.low, b.p_value))


def biased(model: LoadedModel, bias: float, weight: float = 1.0) -> LoadedModel:
    """With a head that adds ``bias`` to the logits of joy everywhere."""
    old = model.module.lm_head
    head = nn.Linear(old.in_features, old.out_features)
    with torch.no_grad():
        head.weight.copy_(weight * old.weight)
        head.bias.zero_()
        head.bias[list(side_tokens(model.tokenizer)[0])] = bias
    model.module.lm_head = head
    return model


def test_joy_of_the_head_cancels() -> None:
    """3 nats more joy after every prompt are in both log-odds and not in their difference; a head that says nothing
    else is at the null, with p = 1."""
    plain, joyful = (estimate(read(biased(tiny("qwen2"), b))) for b in (0.0, 3.0))
    for name in ("neutral", "content_free"):
        assert joyful.details[name][0] - plain.details[name][0] == pytest.approx(3.0, abs=1e-4)
    assert joyful.estimate == pytest.approx(plain.estimate, abs=1e-4)
    deaf = estimate(read(biased(tiny("qwen2"), 3.0, weight=0.0)))
    assert deaf.details["neutral"][0] == pytest.approx(3.0, abs=1e-4)
    assert deaf.valid
    assert deaf.estimate == pytest.approx(0.0, abs=1e-6)
    assert deaf.p_value > 0.9


def told(text: str) -> Suite:
    """Eight scenarios that call themselves neutral and hold this text."""
    items = tuple(
        Item(
            id=f"s{n}/neutral",
            scenario=f"s{n}",
            emotion="neutral",
            intensity=0,
            messages=(Turn(role="user", content=f"{' '.join(['the'] * n)} window {text} table"),),
            reads=(0,),
        )
        for n in range(8)
    )
    return Suite(SuiteCard(name="told", version="1", design="circumplex", summary="", licence=""), items)


@pytest.mark.parametrize(
    ("text", "sign"), [("joyful", 1), ("euphoric and merry", 1), ("furious", -1), ("desolate", -1), ("the", 0)]
)
def test_a_phantom_says_what_it_feels(text: str, sign: int) -> None:
    """A response of the state, from the closed form: a word of joy in the prompt, of anger, of sadness, and none."""
    model = load("phantom/neutral")
    assert model.card.phantom is not None
    of = told(text)
    e, truth = estimate(read(model, of), of), planted_output(model.card.phantom, model, of)
    assert np.sign(round(truth, 9)) == sign
    assert abs(truth) >= 0.5 * abs(sign)
    assert e.estimate == pytest.approx(truth, rel=2e-3, abs=1e-5)
    assert e.significant == (sign != 0)


@pytest.mark.parametrize(
    "spec", [*PANEL, PhantomSpec("all", "", 1.3, 0.7, 0.4, 0.5, 0.6, 0.5, 90.0, tint=1.0, seed=21)]
)
def test_the_panel_gives_the_closed_form(spec: PhantomSpec) -> None:
    """Moods and tints are the same after both kinds of prompts, up to what the final norm makes of the topic. The last
    rogue coordinate is a difference of large numbers, so that log-odds are true to 3 in 10,000."""
    model, of = load(get_model(spec)), suite(24)
    of = replace(of, items=tuple(i for i in of.items if i.keyworded))
    e, truth = estimate(read(model, of), of), planted_output(spec, model, of)
    assert e.estimate == pytest.approx(truth, abs=1e-5 + 3e-4 * abs(e.details["neutral"][0]))
    assert abs(truth) < 0.05
    if not any((spec.default_joy, spec.default_sadness, spec.persona_joy, spec.tint)):
        assert abs(truth) < 1e-12
        assert not e.significant


def test_the_interval_holds_the_truth() -> None:
    """400 pairs of samples with unequal spread around a difference of .7: Welch's 95 % (P(< 363 | 400, .95) = .0003);
    without the error of the content-free prompts it would be far less."""
    rng, held, narrow = np.random.default_rng(0), 0, 0
    items = list(neutral(suite()))
    for _ in range(400):
        after, free = rng.normal(1.7, 0.3, len(items)), rng.normal(1.0, 1.0, 12)
        said = NextWords(
            {i: (v, 0.0) for i, v in zip(items, after, strict=True)}, tuple((v, 0.0) for v in free), (5, 5)
        )
        e = estimate(said)
        held += e.low <= 0.7 <= e.high
        narrow += abs(e.estimate - 0.7) <= 2.26 * np.sqrt(e.se**2 - e.se_axes**2)
    assert 363 <= held <= 394
    assert narrow < 300


# --- where there is no number -----------------------------------------------------------------------------------


def test_it_says_why_there_is_no_number() -> None:
    model = tiny("qwen2")
    said = read(model)
    assert read_next_words(model, get_suite("shock").limited(6)) is None
    german = replace(suite(), card=suite().card.model_copy(update={"language": "de"}))
    mute = replace(model, adapter=replace(model.adapter, final=None))
    cases = {
        "was not read": None,
        "not (de)": read(model, german),
        "no modules lead": read(mute),
        "4 content-free": replace(said, content_free=said.content_free[:4]),
        "no neutral prompt": replace(said, neutral={}),
        "0 content-free": replace(said, content_free=()),
        "5 scenarios": replace(said, neutral=dict(list(said.neutral.items())[:5])),
    }
    for words, found in cases.items():
        e = estimate(found)
        assert not e.valid
        assert words in e.reason
    refusing = tokenizer()
    refusing.chat_template = "{{ raise_exception('no such role') }}"
    assert "no such role" in estimate(read(replace(model, tokenizer=refusing))).reason
    with torch.no_grad():
        model.module.lm_head.weight.fill_(float("inf"))
    assert "not finite" in estimate(read(model)).reason


def test_too_few_words_and_unknown_ones_do_not_count() -> None:
    """All negative words and two of joy; the others are one unknown token, which is on neither side."""
    sad, plain = sorted(NEGATIVE), ["i", "feel", "the"]
    words = build_tokenizer(sorted([*plain, "happy", "glad", *sad]))
    assert [words.convert_ids_to_tokens(list(s)) for s in side_tokens(words)] == [
        sorted(["happy", "glad"], key=words.get_vocab().get), sorted(sad, key=words.get_vocab().get)
    ]  # fmt: skip
    model = load("phantom/neutral")
    e = estimate(read(replace(model, tokenizer=words)))
    assert "too few of the words: 2 of joy, 72 negative" in e.reason


def test_prompts_that_a_tokenizer_cannot_tell_apart_count_once() -> None:
    """Marks that a phantom does not know are all unknown: 12 prompts are fewer."""
    model = load("phantom/neutral")
    distinct = {tuple(model.tokenizer(t, add_special_tokens=False).input_ids) for t in CONTENT_FREE}
    assert len(distinct) < len(CONTENT_FREE)
    assert len(read(model).content_free) == len(distinct)


def test_long_prompts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen2")
    whole = read(model)
    lengths = sorted(len(model.tokenizer(t).input_ids) for t in neutral(suite()).values())
    monkeypatch.setattr(type(model), "context", lengths[len(lengths) // 2] + 12)
    fewer = read(model)
    assert 0 < len(fewer.neutral) < len(whole.neutral)
    assert all(whole.neutral[k] == pytest.approx(v, abs=2e-5) for k, v in fewer.neutral.items())
    assert len(estimate(fewer).per_cluster) == len(fewer.neutral)


# --- through the main job ---------------------------------------------------------------------------------------


def test_it_is_stored_and_estimated_again(tmp_path: Path) -> None:
    """The job's estimate, its planted value, what the store gives back, a comparison that leaves an item out, and a
    card of before, which knows nothing of it."""
    store = ResultStore(tmp_path)
    (result,) = [
        r for r in evaluate(load("phantom/joyful"), [suite(24)], store=store) if r.design == "circumplex"
    ]  # fmt: skip
    own = next(t for t in result.traits if t.trait == "joy_output")
    assert own.valid
    assert own.n_clusters == 12  # a phantom reads the items with words of the lexicon
    assert own.estimate == pytest.approx(result.truth["joy_output"], abs=3e-3)
    (card,) = [c for c in store.cards() if c.design == "circumplex"]
    scores = store.scores(card)
    again = next(t for t in estimated(card, scores) if t.trait == "joy_output")
    assert again.to_json() == own.to_json()
    item = next(i for i in suite(24).items if i.emotion == "neutral" and i.scenario in own.per_cluster)
    less = next(t for t in estimated(card, scores, [f"{item.id}[0]"]) if t.trait == "joy_output")
    assert set(own.per_cluster) - set(less.per_cluster) == {item.scenario}
    data = json.loads(card.to_json())
    del data["next_words"]
    old = ResultCard.from_json(json.dumps(data))
    assert old.next_words is None
    late = next(t for t in estimated(old, store.scores(old)) if t.trait == "joy_output")
    assert "was not read" in late.reason
