"""What of a message's tokens is read: pooling is a change of the readouts, so it costs no pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from llmct_bench.scanner.render import Readout, Rendered

Pooling = Literal["mean", "first", "last", "all"]


def pooled(rendered: Rendered, pooling: Pooling) -> Rendered:
    """The readouts for a pooling: of the content tokens their mean, the first, the last, or each one by itself (one row
    of the index a token, numbered in its column ``token``). Raises ValueError on an unknown pooling."""
    if pooling == "mean":
        return rendered
    if pooling == "first":
        return replace(rendered, readouts=tuple(replace(r, stop=r.start + 1) for r in rendered.readouts))
    if pooling == "last":
        return replace(rendered, readouts=tuple(replace(r, start=r.stop - 1) for r in rendered.readouts))
    if pooling == "all":
        places = [(i, t) for i, r in enumerate(rendered.readouts) for t in range(r.start, r.stop)]
        readouts = tuple(Readout(rendered.readouts[i].tokens, t, t + 1) for i, t in places)
        index = rendered.index.iloc[[i for i, _ in places]].reset_index(drop=True)
        index["token"] = [t - rendered.readouts[i].start for i, t in places]
        return replace(rendered, readouts=readouts, index=index)
    raise ValueError(f"unknown pooling {pooling!r}: use mean, first, last, all")
