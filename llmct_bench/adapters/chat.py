"""A conversation as text and tokens, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from llmct_bench.errors import ModelError
from llmct_bench.suites import Turn

#: Models without a chat template get this documented plain format: role names as text, one blank line between.
_PLAIN = {"user": "User: {}\n\n", "assistant": "Assistant: {}\n\n", "system": "{}\n\n"}


def render_text(messages: Sequence[Turn], tokenizer: Any) -> str:
    """The text of a conversation in the model's chat template, or in the plain format where it has none. Raises
    ModelError where the template refuses the conversation."""
    if tokenizer.chat_template is None:
        return "".join(_PLAIN[m.role].format(m.content) for m in messages)
    try:
        text = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in messages], tokenize=False)
    except TemplateError as error:
        raise ModelError(f"the chat template refuses a conversation of the suite: {error}") from error
    return str(text)


def encode(texts: Sequence[str], tokenizer: Any) -> tuple[list[list[int]], list[NDArray[np.int64]]]:
    """Token ids and character offsets (tokens, 2) of rendered texts. A chat template writes the start token itself,
    so the tokenizer must not add a second one. Raises ModelError where the tokenizer gives no offsets."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{type(tokenizer).__name__} gives no character offsets: a fast tokenizer is needed")
    encoded = tokenizer(
        list(texts),
        add_special_tokens=tokenizer.chat_template is None,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return encoded["input_ids"], [np.asarray(o, dtype=np.int64) for o in encoded["offset_mapping"]]


def begun_text(messages: Sequence[Turn], lead: str, tokenizer: Any) -> str:
    """The text of a conversation whose next reply begins with ``lead``, up to there. Raises ModelError."""
    text = render_text([*messages, Turn(role="assistant", content=lead)], tokenizer)
    at = text.rfind(lead)
    if at < 0:
        raise ModelError(f"the chat template changes the text of a reply: {lead!r} cannot be located")
    return text[: at + len(lead)]


def open_tokens(texts: Sequence[str], tokenizer: Any) -> list[tuple[int, ...]]:
    """Token ids of texts that are to go on: without the end that some tokenizers put to every plain text."""
    end = tokenizer.eos_token_id if tokenizer.chat_template is None else None
    return [tuple(ids[:-1] if ids[-1] == end else ids) for ids in encode(texts, tokenizer)[0]]


def content_span(text: str, content: str, offsets: NDArray[np.int64], where: str) -> tuple[int, int]:
    """The tokens [start, stop) that cover the last occurrence of ``content`` in ``text``. Raises ModelError."""
    begin = text.rfind(content)
    if begin < 0:
        raise ModelError(f"the chat template changes the text of {where!r}; its content cannot be located")
    inside = (offsets[:, 0] < begin + len(content)) & (offsets[:, 1] > begin) & (offsets[:, 1] > offsets[:, 0])
    positions = np.flatnonzero(inside)
    if len(positions) == 0:
        raise ModelError(f"no token covers the content of {where!r}")
    return int(positions[0]), int(positions[-1]) + 1
