"""Compiled phantoms: the closed form against the forward pass, and what each knob moves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Qwen2ForCausalLM

from llmct_bench.adapters import Point, load
from llmct_bench.emotions import NAMES, lexicon
from llmct_bench.models import PANEL, PhantomSpec, get_model, phantom_tokenizer
from llmct_bench.models.phantoms import mechanism
from llmct_bench.models.phantoms.build import build
from llmct_bench.models.phantoms.tokenizer import ROLE_MARKERS, build_tokenizer
from llmct_bench.models.phantoms.truth import axis_noise, axis_states

WORDS = [*lexicon(), "kitchen", "window", "table", "yesterday", "the", "and", ".", "unheard"]
TOKENIZER = build_tokenizer(sorted(set(WORDS) - {"unheard"}))
SPECS = [*PANEL, PhantomSpec("all", "every knob", 1.3, 0.7, 0.4, 0.5, 0.6, 0.5, 90.0, tint=1.0, seed=21)]


def axis_of_state(spec: PhantomSpec, ids: list[int], point: int = 3) -> np.ndarray:
    """States on the planted axes (tokens, emotions), read by the adapter from a real forward pass."""
    model = load(get_model(spec))
    module = build(spec, TOKENIZER)
    found: dict[int, torch.Tensor] = {}
    adapter = dataclasses.replace(model.adapter, decoder=module.model, blocks=module.model.layers)
    with torch.inference_mode(), adapter.reading([Point("resid", point)], found.__setitem__):
        adapter.run(torch.tensor([ids]))
    return found[0][0, :, : mechanism.FEATURES].double().numpy() @ mechanism.directions().axis.T


def closed_form(spec: PhantomSpec, ids: list[int]) -> np.ndarray:
    words = TOKENIZER.convert_ids_to_tokens(ids)
    roles = {v: k for k, v in ROLE_MARKERS.items()}
    role, assistant = "", []
    for word in words:
        role = roles.get(word, role)
        assistant.append(role == "assistant")
    felt = axis_states(mechanism.loads(words, spec.gain), np.array(assistant), spec)
    return felt + axis_noise(mechanism.word_noise(words, spec), spec)


messages = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=25).map(" ".join), min_size=1, max_size=8)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@given(texts=messages)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_closed_form_equals_forward_pass(spec: PhantomSpec, texts: list[str]) -> None:
    """The formula, evaluated in numpy on token ids, against six blocks of a real Qwen2 in float32."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]
    ids = TOKENIZER.apply_chat_template(turns, return_dict=False)
    expected = closed_form(spec, ids)
    error = np.abs(axis_of_state(spec, ids) - expected).max()
    assert error < 2e-4 * max(1.0, np.abs(expected).max())


def test_phantoms_are_real_qwen2_models() -> None:
    """The class that Qwen 2.5 runs through, with a tokenizer that has a chat template; at least nine of them."""
    models = [load(f"phantom/{s.name}") for s in PANEL]
    assert all(type(m.module) is Qwen2ForCausalLM and m.tokenizer.chat_template for m in models)
    assert len(PANEL) >= 9


def test_half_life_through_the_forward_pass() -> None:
    """One emotional word, then silence: the state halves every ln 2 x memory tokens."""
    spec = PhantomSpec("plain", "", memory=40.0, noise=0.0)
    ids = TOKENIZER.convert_tokens_to_ids(["<s>", "<|user|>", "furious", *["the"] * 200])
    anger = axis_of_state(spec, ids)[2:, NAMES.index("anger")]
    half = -np.arange(1, 150) * np.log(2) / np.log(anger[1:150] / anger[0])
    assert np.allclose(half, 40.0 * np.log(2), rtol=0.01)


def test_unknown_words_load_nothing() -> None:
    """A word outside of the vocabulary becomes <unk>, which has no load and no noise."""
    ids = (
        TOKENIZER.convert_tokens_to_ids(["<s>", "<|user|>"])
        + TOKENIZER("unheard", add_special_tokens=False)["input_ids"]
    )
    assert np.abs(axis_of_state(PhantomSpec("plain", ""), ids)).max() < 1e-4


def test_tint_is_a_constant_on_every_state() -> None:
    """The control knob moves every state by the same vector and no difference between states."""
    ids = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "furious at the kitchen table ."}], return_dict=False
    )
    plain = PhantomSpec("plain", "", seed=5)
    shift = axis_of_state(dataclasses.replace(plain, tint=2.5), ids) - axis_of_state(plain, ids)
    assert np.allclose(shift, [2.5 if e == "joy" else 0.0 for e in NAMES], atol=1e-3)


def test_the_memory_is_causal_and_reads_words_only() -> None:
    """What follows a token does not change its state, and the template's marks carry no emotion."""
    spec = PANEL[1]
    one = TOKENIZER.apply_chat_template([{"role": "user", "content": "the kitchen"}], return_dict=False)
    two = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "the kitchen"}, {"role": "assistant", "content": "overjoyed"}], return_dict=False
    )
    assert two[: len(one)] == one
    assert np.allclose(axis_of_state(spec, one), axis_of_state(spec, two)[: len(one)], atol=1e-5)


def test_word_vectors_do_not_depend_on_the_vocabulary() -> None:
    """Adding words to the suites must not change what a phantom is."""
    spec = PANEL[1]
    few, many = ["kitchen", "window"], ["apple", "kitchen", "zebra", "window"]
    assert np.array_equal(mechanism.word_noise(few, spec), mechanism.word_noise(many, spec)[[1, 3]])


def test_the_shipped_vocabulary_knows_the_lexicon() -> None:
    vocabulary = phantom_tokenizer().get_vocab()
    assert set(lexicon()) <= set(vocabulary)
