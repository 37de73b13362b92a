"""Conversations scanned message by message, what a bag of words makes of texts, and lengths in tokens."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from handmade import Cli
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmct_bench.adapters import LoadedModel
from llmct_bench.affect import AffectFit, score
from llmct_bench.ctscan import CTScan, ct_scan, get_conversation
from llmct_bench.emotions import ALL_NAMES, NAMES, lexicon
from llmct_bench.errors import LlmctError, SuiteError
from llmct_bench.evaluation import fitted
from llmct_bench.models.phantoms.tokenizer import split_words
from llmct_bench.scanner import scan
from llmct_bench.suites import Item, shipped_root
from llmct_bench.suites.baseline import bag_of_words
from llmct_bench.suites.conversation import Conversation, read_conversation
from llmct_bench.suites.lengths import token_lengths

# --- reading ----------------------------------------------------------------------------------------------------

MESSAGES = [
    {"role": "user", "content": "We met at the lake."},
    {"role": "assistant", "content": "How was the water?"},
    {"role": "user", "content": "Cold, and then we sang."},
]


def strongest(emotion: str) -> str:
    """A word of the lexicon at the highest intensity."""
    return next(w for w, e in lexicon().items() if e.emotion == emotion and e.intensity == 3)


REFERENCES = [
    {"label": e, "messages": [{"role": "user", "content": f"I am {strongest(e)} at work."}]} for e in ("joy", "anger")
]
#: what the scenario files of Activation Lab say besides the conversation
LAB = {
    "model": {"id": "Qwen/Qwen2.5-3B-Instruct", "dtype": "float16", "device": "auto"},
    "generation": {"max_new_tokens": 50, "do_sample": False, "seed": 42, "temperature": 0},
    "capture": {"hidden_states": True, "layers": "all", "store_dtype": "float16"},
    "output": {"dir": "./runs", "format": "json+npz"},
}


def write(folder: Path, data: Any) -> Path:
    """A YAML file of these data."""
    path = folder / "conversation.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return path


def plain(conversation: Conversation) -> list[list[dict[str, str]]]:
    """The messages of the prompts as plain data."""
    return [[m.model_dump() for m in p.messages] for p in conversation.prompt]


def test_our_own_format_is_read(tmp_path: Path) -> None:
    """Name, prompt, control, stages and reference states."""
    control = [{**m, "content": "The shelf has four boards."} for m in MESSAGES]
    data = {"name": "lake", "prompt": {"messages": MESSAGES}, "control": {"messages": control}}
    found = read_conversation(
        write(tmp_path, {**data, "stages": ["calm", "calm", "joy"], "reference_states": REFERENCES})
    )
    assert (found.name, found.stages) == ("lake", ("calm", "calm", "joy"))
    assert plain(found) == [MESSAGES]
    assert found.control is not None
    assert [m.model_dump() for m in found.control.messages] == control
    assert [r.label for r in found.reference_states] == ["joy", "anger"]


@pytest.mark.parametrize("several", [False, True])
def test_activation_lab_files_are_read(several: bool, tmp_path: Path) -> None:
    """One prompt or a list of them; model, generation, capture and output are passed over."""
    system = {"role": "system", "content": "You are a helpful assistant"}
    one = {"run_at_each_message": True, "messages": [system, *MESSAGES]}
    two = {"run_at_each_message": False, "messages": MESSAGES[:1]}
    data = {"name": "lab", **LAB, "prompt": [one, two] if several else one, "reference_states": REFERENCES}
    found = read_conversation(write(tmp_path, data))
    assert plain(found) == [[system, *MESSAGES], MESSAGES[:1]][: 1 + several]
    items = {i.id: i for i in found.suite().items}
    assert items["prompt-0"].reads == (1, 2, 3)
    assert ("prompt-1" in items) is several
    assert [i for i in items if i.startswith("reference/")] == ["reference/joy", "reference/anger"]


@pytest.mark.parametrize("data", [MESSAGES, {"messages": MESSAGES}, {"messages": MESSAGES, "model": "any"}])
def test_messages_alone_are_a_conversation(data: Any, tmp_path: Path) -> None:
    """A plain list of messages, or a mapping with one."""
    found = read_conversation(write(tmp_path, data))
    assert plain(found) == [MESSAGES]
    assert (found.reference_states, found.control, found.stages) == ((), None, ())


def test_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    """At the top, in a prompt, in a control and in a reference state."""
    data = {
        "colour": "red",
        "prompt": {"messages": MESSAGES, "colour": "red"},
        "control": {"messages": MESSAGES, "x": 1},
    }
    found = read_conversation(write(tmp_path, {**data, "reference_states": [{**REFERENCES[0], "weight": 2}]}))
    assert plain(found) == [MESSAGES]
    assert len(found.reference_states) == 1


def test_unknown_keys_of_a_message_are_passed_over(tmp_path: Path) -> None:
    """Files that Activation Lab takes are taken."""
    assert plain(read_conversation(write(tmp_path, [{**MESSAGES[0], "name": "Ada"}]))) == [MESSAGES[:1]]


FAULTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "broken YAML": ("prompt:\n  messages: [\n", ("broken YAML", "line 3")),
    "wrong role": ([{"role": "narrator", "content": "Once upon a time."}], ("prompt.0.messages.0.role", "expected")),
    "no content": ([{"role": "user"}], ("prompt.0.messages.0.content",)),
    "empty content": ([{"role": "user", "content": ""}], ("prompt.0.messages.0.content",)),
    "no messages": ({"prompt": {"messages": []}}, ("prompt.0.messages",)),
    "no prompt": ({"reference_states": REFERENCES}, ("prompt: Field required", "prompt.messages is expected")),
    "label twice": ({"prompt": {"messages": MESSAGES}, "reference_states": [*REFERENCES, REFERENCES[1]]}, ("'anger'",)),
    "no label": ({"prompt": {"messages": MESSAGES}, "reference_states": [{"messages": MESSAGES}]}, ("0.label",)),
    "empty file": ("", ("expected",)),
    "a text": ("hello", ("expected",)),
    "a list of texts": (["hello"], ("prompt.0.messages.0",)),
}


def one_line(read: Callable[[], Any]) -> str:
    """The message of the error that reading raises, which is one line."""
    with pytest.raises(SuiteError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("data", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_one_line(data: Any, says: tuple[str, ...], tmp_path: Path) -> None:
    """The line begins with the file and names the place of the fault."""
    path = write(tmp_path, data)
    message = one_line(lambda: read_conversation(path))
    assert message.startswith(f"{path}: ")
    assert [s for s in says if s not in message] == [], message


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """The path is named."""
    path = tmp_path / "nowhere.yaml"
    assert one_line(lambda: read_conversation(path)) == f"{path}: No such file or directory"


def test_another_encoding_is_one_line(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused by name."""
    path = tmp_path / "conversation.yaml"
    path.write_bytes("- {role: user, content: Grüße}".encode("latin-1"))
    assert one_line(lambda: read_conversation(path)).startswith(f"{path}: ")


SYSTEM = [{"role": "system", "content": "Be brief."}]
UNSEEN: dict[str, Any] = {
    "no conversation": {"prompt": []},
    "a system message alone": {"prompt": {"messages": SYSTEM}},
    "a reference state without a message to read": {
        "prompt": {"messages": MESSAGES},
        "reference_states": [{"label": "joy", "messages": SYSTEM}],
    },
    "a reference state that ends on a system message": {
        "prompt": {"messages": MESSAGES},
        "reference_states": [{"label": "joy", "messages": [*MESSAGES, *SYSTEM]}],
    },
    "a shorter control": {"prompt": {"messages": MESSAGES}, "control": {"messages": MESSAGES[:2]}},
    "a control of other roles": {"prompt": {"messages": MESSAGES[:1]}, "control": {"messages": MESSAGES[1:2]}},
}


@pytest.mark.parametrize("data", UNSEEN.values(), ids=UNSEEN.keys())
def test_conversations_that_cannot_be_scanned_are_one_line(data: Any, tmp_path: Path) -> None:
    """Nothing to read, and a control that is not message by message one, are told before a model is loaded."""
    path = write(tmp_path, data)
    assert one_line(lambda: read_conversation(path)).startswith(f"{path}: ")


def test_a_folder_is_one_line(tmp_path: Path) -> None:
    """The folder of a conversation is not the file."""
    assert one_line(lambda: read_conversation(tmp_path)).startswith(f"{tmp_path}: ")


# --- the shipped conversation -----------------------------------------------------------------------------------


def shipped() -> dict[str, Any]:
    """The shipped file, read without the package."""
    data: dict[str, Any] = yaml.safe_load((shipped_root() / "ct-scan" / "conversation.yaml").read_text("utf-8"))
    return data


def n_words(message: dict[str, str]) -> int:
    """Words of a message, cut at blanks."""
    return len(message["content"].split())


def test_the_shipped_conversation_is_read() -> None:
    """By name and by path the same, as it stands in the file."""
    found = get_conversation("ct-scan")
    assert found == get_conversation(str(shipped_root() / "ct-scan" / "conversation.yaml"))
    assert plain(found) == [shipped()["prompt"]["messages"]]
    assert {i.scenario for i in found.suite().items} >= {"prompt-0", "control", "reference/joy"}


def test_the_shipped_conversation_has_twenty_messages_and_stages() -> None:
    """User and assistant take turns, the user first; both messages of an exchange carry the same."""
    data = shipped()
    messages, stages = data["prompt"]["messages"], data["stages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 10
    assert len(stages) == 20
    assert stages[::2] == stages[1::2]
    assert len(set(stages)) == 10


def test_the_shipped_control_is_as_long_message_by_message() -> None:
    """The same roles, within 10 % in words, and none of the conversation's words of emotion."""
    data = shipped()
    pairs = list(zip(data["prompt"]["messages"], data["control"]["messages"], strict=True))
    for message, control in pairs:
        assert message["role"] == control["role"]
        assert abs(n_words(control) - n_words(message)) <= 0.1 * n_words(message)
    said = {w.strip(".,;!?").lower() for _, control in pairs for w in control["content"].split()}
    assert said & set(lexicon()) == set()


def test_the_shipped_reference_states_are_equally_long() -> None:
    """Nine states said by the user, the same nine by the assistant, within 10 % of each other in words."""
    states = {r["label"]: r["messages"] for r in shipped()["reference_states"]}
    user = {k: v[-1] for k, v in states.items() if v[-1]["role"] == "user"}
    assistant = {k: v[-1] for k, v in states.items() if v[-1]["role"] == "assistant"}
    assert len(user) == 9
    assert set(assistant) == {f"{label}.assistant" for label in user}
    for group in (user, assistant):
        lengths = [n_words(m) for m in group.values()]
        assert min(lengths) >= 0.9 * max(lengths)
    lengths = [n_words(m) for m in (*user.values(), *assistant.values())]
    assert all(abs(n - mean(lengths)) <= 0.1 * mean(lengths) for n in lengths)


# --- scanning ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantom() -> tuple[LoadedModel, AffectFit]:
    """The phantom without bias, certified, with its fit."""
    return fitted("phantom/neutral")


@pytest.fixture(scope="module")
def scanned(phantom: tuple[LoadedModel, AffectFit]) -> CTScan:
    """The shipped conversation through the phantom."""
    return ct_scan(phantom[0], get_conversation("ct-scan"), phantom[1])


def last_states(model: LoadedModel, messages: list[dict[str, str]]) -> np.ndarray:
    """Transformers' own states (points, d) at the last token of the rendered messages: `output_hidden_states` up to the
    last block, whose output is taken before the final norm."""
    text = model.tokenizer.apply_chat_template(messages, tokenize=False)
    ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    kept: list[torch.Tensor] = []
    norm = model.module.model.norm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        states = model.module(ids, output_hidden_states=True).hidden_states
    norm.remove()
    return torch.stack([s[0, -1] for s in (*states[:-1], kept[0])]).double().numpy()


def test_raw_cosines_are_those_of_transformers(phantom: tuple[LoadedModel, AffectFit], scanned: CTScan) -> None:
    """For some messages the cosine of the last state with every reference state's, at every point, as computed from
    separate passes over the rendered prefixes."""
    data, model = shipped(), phantom[0]
    references = {r["label"]: last_states(model, r["messages"]) for r in data["reference_states"]}
    assert scanned.labels == tuple(references)
    for conversation, messages in (("prompt-0", data["prompt"]["messages"]), ("control", data["control"]["messages"])):
        rows = scanned.frame[scanned.frame["conversation"] == conversation]
        for n in (0, 1, 7, 19):
            state = last_states(model, messages[: n + 1])
            found = rows[rows["message"] == n].sort_values("point")
            assert len(found) == len(state)
            for label, reference in references.items():
                lengths = np.linalg.norm(state, axis=1) * np.linalg.norm(reference, axis=1)
                expected = (state * reference).sum(axis=1) / lengths
                np.testing.assert_allclose(found[f"raw_{label}"], expected, atol=2e-6)
                assert np.ptp(expected) > 0


def test_the_frame_has_a_row_for_every_message_and_point(
    phantom: tuple[LoadedModel, AffectFit], scanned: CTScan
) -> None:
    """Conversation and control, twenty messages each, all block boundaries, roles and stages as in the file."""
    data = shipped()
    points = phantom[0].adapter.n_layers + 1
    assert Counter(scanned.frame["conversation"]) == {"prompt-0": 20 * points, "control": 20 * points}
    at = scanned.frame[(scanned.frame["conversation"] == "prompt-0") & (scanned.frame["point"] == 0)]
    assert list(at["message"]) == list(range(20))
    assert list(at["role"]) == [m["role"] for m in data["prompt"]["messages"]]
    assert list(at["stage"]) == data["stages"]
    assert np.isfinite(scanned.frame.select_dtypes("number").to_numpy()).all()


def test_the_scores_of_messages_are_those_of_a_scan_of_messages(
    phantom: tuple[LoadedModel, AffectFit], scanned: CTScan
) -> None:
    """Up to rounding, though every token is read in the same run, which runs hardly more tokens: a template's first
    ones are run for the reference states and for the conversation."""
    model, fit = phantom
    whole = scan(model, get_conversation("ct-scan").suite())
    said = ~whole.index["item"].str.startswith("reference/").to_numpy()
    np.testing.assert_allclose(by_point(scanned.frame, fit), score(whole, fit).values[said], atol=1e-5)
    seen = 0

    def count(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        nonlocal seen
        seen += inputs["input_ids"].numel()

    handle = model.adapter.decoder.register_forward_pre_hook(count, with_kwargs=True)
    ct_scan(model, get_conversation("ct-scan"), fit)
    handle.remove()
    assert whole.plan is not None
    assert seen <= 1.02 * whole.plan.padded


def by_point(frame: pd.DataFrame, fit: AffectFit) -> np.ndarray:
    """Scores (rows, points, scores) of a long table."""
    return frame[list(fit.scores)].to_numpy().reshape(-1, frame["point"].nunique(), len(fit.scores))


def test_every_token_is_scored(phantom: tuple[LoadedModel, AffectFit], scanned: CTScan) -> None:
    """As in a scan of all tokens; their mean is the message's score, and their texts are the message."""
    model, fit = phantom
    talk = get_conversation("ct-scan")
    states = scan(model, replace(talk.suite(), items=talk.suite().items[:1]), pooling="all")
    np.testing.assert_allclose(by_point(scanned.tokens, fit), score(states, fit).values, atol=0.02)
    first = scanned.tokens[scanned.tokens["point"] == 0]
    assert set(first["conversation"]) == {"prompt-0"}
    assert list(first["token"]) == list(states.index["token"])
    for n, message in enumerate(talk.prompt[0].messages):
        texts = first.loc[first["message"] == n, "text"]
        assert "".join(texts) == message.content
        assert [t.strip().lower() for t in texts] == split_words(message.content)
    means = scanned.tokens.groupby(["message", "point"])[list(fit.scores)].mean()
    own = scanned.frame[scanned.frame["conversation"] == "prompt-0"]
    np.testing.assert_allclose(means, own[list(fit.scores)], atol=0.02)  # single precision, of scores up to 80


def test_the_table_takes_the_control_away(scanned: CTScan) -> None:
    """One row a message at the chosen point: scores minus the control's, raw cosines as they are."""
    table = scanned.table()
    at = scanned.frame[scanned.frame["point"] == scanned.point]
    prompt, control = (at[at["conversation"] == c].reset_index(drop=True) for c in ("prompt-0", "control"))
    assert list(table["message"]) == list(range(20))
    for column in (*NAMES, "valence", "arousal"):
        np.testing.assert_allclose(table[column], prompt[column] - control[column])
    for label in scanned.labels:
        np.testing.assert_array_equal(table[f"raw_{label}"], prompt[f"raw_{label}"])


def conversation(prompt: list[str], control: list[str] | None = None, references: bool = True) -> Conversation:
    """A conversation of these messages, the user first."""

    def turns(texts: list[str]) -> dict[str, Any]:
        return {"messages": [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)]}

    data: dict[str, Any] = {"prompt": turns(prompt), "reference_states": REFERENCES if references else []}
    return Conversation.model_validate({**data, **({"control": turns(control)} if control else {})})


LAKE = ["We met at the lake and had lunch.", "What did you have at the lake?", "We had fish, and then we walked home."]


def test_a_control_of_the_same_messages_leaves_nothing(phantom: tuple[LoadedModel, AffectFit]) -> None:
    """A conversation held against itself has no scores: all that is left is rounding."""
    moving = [
        f"I am {strongest('joy')}, we met at the lake.",
        "And then?",
        f"Then he left, and I am {strongest('sadness')}.",
    ]
    plain_scan = ct_scan(phantom[0], conversation(moving), phantom[1]).table()
    found = ct_scan(phantom[0], conversation(moving, moving), phantom[1]).table()
    columns = [*NAMES, "valence", "arousal"]
    size = np.abs(plain_scan[columns].to_numpy()).max()
    assert size > 1
    np.testing.assert_allclose(found[columns], 0, atol=1e-5 * size)
    np.testing.assert_allclose(found["raw_joy"], plain_scan["raw_joy"], atol=1e-6)


@pytest.mark.parametrize("emotion", NAMES)
def test_a_planted_emotion_is_the_highest_score(phantom: tuple[LoadedModel, AffectFit], emotion: str) -> None:
    """Against the same words without it, one word of an emotion raises that emotion most, from its message on."""
    moved = [LAKE[0], LAKE[1], f"We had fish, and then we walked {strongest(emotion)} home.", *LAKE[1:]]
    control = [LAKE[0], LAKE[1], "We had fish, and then we walked back home.", *LAKE[1:]]
    table = ct_scan(phantom[0], conversation(moved, control), phantom[1]).table()
    assert np.abs(table.loc[:1, list(NAMES)].to_numpy()).max() < 1e-3
    assert [max(NAMES, key=lambda e: row[e]) for row in table.to_dict("records")[2:]] == [emotion] * 3
    assert table.loc[2, emotion] > 1


def test_several_prompts_have_a_table_each(phantom: tuple[LoadedModel, AffectFit]) -> None:
    """Tables are chosen by name; system messages are not counted."""
    system = {"role": "system", "content": "Be brief."}
    turns = [{"role": "user", "content": t} for t in LAKE[::2]]
    prompts = [{"messages": [system, turns[0]]}, {"messages": [turns[1]]}]
    data = {"prompt": prompts, "reference_states": REFERENCES, "stages": ["lunch"]}
    found = ct_scan(phantom[0], Conversation.model_validate(data), phantom[1])
    for name in ("prompt-0", "prompt-1"):
        table = found.table(name)
        assert (list(table["message"]), list(table["stage"]), list(table["role"])) == ([0], ["lunch"], ["user"])


def test_a_conversation_without_reference_states_is_scanned(phantom: tuple[LoadedModel, AffectFit]) -> None:
    """A plain list of messages gives scores, and no raw cosines."""
    found = ct_scan(phantom[0], conversation(LAKE, references=False), phantom[1])
    assert found.labels == ()
    assert len(found.table()) == 3


def short(model: LoadedModel, context: int) -> LoadedModel:
    """The same model with a tokenizer that allows less."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.model_max_length = context
    return replace(model, tokenizer=tokenizer)


def test_a_short_context_is_one_line(phantom: tuple[LoadedModel, AffectFit]) -> None:
    """Messages that do not fit are counted and the first is named; nothing is cut off silently."""
    model = short(phantom[0], 300)
    message = one_line(lambda: ct_scan(model, get_conversation("ct-scan"), phantom[1]))
    assert message.startswith("phantom/neutral cannot read ")
    assert "context of 300 tokens" in message
    assert "prompt-0[" in message
    with pytest.raises(LlmctError) as caught:
        ct_scan(short(phantom[0], 3), conversation(LAKE), phantom[1])
    assert "\n" not in str(caught.value)


def test_words_that_the_tokenizer_does_not_know_are_told(phantom: tuple[LoadedModel, AffectFit]) -> None:
    """A short message that cannot be read for its words is not said to be too long."""
    message = one_line(lambda: ct_scan(phantom[0], conversation(["Xyzzy plugh frotz.", *LAKE[1:]]), phantom[1]))
    assert "tokenizer" in message


# --- the command ------------------------------------------------------------------------------------------------


def test_scan_prints_one_row_a_message(cli: Cli, scanned: CTScan, tmp_path: Path) -> None:
    """The numbers of the table in order, then what they are, then the file with every message at every point."""
    done = cli("scan", "phantom/neutral", "ct-scan", "--output", tmp_path / "deep" / "scan.csv")
    assert done.code == 0
    header, rule, *rows, note, path = done.out.splitlines()
    assert header.split()[:3] == ["message", "role", "stage"]
    assert set(rule) == {"-", " "}
    assert len(rows) == 20
    for row, expected in zip(rows, scanned.table().to_dict("records"), strict=True):
        cells = row.split()
        assert (int(cells[0]), cells[1]) == (expected["message"], expected["role"])
        assert cells[-6:-2] == [f"{expected[e]:+.2f}" for e in NAMES]
        nearest = max(scanned.labels, key=lambda label: expected[f"raw_{label}"])
        assert cells[-2] == nearest
        assert abs(float(cells[-1]) - expected[f"raw_{nearest}"]) < 1e-7
    assert len({row.split()[-1] for row in rows}) > 4  # cosines close to 1 are told apart
    assert "minus the control's" in note
    assert path == str(tmp_path / "deep" / "scan.csv")
    with Path(path).open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(scanned.frame)


def test_scan_prints_strict_json(cli: Cli, tmp_path: Path) -> None:
    """Stdout is one document with a record for every message and point."""
    data = {"prompt": {"messages": MESSAGES}, "reference_states": REFERENCES}
    done = cli("scan", "phantom/neutral", write(tmp_path, data), "--json")
    assert done.code == 0
    records = json.loads(done.out, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert {(r["conversation"], r["message"]) for r in records} == {("prompt-0", n) for n in range(3)}
    assert all(isinstance(r[k], float) for r in records for k in (*NAMES, "raw_joy", "raw_anger"))


@pytest.mark.parametrize("data", [FAULTS["broken YAML"][0], FAULTS["wrong role"][0]])
def test_scan_of_a_broken_file_exits_1(cli: Cli, data: Any, tmp_path: Path) -> None:
    """One line on stderr, before any model is loaded."""
    path = write(tmp_path, data)
    done = cli("scan", "phantom/absent", path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {path}: ")
    assert done.err.count("\n") == 1


# --- a bag of words ---------------------------------------------------------------------------------------------


def item(scenario: str, emotion: str, text: str, name: str = "", **changes: Any) -> Item:
    """One message of the user."""
    row = {"id": name or f"{scenario}/{emotion}", "scenario": scenario, "emotion": emotion}
    row |= {
        "intensity": 0 if emotion == "neutral" else 2,
        "messages": [{"role": "user", "content": text}],
        "reads": [0],
    }
    return Item.model_validate({**row, **changes})


def slow(items: list[Item]) -> dict[str, list[tuple[str, bool]]] | None:
    """Multinomial naive Bayes, leave one scenario out, with dictionaries and logs: by emotion the scenario of each item
    and whether it was recognised. None where two emotions are equally likely: then either may be named."""
    right: dict[str, list[tuple[str, bool]]] = {}
    for held in items:
        train = [i for i in items if i.scenario != held.scenario]
        known = {w for i in train for w in i.messages[0].content.lower().split()}
        likely: dict[str, float] = {}
        for emotion in {i.emotion for i in items}:
            counts: dict[str, int] = {}
            for i in train:
                if i.emotion == emotion:
                    for w in i.messages[0].content.lower().split():
                        counts[w] = counts.get(w, 0) + 1
            total = sum(counts.values()) + len(known)
            likely[emotion] = 0.0
            for w in held.messages[0].content.lower().split():
                if w in known:
                    likely[emotion] += math.log((counts.get(w, 0) + 1) / total)
        best, second = sorted(likely, key=likely.__getitem__, reverse=True)[:2]
        if likely[best] - likely[second] < 1e-9:
            return None
        right.setdefault(held.emotion, []).append((held.scenario, best == held.emotion))
    return right


some_items = st.lists(
    st.tuples(
        st.sampled_from(["s0", "s1", "s2", "s3", "s4", "s5", "s6"]),
        st.sampled_from(["joy", "anger", "fear", "calm"]),
        st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=6).map(" ".join),
    ),
    min_size=8,
    max_size=30,
).map(lambda rows: [item(s, e, text, f"{n}") for n, (s, e, text) in enumerate(rows)])


@settings(deadline=None, max_examples=80)
@given(items=some_items)
def test_the_bag_of_words_is_naive_bayes(items: list[Item]) -> None:
    """Recall of every emotion, balanced accuracy and interval as plain dictionaries give them."""
    assume(len({i.emotion for i in items}) > 1)
    assume(len({i.scenario for i in items}) > 1)
    expected = slow(items)
    assume(expected is not None)
    found = bag_of_words(items)
    recall = {e: mean(hit for _, hit in rows) for e, rows in expected.items()}
    assert found is not None
    assert found.recall == pytest.approx(recall)
    assert list(found.recall) == [e for e in ALL_NAMES if e in recall]
    assert (found.items, found.chance) == (len(items), 1 / len(recall))
    assert found.accuracy.estimate == pytest.approx(mean(recall.values()))
    by_scenario: dict[str, list[bool]] = {}
    for rows in expected.values():
        for scenario, hit in rows:
            by_scenario.setdefault(scenario, []).append(hit)
    shares = [mean(hits) for hits in by_scenario.values()]
    if len(shares) >= 6:
        half = student.ppf(0.975, len(shares) - 1) * stdev(shares) / math.sqrt(len(shares))
        centre = mean(recall.values())
        assert (found.accuracy.low, found.accuracy.high) == pytest.approx((centre - half, centre + half))


def test_the_bag_of_words_by_hand() -> None:
    """Four texts, two scenarios; plus one for each of the two known words. Judged by b, where joy says sun once and
    anger sun twice and rain once, *sun sun* is 4/9 to 9/25 joy's and *rain* 1/3 to 2/5 anger's. Judged by a, where joy
    says sun twice and anger rain once, *sun* is 3/4 to 1/3 joy's, and so is *sun sun rain*, 9/64 to 2/27, wrongly."""
    texts = [("a", "joy", "sun sun"), ("a", "anger", "rain"), ("b", "joy", "sun"), ("b", "anger", "sun, sun, rain!")]
    found = bag_of_words([item(*t) for t in texts])
    assert found is not None
    assert found.recall == {"joy": 1.0, "anger": 0.5}
    assert (found.accuracy.estimate, found.chance, found.items) == (0.75, 0.5, 4)
    clear = [item(s, e, w) for s in "abc" for e, w in (("joy", "Sun, sun!"), ("anger", "rain"))]
    found = bag_of_words(clear)
    assert found is not None
    assert found.accuracy.estimate == 1
    assert math.isnan(found.accuracy.low)  # three scenarios are too few for an interval


def test_the_bag_of_words_reads_the_message_that_is_read() -> None:
    """Of a conversation the last message that is read counts, and neutral items do not."""
    before = [{"role": "user", "content": "rain sun rain"}, {"role": "assistant", "content": "rain"}]
    items = []
    for scenario in "abc":
        for emotion, text in (("joy", "sun"), ("anger", "rain"), ("neutral", "sun rain")):
            messages = [*before, {"role": "user", "content": text}, {"role": "assistant", "content": "sun"}]
            items.append(item(scenario, emotion, "", messages=messages, reads=[0, 2]))
    found = bag_of_words(items)
    assert found is not None
    assert (found.accuracy.estimate, found.items) == (1, 6)


def test_no_bag_of_words_without_two_of_each() -> None:
    """One emotion, one scenario, or neutral texts alone give no number."""
    assert bag_of_words([]) is None
    assert bag_of_words([item(s, "joy", "sun") for s in "abc"]) is None
    assert bag_of_words([item("a", e, "sun") for e in ("joy", "anger")]) is None
    assert bag_of_words([item(s, "neutral", "sun") for s in "abc"]) is None


# --- lengths ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """A token a letter, a start token, and nothing for blanks."""
    ids = {w: n for n, w in enumerate(["<s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")


def pair(name: str, text: str, twin: str, **changes: Any) -> list[Item]:
    """An emotional item and its twin."""
    return [item(name, "joy", text, twin=f"{name}/neutral", **changes), item(name, "neutral", twin)]


def test_lengths_are_counted_in_tokens(letters: PreTrainedTokenizerFast) -> None:
    """Ratios by hand: 10/10, 9/10, 12/10 and 5/10; two of four are off by more than 10 %."""
    texts = {"a": "a" * 10, "b": "b" * 9, "c": "c" * 12, "d": "d" * 5}
    items = [i for name, text in texts.items() for i in pair(name, text, "n n n n n " + "m" * 5)]
    found = token_lengths(items, letters)
    ratios = [1.0, 0.9, 1.2, 0.5]
    assert (found.pairs, found.longest, found.off) == (4, 12, 0.5)
    assert found.median == pytest.approx(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))
    assert found.balanced


def test_a_tenth_more_is_not_off(letters: PreTrainedTokenizerFast) -> None:
    """Off by more than 10 % is more than 11 of 10 tokens, as it is fewer than 9."""
    for tokens in (9, 11):
        assert token_lengths(pair("a", "a" * tokens, "n" * 10), letters).off == 0


def test_a_median_beyond_a_tenth_is_not_balanced(letters: PreTrainedTokenizerFast) -> None:
    """Both sides count, and ten per cent still pass."""
    for tokens, balanced in ((8, False), (9, True), (11, True), (12, False)):
        assert token_lengths(pair("a", "a" * tokens, "n" * 10), letters).balanced is balanced


def test_openings_are_compared_where_twins_differ_there(letters: PreTrainedTokenizerFast) -> None:
    """With ``opening`` the first message that is read counts, without it the last; the longest conversation is the sum
    of all its messages."""
    items = []
    for name, intensity, text in (("a/joy", 3, "a" * 8), ("a/none", 0, "b" * 4)):
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}]
        messages.append({"role": "user", "content": "which bus"})
        twin = "a/none" if intensity else ""
        items.append(item("a", "joy", "", name, messages=messages, reads=[0, 2], intensity=intensity, twin=twin))
    assert token_lengths(items, letters, opening=True).median == 2
    assert token_lengths(items, letters).median == 1
    assert token_lengths(items, letters).longest == 8 + 2 + 8


def test_without_twins_there_is_nothing_to_balance(letters: PreTrainedTokenizerFast) -> None:
    """The longest conversation alone is told."""
    found = token_lengths([item("a", "joy", "one two")], letters)
    assert (found.pairs, found.longest, found.balanced) == (0, 6, True)
    assert math.isnan(found.median)


@pytest.mark.parametrize(("text", "code"), [("Fine it is.", 0), ("Unquestionably extraordinarily fine.", 1)])
def test_check_tells_the_lengths_for_a_tokenizer(
    cli: Cli, letters: PreTrainedTokenizerFast, text: str, code: int, tmp_path: Path
) -> None:
    """Twins that match in words may not match in a tokenizer's letters: then the check fails and says so."""
    letters.save_pretrained(tmp_path / "letters")
    suite = tmp_path / "mine"
    (suite / "data").mkdir(parents=True)
    card = {"name": "mine", "version": "1.0.0", "design": "circumplex", "summary": "s", "licence": "l", "citation": "c"}
    card["canary"] = "mine:0a79b1a7-7452-5ed6-aaa6-99235e4edb57"
    (suite / "suite.yaml").write_text(json.dumps(card))
    rows = "".join(json.dumps(i.to_json()) + "\n" for i in pair("a", text, "It is fine."))
    (suite / "data" / "test.jsonl").write_text(rows)
    assert cli("suites", "check", suite).code == 0
    done = cli("suites", "check", suite, "--tokenizer", tmp_path / "letters")
    assert done.code == code
    assert ("NOT BALANCED" in done.out) is bool(code)
    assert "item / twin median" in done.out
