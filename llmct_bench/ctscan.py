"""One conversation through one model, message by message and layer by layer: the experiment that this benchmark
generalises, with and without its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.adapters import LoadedModel
from llmct_bench.adapters.chat import content_span, encode, render_text
from llmct_bench.affect import AffectFit, score
from llmct_bench.emotions import NAMES
from llmct_bench.errors import SuiteError
from llmct_bench.replies import Reply, generate_reply
from llmct_bench.scanner import Readout, Rendered, pooled, render, scan
from llmct_bench.suites import Item, shipped_root
from llmct_bench.suites.conversation import Conversation, read_conversation

#: What stands as the stage of a message that the model wrote itself.
GENERATED = "generated"


@dataclass(frozen=True)
class CTScan:
    """``frame``: one row a message x point, with the columns conversation (``prompt-N`` or ``control``), message, role,
    stage, point, the scores in neutral SD, and ``raw_LABEL``: the cosine of the message's last state with each
    reference state's (seed-compatible: template tokens and all). ``point``: where the scores were fitted to be read.

    ``tokens``: one row a content token x point of every ``prompt-N``, with the columns conversation, message, token,
    text, point and the scores of the token's own state; the mean over the tokens of a message is the message's score,
    and their texts joined are its text. ``model`` and ``title`` are the names of the model and of the conversation;
    ``generated``: the model wrote the last message of the conversation (and of its control) itself.
    """

    frame: pd.DataFrame
    labels: tuple[str, ...]
    point: int
    tokens: pd.DataFrame
    model: str
    title: str
    generated: bool = False

    def table(self, conversation: str = "prompt-0") -> pd.DataFrame:
        """One row a message at the chosen point; with a control, its scores are subtracted."""
        at = self.frame[self.frame["point"] == self.point].set_index(["conversation", "message"])
        rows = at.loc[conversation].copy()
        if "control" in at.index.get_level_values(0):
            control = at.loc["control"].reindex(rows.index)
            columns = [*NAMES, "valence", "arousal"]
            rows[columns] = rows[columns] - control[columns]
        return rows.reset_index()


def ct_scan(
    model: LoadedModel, conversation: Conversation, fit: AffectFit, budget: int | None = None, generate: int = 0
) -> CTScan:
    """Scan every message of a conversation, and every token of every message, in one run of the model.

    With ``generate`` the model answers the last message of the user itself, greedily with at most so many tokens, and
    the reply stands in place of what followed; its control answers as well. The reply is read in one pass with its
    conversation, as the tokens that were generated. Raises SuiteError where a message does not fit into the context,
    ModelError where the model has no answer.
    """
    if generate:
        conversation = conversation.heard()
    suite = conversation.suite()
    rendered = render(suite, model.tokenizer, model.context)
    if rendered.left_out:
        raise SuiteError(
            f"{model.card.name} cannot read {len(rendered.left_out)} messages of {conversation.name} (they exceed its "
            f"context of {model.context} tokens, or its tokenizer does not know them), among them "
            f"{rendered.left_out[0]}"
        )
    spoken = [item for item in suite.items if not item.id.startswith("reference/")]
    replies = {item.id: generate_reply(model, item.messages, generate) for item in spoken if generate}
    whole = _answered(rendered, replies)
    shown = whole.index["item"].str.startswith("prompt-").to_numpy()
    own = replace(whole, readouts=tuple(r for r, s in zip(whole.readouts, shown, strict=True) if s))
    tokens = pooled(replace(own, index=whole.index[shown].reset_index(drop=True)), "all")
    index = pd.concat([whole.index.assign(token=-1), tokens.index], ignore_index=True)
    both = Rendered(whole.readouts + tokens.readouts, index, ())
    states = scan(model, suite, budget=budget, rendered=both)
    scores = score(states, fit).values
    n = len(whole.readouts)
    references = whole.index["item"].str.startswith("reference/").to_numpy()
    labels = tuple(whole.index.loc[references, "item"].str.removeprefix("reference/"))
    rows = _rows(whole.index[~references], replies, conversation.stages)
    frame = _by_point(rows, scores[:n][~references], fit.scores)
    if labels:
        raw = _cosines(states.last[:n][~references], states.last[:n][references])
        frame[[f"raw_{label}" for label in labels]] = raw.reshape(-1, len(labels))
    texts = [t for item in suite.items if item.id.startswith("prompt-") for t in _texts(item, model.tokenizer, replies)]
    number = rows.loc[rows["conversation"].str.startswith("prompt-"), "message"].to_numpy()
    each = tokens.index.groupby(["item", "read"], sort=False).ngroup().to_numpy()
    spans = pd.DataFrame(
        {
            "conversation": tokens.index["item"],
            "message": number[each],
            "token": tokens.index["token"],
            "text": texts,
        }
    )
    by_token = _by_point(spans, scores[n:], fit.scores)
    return CTScan(frame, labels, fit.layer.point, by_token, model.card.name, conversation.name, generated=bool(replies))


def get_conversation(name: str) -> Conversation:
    """A conversation file, or the shipped one: ``ct-scan``."""
    shipped = shipped_root() / name / "conversation.yaml"
    return read_conversation(shipped if shipped.is_file() else Path(name))


def _answered(rendered: Rendered, replies: Mapping[str, Reply]) -> Rendered:
    """The same with a readout for every reply, after the last one of its item: the tokens that the model saw and chose,
    then what the template writes after them."""
    readouts: list[Readout] = []
    rows: list[pd.DataFrame] = []
    items = rendered.index["item"]
    for item in items.unique():
        here = np.flatnonzero(items == item)
        readouts += [rendered.readouts[i] for i in here]
        rows.append(rendered.index.iloc[here])
        if item in replies:
            reply = replies[item]
            start, stop = len(reply.prompt), len(reply.prompt) + len(reply.tokens)
            readouts.append(Readout(reply.prompt + reply.tokens + reply.closing, start, stop))
            last = rendered.index.iloc[[here[-1]]]
            rows.append(last.assign(role="assistant", read=last["read"] + 1, tokens=(start + stop) / 2))
    return Rendered(tuple(readouts), pd.concat(rows, ignore_index=True), rendered.left_out)


def _rows(index: pd.DataFrame, replies: Mapping[str, Reply], stages: tuple[str, ...]) -> pd.DataFrame:
    """Conversation, message, role and stage of every message that is read."""
    number = index.groupby("item").cumcount()
    count = index.groupby("item")["item"].transform("size")
    written = index["item"].isin(list(replies)) & (number == count - 1)
    designed = [stages[n] if n < len(stages) else "" for n in number]
    return pd.DataFrame(
        {
            "conversation": index["item"],
            "message": number,
            "role": index["role"],
            "stage": np.where(written, GENERATED, designed),
        }
    ).reset_index(drop=True)


def _by_point(rows: pd.DataFrame, scores: NDArray[np.float64], names: tuple[str, ...]) -> pd.DataFrame:
    """Rows x points of scores (rows, points, names) as one long table."""
    points = scores.shape[1]
    frame = rows.loc[rows.index.repeat(points)].reset_index(drop=True)
    frame["point"] = np.tile(np.arange(points), len(rows))
    frame[list(names)] = scores.reshape(-1, len(names))
    return frame


def _texts(item: Item, tokenizer: Any, replies: Mapping[str, Reply]) -> list[str]:
    """What each content token of an item's messages shows of the text; joined, a message's are the message."""
    found: list[str] = []
    for read in item.reads:
        content = item.messages[read].content
        text = render_text(item.messages[: read + 1], tokenizer)
        offsets = encode([text], tokenizer)[1][0]
        start, stop = content_span(text, content, offsets, item.id)
        begin = text.rfind(content)
        cuts = np.clip(np.maximum.accumulate(offsets[start:stop, 0]), begin, begin + len(content))
        edges = [begin, *cuts[1:], begin + len(content)]
        found += [text[a:b] for a, b in pairwise(edges)]
    return found + list(replies[item.id].texts if item.id in replies else ())


def _cosines(last: NDArray[np.float32], references: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine (messages, points, references) of states (messages, points, d) with references (references, points, d)."""
    h, r = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (last, references))
    return np.asarray(np.einsum("npd,kpd->npk", h, r, dtype=np.float64))
