"""Jobs taken in turn, the package's scan with a clock in its hooks, and what it is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.workloads import Workload, body_parameters, counts, linears, padded
from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.adapters.adapter import Adapter, Reader
from llmct_bench.adapters.packing import run_packed
from llmct_bench.scanner import Plan, Readout, capture, plan_scan
from llmct_bench.scanner.capture import Keep

#: Rows of the matrix products that give the machine's rate: those of one pass.
RATE_TOKENS = 1024

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Job:
    """Something that is timed. Where it runs a sample only, ``factor`` is by how many times the whole has more tokens.
    ``run`` may return seconds of its parts."""

    name: str
    run: Callable[[], dict[str, float] | None]
    factor: float = 1.0


def in_turn(jobs: Sequence[Job], rounds: int) -> Seconds:
    """Seconds of every job (and of parts) in every round. Each round runs every job once, each time beginning with
    another one, so that drift of the machine hits all alike."""
    times: Seconds = {}
    for n in range(rounds):
        for i in range(len(jobs)):
            job = jobs[(i + n) % len(jobs)]
            began = time.perf_counter()
            parts = job.run() or {}
            for name, seconds in {job.name: time.perf_counter() - began, **parts}.items():
                times.setdefault(name, []).append(seconds)
    return times


class Scan:
    """The package's scan of readouts: plan, capture, everything kept. What the hooks do is timed inside of them."""

    def __init__(self, model: LoadedModel, readouts: Sequence[Readout], points: Sequence[Point] | None = None) -> None:
        self.model, self.readouts = model, readouts
        self.points = list(points or model.adapter.residual_points())
        self.plan = plan_scan(model, readouts)  # the self-test of packing runs here
        self._clock = [0.0]
        self._timed = replace(model, adapter=_timed(model.adapter, self._clock))

    def run(self) -> dict[str, float]:
        """One scan; seconds of planning, capture and hooks."""
        began = time.perf_counter()
        plan = plan_scan(self.model, self.readouts)
        shape = (len(self.readouts), len(self.points), self.model.adapter.d_model)
        self.content, self.last = (np.full(shape, np.nan, np.float32) for _ in range(2))
        planned = time.perf_counter()
        self._clock[0] = 0.0
        capture(self._timed, plan, self.points, Keep(self.content, self.last))
        done = time.perf_counter()
        return {"plan": planned - began, "capture": done - planned, "hooks": self._clock[0]}

    def error(self, size: int = 8) -> float:
        """After a run: max |difference| / max |reference| from one separate prefill a readout, over states of a sample
        of the readouts."""
        chosen = np.unique(np.linspace(0, len(self.readouts) - 1, size).astype(int))
        return max(self._error(int(i)) for i in chosen)

    def _error(self, i: int) -> float:
        readout, found = self.readouts[i], 0.0
        states: dict[int, Tensor] = {}
        with torch.inference_mode(), self.model.adapter.reading(self.points, states.__setitem__):
            self.model.adapter.run(torch.tensor([readout.tokens]))
        for n, state in states.items():
            for ours, truth in (
                (self.content[i, n], state[0, readout.start : readout.stop].mean(0).numpy()),
                (self.last[i, n], state[0, -1].numpy()),
            ):
                found = max(found, float(np.abs(ours - truth).max() / np.abs(truth).max()))
        return found if np.isfinite(found) else float("inf")


def _timed(adapter: Adapter, clock: list[float]) -> Adapter:
    class Timed(Adapter):
        def reading(self, points: Sequence[Point], reader: Reader) -> Any:
            def read(i: int, value: Tensor) -> None:
                began = time.perf_counter()
                reader(i, value)
                clock[0] += time.perf_counter() - began

            return super().reading(points, read)

    return Timed(**vars(adapter))


def batch_by_batch(model: LoadedModel, scan: Scan, rounds: int) -> Seconds:
    """Seconds of the passes with hooks, bare, and bare once more, every batch in all three ways one after the other:
    what costs a hundredth is not seen across whole scans on a machine that drifts by more."""
    shape = (len(scan.readouts), len(scan.points), model.adapter.d_model)
    sink = Keep(*(np.zeros(shape, np.float32) for _ in range(2)))
    parts = [replace(scan.plan, batches=(b,)) for b in scan.plan.batches]
    found: Seconds = {}
    for n in range(rounds):
        total = dict.fromkeys(("hooks", "bare", "bare again"), 0.0)
        for i, part in enumerate(parts):
            bare = bare_plan(model, part)
            ways = [
                ("hooks", lambda p=part: capture(model, p, scan.points, sink)),
                ("bare", bare),
                ("bare again", bare),
            ]
            for k in range(3):
                name, run = ways[(k + i + n) % 3]
                began = time.perf_counter()
                run()
                total[name] += time.perf_counter() - began
        for name, seconds in total.items():
            found.setdefault(name, []).append(seconds)
    return found


def bare_plan(model: LoadedModel, plan: Plan) -> Callable[[], None]:
    """The same passes through the body, nothing read."""
    batches = [(padded(b.rows), b.segments) for b in plan.batches]

    def run() -> None:
        with torch.inference_mode():
            for tokens, segments in batches:
                if segments:
                    run_packed(model.adapter, tokens, segments)
                else:
                    model.adapter.run(tokens)

    return run


def bare_rows(model: LoadedModel, batches: Sequence[Tensor]) -> Callable[[], None]:
    """Batches through the body, nothing read."""

    def run() -> None:
        with torch.inference_mode():
            for tokens in batches:
                model.adapter.run(tokens)

    return run


def all_hidden_states(model: LoadedModel, batches: Sequence[Tensor]) -> Callable[[], None]:
    """Batches through the body with ``output_hidden_states``, everything kept to the end."""

    def run() -> None:
        kept: list[Any] = []
        with torch.inference_mode():
            for tokens in batches:
                kept.append(model.adapter.decoder(tokens, use_cache=False, output_hidden_states=True).hidden_states)

    return run


def with_head(model: LoadedModel, readouts: Sequence[Readout]) -> Callable[[], None]:
    """``model()`` with its head, one prefill a readout."""

    def run() -> None:
        with torch.inference_mode():
            for readout in readouts:
                model.module(torch.tensor([readout.tokens]))

    return run


def matrix_rate(model: LoadedModel) -> Callable[[], None]:
    """Nothing but the body's matrix products, each once, at RATE_TOKENS rows."""
    matrices = linears(model)
    torch.manual_seed(0)
    inputs = {m.in_features: torch.randn(RATE_TOKENS, m.in_features) for m in matrices}

    def run() -> None:
        with torch.inference_mode():
            for matrix in matrices:
                torch.nn.functional.linear(inputs[matrix.in_features], matrix.weight)

    return run


def spread(batches: Sequence[Tensor], tokens: int) -> tuple[list[Tensor], float]:
    """Batches of about ``tokens`` tokens in all, spread evenly, and how many times as many tokens all of them have."""
    whole = sum(b.numel() for b in batches)
    number = max(1, min(len(batches), round(len(batches) * tokens / whole)))
    places = ((np.arange(number) + 0.5) * len(batches) / number).astype(int)
    chosen = [batches[i] for i in places]
    return chosen, whole / sum(b.numel() for b in chosen)


def report(model: LoadedModel, work: Workload, scan: Scan, jobs: Sequence[Job], seconds: Seconds) -> dict[str, Any]:
    """Everything that the page needs of a workload."""
    return {
        "workload": work.name,
        "title": work.title,
        "bare_title": work.bare_title,
        "counts": counts(work, scan.plan),
        "seconds": seconds,
        "factors": {job.name: job.factor for job in jobs if job.factor != 1.0},
        "error": scan.error(),
        "parameters": body_parameters(model),
        "rate_tokens": RATE_TOKENS,
    }
