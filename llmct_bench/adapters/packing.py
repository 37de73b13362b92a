"""Packed rows: a whole prefix tree in one sequence, through attention that follows the tree.

A packed row holds every prefix of several conversations once. Each token keeps the position that it has in its own
conversation, and each stretch of the row attends to the stretches before it *in the tree* and to itself, causally.
That is an attention function of our own, registered with transformers and switched on for the length of a pass.
Whether a model's states are the same that way is a question for its certificate (check *branches*), never assumed:
recurrent models and models with attention of their own are read without branches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from llmct_bench.adapters.adapter import Adapter

_NAME = "llmct_tree"
_WINDOWS = ("sliding_window", "attention_chunk_size", "local_attention", "sliding_window_size", "window_size")


class Stretch(Protocol):
    """A stretch [start, stop) of a packed row; ``past`` are its ancestors' stretches, ``depth`` tokens in all."""

    @property
    def start(self) -> int:
        """First token."""

    @property
    def stop(self) -> int:
        """After the last token."""

    @property
    def depth(self) -> int:
        """Position of the first token."""

    @property
    def past(self) -> Sequence[tuple[int, int]]:
        """The ancestors' stretches, from the root on."""


class _Tree:
    """The stretches of the row under way, and their masks, made once for all blocks."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = stretches
        self.masks: dict[tuple[int, int, int | None, torch.device], Tensor] = {}

    def mask(self, stretch: Stretch, window: int | None, device: torch.device) -> Tensor:
        """True where token i of a stretch may attend: (tokens, depth + tokens)."""
        length = stretch.stop - stretch.start
        key = (stretch.depth, length, window, device)
        if key not in self.masks:
            query = torch.arange(length, device=device).unsqueeze(1) + stretch.depth
            past = torch.arange(stretch.depth + length, device=device).unsqueeze(0)
            seen = past <= query
            self.masks[key] = seen if window is None else seen & (past > query - window)
        return self.masks[key]


_tree: ContextVar[_Tree] = ContextVar("tree")


@contextmanager
def packed(adapter: Adapter, stretches: Sequence[Stretch]) -> Iterator[None]:
    """While open, passes of the body are over one packed row. The attention backend is put back afterwards."""
    configs = {
        id(c): c for m in adapter.decoder.modules() if isinstance(c := getattr(m, "config", None), PreTrainedConfig)
    }
    before = {i: c._attn_implementation_internal for i, c in configs.items()}
    token = _tree.set(_Tree(stretches))
    try:
        for config in configs.values():
            config._attn_implementation_internal = _NAME
        yield
    finally:
        _tree.reset(token)
        for i, config in configs.items():
            config._attn_implementation_internal = before[i]


def run_packed(adapter: Adapter, tokens: Tensor, stretches: Sequence[Stretch], until: int | None = None) -> None:
    """One pass of the body (or of its first ``until`` blocks) over a packed row (1, tokens)."""
    positions = torch.cat([torch.arange(s.depth, s.depth + s.stop - s.start) for s in stretches])
    with packed(adapter, stretches):
        adapter.run(tokens, until, position_ids=positions.unsqueeze(0).to(tokens.device))


def windows(config: Any) -> list[int]:
    """The spans of local attention that a configuration names, in tokens."""
    found = (getattr(config, name, None) for name in _WINDOWS)
    return sorted(w for w in found if isinstance(w, int) and w > 0)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention (1, heads, tokens, width) by stretches; honours window, soft cap and attention sinks."""
    tree = _tree.get()
    out = query.new_empty(*query.shape[:3], value.shape[-1])
    for s in tree.stretches:
        pieces = [*s.past, (s.start, s.stop)]
        q = query[:, :, s.start : s.stop]
        k = torch.cat([key[:, :, a:b] for a, b in pieces], 2) if s.past else key[:, :, s.start : s.stop]
        v = torch.cat([value[:, :, a:b] for a, b in pieces], 2) if s.past else value[:, :, s.start : s.stop]
        local = sliding_window if sliding_window is not None and sliding_window < s.depth + q.shape[2] else None
        if softcap is not None or s_aux is not None:
            mask = tree.mask(s, local, query.device)
            out[:, :, s.start : s.stop] = _by_hand(q, k, v, mask, scaling, softcap, s_aux)
            continue
        plain = not s.past and local is None
        out[:, :, s.start : s.stop] = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if plain else tree.mask(s, local, query.device),
            is_causal=plain,
            scale=scaling,
            enable_gqa=k.shape[1] != q.shape[1],
        )
    return out.transpose(1, 2).contiguous(), None


def _by_hand(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.transpose(2, 3)) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        extra = sinks.to(scores).reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, extra], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return weights[..., : k.shape[2]] @ v


AttentionInterface.register(_NAME, _attend)
