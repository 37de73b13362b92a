"""One conversation, its reference states and two controls in one scan, and the seed's metrics between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.adapters.chat import encode
from llmct_bench.errors import SuiteError
from llmct_bench.scanner import Readout, Rendered, States, render, scan
from llmct_bench.seed.metrics import METRICS, Array
from llmct_bench.suites import Item, Suite, Turn, get_suite
from llmct_bench.suites.conversation import Conversation

#: The seed's sources in its order, and the point at which each is read in block i.
SOURCES: dict[str, tuple[str, int]] = {
    "hidden_in": ("resid", 0),
    "hidden_out": ("resid", 1),
    "attn_out": ("attn", 0),
    "mlp_down_out": ("mlp", 0),
}
#: The last state is compared with that of the message before, and with that of the first message.
SINCE = ("previous", "first")
_SAMPLE = 4096


@dataclass(frozen=True)
class SeedReading:
    """Every snapshot (the last token after a message) against every reference state, raw.

    ``values``: by metric (`METRICS`) float64 (sources, snapshots, layers, references). ``drift``: by metric float64
    (sources, snapshots, layers, 2), the snapshot against the one before it and against the first of its reading
    (`SINCE`); NaN for the first one itself and for readings without order. Layers are blocks 0 .. L−1. ``index``: one
    row a snapshot with reading (``conversation``, ``neutral`` or ``random``), snapshot (its number), role and stage.
    ``roles``: who says each reference state. ``notes``: what is absent and why, and what the neutral text is.
    """

    model: str
    conversation: str
    sources: tuple[str, ...]
    references: tuple[str, ...]
    roles: tuple[str, ...]
    index: pd.DataFrame
    values: Mapping[str, Array]
    drift: Mapping[str, Array]
    notes: tuple[str, ...]

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return int(self.values["cosine"].shape[2])

    @property
    def compared(self) -> NDArray[np.bool_]:
        """The references that summaries use: those said by the user, as all of the seed's are; all where there are
        none. The role of the others would count as a difference between emotions."""
        user = np.array([r == "user" for r in self.roles])
        return user if user.any() else np.ones(len(self.roles), bool)

    def rows(self, reading: str, role: str | None = None) -> NDArray[np.intp]:
        """The places of a reading's snapshots, of those of one role where one is given and occurs."""
        chosen = (self.index["reading"] == reading).to_numpy()
        of_role = chosen & (self.index["role"] == role).to_numpy()
        return np.flatnonzero(of_role if of_role.any() else chosen)

    def frame(self) -> pd.DataFrame:
        """The long table: one row a snapshot x layer x source x reference, with a column for each metric."""
        shape = self.values["cosine"].shape
        source, snapshot, layer, reference = (a.ravel() for a in np.indices(shape))
        out = self.index.iloc[snapshot].reset_index(drop=True)
        out["source"] = np.asarray(self.sources, object)[source]
        out["layer"] = layer
        out["reference"] = np.asarray(self.references, object)[reference]
        out["reference_role"] = np.asarray(self.roles, object)[reference]
        return out.assign(**{name: v.ravel() for name, v in self.values.items()})


def seed_reading(
    model: LoadedModel,
    conversation: Conversation,
    *,
    prompt: int = 0,
    generation_prompt: bool = True,
    seed: int = 0,
    budget: int | None = None,
) -> SeedReading:
    """Read one prompt of a conversation as the seed does, and its controls as the same.

    Sources in block i: ``hidden_in`` its input (resid.i), ``hidden_out`` its output (resid.i+1), ``attn_out`` and
    ``mlp_down_out`` what attention and feed-forward add to the residual stream (attn.i, mlp.i); the latter two are
    absent, with a note, where no such split is known. The state is that of the last token of the text that is rendered
    up to a message and, with ``generation_prompt``, of the template's opening of the next answer, as in the seed's
    program: every snapshot and reference then ends in an assistant's turn. Without it the reading agrees with the other
    raw numbers of this benchmark.

    Neutral text: the conversation's control where it has one (for the first prompt), else neutral statements of the
    shipped reference, as many in each role. Random text: the conversation with every message's content replaced by
    random words of the model's vocabulary, cut to as many tokens (``seed``). What of these two the model cannot read
    is left away.

    Raises SuiteError where there is no such prompt, no reference state, or a message that the model cannot read, and
    as `scan` does.
    """
    name = conversation.name
    if not 0 <= prompt < len(conversation.prompt):
        raise SuiteError(f"{name} has no prompt {prompt}: its prompts are 0 to {len(conversation.prompt) - 1}")
    if not conversation.reference_states:
        raise SuiteError(f"{name} has no reference_states: the seed's reading is a comparison with them; add some")
    suite = conversation.suite()
    items = {i.id: i for i in suite.items}
    spoken = items[f"prompt-{prompt}"]
    references = [items[f"reference/{r.label}"] for r in conversation.reference_states]
    has_control = prompt == 0 and conversation.control is not None
    own = [spoken, *references, *([items["control"]] if has_control else [])]
    rendered = _readable(model, replace(suite, items=tuple(own)), name)
    made = _random_item(model, spoken, rendered, seed)
    more = _known(model, suite, [*([] if has_control else _neutral_items(spoken)), *([made] if made else [])])
    everything = replace(suite, items=(*own, *more))
    rendered = _readable(model, everything, name)
    if generation_prompt:
        rendered = _opened(model, everything, rendered, name)
    split = bool(model.adapter.contribution_points())
    points = [*model.adapter.residual_points(), *model.adapter.contribution_points()]
    states = scan(model, everything, points=points, rendered=rendered, budget=budget)

    place = states.index["item"].to_numpy()
    others = [spoken.id, "random", *(r.id for r in references)]
    found = {"conversation": place == spoken.id, "neutral": ~np.isin(place, others), "random": place == "random"}
    where = {reading: np.flatnonzero(at) for reading, at in found.items() if at.any()}
    snapshots = np.concatenate(list(where.values()))
    index = pd.concat(
        [_index(states.index.iloc[at], reading, conversation.stages) for reading, at in where.items()],
        ignore_index=True,
    )
    held = np.array([np.flatnonzero(place == r.id)[0] for r in references])
    sources = tuple(s for s, (kind, _) in SOURCES.items() if split or kind == "resid")
    last = {s: _source(states, s, model.adapter.n_layers) for s in sources}
    ordered = {"conversation", "random", *(["neutral"] if has_control else [])}
    groups = [np.flatnonzero(index["reading"] == r) for r in ordered]
    return SeedReading(
        model=model.card.name,
        conversation=name,
        sources=sources,
        references=tuple(r.label for r in conversation.reference_states),
        roles=tuple(r.messages[-1].role for r in conversation.reference_states),
        index=index,
        values={m: np.stack([f(h[snapshots], h[held]) for h in last.values()]) for m, f in METRICS.items()},
        drift={m: np.stack([_drift(f, h[snapshots], groups) for h in last.values()]) for m, f in METRICS.items()},
        notes=_notes(model, conversation, prompt, set(where), split, has_control, generation_prompt),
    )


def _source(states: States, source: str, layers: int) -> NDArray[np.float32]:
    """The last states (readouts, layers, d) of a source."""
    kind, step = SOURCES[source]
    return states.last[:, [states.points.index(Point(kind, i + step)) for i in range(layers)]]


def _drift(metric: Any, states: NDArray[np.float32], groups: Sequence[NDArray[np.intp]]) -> Array:
    """A metric (snapshots, layers, 2) between each state of a group and the one before, and the first."""
    out = np.full((*states.shape[:2], len(SINCE)), np.nan)
    for rows in groups:
        for row, before in zip(rows[1:], rows[:-1], strict=True):
            against = states[[before, rows[0]]]
            out[row] = metric(states[[row]], against)[0]
    return out


def _index(rows: pd.DataFrame, reading: str, stages: Sequence[str]) -> pd.DataFrame:
    numbers = range(len(rows))
    told = [stages[n] if reading == "conversation" and n < len(stages) else "" for n in numbers]
    return pd.DataFrame({"reading": reading, "snapshot": numbers, "role": rows["role"].to_numpy(), "stage": told})


def _neutral_items(spoken: Item) -> list[Item]:
    """Neutral statements of the shipped reference, in each role as many as the conversation has snapshots (up to all
    there are), spread over its topics."""
    wanted = [spoken.messages[n].role for n in spoken.reads]
    found: list[Item] = []
    for role in sorted(set(wanted)):
        known = [i for i in get_suite("reference").items if i.emotion == "neutral" and i.messages[-1].role == role]
        picks = np.linspace(0, len(known) - 1, min(wanted.count(role), len(known))).round().astype(int)
        found += [known[n] for n in picks]
    return found


def _known(model: LoadedModel, suite: Suite, items: Sequence[Item]) -> list[Item]:
    """Those of the items made here that the model can read; what the user has written must be read, these need not."""
    left_out = render(replace(suite, items=tuple(items)), model.tokenizer, model.context).left_out
    unknown = {name.rsplit("[", 1)[0] for name in left_out}
    return [i for i in items if i.id not in unknown]


def _readable(model: LoadedModel, suite: Suite, name: str) -> Rendered:
    """The suite rendered. Raises SuiteError where the model cannot read all of it."""
    rendered = render(suite, model.tokenizer, model.context)
    return _complete(model, rendered, name, rendered.left_out)


def _complete(model: LoadedModel, rendered: Rendered, name: str, left_out: Sequence[str]) -> Rendered:
    if left_out:
        raise SuiteError(
            f"{model.card.name} cannot read {len(left_out)} messages of {name} and its controls (they exceed its "
            f"context of {model.context} tokens, or its tokenizer does not know them), among them {left_out[0]}"
        )
    return rendered


def _opened(model: LoadedModel, suite: Suite, rendered: Rendered, name: str) -> Rendered:
    """The same readouts with the template's opening of the next answer behind them; without a template as they are.
    Raises SuiteError where they then exceed the context."""
    if model.tokenizer.chat_template is None:
        return rendered
    messages = {i.id: i.messages for i in suite.items}
    rows = list(zip(rendered.index["item"], rendered.index["read"], strict=True))
    texts = [
        model.tokenizer.apply_chat_template(
            [m.model_dump() for m in messages[item][: read + 1]], tokenize=False, add_generation_prompt=True
        )
        for item, read in rows
    ]
    ids, _ = encode(texts, model.tokenizer)
    longer = [f"{item}[{read}]" for (item, read), t in zip(rows, ids, strict=True) if len(t) > model.context]
    readouts = tuple(Readout(tuple(t), r.start, r.stop) for t, r in zip(ids, rendered.readouts, strict=True))
    return _complete(model, replace(rendered, readouts=readouts), name, longer)


def _random_item(model: LoadedModel, spoken: Item, rendered: Rendered, seed: int) -> Item | None:
    """The conversation in random words: in every message that is read as many tokens of content as it has. None where
    the vocabulary has no words of letters alone."""
    rng = np.random.default_rng(seed)
    size = len(model.tokenizer)
    ids = rng.choice(size, min(size, _SAMPLE), replace=False)
    special = set(model.tokenizer.all_special_ids)
    decoded = [model.tokenizer.decode([int(i)]).strip() for i in ids if int(i) not in special]
    words = sorted({w for w in decoded if w.isalpha()})
    if not words:
        return None
    counts = {
        int(read): r.stop - r.start
        for item, read, r in zip(rendered.index["item"], rendered.index["read"], rendered.readouts, strict=True)
        if item == spoken.id
    }
    messages = []
    for n, message in enumerate(spoken.messages):
        content = _words(model.tokenizer, words, counts[n], rng) if n in counts else message.content
        messages.append(Turn(role=message.role, content=content))
    return spoken.model_copy(update={"id": "random", "scenario": "random", "messages": tuple(messages)})


def _words(tokenizer: Any, words: Sequence[str], tokens: int, rng: np.random.Generator) -> str:
    """Random words, cut behind the given number of tokens."""
    text = " ".join(rng.choice(words, tokens))
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    covered = [stop for start, stop in offsets if stop > start]
    return text[: covered[min(tokens, len(covered)) - 1]].strip() or words[0]


def _notes(
    model: LoadedModel,
    conversation: Conversation,
    prompt: int,
    present: set[str],
    split: bool,
    has_control: bool,
    generation_prompt: bool,
) -> tuple[str, ...]:
    kind = model.adapter.model_type
    opened = generation_prompt and model.tokenizer.chat_template is not None
    found = {
        f"no attn_out and no mlp_down_out: no attention/MLP split is known for {kind}": not split,
        "neutral: the conversation's control, message by message": has_control,
        "neutral: single neutral statements of the shipped reference (no control): without order": not has_control
        and "neutral" in present,
        "no neutral text: no control, and the shipped statements cannot be read": "neutral" not in present,
        "no random text: the vocabulary has no words of letters alone that can be read": "random" not in present,
        f"prompt {prompt} of {len(conversation.prompt)}": len(conversation.prompt) > 1,
        "the state is read behind the opening of the next answer, as in the seed's program": opened,
    }
    return tuple(text for text, holds in found.items() if holds)
