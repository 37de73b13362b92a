"""What a model would say next: how likely words of joy, and of anger and sadness, are as the next word of its reply.

The reply is begun for it (`LEAD`). At its very first token hardly any word of emotion would be one token (Qwen 2.5 has
two of joy there), and the first pieces of the others (``I``, ``E``, ``Dis``) begin everything else; after a word the
common ones are whole tokens in every vocabulary, and they are what may stand there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.adapters.chat import begun_text, open_tokens
from llmct_bench.emotions import NEUTRAL, lexicon
from llmct_bench.errors import ModelError
from llmct_bench.scanner.render import Readout, unknown_tokens
from llmct_bench.scanner.states import run_readouts
from llmct_bench.suites import Item, Suite, Turn

#: How the reply begins.
LEAD = "I feel"
#: Prompts that say nothing (contextual calibration: Zhao et al. 2021, arXiv:2102.09690).
CONTENT_FREE = ("N/A", "...", "-", "[...]", "Input:", "\n", "***", "____", "(blank)", "Text:", "#", "0")
#: The emotions whose words make up each side.
SIDES: tuple[tuple[str, ...], ...] = (("joy",), ("anger", "sadness"))
#: Words that each side must have in the vocabulary.
FEWEST = 3
#: Emotions after which the next word is read beside neutral: those of the two sides.
ASKED = tuple(e for side in SIDES for e in side)

Pair = tuple[float, float]
Pairs = NDArray[np.float64]


@dataclass(frozen=True)
class NextWords:
    """Natural logarithms of the mean probability of a word of joy and of a negative word (`SIDES`) as the next token:
    ``neutral`` by item, after the neutral prompts of a suite; ``content_free``, after those of `CONTENT_FREE` that the
    model can tell apart; ``emotional`` by item, after those of `ASKED` emotions (see `asked`). ``words``: how many
    there are on each side. ``reason``: why there are no numbers."""

    neutral: dict[str, Pair]
    content_free: tuple[Pair, ...]
    words: tuple[int, int]
    reason: str = ""
    emotional: dict[str, Pair] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> NextWords:
        """Back from `to_json`."""
        return NextWords(
            {str(k): _pair(v) for k, v in data["neutral"].items()},
            tuple(_pair(v) for v in data["content_free"]),
            (int(data["words"][0]), int(data["words"][1])),
            str(data["reason"]),
            {str(k): _pair(v) for k, v in data["emotional"].items()},
        )


@dataclass(frozen=True)
class Prompts:
    """Token sequences up to where the next word stands: ``neutral`` and ``emotional`` by item, and the distinct
    ``content_free`` ones."""

    neutral: dict[str, tuple[int, ...]]
    emotional: dict[str, tuple[int, ...]]
    content_free: tuple[tuple[int, ...], ...]


def read_next_words(model: LoadedModel, suite: Suite, budget: int | None = None) -> NextWords | None:
    """Read the next words after prompts of a circumplex suite; None for suites of other designs. One pass over the
    prompts, logits at their ends only. What stands in the way of a number is its ``reason``; raises ModelError only
    where memory runs out."""
    if suite.card.design != "circumplex":
        return None
    nothing = NextWords({}, (), (0, 0))
    if suite.card.language != "en":
        return replace(nothing, reason=f"the words are English, the suite is not ({suite.card.language})")
    if model.adapter.final is None:
        return replace(
            nothing, reason=f"no modules lead from the last block of {model.adapter.model_type} to the logits"
        )
    try:
        prompts, sides = prompted(suite, model.tokenizer, model.context), side_tokens(model.tokenizer)
    except ModelError as error:
        return replace(nothing, reason=str(error))
    counts = (len(sides[0]), len(sides[1]))
    if min(counts) < FEWEST:
        few = f"the vocabulary has too few of the words: {counts[0]} of joy, {counts[1]} negative, {FEWEST} are needed"
        return replace(nothing, words=counts, reason=few)
    everything = [*prompts.neutral.values(), *prompts.emotional.values(), *prompts.content_free]
    found = log_probabilities(model, everything, sides, budget)
    if not np.isfinite(found).all():
        return replace(nothing, words=counts, reason=f"the logits are not finite in {model.dtype}: try --dtype float32")
    return spoken(prompts, [_pair(row) for row in found.tolist()], counts)


def spoken(prompts: Prompts, pairs: Sequence[Pair], words: tuple[int, int]) -> NextWords:
    """Next words from what was read after each prompt: neutral, emotional, content-free, in this order."""
    n, k = len(prompts.neutral), len(prompts.neutral) + len(prompts.emotional)
    after = dict(zip(prompts.neutral, pairs[:n], strict=True)), dict(zip(prompts.emotional, pairs[n:k], strict=True))
    return NextWords(after[0], tuple(pairs[k:]), words, emotional=after[1])


def asked(suite: Suite) -> list[Item]:
    """The items after which next words are read: of each scenario the neutral ones and, of the `ASKED` emotions, those
    at one intensity, which changes from scenario to scenario; messages of users only. (All intensities of all scenarios
    would cost as much again as the suite itself.)"""
    alone = [i for i in suite.items if [m.role for m in i.messages] == ["user"]]  # what is asked of all is one message
    levels = sorted({i.intensity for i in alone if i.emotion in ASKED}) or [0]
    turn = {s: levels[n % len(levels)] for n, s in enumerate(sorted(suite.scenarios))}
    return [i for i in alone if i.emotion == NEUTRAL or (i.emotion in ASKED and i.intensity == turn[i.scenario])]


def prompted(suite: Suite, tokenizer: Any, context: int) -> Prompts:
    """The messages of `asked` and the content-free ones, each followed by the beginning of a reply; those that do not
    fit into the context are left out. Raises ModelError where the template refuses one."""
    items = asked(suite)
    free = [(Turn(role="user", content=text),) for text in CONTENT_FREE]
    texts = [begun_text(messages, LEAD, tokenizer) for messages in (*(i.messages for i in items), *free)]
    tokens = open_tokens(texts, tokenizer)
    fitting = [(i, t) for i, t in zip(items, tokens, strict=False) if len(t) <= context]
    return Prompts(
        {i.id: t for i, t in fitting if i.emotion == NEUTRAL},
        {i.id: t for i, t in fitting if i.emotion != NEUTRAL},
        tuple(t for t in dict.fromkeys(tokens[len(items) :]) if len(t) <= context),
    )


def side_tokens(tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """The tokens of each side: of the words in the lexicon that are one known token after the beginning of a reply, and
    of one side only."""
    stem = begun_text([Turn(role="user", content=CONTENT_FREE[0])], LEAD, tokenizer)
    (before,) = open_tokens([stem], tokenizer)
    found = []
    for emotions in SIDES:
        words = [w for w, e in lexicon().items() if e.emotion in emotions]
        followed = open_tokens([f"{stem} {w}" for w in words], tokenizer)
        found.append({t[-1] for t in followed if t[:-1] == before} - set(unknown_tokens(tokenizer)))
    shared = found[0] & found[1]
    return tuple(tuple(sorted(own - shared)) for own in found)


def log_probabilities(
    model: LoadedModel, prompts: Sequence[tuple[int, ...]], sides: Sequence[Sequence[int]], budget: int | None = None
) -> Pairs:
    """(n_prompts, n_sides): the logarithm of the mean probability of a side's tokens after each prompt."""
    sink = _Sides(model, len(prompts), sides)
    readouts = [Readout(tokens, len(tokens) - 1, len(tokens)) for tokens in prompts]
    run_readouts(model, readouts, [Point("resid", model.adapter.n_layers)], sink, budget)
    return sink.values


class _Sides:
    """Takes the last states before the final norm and keeps what they say about the sides."""

    def __init__(self, model: LoadedModel, prompts: int, sides: Sequence[Sequence[int]]) -> None:
        self._adapter, self._sides = model.adapter, [torch.tensor(s) for s in sides]
        parts = (*(model.adapter.final or ()), model.module)
        self._dtype = next(p.dtype for m in parts for p in m.parameters() if p.is_floating_point())
        self.values = np.full((prompts, len(sides)), np.nan)

    def begin(self, readouts: int, device: torch.device) -> None:
        """Nothing."""

    def take(self, point: int, content: Tensor, last: Tensor) -> None:
        """Only the last tokens count; the head reads them when the pass is through."""
        self._last = last

    def end(self, where: NDArray[np.intp]) -> None:
        """Logits of these tokens, and of no others."""
        logits = self._adapter.lens(self._last.to(self._dtype).unsqueeze(0))[0].float()
        chosen = [logits[:, s.to(logits.device)].logsumexp(-1) - math.log(len(s)) for s in self._sides]
        own = torch.stack(chosen, -1) - logits.logsumexp(-1, keepdim=True)
        self.values[where] = own.double().cpu().numpy()


def _pair(values: Sequence[float]) -> Pair:
    return float(values[0]), float(values[1])
