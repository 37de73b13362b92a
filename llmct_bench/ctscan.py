"""One conversation through one model, message by message and layer by layer: the experiment that this benchmark
generalises, with and without its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.adapters import LoadedModel
from llmct_bench.adapters.chat import content_span, encode, render_text
from llmct_bench.affect import AffectFit, from_projections
from llmct_bench.emotions import NAMES
from llmct_bench.errors import SuiteError
from llmct_bench.replies import Reply, generate_reply
from llmct_bench.scanner import Readout, Rendered, pooled, render, scan, scan_projected
from llmct_bench.suites import Item, Suite, shipped_root
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
    """Scan every message of a conversation, and every token of every message, in one run of the model after a short
    one over the reference states. States are projected inside the pass and never kept, however long the conversation.

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
    said = ~whole.index["item"].str.startswith("reference/").to_numpy()
    messages, stated = _some(whole, said), _some(whole, ~said)
    tokens = pooled(_some(messages, messages.index["item"].str.startswith("prompt-").to_numpy()), "all")
    index = pd.concat([messages.index.assign(token=-1), tokens.index], ignore_index=True)
    both = Rendered(messages.readouts + tokens.readouts, index, ())
    references = _references(model, suite, stated, fit, budget)
    found = scan_projected(model, suite, fit.directions, references, budget=budget, rendered=both)
    scores = from_projections(found, fit).values
    n = len(messages.readouts)
    labels = tuple(stated.index["item"].str.removeprefix("reference/"))
    rows = _rows(messages.index, replies, conversation.stages)
    frame = _by_point(rows, scores[:n], fit.scores)
    if labels:
        frame[[f"raw_{label}" for label in labels]] = found.cosines[:n].reshape(-1, len(labels))
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


def _some(rendered: Rendered, chosen: NDArray[np.bool_]) -> Rendered:
    """Some of the readouts."""
    readouts = tuple(r for r, c in zip(rendered.readouts, chosen, strict=True) if c)
    return Rendered(readouts, rendered.index[chosen].reset_index(drop=True), rendered.left_out)


def _references(
    model: LoadedModel, suite: Suite, stated: Rendered, fit: AffectFit, budget: int | None
) -> NDArray[np.float32]:
    """The last states (points, references, d_model) of the reference states, which are few and short."""
    points, _, width = fit.directions.shape
    if not stated.readouts:
        return np.empty((points, 0, width), np.float32)
    return scan(model, suite, budget=budget, rendered=stated).last.swapaxes(0, 1)
