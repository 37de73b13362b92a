"""What a scan costs, as ratios of times taken in turn in one process. `benchmarks/page.py` makes the page."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks import memory, peers
from benchmarks.measuring import (
    Job,
    Scan,
    Seconds,
    all_hidden_states,
    bare_plan,
    bare_rows,
    batch_by_batch,
    in_turn,
    matrix_rate,
    report,
    spread,
    with_head,
)
from benchmarks.workloads import (
    ROUNDS,
    Workload,
    batched,
    conversations,
    padded,
    random_module,
    scaled,
    shared_prefixes,
    single_prompts,
)
from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.scanner import Readout, make_plan

BUDGETS = (256, 1024)
_ONE_BY_ONE, _PEERS = 16, 32  # readouts in the samples of what takes minutes otherwise
_FILES = {"A": 8, "B": 4, "C": 4}
_UNSHARED = 6000  # tokens in the sample of batches without sharing


def test_single_prompts(benchmark: Any, model: LoadedModel) -> None:
    """A: nothing is shared, so only the hooks, the padding and what others carry along make a difference."""
    work = single_prompts()
    scan = Scan(model, work.readouts)
    rows = [padded(b.rows) for b in scan.plan.batches]
    jobs = [
        *_ours(model, scan),
        *(Job(f"bare, budget {n}", bare_plan(model, make_plan(work.readouts, n))) for n in BUDGETS),
        Job("hidden states", all_hidden_states(model, rows)),
        *_one_by_one(model, work),
    ]
    _measure(benchmark, model, work, scan, jobs)
    pairs = batch_by_batch(model, scan, ROUNDS)
    benchmark.extra_info.update(pairs=pairs)
    _say("batch by batch", {name: _ratio(pairs, name, "bare") for name in pairs})


def test_conversations(benchmark: Any, model: LoadedModel) -> None:
    """B: all turns of a conversation in one pass, suffixes as branches."""
    work = conversations()
    _shared(benchmark, model, work, [padded([row]) for row in work.bare])


def test_shared_prefixes(benchmark: Any, model: LoadedModel) -> None:
    """C: prompts that begin alike."""
    work = shared_prefixes()
    _shared(benchmark, model, work, [padded([row]) for row in work.bare])


def test_growth_with_items(benchmark: Any, model: LoadedModel) -> None:
    """Prompts: ours and the bare body over the same batches."""
    series = [(n, Scan(model, single_prompts(scaled(n)).readouts)) for n in (32, 64, 128)]
    pairs = {len(scan.readouts): (scan.run, bare_plan(model, scan.plan)) for _, scan in series}
    _series(benchmark, "items", "the bare body over the same batches", pairs)


def test_growth_with_turns(benchmark: Any, model: LoadedModel) -> None:
    """Messages a conversation: ours and one bare pass a conversation."""
    pairs = {}
    for turns in (5, 10, 20, 40):
        work = conversations(scaled(4), turns)
        bare = bare_rows(model, [padded([row]) for row in work.bare])
        pairs[turns] = (Scan(model, work.readouts).run, bare)
    _series(benchmark, "turns", "one bare pass a conversation", pairs)


def test_growth_with_layers(benchmark: Any, model: LoadedModel) -> None:
    """Layers that are read, from the first on: ours and the whole body."""
    readouts, depth = single_prompts(scaled(64)).readouts, model.adapter.n_layers
    pairs = {}
    for layers in sorted({depth // 4, depth // 2, 3 * depth // 4, depth}):
        scan = Scan(model, readouts, [Point("resid", i) for i in range(layers + 1)])
        pairs[layers] = (scan.run, bare_plan(model, scan.plan))
    _series(benchmark, "layers", "the whole body over the same batches", pairs)


def test_memory(benchmark: Any) -> None:
    """The peak above the model, in processes of their own."""
    count = scaled(256)

    def measure() -> dict[str, dict[str, int]]:
        found = {mode: memory.measure(mode, count) for mode in memory.MODES}
        return {**found, "quarter": memory.measure("project", count // 4)}

    found = benchmark.pedantic(measure, rounds=1, iterations=1)
    benchmark.extra_info.update(memory=found, prompts=count)
    _say("memory", {name: f"{each['peak'] / 2**20:.0f} MiB" for name, each in found.items()})


@pytest.mark.parametrize("package", ["transformer_lens", "nnsight"])
def test_peer(benchmark: Any, model: LoadedModel, package: str) -> None:
    """Another program on the same prompts."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (extra: peers)")
    work = single_prompts()
    sample = work.sample(_PEERS)
    try:
        theirs, release = getattr(peers, package)(random_module(), sample)
        for run in theirs.values():
            run()
    except Exception as error:
        pytest.skip(f"{package} does not run with these versions: {type(error).__name__}: {str(error)[:200]}")
    factor = work.separate / sum(len(r.tokens) for r in sample)
    each = [Job("ours", Scan(model, work.readouts).run), *(Job(name, run) for name, run in theirs.items())]
    seconds = benchmark.pedantic(lambda: in_turn(each, ROUNDS), rounds=1, iterations=1)
    benchmark.extra_info.update(peer=package, version=release, factor=factor, seconds=seconds)
    _say(package, {name: _ratio(seconds, name, "ours", factor) for name in theirs})


def _ours(model: LoadedModel, scan: Scan) -> list[Job]:
    same = bare_plan(model, scan.plan)
    return [
        Job("ours", scan.run),
        Job("bare, same batches", same),
        Job("bare, same batches, again", same),
        Job("matrix products", matrix_rate(model)),
    ]


def _shared(benchmark: Any, model: LoadedModel, work: Workload, rows: list[torch.Tensor]) -> None:
    scan = Scan(model, work.readouts)
    unshared, more = spread(work.unshared, _UNSHARED)
    jobs = [
        *_ours(model, scan),
        Job("bare", bare_rows(model, rows)),
        Job("without sharing", bare_rows(model, unshared), more),
        Job("hidden states", all_hidden_states(model, unshared), more),
        *_one_by_one(model, work),
    ]
    _measure(benchmark, model, work, scan, jobs)


def _one_by_one(model: LoadedModel, work: Workload) -> list[Job]:
    """One prefill a readout, on a sample that is scaled up by its tokens."""

    def job(name: str, size: int, run: Callable[[Sequence[Readout]], Callable[[], None]]) -> Job:
        sample = work.sample(size)
        return Job(name, run(sample), work.separate / sum(len(r.tokens) for r in sample))

    def seed(**settings: bool) -> Callable[[Sequence[Readout]], Callable[[], None]]:
        return lambda sample: lambda: peers.Seed(model.module, **settings)(sample)

    return [
        job("body", _ONE_BY_ONE, lambda sample: bare_rows(model, [padded([r.tokens]) for r in sample])),
        job("head", _ONE_BY_ONE, lambda sample: with_head(model, sample)),
        job("seed, residual", _ONE_BY_ONE, seed(residual=True)),
        job("seed, defaults", _ONE_BY_ONE, seed()),
        job("seed, defaults, files", _FILES[work.name], seed(files=True)),
    ]


def _measure(benchmark: Any, model: LoadedModel, work: Workload, scan: Scan, jobs: list[Job]) -> None:
    with torch.inference_mode():  # the first pass of a process is slow
        model.adapter.run(batched([r.tokens for r in work.readouts[:8]], 10**9)[0])
    seconds = benchmark.pedantic(lambda: in_turn(jobs, ROUNDS), rounds=1, iterations=1)
    benchmark.extra_info.update(report(model, work, scan, jobs, seconds))
    factors = benchmark.extra_info["factors"]
    shown = {name: _ratio(seconds, name, "bare, same batches", factors.get(name, 1.0)) for name in seconds}
    _say(f"{work.name}, {work.title}", {**benchmark.extra_info["counts"], **shown})


def _series(benchmark: Any, name: str, bare_title: str, pairs: dict[int, tuple[Any, Any]]) -> None:
    jobs = [
        Job(f"{who} {n}", run) for n, pair in pairs.items() for who, run in zip(("ours", "bare"), pair, strict=True)
    ]
    for ours, _ in list(pairs.values())[:1]:
        ours()
    times = benchmark.pedantic(lambda: in_turn(jobs, ROUNDS), rounds=1, iterations=1)
    seconds = {job.name: times[job.name] for job in jobs}
    benchmark.extra_info.update(series=name, bare_title=bare_title, values=list(pairs), seconds=seconds)
    _say(name, {str(n): _ratio(seconds, f"ours {n}", f"bare {n}") for n in pairs})


def _ratio(seconds: Seconds, name: str, reference: str, factor: float = 1.0) -> float:
    return round(factor * median(a / b for a, b in zip(seconds[name], seconds[reference], strict=True)), 4)


def _say(title: str, facts: dict[str, Any]) -> None:
    print(f"\n{title}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
