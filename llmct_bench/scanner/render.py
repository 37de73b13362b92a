"""From conversations to token ids and readouts, through the model's own chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import TemplateError

from llmct_bench.errors import ModelError
from llmct_bench.suites import Item, Suite, Turn

#: Models without a chat template get this documented plain format: role names as text, one blank line between.
_PLAIN = {"user": "User: {}\n\n", "assistant": "Assistant: {}\n\n", "system": "{}\n\n"}


@dataclass(frozen=True)
class Readout:
    """A token sequence and the content tokens [start, stop) of its last message. The sequence ends with the
    template's own tokens after that message, so its last token is what the seed system read."""

    tokens: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Rendered:
    """The readouts of a suite for one tokenizer, in suite order, and their index.

    ``index`` has one row a readout: item, scenario, emotion, intensity, split, keyworded, template, context,
    filler, twin, role (of the message read), lag (user messages before it) and tokens (position of the middle
    of the content). ``left_out`` names the readouts that do not fit into the context (nothing is ever truncated) or
    whose content the tokenizer does not know by more than half: the model cannot read those.
    """

    readouts: tuple[Readout, ...]
    index: pd.DataFrame
    left_out: tuple[str, ...]


def render(suite: Suite, tokenizer: Any, context: int) -> Rendered:
    """Render every readout of a suite. Raises ModelError where the template refuses a conversation or changes the
    text of a message."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{type(tokenizer).__name__} gives no character offsets: a fast tokenizer is needed")
    jobs = [(item, read) for item in suite.items for read in item.reads]
    texts = [render_text(item.messages[: read + 1], tokenizer) for item, read in jobs]
    encoded = tokenizer(
        texts,
        add_special_tokens=tokenizer.chat_template is None,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    unknown = _unknown(tokenizer)
    readouts: list[Readout] = []
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for n, (item, read) in enumerate(jobs):
        tokens = tuple(encoded["input_ids"][n])
        if len(tokens) > context:
            left_out.append(f"{item.id}[{read}]")
            continue
        offsets = np.asarray(encoded["offset_mapping"][n])
        start, stop = _span(texts[n], item.messages[read].content, offsets, item.id)
        lengths = (offsets[:, 1] - offsets[:, 0])[start:stop]
        if lengths[np.isin(tokens[start:stop], unknown)].sum() > lengths.sum() / 2:
            left_out.append(f"{item.id}[{read}]")
            continue
        readouts.append(Readout(tokens, start, stop))
        rows.append(_row(item, read, (start + stop) / 2))
    return Rendered(tuple(readouts), pd.DataFrame(rows, columns=INDEX_COLUMNS), tuple(left_out))


INDEX_COLUMNS = [
    "item",
    "scenario",
    "emotion",
    "intensity",
    "split",
    "keyworded",
    "template",
    "context",
    "filler",
    "twin",
    "role",
    "lag",
    "tokens",
]


def _row(item: Item, read: int, middle: float) -> dict[str, Any]:
    same = {c: getattr(item, c) for c in INDEX_COLUMNS if c in Item.model_fields}
    lag = sum(m.role == "user" for m in item.messages[:read])
    return {**same, "item": item.id, "role": item.messages[read].role, "lag": lag, "tokens": middle}


def render_text(messages: tuple[Turn, ...], tokenizer: Any) -> str:
    """The text of a conversation in the model's chat template, or in the plain format where it has none."""
    if tokenizer.chat_template is None:
        return "".join(_PLAIN[m.role].format(m.content) for m in messages)
    try:
        text = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in messages], tokenize=False)
    except TemplateError as error:
        raise ModelError(f"the chat template refuses a conversation of the suite: {error}") from error
    return str(text)


def _unknown(tokenizer: Any) -> list[int]:
    """The ids that stand for unknown text: some tokenizers name them only in their core."""
    core = tokenizer.backend_tokenizer
    token = getattr(core.model, "unk_token", None)
    found = {tokenizer.unk_token_id, core.token_to_id(token) if token else None}
    return sorted(i for i in found if i is not None)


def _span(text: str, content: str, offsets: Any, item: str) -> tuple[int, int]:
    begin = text.rfind(content)
    if begin < 0:
        raise ModelError(f"the chat template changes the text of {item!r}; its content cannot be located")
    inside = (offsets[:, 0] < begin + len(content)) & (offsets[:, 1] > begin) & (offsets[:, 1] > offsets[:, 0])
    positions = np.flatnonzero(inside)
    if len(positions) == 0:
        raise ModelError(f"no token covers the content of {item!r}")
    return int(positions[0]), int(positions[-1]) + 1
