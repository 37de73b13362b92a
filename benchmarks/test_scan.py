"""What a scan costs, as ratios of times taken in turn in one process (never absolute times)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from llmct_bench.adapters import LoadedModel
from llmct_bench.models import PANEL, phantom_tokenizer
from llmct_bench.models.phantoms.build import build
from llmct_bench.scanner import Plan, Rendered, make_plan, render, scan
from llmct_bench.suites import Suite, get_suite

ROUNDS = 5


def in_turn(*jobs: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each job over ROUNDS rounds, the jobs taken in turn so that drift of the machine hits all alike."""
    times: list[list[float]] = [[] for _ in jobs]
    for job in jobs:
        job()  # warm-up
    for _ in range(ROUNDS):
        for job, own in zip(jobs, times, strict=True):
            began = time.perf_counter()
            job()
            own.append(time.perf_counter() - began)
    return times


def ratio(a: list[float], b: list[float]) -> float:
    return median(x / y for x, y in zip(a, b, strict=True))


def bare(model: LoadedModel, plan: Plan) -> None:
    """The same batches through the body, nothing read."""
    with torch.inference_mode():
        for batch in plan.batches:
            ids = np.zeros((len(batch.rows), batch.width), np.int64)
            for i, row in enumerate(batch.rows):
                ids[i, : len(row)] = row
            model.adapter.run(torch.from_numpy(ids))


def one_prefill_a_prefix(model: LoadedModel, rendered: Rendered) -> None:
    """The straightforward way: batch 1, head included, all hidden states kept, one full prefill per readout."""
    with torch.inference_mode():
        for readout in rendered.readouts:
            model.module(torch.tensor([readout.tokens]), output_hidden_states=True)


def suite_part(name: str, items: int) -> Suite:
    suite = get_suite(name)
    return replace(suite, items=suite.items[:: max(len(suite.items) // items, 1)][:items])


@pytest.mark.parametrize(("name", "items"), [("circumplex", 96), ("retention", 4)])
def test_scan_against_bare_pass_and_naive(benchmark: Any, model: LoadedModel, name: str, items: int) -> None:
    """Reading every block boundary against a bare pass over the same batches, and against one prefill per readout."""
    suite = suite_part(name, items)
    rendered = render(suite, model.tokenizer, model.context)
    plan = make_plan(rendered.readouts, 1024)
    ours, body, again, naive = in_turn(
        lambda: scan(model, suite, rendered=rendered, budget=1024),
        lambda: bare(model, plan),
        lambda: bare(model, plan),
        lambda: one_prefill_a_prefix(model, rendered),
    )
    benchmark.extra_info.update(
        scan_over_bare=ratio(ours, body),
        bare_over_bare=ratio(again, body),
        naive_over_scan=ratio(naive, ours),
        tokens_run=plan.tokens,
        tokens_padded=plan.padded,
        tokens_naive=sum(len(r.tokens) for r in rendered.readouts),
    )
    print(f"\n{name}: { ({k: round(v, 3) for k, v in benchmark.extra_info.items()}) }")
    benchmark.pedantic(lambda: scan(model, suite, rendered=rendered, budget=1024), rounds=1, iterations=1)


def test_building_a_phantom(benchmark: Any) -> None:
    """Compiling a phantom in memory, tokenizer at hand."""
    tokenizer = phantom_tokenizer()
    benchmark(lambda: build(PANEL[3], tokenizer))
