"""The checks of the adapter certificate that need a tokenizer, on a short conversation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from llmct_bench.adapters.certificate import Check
from llmct_bench.adapters.chat import content_span, encode, render_text
from llmct_bench.adapters.comparing import guarded
from llmct_bench.suites import Turn

_TALK = (
    Turn(role="user", content="It's late. The 7 o'clock train has left!"),
    Turn(role="assistant", content="Then we walk: it is only a mile."),
    Turn(role="user", content="It's late. The 7 o'clock train has left!"),
)


def text_checks(tokenizer: Any) -> list[Check]:
    """The checks of a tokenizer with its chat template."""
    if not getattr(tokenizer, "is_fast", False):
        why = "the tokenizer gives no character offsets: a fast tokenizer is needed"
        return [Check("start token", None, note=why), Check("spans", math.inf, note=why)]
    return [
        guarded("start token", partial(_start_token, tokenizer)),
        guarded("spans", partial(_spans, tokenizer)),
    ]


def _start_token(tokenizer: Any) -> Check:
    start = tokenizer.bos_token_id
    if start is None:
        return Check("start token", None, note="the tokenizer has none")
    text = render_text(_TALK[:1], tokenizer)
    (tokens,), (offsets,) = encode([text], tokenizer)
    first, _ = content_span(text, _TALK[0].content, offsets, "message 1")
    return Check("start token", float(list(tokens[:first])[:2] == [start, start]))


def _spans(tokenizer: Any) -> Check:
    """Characters of the tokens of a message that are not the message's (white space aside), over all messages; the
    same text twice must be found at its own place."""
    foreign, places = 0, []
    for end in range(1, len(_TALK) + 1):
        text = render_text(_TALK[:end], tokenizer)
        content = _TALK[end - 1].content
        _, (offsets,) = encode([text], tokenizer)
        start, stop = content_span(text, content, offsets, f"message {end}")
        covered = text[offsets[start][0] : offsets[stop - 1][1]]
        foreign += abs(len("".join(covered.split())) - len("".join(content.split())))
        foreign += content.strip() not in covered
        places.append(start)
    foreign += places != sorted(set(places))
    return Check("spans", float(foreign))
