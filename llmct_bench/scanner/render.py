"""From conversations to token ids and readouts, through the model's own chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from llmct_bench.adapters.chat import content_span, encode, render_text
from llmct_bench.suites import Item, Suite


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
    filler, twin, role (of the message read), read (its place in the conversation), lag (user messages before it) and
    tokens (position of the middle of the content). ``left_out`` names the readouts that do not fit into the context
    (nothing is ever truncated) or whose content the tokenizer does not know by more than half: the model cannot read
    those.
    """

    readouts: tuple[Readout, ...]
    index: pd.DataFrame
    left_out: tuple[str, ...]


def render(suite: Suite, tokenizer: Any, context: int) -> Rendered:
    """Render every readout of a suite. Raises ModelError where the template refuses a conversation or changes the
    text of a message."""
    jobs = [(item, read) for item in suite.items for read in item.reads]
    texts = [render_text(item.messages[: read + 1], tokenizer) for item, read in jobs]
    ids, spans = encode(texts, tokenizer)
    unknown = unknown_tokens(tokenizer)
    readouts: list[Readout] = []
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for n, (item, read) in enumerate(jobs):
        tokens = tuple(ids[n])
        if len(tokens) > context:
            left_out.append(f"{item.id}[{read}]")
            continue
        start, stop = content_span(texts[n], item.messages[read].content, spans[n], item.id)
        lengths = (spans[n][:, 1] - spans[n][:, 0])[start:stop]
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
    "read",
    "lag",
    "tokens",
]


def _row(item: Item, read: int, middle: float) -> dict[str, Any]:
    same = {c: getattr(item, c) for c in INDEX_COLUMNS if c in Item.model_fields}
    lag = sum(m.role == "user" for m in item.messages[:read])
    return {**same, "item": item.id, "role": item.messages[read].role, "read": read, "lag": lag, "tokens": middle}


def unknown_tokens(tokenizer: Any) -> list[int]:
    """The ids that stand for unknown text: some tokenizers name them only in their core."""
    core = tokenizer.backend_tokenizer
    token = getattr(core.model, "unk_token", None)
    found = {tokenizer.unk_token_id, core.token_to_id(token) if token else None}
    return sorted(i for i in found if i is not None)
