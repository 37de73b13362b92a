"""What resampling a whole map costs beside a loop of library calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.measuring import Job, in_turn
from benchmarks.workloads import ROUNDS
from llmct_bench.stats import bootstrap_t, cluster_means, sign_flip_map

ITEMS, LAYERS, EMOTIONS, CLUSTERS, DRAWS = 2000, 37, 9, 192, 10_000
_CELLS = 3  # cells of the map that the loops run


def test_statistics(benchmark: Any) -> None:
    """Cluster bootstrap-t and sign flips of items x layers x emotions, from the items on."""
    values = np.random.default_rng(0).normal(0.1, 1.0, size=(ITEMS, LAYERS, EMOTIONS))
    clusters = np.arange(ITEMS) % CLUSTERS
    means, _ = cluster_means(values, clusters)
    more = LAYERS * EMOTIONS / _CELLS

    def ours() -> None:
        per_cluster, _ = cluster_means(values, clusters)
        bootstrap_t(per_cluster, draws=DRAWS)
        sign_flip_map(per_cluster, draws=DRAWS)

    jobs = [
        Job("ours", ours),
        Job("scipy, items", _library(values), more),
        Job("scipy, cluster means", _library(means), more),
        Job("loop over draws", _loop(means, DRAWS // 100), 100.0),
    ]
    began = time.perf_counter()
    ours()
    first = time.perf_counter() - began
    seconds = benchmark.pedantic(lambda: in_turn(jobs, ROUNDS), rounds=1, iterations=1)
    size = {"items": ITEMS, "layers": LAYERS, "emotions": EMOTIONS, "clusters": CLUSTERS, "draws": DRAWS}
    factors = {job.name: job.factor for job in jobs}
    benchmark.extra_info.update(statistics=size, seconds=seconds, factors=factors, first=first)


def _library(values: np.ndarray) -> Callable[[], None]:
    """scipy's bootstrap (BCa, its default) and permutation test, one cell after the other."""

    def run() -> None:
        for cell in range(_CELLS):
            x = (values[:, cell, cell],)
            stats.bootstrap(x, np.mean, n_resamples=DRAWS)
            stats.permutation_test(x, np.mean, permutation_type="samples", n_resamples=DRAWS, vectorized=True)

    return run


def _loop(means: np.ndarray, draws: int) -> Callable[[], None]:
    """numpy over the whole map, one draw after the other."""

    def run() -> None:
        rng = np.random.default_rng(0)
        for _ in range(draws):
            drawn = means[rng.integers(0, len(means), len(means))]
            _ = (drawn.mean(0) - means.mean(0)) / drawn.std(0, ddof=1)
            _ = (rng.choice([-1.0, 1.0], len(means))[:, None, None] * means).mean(0)

    return run
