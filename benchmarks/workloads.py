"""The model and the three workloads: random weights, random token ids, fixed seeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, default_rng
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from llmct_bench.adapters import LoadedModel, wrap
from llmct_bench.models import phantom_tokenizer
from llmct_bench.scanner import TOKEN_BUDGET, Plan, Readout

#: Which model (LLMCT_BENCH_MODEL), how much of each workload (LLMCT_BENCH_SCALE), how many rounds (LLMCT_BENCH_ROUNDS).
MODEL = os.environ.get("LLMCT_BENCH_MODEL", "full")
SCALE = float(os.environ.get("LLMCT_BENCH_SCALE", "1.0"))
ROUNDS = int(os.environ.get("LLMCT_BENCH_ROUNDS", "5"))

#: ``full`` has 58.6 M parameters in its body, ``small`` 10.7 M, ``0.5b`` the configuration of Qwen2.5-0.5B (358 M).
CONFIGS: dict[str, dict[str, int]] = {
    "full": {
        "vocab_size": 151_936,
        "hidden_size": 512,
        "intermediate_size": 2752,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
    },
    "small": {
        "vocab_size": 32_000,
        "hidden_size": 384,
        "intermediate_size": 1200,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    },
    "0.5b": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
    },
}
_ASSISTANT = 5  # tokens of a generation prompt
_TEMPLATE = 2  # tokens that close a message


def random_module() -> Any:
    """A random Qwen2 in float32, the same at every call."""
    torch.manual_seed(0)
    config = Qwen2Config(
        **CONFIGS[MODEL],
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        architectures=["Qwen2ForCausalLM"],
    )
    return Qwen2ForCausalLM(config).eval()


def random_model() -> LoadedModel:
    """The model, wrapped; one thread."""
    torch.set_num_threads(1)
    return wrap(random_module(), phantom_tokenizer(), f"random-qwen2-{MODEL}")


def linears(model: LoadedModel) -> list[nn.Linear]:
    """The matrices of the body in the order in which a pass uses them."""
    return [m for block in model.adapter.blocks for m in block.modules() if isinstance(m, nn.Linear)]


def body_parameters(model: LoadedModel) -> int:
    """Parameters that every token is multiplied with, without embedding and head."""
    return sum(m.weight.numel() for m in linears(model))


@dataclass(frozen=True)
class Workload:
    """Readouts, and the rows that a bare pass of the body over the same content runs: what ours is held against."""

    name: str
    title: str
    readouts: tuple[Readout, ...]
    bare_title: str
    bare: tuple[tuple[int, ...], ...]

    @property
    def separate(self) -> int:
        """Tokens of one prefill a readout."""
        return sum(len(r.tokens) for r in self.readouts)

    @cached_property
    def unshared(self) -> list[Tensor]:
        """Every readout's sequence as a row of its own, sorted by length, in batches of at most TOKEN_BUDGET tokens."""
        return batched([r.tokens for r in self.readouts], TOKEN_BUDGET)

    def sample(self, size: int) -> list[Readout]:
        """Readouts spread evenly over the lengths."""
        order = sorted(self.readouts, key=lambda r: len(r.tokens))
        places = np.linspace(0, len(order), min(size, len(order)), endpoint=False) + len(order) / (2 * size)
        return [order[min(int(p), len(order) - 1)] for p in places]


def single_prompts(count: int | None = None) -> Workload:
    """A: prompts that share nothing, lengths log-normal between 12 and 200."""
    rng = default_rng(1)
    lengths = np.exp(rng.normal(4.2, 0.6, size=count or scaled(256))).clip(12, 200).astype(int)
    readouts = tuple(_message(_ids(rng, int(n)), int(n)) for n in lengths)
    rows = tuple(r.tokens for r in readouts)
    return Workload("A", f"{len(rows)} single prompts of 12 to 200 tokens", readouts, "the bare body", rows)


def conversations(count: int | None = None, turns: int = 20) -> Workload:
    """B: a readout after every message; every other time one after a generation prompt too."""
    rng = default_rng(2)
    assistant = _ids(rng, _ASSISTANT)
    readouts: list[Readout] = []
    rows = []
    for _ in range(count or scaled(40)):
        tokens: tuple[int, ...] = ()
        for turn in range(turns):
            message = _ids(rng, int(rng.integers(12, 39)))
            tokens += message
            read = _message(tokens, len(message))
            readouts.append(read)
            if turn % 2 == 0:
                readouts.append(Readout(tokens + assistant, read.start, read.stop))
        rows.append(tokens)
    title = f"{len(rows)} conversations of {turns} messages, {len(readouts)} readouts"
    return Workload("B", title, tuple(readouts), "one bare pass a conversation, without suffixes", tuple(rows))


def shared_prefixes() -> Workload:
    """C: 10 prefixes of 60 tokens, each with suffixes of 10 tokens."""
    rng = default_rng(3)
    suffixes = scaled(40)
    readouts: list[Readout] = []
    unique: tuple[int, ...] = ()
    for _ in range(10):
        prefix = _ids(rng, 60)
        own = [_ids(rng, 10) for _ in range(suffixes)]
        readouts += [_message(prefix + suffix, 10) for suffix in own]
        unique += prefix + tuple(t for suffix in own for t in suffix)
    rows = tuple(unique[i : i + 512] for i in range(0, len(unique), 512))
    title = f"10 prefixes of 60 tokens, {suffixes} suffixes of 10 tokens each"
    return Workload("C", title, tuple(readouts), "the bare body over the unique tokens, in rows of 512", rows)


def scaled(count: int) -> int:
    """A count at LLMCT_BENCH_SCALE."""
    return max(round(count * SCALE), 2)


def batched(sequences: Sequence[tuple[int, ...]], budget: int) -> list[Tensor]:
    """Sequences as right-padded batches of at most ``budget`` tokens, sorted by length."""
    batches: list[list[tuple[int, ...]]] = [[]]
    for row in sorted(sequences, key=len):
        if batches[-1] and len(row) * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(row)
    return [padded(rows) for rows in batches]


def padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
    """Rows as one right-padded batch."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids)


def counts(workload: Workload, plan: Plan) -> dict[str, int]:
    """Tokens, counted exactly."""
    return {
        "readouts": len(workload.readouts),
        "separate": plan.separate,
        "minimum": plan.minimum,
        "run": plan.tokens,
        "padded": plan.padded,
        "passes": len(plan.batches),
        "unshared": sum(b.numel() for b in workload.unshared),
        "bare": sum(map(len, workload.bare)),
    }


def _ids(rng: Generator, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in rng.integers(0, CONFIGS[MODEL]["vocab_size"], size=count))


def _message(tokens: tuple[int, ...], length: int) -> Readout:
    """A readout of the last ``length`` tokens, less those that close the message."""
    return Readout(tokens, len(tokens) - length, len(tokens) - _TEMPLATE)
