"""Rendering: content spans are the content, whatever the template."""

from __future__ import annotations

import pytest

from llmct_bench.errors import ModelError
from llmct_bench.models import phantom_tokenizer
from llmct_bench.models.phantoms.tokenizer import build_tokenizer, split_words
from llmct_bench.scanner import render
from llmct_bench.suites import Item, Suite, Turn, get_suite


def one_item(*contents: str, reads: tuple[int, ...] = (0,)) -> Suite:
    turns = tuple(Turn(role=("user", "assistant")[i % 2], content=c) for i, c in enumerate(contents))  # type: ignore[arg-type]
    item = Item(id="a", scenario="s", emotion="joy", intensity=1, messages=turns, reads=reads)
    return Suite(get_suite("circumplex").card, (item,))


@pytest.mark.parametrize("name", ["reference", "circumplex", "shock", "retention"])
def test_spans_decode_to_the_content(name: str) -> None:
    """For every readout the tokens of the span are the words of the message and nothing else."""
    tokenizer, suite = phantom_tokenizer(), get_suite(name)
    rendered = render(suite, tokenizer, 4096)
    texts = [item.messages[r].content for item in suite.items for r in item.reads]
    assert len(rendered.readouts) == len(texts) == len(rendered.index)
    for readout, text in zip(rendered.readouts, texts, strict=True):
        assert tokenizer.convert_ids_to_tokens(list(readout.tokens[readout.start : readout.stop])) == split_words(text)


def test_the_last_occurrence_is_read_when_a_text_repeats() -> None:
    """A message that repeats an earlier one is located at its own place."""
    tokenizer = phantom_tokenizer()
    rendered = render(one_item("the bus", "the bus", "the bus", reads=(0, 1, 2)), tokenizer, 99)
    starts = [r.start for r in rendered.readouts]
    assert starts == [2, 6, 10]  # <s> <|user|> the bus <|end|> <|assistant|> the bus ...


def test_exactly_one_bos() -> None:
    tokenizer = phantom_tokenizer()
    for readout in render(get_suite("shock").limited(6), tokenizer, 4096).readouts[:50]:
        assert readout.tokens.count(tokenizer.bos_token_id) == 1


def test_base_models_get_the_plain_format() -> None:
    """Without a chat template: role names as text, a blank line between, spans still on the content."""
    tokenizer = build_tokenizer(["user", "assistant", ":", "good", "morning", "hello"])
    tokenizer.chat_template = None
    rendered = render(one_item("good morning", "hello", reads=(0, 1)), tokenizer, 99)
    words = [tokenizer.convert_ids_to_tokens(list(r.tokens)) for r in rendered.readouts]
    assert words[1] == ["user", ":", "good", "morning", "assistant", ":", "hello"]
    assert [(r.start, r.stop) for r in rendered.readouts] == [(2, 4), (6, 7)]


def test_what_does_not_fit_is_left_out_and_named() -> None:
    """The longer readout of a conversation is left out, never cut; the shorter one stays."""
    tokenizer = phantom_tokenizer()
    rendered = render(one_item("the bus", "the bus", reads=(0, 1)), tokenizer, 6)
    assert rendered.left_out == ("a[1]",)
    assert len(rendered.readouts) == len(rendered.index) == 1


def test_what_the_tokenizer_does_not_know_is_left_out() -> None:
    """By more than half of its characters: an unknown name in a known sentence does no harm."""
    tokenizer = build_tokenizer(["the", "bus"])
    kept = {
        text: len(render(one_item(text), tokenizer, 99).readouts) for text in ("the bus", "the bus xyz", "the xyzu")
    }
    assert kept == {"the bus": 1, "the bus xyz": 1, "the xyzu": 0}


def test_a_template_that_changes_the_text_is_refused() -> None:
    """Otherwise the span would be wrong without anybody noticing."""
    tokenizer = build_tokenizer(["the", "bus"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(ModelError, match="changes the text"):
        render(one_item("the bus"), tokenizer, 99)


def test_a_template_that_refuses_a_role_is_one_clear_error() -> None:
    tokenizer = build_tokenizer(["the", "bus"])
    tokenizer.chat_template = "{{ raise_exception('no assistants here') }}"
    with pytest.raises(ModelError, match="no assistants here"):
        render(one_item("the bus"), tokenizer, 99)
