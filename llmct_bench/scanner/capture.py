"""Running a plan: states are gathered and reduced inside the hooks; nothing else is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.errors import ModelError
from llmct_bench.scanner.plan import Batch, Plan

Array = NDArray[np.float32]


def capture(
    model: LoadedModel,
    plan: Plan,
    n_readouts: int,
    points: Sequence[Point],
    progress: Callable[[int], None] = lambda tokens: None,
) -> tuple[Array, Array]:
    """Run the plan; return (content means, last tokens), each (n_readouts, n_points, d_model) float32.

    Means are accumulated in float32 whatever the model's dtype. ``progress`` is told the tokens of every batch.
    Raises ModelError on states that are not finite and when memory runs out.
    """
    shape = (n_readouts, len(points), model.adapter.d_model)
    content, last = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    gather = _Gather()
    with torch.inference_mode(), model.adapter.reading(points, gather):
        for batch in plan.batches:
            gather.prepare(batch, len(points), model.adapter.d_model, model.device)
            try:
                model.adapter.run(_pad(batch).to(model.device))
            except torch.OutOfMemoryError as error:
                raise ModelError(
                    f"{model.card.name}: out of memory in a pass of {batch.width * len(batch.rows)} tokens: "
                    "use a smaller --token-budget"
                ) from error
            where = [read.index for read in batch.reads]
            content[where], last[where] = gather.content.cpu().numpy(), gather.last.cpu().numpy()
            progress(sum(map(len, batch.rows)))
    for i, point in enumerate(points):
        if not (np.isfinite(content[:, i]).all() and np.isfinite(last[:, i]).all()):
            raise ModelError(
                f"{model.card.name}: states at {point} are not finite in {model.dtype}: try --dtype float32"
            )
    return content, last


def _pad(batch: Batch) -> Tensor:
    ids = np.zeros((len(batch.rows), batch.width), np.int64)
    for i, row in enumerate(batch.rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids)


class _Gather:
    """The reader on the hooks: takes the rows that the batch's readouts need and reduces them on the device."""

    content: Tensor
    last: Tensor

    def prepare(self, batch: Batch, n_points: int, d_model: int, device: torch.device) -> None:
        spans = [read.row * batch.width + np.arange(read.start, read.stop) for read in batch.reads]
        lengths = [len(s) for s in spans]
        self._tokens = torch.from_numpy(np.concatenate(spans)).to(device)
        self._segment = torch.repeat_interleave(torch.arange(len(spans)), torch.tensor(lengths)).to(device)
        self._length = torch.tensor(lengths, dtype=torch.float32, device=device).unsqueeze(1)
        self._last = torch.tensor([r.row * batch.width + r.last for r in batch.reads], device=device)
        empty = torch.full((len(spans), n_points, d_model), float("nan"), device=device)
        self.content, self.last = empty, empty.clone()

    def __call__(self, i: int, value: Tensor) -> None:
        flat = value.reshape(-1, value.shape[-1])
        sums = torch.zeros_like(self.content[:, i])
        rows = flat.index_select(0, self._tokens.to(flat.device)).float().to(sums.device)
        sums.index_add_(0, self._segment, rows)
        self.content[:, i] = sums / self._length
        self.last[:, i] = flat.index_select(0, self._last.to(flat.device)).float().to(sums.device)
