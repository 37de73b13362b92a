"""The scan: a suite through a model, as states or as projections."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import transformers
from numpy.typing import NDArray

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.adapters.architectures import ADAPTER_VERSION
from llmct_bench.errors import ModelError, ResultError
from llmct_bench.scanner.budget import packing, token_budget
from llmct_bench.scanner.capture import BatchEdit, Keep, OutOfMemory, Project, Sink, capture
from llmct_bench.scanner.files import open_arrays
from llmct_bench.scanner.plan import Plan, make_plan, renumbered, separate_plan
from llmct_bench.scanner.pooling import Pooling, pooled
from llmct_bench.scanner.render import Readout, Rendered, render
from llmct_bench.suites import Suite

Progress = Callable[[int], None]
_SMALLEST_BUDGET = 16


@dataclass(frozen=True)
class States:
    """Residual-stream states of every readout.

    ``array`` (n_readouts, n_points, d_model) float32: by default the mean over the content tokens of the message that
    is read (see ``pooling`` of `scan`); ``last``: the same shape, at the last token of the rendered text (the seed
    system's readout). ``index`` has one row a readout (see `Rendered`), ``left_out`` names those that the model cannot
    read, ``plan`` what was run (None where the states come from a file).
    """

    array: NDArray[np.float32]
    last: NDArray[np.float32]
    index: pd.DataFrame
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    plan: Plan | None

    def select(self, points: Sequence[Point] | None = None, **factors: Any) -> States:
        """The readouts with the given values of index columns (a value or a list of values), at the given points:
        ``states.select(emotion=["joy", "calm"], role="user")``. Raises KeyError for an unknown column or point."""
        chosen = np.ones(len(self.index), bool)
        for column, wanted in factors.items():
            values = wanted if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
            chosen &= self.index[column].isin(list(values)).to_numpy()
        array, last = self.array[chosen], self.last[chosen]
        if points is not None:
            unknown = [str(p) for p in points if p not in self.points]
            if unknown:
                raise KeyError(f"no point {', '.join(unknown)} in these states")
            at = [self.points.index(p) for p in points]
            array, last = array[:, at], last[:, at]
        index = self.index[chosen].reset_index(drop=True)
        return replace(
            self, array=array, last=last, index=index, points=self.points if points is None else tuple(points)
        )


@dataclass(frozen=True)
class Projections:
    """``values`` (n_readouts, n_points, n_scores): content states on directions; ``cosines`` (n_readouts, n_points,
    n_references): of last tokens with references; ``parts`` (n_readouts, n_parts): content states on further directions
    at one point; all float64. ``whole`` (n_readouts, d_model) float32: the content states at that point, d_model = 0
    where they were not asked for. The rest as in `States`."""

    values: NDArray[np.float64]
    cosines: NDArray[np.float64]
    parts: NDArray[np.float64]
    whole: NDArray[np.float32]
    index: pd.DataFrame
    left_out: tuple[str, ...]
    plan: Plan


def scan(
    model: LoadedModel,
    suite: Suite,
    *,
    points: Sequence[Point] | None = None,
    pooling: Pooling = "mean",
    budget: int | None = None,
    rendered: Rendered | None = None,
    progress: Progress = lambda tokens: None,
    folder: str | Path | None = None,
) -> States:
    """Read a model's states on a suite at every block boundary, or at ``points``: blocks after the last one do not run.

    ``pooling`` of the content tokens: their ``mean``, the ``first``, the ``last`` one, or ``all`` of them (one row of
    the index a token, numbered in its column ``token``). ``budget``: tokens per pass, by default from the free memory;
    it is halved when memory runs out. ``rendered`` reuses an earlier rendering for the same tokenizer. ``folder``: keep
    the states there, under a key of all that determines them, and read them from there when they are there already;
    they are then mapped from disk and need no memory. Raises ModelError when nothing can be read or states are not
    finite, ResultError when the disk refuses.
    """
    rendered = pooled(_rendered(model, suite, rendered), pooling)
    chosen = tuple(model.adapter.residual_points() if points is None else points)
    shape = (len(rendered.readouts), len(chosen), model.adapter.width(chosen))
    if folder is None:
        content, last = (np.full(shape, np.nan, np.float32) for _ in range(2))
        plan = run_readouts(model, rendered.readouts, chosen, Keep(content, last), budget, progress)
        _check(model, chosen, content, last)
        return States(content, last, rendered.index, chosen, rendered.left_out, plan)
    if model.adapter.edited:
        raise ModelError(f"{model.card.name}: states under an edit are not kept on disk: scan without a folder")
    place = Path(folder) / _key(model, rendered, chosen)
    ran: Plan | None = None
    if not place.is_dir():
        ran = _scan_to(place, shape, model, rendered, chosen, budget, progress)
    content, last = open_arrays(place / "states.safetensors", shape, new=False)
    return States(content, last, rendered.index, chosen, rendered.left_out, ran)


def scan_projected(
    model: LoadedModel,
    suite: Suite,
    directions: NDArray[np.floating],
    references: NDArray[np.floating],
    *,
    parts: tuple[int, NDArray[np.floating]] | None = None,
    whole: bool = False,
    budget: int | None = None,
    rendered: Rendered | None = None,
    progress: Progress = lambda tokens: None,
    edit: BatchEdit | None = None,
) -> Projections:
    """The projections of a suite's states at every block boundary on ``directions`` (n_points, n_scores, d_model), and
    the cosines of its last tokens with ``references`` (n_points, n_references, d_model), taken inside the pass: the
    states themselves are not kept. ``parts``: a point's number and directions (n_parts, d_model) for this point only;
    ``whole``: at this point the states are kept. Under an ``edit`` every readout is run in a row of its own, because
    readouts that share tokens may be edited differently. Raises as `scan` does."""
    rendered = _rendered(model, suite, rendered)
    points = model.adapter.residual_points()
    at, further = parts or (0, np.empty((0, directions.shape[-1])))
    sink = Project(directions, references, len(rendered.readouts), further, at, whole)
    plan = run_readouts(model, rendered.readouts, points, sink, budget, progress, edit)
    _check(model, points, sink.values, sink.cosines)
    return Projections(sink.values, sink.cosines, sink.parts, sink.whole, rendered.index, rendered.left_out, plan)


def plan_scan(model: LoadedModel, readouts: Sequence[Readout], budget: int | None = None) -> Plan:
    """The passes that a scan of these readouts will run on this model."""
    return make_plan(readouts, budget or token_budget(model), packing(model, budget))


def _rendered(model: LoadedModel, suite: Suite, rendered: Rendered | None) -> Rendered:
    rendered = rendered or render(suite, model.tokenizer, model.context)
    if not rendered.readouts:
        raise ModelError(
            f"{model.card.name} can read none of the {len(rendered.left_out)} readouts of {suite.key}: they exceed its "
            f"context of {model.context} tokens, or its tokenizer does not know the text"
        )
    return rendered


def run_readouts(
    model: LoadedModel,
    readouts: Sequence[Readout],
    points: Sequence[Point],
    sink: Sink,
    budget: int | None,
    progress: Progress = lambda tokens: None,
    edit: BatchEdit | None = None,
) -> Plan:
    """Run all readouts into a sink; when memory runs out, what is missing again with half the budget."""

    def planned(chosen: Sequence[Readout], size: int | None) -> Plan:
        if edit is not None:
            return separate_plan(chosen, size or token_budget(model))
        return plan_scan(model, chosen, size)

    first = plan = planned(readouts, budget)
    size = max(b.width * len(b.rows) for b in plan.batches)
    missing = list(range(len(readouts)))
    while True:
        try:
            capture(model, plan, points, sink, progress, edit)
            return first
        except OutOfMemory as error:
            size //= 2
            if error.single or size < _SMALLEST_BUDGET:
                raise
            missing = [i for i in missing if i not in error.done]
        plan = renumbered(planned([readouts[i] for i in missing], size), missing)


def _check(model: LoadedModel, points: Sequence[Point], *arrays: NDArray[Any]) -> None:
    for i, point in enumerate(points):
        if not all(np.isfinite(a[:, i]).all() for a in arrays):
            raise ModelError(
                f"{model.card.name}: states at {point} are not finite in {model.dtype}: try --dtype float32"
            )


def _scan_to(
    place: Path,
    shape: tuple[int, int, int],
    model: LoadedModel,
    rendered: Rendered,
    points: Sequence[Point],
    budget: int | None,
    progress: Progress,
) -> Plan:
    """Scan into files, beside their place, and move them there as a whole."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise ResultError(f"cannot write states under {place.parent}: {error.strerror}") from error
    try:
        content, last = open_arrays(scratch / "states.safetensors", shape, new=True)
        plan = run_readouts(model, rendered.readouts, points, Keep(content, last), budget, progress)
        _check(model, points, content, last)
        rendered.index.to_parquet(scratch / "index.parquet", index=False)
        about = {"points": [str(p) for p in points], "left_out": rendered.left_out, "model": model.card.name}
        (scratch / "card.json").write_text(json.dumps({**about, "commit": model.commit}, indent=1) + "\n")
        del content, last
        os.replace(scratch, place)
    except OSError as error:
        if place.is_dir():  # another run was faster
            return plan
        reason = error.strerror or error
        raise ResultError(f"cannot write {place}: {reason}; nothing stored was lost") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return plan


def _key(model: LoadedModel, rendered: Rendered, points: Sequence[Point]) -> str:
    """A hash of everything that determines the states."""
    digest = hashlib.sha256()
    facts = {
        "model": model.card.name,
        "commit": model.commit,
        "tokenizer": model.tokenizer_hash,
        "points": [str(p) for p in points],
        "dtype": model.dtype,
        "attention": model.attention,
        "device": model.device.type,
        "transformers": transformers.__version__,
        "adapter": ADAPTER_VERSION,
        "config": model.module.config.to_json_string(),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for r in rendered.readouts:
        digest.update(np.array([r.start, r.stop, *r.tokens], np.int64).tobytes())
    digest.update(rendered.index.to_csv(index=False).encode())
    return digest.hexdigest()[:24]
