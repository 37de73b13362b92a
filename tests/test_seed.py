"""The seed's raw reading: metrics, sources, summaries, controls, and what a model without emotion makes of them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from handmade import Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance

from llmct_bench.adapters import LoadedModel, load, wrap
from llmct_bench.adapters.tiny import tiny
from llmct_bench.ctscan import get_conversation
from llmct_bench.errors import LlmctError, SuiteError
from llmct_bench.models.phantoms.tokenizer import build_tokenizer, split_words
from llmct_bench.scanner import render
from llmct_bench.seed import (
    METRICS,
    SOURCES,
    SeedReading,
    best_source,
    by_layer,
    common_share,
    cosine,
    excess,
    jaccard,
    mean_absolute_error,
    seed_reading,
    summary,
    trajectory,
)
from llmct_bench.seed.page import LABEL, to_markdown, write
from llmct_bench.suites.conversation import Conversation

# --- metrics ----------------------------------------------------------------------------------------------------


def top(vector: np.ndarray) -> set[int]:
    """The top 1 % of dimensions, one by one: the largest first, of equals the lower one."""
    order = sorted(range(len(vector)), key=lambda i: (-abs(float(vector[i])), i))
    return set(order[: max(1, len(vector) // 100)])


def one(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    """A metric between two vectors, from its definition."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "cosine":
        return 1 - float(distance.cosine(a, b)) if np.any(a) and np.any(b) else 0.0
    if metric == "mae":
        return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)
    return 1 - len(top(a) ^ top(b)) / len(top(a) | top(b))


@pytest.mark.parametrize("width", [1, 7, 99, 100, 250, 640])
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_their_definitions(metric: str, width: int) -> None:
    """Every state with every reference at the same layer, against loops over vectors; float32 is summed in float64."""
    rng = np.random.default_rng(width)
    states, references = (rng.standard_normal((n, 3, width)).astype(np.float32) for n in (5, 4))
    found = METRICS[metric](states, references)
    assert (found.shape, found.dtype) == ((5, 3, 4), np.float64)
    for n, layer, k in np.ndindex(5, 3, 4):
        assert found[n, layer, k] == pytest.approx(one(metric, states[n, layer], references[k, layer]), abs=1e-12)


def test_metrics_in_closed_form() -> None:
    """By hand: 45 degrees; a mean of 1/2; sets of two that share one of three members."""
    a, b = np.zeros((1, 1, 200)), np.zeros((1, 1, 200))
    a[0, 0, [3, 4]] = [2, -2]
    b[0, 0, [4, 5]] = [-50, 50]
    assert cosine(a, b).item() == pytest.approx(0.5)
    assert mean_absolute_error(a, b).item() == pytest.approx((2 + 48 + 50) / 200)
    assert jaccard(a, b).item() == pytest.approx(1 / 3)
    assert cosine(np.array([[[1.0, 0]]]), np.array([[[1.0, 1]]])).item() == pytest.approx(math.sqrt(0.5))


def test_equal_values_are_taken_from_the_lowest_dimension_on() -> None:
    """Ties are settled the same way in both states, whatever their signs."""
    flat = np.ones((1, 1, 400))
    signs = flat * np.where(np.arange(400) % 2, 1, -1)
    assert jaccard(flat, signs).item() == 1
    late = flat.copy()
    late[0, 0, -4:] = 2
    assert jaccard(flat, late).item() == 0
    late[0, 0, :2] = 2
    late[0, 0, -2:] = 1
    assert jaccard(flat, late).item() == pytest.approx(2 / 6)


def test_a_state_of_nothing_has_cosine_0() -> None:
    """Without a warning."""
    assert cosine(np.zeros((1, 1, 3)), np.ones((1, 1, 3))).item() == 0


VECTORS = arrays(np.float64, (2, 2, 120), elements=st.floats(-1e3, 1e3, width=32))


@settings(deadline=None, max_examples=30)
@given(a=VECTORS, b=VECTORS, factor=st.floats(0.01, 100))
def test_metrics_have_their_invariances(a: np.ndarray, b: np.ndarray, factor: float) -> None:
    """Cosine ignores positive factors and turns with the sign; MAE is symmetric, a distance, and scales; Jaccard
    ignores signs and is 1 of identical states; ranges hold."""
    for metric in METRICS.values():
        np.testing.assert_allclose(metric(a, b), metric(b, a).transpose(2, 1, 0), atol=1e-12)
    np.testing.assert_allclose(cosine(a * factor, b), cosine(a, b), atol=1e-12)
    np.testing.assert_allclose(cosine(-a, b), -cosine(a, b), atol=1e-12)
    assert np.abs(cosine(a, b)).max() <= 1
    np.testing.assert_allclose(
        mean_absolute_error(a * factor, b * factor), factor * mean_absolute_error(a, b), rtol=1e-9
    )
    np.testing.assert_array_equal(jaccard(a, -b), jaccard(a, b))
    assert jaccard(a, b).min() >= 0
    for k in range(2):
        assert (mean_absolute_error(a, a)[k, :, k] == 0).all()
        assert (jaccard(a, a)[k, :, k] == 1).all()


def test_the_share_in_common_in_closed_form() -> None:
    """Effects of turns alone: 1, of references alone: 0, of both: by their sums of squares; with interaction: by the
    loop over the table; where nothing varies there is no share."""
    turn, reference = np.array([[0.9], [0.8], [0.4]]), np.array([[0.3, 0.1, 0.0, -0.4]])
    assert common_share(turn + 0 * reference) == pytest.approx(1)
    assert common_share(0 * turn + reference) == pytest.approx(0)
    both = (4 * turn.var() * 3, 3 * reference.var() * 4)
    assert common_share(turn + reference) == pytest.approx(both[0] / sum(both))
    table = np.random.default_rng(0).standard_normal((6, 5))
    total = sum((y - table.mean()) ** 2 for y in table.ravel())
    assert common_share(table) == pytest.approx(sum(5 * (row.mean() - table.mean()) ** 2 for row in table) / total)
    assert math.isnan(common_share(np.full((3, 4), 0.7)))


# --- sources ----------------------------------------------------------------------------------------------------

TURNS = ["we met at the lake and had lunch", "how was it", "cold and then we sang", "good", "he left and i wept", "oh"]
NEUTRAL = [
    "the shelf has four boards of oak",
    "how wide",
    "one is wide and short",
    "yes",
    "the lamp is old and grey",
    "no",
]
SAID = {"joy": "what a happy day", "anger": "i hate that man", "calm": "the lake is still"}


def turns(texts: list[str]) -> list[dict[str, str]]:
    """Messages, the user first."""
    return [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)]


def conversation(texts: list[str] = TURNS, control: list[str] | None = None, **more: Any) -> Conversation:
    """A conversation with three reference states of the user."""
    data = {
        "name": "lake",
        "prompt": {"messages": turns(texts)},
        "reference_states": [{"label": k, "messages": turns([t])} for k, t in SAID.items()],
        **({"control": {"messages": turns(control)}} if control else {}),
        **more,
    }
    return Conversation.model_validate(data)


def small(kind: str) -> LoadedModel:
    """A tiny random model of an architecture, and a tokenizer of words with a chat template."""
    said = sorted({w for t in (*TURNS, *NEUTRAL, *SAID.values()) for w in split_words(t)})
    assert len(said) < 110
    return wrap(tiny(kind), build_tokenizer(said), name=kind)


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    """Three blocks of width 64."""
    return small("llama")


@pytest.fixture(scope="module")
def read(llama: LoadedModel) -> SeedReading:
    """The conversation and its control, read once."""
    return seed_reading(llama, conversation(control=NEUTRAL), generation_prompt=False)


def hooked(model: LoadedModel, messages: list[dict[str, str]], opening: bool = False) -> dict[str, np.ndarray]:
    """The four sources (layers, d) at the last token, as transformers and hooks of our own give them: hidden states of
    the output, the last one before the final norm, and what leaves ``o_proj`` and ``down_proj``."""
    text = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)
    ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    kept: dict[str, list[torch.Tensor]] = {"attn_out": [], "mlp_down_out": [], "end": []}
    body = model.module.model
    handles = [body.norm.register_forward_pre_hook(lambda _, inputs: kept["end"].append(inputs[0]))]
    for block in body.layers:
        for name, part in (("attn_out", block.self_attn.o_proj), ("mlp_down_out", block.mlp.down_proj)):
            handles.append(part.register_forward_hook(lambda m, i, out, name=name: kept[name].append(out)))
    with torch.no_grad():
        states = model.module(ids, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    stream = torch.stack([s[0, -1] for s in (*states[:-1], kept["end"][0])])
    found = {"hidden_in": stream[:-1], "hidden_out": stream[1:]}
    found |= {k: torch.stack([v[0, -1] for v in kept[k]]) for k in ("attn_out", "mlp_down_out")}
    return {k: v.double().numpy() for k, v in found.items()}


@pytest.mark.parametrize("opening", [False, True])
def test_every_value_is_that_of_transformers(llama: LoadedModel, opening: bool) -> None:
    """Snapshot x layer x source x reference x metric, from separate passes over the rendered prefixes; also behind the
    opening of the next answer."""
    reading = seed_reading(llama, conversation(), generation_prompt=opening)
    frame = reading.frame().query("reading == 'conversation'")
    key = ["snapshot", "source", "layer", "reference"]
    found = frame.set_index(key)
    assert found.index.is_unique
    references = {k: hooked(llama, turns([t]), opening) for k, t in SAID.items()}
    expected: dict[tuple[Any, ...], dict[str, float]] = {}
    for n in range(len(TURNS)):
        states = hooked(llama, turns(TURNS[: n + 1]), opening)
        for source, k, layer in ((s, k, i) for s in SOURCES for k in SAID for i in range(3)):
            pair = states[source][layer], references[k][source][layer]
            expected[n, source, layer, k] = {m: one(m, *pair) for m in METRICS}
    assert set(found.index) == set(expected)
    truth = pd.DataFrame.from_dict(expected, orient="index").reindex(found.index)
    for m in METRICS:
        np.testing.assert_allclose(found[m], truth[m], atol=2e-5 if m != "jaccard" else 1e-12)
        assert np.ptp(truth[m]) > 0.01


def test_drift_is_that_of_transformers(llama: LoadedModel, read: SeedReading) -> None:
    """Each state with the one before and with the first; the first with nothing."""
    states = [hooked(llama, turns(TURNS[: n + 1])) for n in range(len(TURNS))]
    rows = read.rows("conversation")
    for (s, source), m in ((x, m) for x in enumerate(read.sources) for m in METRICS):
        found = read.drift[m][s][rows]
        assert np.isnan(found[0]).all()
        for n, layer in np.ndindex(len(TURNS), 3):
            if n:
                pair = [one(m, states[n][source][layer], states[k][source][layer]) for k in (n - 1, 0)]
                np.testing.assert_allclose(found[n, layer], pair, atol=2e-5)


def test_the_end_of_the_template_has_one_embedding(read: SeedReading) -> None:
    """Before the first block every snapshot is the same as every reference, whatever was said: 1, 0 and 1."""
    at = read.frame().query("source == 'hidden_in' and layer == 0")
    assert set(at["reading"]) == {"conversation", "neutral", "random"}
    for metric, value in (("cosine", 1), ("mae", 0), ("jaccard", 1)):
        np.testing.assert_allclose(at[metric], value, atol=1e-12)


def test_without_a_split_there_are_two_sources() -> None:
    """A state-space model has no attention to read: that is said, and the rest is there."""
    reading = seed_reading(small("mamba"), conversation(control=NEUTRAL))
    assert reading.sources == ("hidden_in", "hidden_out")
    assert [n for n in reading.notes if "no attn_out and no mlp_down_out" in n and "mamba" in n]
    assert set(summary(reading)["source"]) == {"hidden_in", "hidden_out"}
    assert "attn\\_out |" not in to_markdown(reading)


# --- summaries --------------------------------------------------------------------------------------------------


def test_the_summary_is_that_of_the_long_table(read: SeedReading) -> None:
    """Each number again, by grouping rows of the long table."""
    frame = read.frame()
    for row in summary(read).to_dict("records"):
        of = frame[(frame["reading"] == row["reading"]) & (frame["source"] == row["source"])]
        user = of[of["role"] == "user"]
        spoken = frame[(frame["reading"] == "conversation") & (frame["source"] == row["source"])]
        mean = spoken[spoken["role"] == "user"].groupby(["layer", "reference"])["cosine"].mean().unstack()
        assert row["layer"] == (mean.max(axis=1) - mean.min(axis=1)).idxmax()
        for m in METRICS:
            assert row[m] == pytest.approx(of[m].mean())
        by_turn = of.groupby("snapshot")["cosine"].mean()
        assert (row["low"], row["high"]) == pytest.approx((by_turn.min(), by_turn.max()))
        assert row["gap"] == pytest.approx(user["cosine"].mean() - of[of["role"] == "assistant"]["cosine"].mean())
        course = user[user["layer"] == row["layer"]].pivot(index="snapshot", columns="reference", values="cosine")
        assert row["spread"] == pytest.approx(np.ptp(course.mean()))
        level = course.mean(axis=1)
        assert (row["first"], row["last"]) == pytest.approx((level.iloc[0], level.iloc[-1]))
        assert row["fading"] == pytest.approx(level.iloc[0] - level.iloc[-1])
        nearest = course.idxmax(axis=1)
        assert (row["joy_wins"], row["user_turns"]) == ((nearest == "joy").sum(), 3)
        assert row["nearest_share"] == nearest.value_counts(normalize=True).max()
        assert (nearest == row["nearest"]).mean() == row["nearest_share"]
        assert row["common"] == pytest.approx(common_share(course.to_numpy()))


def test_layers_and_excess_are_those_of_the_long_table(read: SeedReading) -> None:
    """The layer profile averages to the summary, and the excess is the difference from each control."""
    layers, table = by_layer(read), summary(read).set_index(["reading", "source"])
    mean = layers.groupby(["reading", "source"])[["cosine", "mae", "jaccard", "gap"]].mean()
    np.testing.assert_allclose(mean, table.loc[mean.index, list(mean.columns)].astype(float))
    at = layers.set_index(["reading", "source", "layer"])["spread"]
    for (reading, source), row in table.iterrows():
        assert row["spread"] == at[reading, source, row["layer"]]
    for row in excess(read).to_dict("records"):
        for column in ("cosine", "spread", "gap", "fading", "common", "previous_cosine"):
            spoken, control = (table.loc[(r, row["source"]), column] for r in ("conversation", row["over"]))
            assert row[column] == pytest.approx(spoken - control)
    spoken = table.loc["conversation", "spread"]
    assert best_source(read) == spoken.astype(float).idxmax()


def test_the_trajectory_is_the_long_table_message_by_message(read: SeedReading) -> None:
    """At the layer of the largest spread, or at another one."""
    frame = read.frame().query("reading == 'conversation' and source == 'attn_out'")
    chosen = int(summary(read).query("reading == 'conversation' and source == 'attn_out'")["layer"].iloc[0])
    for layer, found in ((chosen, trajectory(read, "attn_out")), (2, trajectory(read, "attn_out", 2))):
        expected = frame[frame["layer"] == layer].pivot(index="snapshot", columns="reference", values="cosine")
        for label in SAID:
            np.testing.assert_array_equal(found[f"cosine_{label}"], expected[label])
        assert list(found["nearest"]) == list(expected[list(SAID)].idxmax(axis=1))
        assert list(found["role"]) == ["user", "assistant"] * 3


def test_references_said_by_the_assistant_are_listed_and_not_compared(llama: LoadedModel, read: SeedReading) -> None:
    """They would add the role to the difference between emotions: the summaries are the same with them."""
    states = [{"label": k, "messages": turns([t])} for k, t in SAID.items()]
    states.insert(1, {"label": "joy.assistant", "messages": turns(["how was it", "what a happy day"])})
    reading = seed_reading(llama, conversation(control=NEUTRAL, reference_states=states), generation_prompt=False)
    assert dict(zip(reading.references, reading.roles, strict=True))["joy.assistant"] == "assistant"
    assert set(reading.frame()["reference"]) == {*SAID, "joy.assistant"}
    pd.testing.assert_frame_equal(summary(reading), summary(read), rtol=1e-4, atol=1e-5)


def test_stages_stand_beside_the_conversation_only(llama: LoadedModel) -> None:
    """A control has none."""
    reading = seed_reading(llama, conversation(control=NEUTRAL, stages=["lunch", "lunch", "song"]))
    assert list(reading.index.query("reading == 'conversation'")["stage"]) == ["lunch", "lunch", "song", "", "", ""]
    assert set(reading.index.query("reading != 'conversation'")["stage"]) == {""}


# --- controls ---------------------------------------------------------------------------------------------------


def test_a_conversation_exceeds_itself_by_nothing(llama: LoadedModel) -> None:
    """With the conversation as its own control the excess over neutral is 0 everywhere."""
    over = excess(seed_reading(llama, conversation(control=TURNS))).query("over == 'neutral'")
    assert np.abs(over.drop(columns=["over", "source"]).to_numpy(dtype=float)).max() < 1e-5


def test_random_text_is_seeded_and_as_long(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same roles and as many tokens in every message, words of the vocabulary alone; another seed, other words."""
    seen: list[Any] = []

    def watched(suite: Any, *arguments: Any) -> Any:
        seen.append(suite)
        return render(suite, *arguments)

    monkeypatch.setattr("llmct_bench.seed.reading.render", watched)
    system = [{"role": "system", "content": "good lunch"}]
    talk = conversation(control=NEUTRAL, prompt={"messages": [*system, *turns(TURNS)]})
    made = []
    for seed in (0, 0, 1):
        seed_reading(llama, talk, seed=seed)
        made.append(next(i for i in seen[-1].items if i.id == "random").messages)
    assert made[0] == made[1] != made[2]
    vocabulary = set(llama.tokenizer.get_vocab())
    for messages in (made[0], made[2]):
        assert [m.role for m in messages] == [m["role"] for m in [*system, *turns(TURNS)]]
        assert messages[0].content == "good lunch"
        for message, text in zip(messages[1:], TURNS, strict=True):
            assert len(split_words(message.content)) == len(split_words(text))
            assert set(split_words(message.content)) <= vocabulary
    assert not {m.content for m in made[0]} & set(TURNS)


def test_without_a_control_neutral_statements_stand_in() -> None:
    """As many of the shipped reference in each role; they have no order, so that courses have no excess over them."""
    model = load("phantom/neutral")
    texts = ["I am glad about the lake.", "We had fish for lunch.", "He is sad about the timetable."]
    reading = seed_reading(model, conversation(texts))
    assert list(reading.index.query("reading == 'neutral'")["role"]) == ["assistant", "user", "user"]
    assert [n for n in reading.notes if "shipped reference" in n]
    over = excess(reading).set_index("over")
    assert over.loc["neutral", ["fading", "common", "first_cosine"]].isna().all(axis=None)
    assert over.loc["neutral", ["cosine", "spread", "gap"]].notna().all(axis=None)
    assert over.loc["random", ["fading", "first_cosine"]].notna().all(axis=None)


def test_statements_that_cannot_be_read_are_left_away(llama: LoadedModel) -> None:
    """Those of the shipped reference whose words the tokenizer does not know: the conversation is read all the same,
    and without any neutral text the excess over it is missing."""
    reading = seed_reading(llama, conversation())
    assert len(reading.rows("conversation")) == 6
    assert set(excess(reading)["over"]) == {"random", "neutral"} & set(reading.index["reading"])
    assert "neutral" not in set(reading.index["reading"])
    assert [n for n in reading.notes if n.startswith("no neutral text")]
    assert "–" in to_markdown(reading)


def test_a_vocabulary_of_numbers_has_no_controls() -> None:
    """No words to draw and no statement that can be read: the numbers stand alone, and the notes say why."""
    model = wrap(tiny("llama"), build_tokenizer([str(n) for n in range(60)]), name="numbers")
    states = [{"label": k, "messages": turns([t])} for k, t in (("joy", "5 50"), ("calm", "7 8"))]
    reading = seed_reading(model, conversation(["1 2 3", "4", "5 6"], reference_states=states))
    assert set(summary(reading)["reading"]) == {"conversation"}
    assert excess(reading).empty
    assert [n for n in reading.notes if n.startswith("no random text")]
    assert [n for n in reading.notes if n.startswith("no neutral text")]
    assert "| – " in to_markdown(reading)


def test_one_message_is_read() -> None:
    """Without an assistant there is no gap, without a second turn no course; all else is there."""
    reading = seed_reading(load("phantom/neutral"), conversation(["I am glad about the lake."]))
    row = summary(reading).query("reading == 'conversation' and source == 'hidden_out'").iloc[0]
    assert row[["gap", "first", "fading", "common", "previous_cosine"]].isna().all()
    assert row[["cosine", "mae", "jaccard", "spread"]].notna().all()
    assert "–" in to_markdown(reading)


# --- the model without emotion ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zero() -> SeedReading:
    """The shipped conversation through the phantom that has no emotion at all."""
    return seed_reading(load("phantom/zero-emotion"), get_conversation("ct-scan"), generation_prompt=False)


def test_a_model_without_emotion_has_all_of_the_seeds_findings(zero: SeedReading) -> None:
    """A high cosine with every emotion at all times, a course that falls, a gap between user and assistant, and an
    emotion that is nearest far more often than one in nine. All of the course is common to all references."""
    row = summary(zero).set_index(["reading", "source"]).loc[("conversation", "hidden_out")]
    assert row["low"] > 0.9
    assert row["fading"] > 0.1
    assert row["gap"] > 0.01
    assert row["nearest_share"] > 2 / 9
    assert row["common"] > 0.95
    assert row["layer"] == zero.layers - 1


def test_neutral_and_random_text_take_the_findings_away(zero: SeedReading) -> None:
    """The same numbers come from text about a filing cabinet, and from random words."""
    over = excess(zero).query("source == 'hidden_out'").set_index("over")
    assert list(over.index) == ["neutral", "random"]
    assert over[["cosine", "gap", "spread", "fading"]].abs().to_numpy().max() < 0.02


@pytest.mark.parametrize(
    ("text", "nearest"), [("I am happy about the lake.", "joy"), ("I am sad at the lake.", "sadness")]
)
def test_a_model_that_reads_emotion_is_nearest_to_it(text: str, nearest: str) -> None:
    """In its first message even the raw reading is right, at the layer where the references are furthest apart."""
    states = [{"label": k, "messages": turns([t])} for k, t in (("joy", "I am glad."), ("sadness", "I am gloomy."))]
    reading = seed_reading(load("phantom/neutral"), conversation([text], reference_states=states))
    row = summary(reading).query("reading == 'conversation' and source == 'hidden_out'").iloc[0]
    assert (row["nearest"], row["nearest_share"]) == (nearest, 1)
    assert row["spread"] > 0.02


def test_less_is_common_where_emotion_is_read(zero: SeedReading) -> None:
    """What differs between references is a share of the course only in a model that tells them apart."""
    both = [seed_reading(load("phantom/neutral"), get_conversation("ct-scan")), zero]
    common = [summary(r).set_index(["reading", "source"]).loc[("conversation", "hidden_out"), "common"] for r in both]
    assert common[0] < 0.7
    assert common[1] > 0.95


# --- what cannot be read ----------------------------------------------------------------------------------------


def one_line(call: Callable[[], Any]) -> str:
    """The error that a call raises, which is one line."""
    with pytest.raises(SuiteError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_conversation_without_references_is_one_line(llama: LoadedModel) -> None:
    """There is nothing to compare with."""
    assert "no reference_states" in one_line(lambda: seed_reading(llama, conversation(reference_states=[])))


def test_a_prompt_that_is_not_there_is_one_line(llama: LoadedModel) -> None:
    """Prompts are counted from 0."""
    two = conversation(prompt=[{"messages": turns(TURNS)}, {"messages": turns(NEUTRAL)}])
    assert "0 to 1" in one_line(lambda: seed_reading(llama, two, prompt=2))


def test_another_prompt_has_its_own_reading(llama: LoadedModel, read: SeedReading) -> None:
    """The second prompt of a file is read as it would be by itself."""
    two = conversation(control=NEUTRAL, prompt=[{"messages": turns(NEUTRAL)}, {"messages": turns(TURNS)}])
    found = seed_reading(llama, two, prompt=1, generation_prompt=False)
    assert not [n for n in found.notes if "the conversation's control" in n]
    assert "prompt 1 of 2" in found.notes
    values = found.values["cosine"][:, found.rows("conversation")]
    np.testing.assert_allclose(values, read.values["cosine"][:, read.rows("conversation")], atol=1e-5)


@pytest.mark.parametrize("context", [3, 25])
def test_a_short_context_is_one_line(llama: LoadedModel, context: int) -> None:
    """Messages that do not fit are counted and the first is named."""
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.model_max_length = context
    model = replace(llama, tokenizer=tokenizer)
    message = one_line(lambda: seed_reading(model, conversation(control=NEUTRAL)))
    assert f"context of {context} tokens" in message
    assert "prompt-0[" in message


def test_an_opening_that_does_not_fit_is_one_line(llama: LoadedModel) -> None:
    """The last snapshot fills the context: with the opening of an answer it is too long."""
    tokenizer = copy.deepcopy(llama.tokenizer)
    text = tokenizer.apply_chat_template(turns(TURNS), tokenize=False)
    tokenizer.model_max_length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    model = replace(llama, tokenizer=tokenizer)
    assert seed_reading(model, conversation(control=TURNS), generation_prompt=False).layers == 3
    message = one_line(lambda: seed_reading(model, conversation(control=TURNS), generation_prompt=True))
    assert "prompt-0[5]" in message


# --- the command ------------------------------------------------------------------------------------------------

PHANTOM_TURNS = ["I am happy about the lake.", "We had fish for lunch.", "He is sad about the timetable."]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A conversation that phantoms read, with a label that must not act in Markdown."""
    path = tmp_path / "talk.yaml"
    references = [
        {"label": label, "messages": turns([text])}
        for label, text in (("joy", "I am happy at work."), ("<b>a|b</b> [x](y)", "I am sad at work."))
    ]
    data = {"name": "a *talk* <script>", "prompt": {"messages": turns(PHANTOM_TURNS)}, "reference_states": references}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_the_command_prints_and_writes(cli: Cli, file: Path, tmp_path: Path) -> None:
    """The label first, a row a source in every table; a long table with all rows and an escaped page on disk."""
    done = cli("seed", "phantom/neutral", file, "--to", tmp_path / "deep" / "out")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(LABEL)
    for source in SOURCES:
        assert sum(line.startswith(f"{source} ") for line in lines) == 4
    csv, page = (tmp_path / "deep" / "out" / name for name in ("seed.csv", "seed.md"))
    assert lines[-2:] == [str(csv), str(page)]
    table = pd.read_csv(csv)
    assert set(table["reading"]) == {"conversation", "neutral", "random"}
    assert len(table) == 9 * 4 * load("phantom/neutral").adapter.n_layers * 2
    text = page.read_text("utf-8")
    assert LABEL in text
    assert not [bad for bad in ("<b>", "<script>", "a|b", "[x](y)") if bad in text]
    assert "&lt;b&gt;a\\|b" in text


def test_the_command_prints_strict_json(cli: Cli, file: Path) -> None:
    """One document; what is no number is null."""
    found = cli("seed", "phantom/neutral", file, "--json").json
    assert found["label"] == LABEL
    assert [(r["reading"], r["source"]) for r in found["summary"]][:4] == [("conversation", s) for s in SOURCES]
    assert next(r for r in found["summary"] if r["reading"] == "neutral")["fading"] is None
    assert len(found["trajectory"]["hidden_out"]) == 3
    assert json.dumps(found["excess"])


def test_the_command_ends_with_one_line_where_nothing_can_be_read(cli: Cli, tmp_path: Path) -> None:
    """A conversation alone has nothing to be compared with."""
    path = tmp_path / "talk.yaml"
    path.write_text(yaml.safe_dump(turns(PHANTOM_TURNS)), encoding="utf-8")
    done = cli("seed", "phantom/neutral", path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(zero: SeedReading, tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(LlmctError, match="cannot write into"):
        write(zero, tmp_path / "taken")
