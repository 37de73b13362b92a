"""Running a plan: states are gathered and reduced inside the hooks; nothing else is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.adapters.packing import run_packed
from llmct_bench.errors import ModelError
from llmct_bench.scanner.plan import Batch, Plan

Array = NDArray[np.float32]


class Sink(Protocol):
    """Takes what the hooks gather."""

    def begin(self, readouts: int, device: torch.device) -> None:
        """A batch with so many readouts begins."""

    def take(self, point: int, content: Tensor, last: Tensor) -> None:
        """The content means and last tokens (readouts, d_model) at a point, float32, on the device."""

    def end(self, where: NDArray[np.intp]) -> None:
        """The batch is through; ``where`` are its readouts' places in suite order."""


class Keep:
    """Keeps the states themselves: one host copy a batch."""

    def __init__(self, content: Array, last: Array) -> None:
        """``content`` and ``last``: arrays (readouts, points, d_model) to be filled; they may lie on disk."""
        self.content, self.last = content, last

    def begin(self, readouts: int, device: torch.device) -> None:
        """A buffer of NaN: what no hook fills is found."""
        shape = (2, readouts, *self.content.shape[1:])
        self._buffer = torch.full(shape, float("nan"), device=device)

    def take(self, point: int, content: Tensor, last: Tensor) -> None:
        """Into the buffer."""
        self._buffer[0, :, point] = content
        self._buffer[1, :, point] = last

    def end(self, where: NDArray[np.intp]) -> None:
        """From the buffer to the host."""
        host = self._buffer.cpu().numpy()
        self.content[where], self.last[where] = host[0], host[1]


class Project:
    """Keeps projections only: <content, direction> and the cosine of the last token with references."""

    def __init__(
        self,
        directions: NDArray[np.floating],
        references: NDArray[np.floating],
        readouts: int,
        parts: NDArray[np.floating],
        parts_at: int,
        whole: bool = False,
    ) -> None:
        """``directions`` (points, scores, d_model), ``references`` (points, emotions, d_model), and further directions
        ``parts`` (n_parts, d_model) for one point; ``whole``: the content states at that point are kept as well."""
        self._directions, self._references = directions, _unit(np.asarray(references, np.float64))
        self._parts, self._at = parts, parts_at
        self.values = np.full((readouts, *directions.shape[:2]), np.nan)
        self.parts = np.full((readouts, len(parts)), np.nan)
        self.whole = np.full((readouts, directions.shape[-1] if whole else 0), np.nan, np.float32)
        self.cosines = np.full((readouts, *references.shape[:2]), np.nan)

    def begin(self, readouts: int, device: torch.device) -> None:
        """The directions on the device, in double precision where it has that."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        if getattr(self, "_device", None) != device:
            self._device = device
            self._d = torch.as_tensor(self._directions).to(device, dtype)
            self._r = torch.as_tensor(self._references).to(device, dtype)
            self._p = torch.as_tensor(self._parts).to(device, dtype)
        self._values = torch.full((readouts, *self.values.shape[1:]), float("nan"), dtype=dtype, device=device)
        self._cosines = torch.full((readouts, *self.cosines.shape[1:]), float("nan"), dtype=dtype, device=device)
        self._own = torch.full((readouts, self.parts.shape[1]), float("nan"), dtype=dtype, device=device)
        self._whole = torch.full((readouts, self.whole.shape[1]), float("nan"), device=device)

    def take(self, point: int, content: Tensor, last: Tensor) -> None:
        """Project."""
        wide = content.to(self._d.dtype)
        self._values[:, point] = wide @ self._d[point].T
        if point == self._at:
            self._own[:] = wide @ self._p.T
            self._whole[:] = content[:, : self._whole.shape[1]]
        wide = last.to(self._r.dtype)
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp_min(1e-12)
        self._cosines[:, point] = (wide / norm) @ self._r[point].T

    def end(self, where: NDArray[np.intp]) -> None:
        """To the host."""
        self.values[where] = self._values.double().cpu().numpy()
        self.cosines[where] = self._cosines.double().cpu().numpy()
        self.parts[where] = self._own.double().cpu().numpy()
        self.whole[where] = self._whole.cpu().numpy()


@dataclass(frozen=True)
class BatchEdit:
    """An edit that knows the batch under way: every pass goes on with ``change(batch, value)`` in place of the value
    (rows, width, d_model) at ``point``. The reads of the batch say where in the flattened (rows x width) tokens the
    content of each readout (suite order) lies."""

    point: Point
    change: Callable[[Batch, Tensor], Tensor]


class OutOfMemory(ModelError):
    """A pass did not fit; ``done`` readouts (suite order) are stored. ``single``: it was one sequence, so that no
    smaller pass is possible."""

    def __init__(self, message: str, done: set[int], single: bool) -> None:
        super().__init__(message)
        self.done, self.single = done, single


def capture(
    model: LoadedModel,
    plan: Plan,
    points: Sequence[Point],
    sink: Sink,
    progress: Callable[[int], None] = lambda tokens: None,
    edit: BatchEdit | None = None,
) -> None:
    """Run the plan into a sink. Means are accumulated in float32 whatever the model's dtype; blocks after the last
    point do not run. ``progress`` is told the tokens of every batch. ``edit``: what is read is read under it, also at
    its own point. Raises OutOfMemory when a pass does not fit."""
    gather, until = _Gather(sink), model.adapter.depth(points)
    done: set[int] = set()
    with torch.inference_mode(), _editing(model, edit, gather), model.adapter.reading(points, gather):
        for batch in plan.batches:
            try:
                gather.prepare(batch, model.device)
                tokens = _pad(batch).to(model.device)
                if batch.segments:
                    run_packed(model.adapter, tokens, batch.segments, until)
                else:
                    model.adapter.run(tokens, until)
                sink.end(gather.where)
            except torch.OutOfMemoryError as error:
                raise OutOfMemory(
                    f"{model.card.name}: out of memory in a pass of {batch.width * len(batch.rows)} tokens: "
                    "use a smaller --token-budget, or --dtype bfloat16",
                    done,
                    len(batch.rows) == 1 and len(batch.segments) <= 1,
                ) from error
            done.update(gather.where.tolist())
            progress(sum(map(len, batch.rows)))


def _editing(model: LoadedModel, edit: BatchEdit | None, gather: _Gather) -> AbstractContextManager[None]:
    if edit is None:
        return nullcontext()
    return model.adapter.editing(edit.point, lambda value: edit.change(gather.batch, value))


def _pad(batch: Batch) -> Tensor:
    ids = np.zeros((len(batch.rows), batch.width), np.int64)
    for i, row in enumerate(batch.rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids)


class _Gather:
    """The reader on the hooks: takes the rows that the batch's readouts need and reduces them on the device."""

    batch: Batch
    where: NDArray[np.intp]

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def prepare(self, batch: Batch, device: torch.device) -> None:
        self.batch, reads = batch, batch.reads
        self.where = np.array([r.index for r in reads], np.intp)
        spans = [np.concatenate([np.arange(a, b) for a, b in r.pieces]) for r in reads]
        lengths = torch.tensor([len(s) for s in spans])
        self._tokens = torch.from_numpy(np.concatenate(spans)).to(device)
        self._segment = torch.repeat_interleave(torch.arange(len(reads)), lengths).to(device)
        self._length = lengths.to(device, torch.float32).unsqueeze(1)
        self._last = torch.tensor([r.last for r in reads], device=device)
        self._sink.begin(len(reads), device)

    def __call__(self, i: int, value: Tensor) -> None:
        flat = value.reshape(-1, value.shape[-1])
        home = self._length.device
        rows = flat.index_select(0, self._tokens.to(flat.device)).to(home, torch.float32)
        sums = torch.zeros((len(self.where), flat.shape[1]), device=home).index_add_(0, self._segment, rows)
        last = flat.index_select(0, self._last.to(flat.device)).to(home, torch.float32)
        self._sink.take(i, sums / self._length, last)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))
