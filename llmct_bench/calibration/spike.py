"""Level 3: a known vector is added to a model's residual stream, and the instrument has to find it.

A dose of d (neutral SD) of emotion e at a point is the step d u_e on every content token of the message that is read.
u_e is the shortest vector that moves the score of e by 1 and the other emotions as little as the axes allow. There are
four emotions, but their axes are differences from a common mean, so that a weighted sum of them is 0: they span three
dimensions. With n the unit vector of those weights, the score changes that any vector can make are the y with
<n, y> = 0; of those with y_e = 1 the smallest has y_f = -n_e n_f / (1 - n_e^2): a third of the dose with the opposite
sign where the weights are equal. It is the column of the pseudo-inverse of the directions, scaled to 1. All changes are
known exactly, so all scores are held against what was planted.

Dimensions with massive values are left alone: in floating point they cannot hold a small step (at a value of 4000 in
float32 the next number is 0.0002 away), which would be an error of the planting and not of the reading.

Every readout is run in a row of its own. Spiked and unspiked runs have the same passes, so that what lies before the
spike is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.affect import AffectFit, Scores, from_projections
from llmct_bench.errors import ModelError
from llmct_bench.scanner import Batch, BatchEdit, render, scan_projected
from llmct_bench.suites import Suite

Floats = NDArray[np.float64]
Progress = Callable[[int], None]

#: Weight below which a singular value of the directions is a rounding error of an axis that depends on the others.
_DEPENDENT = 1e-4
#: A dimension is massive where its largest value in the reference states is so many times the median dimension's.
_MASSIVE = 10.0


@dataclass(frozen=True)
class Spike:
    """``doses[i] @ vectors`` is added at ``point`` to every content token of readout i: ``doses`` (n_readouts, k) and
    ``vectors`` (k, d_model), float64."""

    point: Point
    doses: Floats
    vectors: Floats

    def edit(self) -> BatchEdit:
        """The spike as an edit of a scan."""
        return BatchEdit(self.point, self._add)

    def _add(self, batch: Batch, value: Tensor) -> Tensor:
        pieces = [np.concatenate([np.arange(a, b) for a, b in r.pieces]) for r in batch.reads]
        steps = (self.doses[[r.index for r in batch.reads]] @ self.vectors).astype(np.float32)
        step = torch.from_numpy(np.repeat(steps, [len(p) for p in pieces], axis=0)).to(value)
        places = torch.from_numpy(np.concatenate(pieces)).to(value.device)
        return value.reshape(-1, value.shape[-1]).index_add(0, places, step).reshape(value.shape)


def steppable(references: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The dimensions (d_model,) without massive values in some states (n, d_model) of a point."""
    size = np.abs(references).max(axis=0)
    return np.asarray(size <= _MASSIVE * np.median(size))


def unit_vectors(directions: NDArray[np.floating], where: NDArray[np.bool_] | None = None) -> Floats:
    """The vectors u_e (k, d_model) of directions (k, d_model), zero but for the dimensions ``where``. Each moves its
    own score by 1 and the others as little as possible: not at all where the directions are independent. Raises
    ModelError where a direction is zero."""
    rows = _within(directions, where)
    inverse = np.linalg.pinv(rows, rcond=_DEPENDENT).T
    own = (rows * inverse).sum(axis=1)
    if not (own > _DEPENDENT).all():
        raise ModelError("an emotion has no axis at this point of the model, so no dose of it can be planted there")
    return np.asarray(inverse / own[:, None])


def random_vectors(
    directions: NDArray[np.floating],
    norm: float,
    count: int,
    seed: Sequence[int],
    where: NDArray[np.bool_] | None = None,
) -> Floats:
    """``count`` seeded random vectors (count, d_model) of length ``norm``, zero but for the dimensions ``where``, that
    move no score along ``directions``."""
    rows = _within(directions, where)
    drawn = _within(np.random.default_rng(seed).normal(size=(count, rows.shape[1])), where)
    _, size, basis = np.linalg.svd(rows, full_matrices=False)
    basis = basis[size > 1e-9 * size.max()]
    for _ in range(2):  # once more for what rounding left
        drawn -= drawn @ basis.T @ basis
    return np.asarray(norm * drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def _within(rows: NDArray[np.floating], where: NDArray[np.bool_] | None) -> Floats:
    return np.asarray(rows, np.float64) * (1.0 if where is None else where)


def shared_out(index: pd.DataFrame, levels: int, seed: int = 0) -> NDArray[np.intp]:
    """One of ``levels`` for each row of an index, evenly within each scenario and in a seeded random order, so that
    levels are not tied to the design."""
    rng, out, begin = np.random.default_rng(seed), np.zeros(len(index), np.intp), 0
    for scenario in index["scenario"].unique():
        rows = np.flatnonzero(index["scenario"] == scenario)
        out[rows] = rng.permutation((begin + np.arange(len(rows))) % levels)
        begin += len(rows)
    return out


class Bench:
    """One model on one suite, with and without spikes."""

    def __init__(self, model: LoadedModel, suite: Suite, fit: AffectFit, budget: int | None, progress: Progress):
        self.rendered = render(suite, model.tokenizer, model.context)
        self._model, self._suite, self._fit = model, suite, fit
        self._budget, self._progress = budget, progress
        self.plain = self._scores(None)

    def spiked(self, point: int, doses: Floats, vectors: Floats) -> Scores:
        """The scores under a spike."""
        return self._scores(Spike(Point("resid", point), doses, vectors))

    def shift(self, point: int, doses: Floats, vectors: Floats) -> Floats:
        """By how much a spike moves every score, (n_readouts, n_points, n_scores)."""
        return np.asarray(self.spiked(point, doses, vectors).values - self.plain.values)

    def _scores(self, spike: Spike | None) -> Scores:
        """An edit that changes nothing makes the plain run the same passes."""
        edit = spike.edit() if spike else BatchEdit(Point("resid", 0), lambda batch, value: value)
        found = scan_projected(
            self._model,
            self._suite,
            self._fit.directions,
            self._fit.references,
            budget=self._budget,
            rendered=self.rendered,
            progress=self._progress,
            edit=edit,
        )
        return from_projections(found, self._fit)
