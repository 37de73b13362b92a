"""What a leaderboard of many models costs, from stored results to its pages: `pytest benchmarks -s -k leaderboard`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Job, in_turn
from benchmarks.workloads import ROUNDS
from llmct_bench.benchmark import load_results
from llmct_bench.leaderboards import Leaderboard, leaderboard
from llmct_bench.leaderboards.figures import draw_all
from llmct_bench.leaderboards.html import to_html
from llmct_bench.results import ResultCard, ResultStore
from llmct_bench.stats import cluster_t
from llmct_bench.traits import ESTIMANDS, Estimand, TraitEstimate

MODELS, TRAITS, SCENARIOS = 500, 12, 96


def test_leaderboard(benchmark: Any, tmp_path: Path) -> None:
    """Reading, ranks with ties, pages, figures: each alone, on one core."""
    store = ResultStore(tmp_path / "results")
    for card in results(MODELS, TRAITS, SCENARIOS):
        store.save(card, None)
    cards = load_results(tmp_path)
    board = leaderboard(cards)
    pages: list[str] = []

    def write() -> None:
        fresh = Leaderboard(board.results, board.tables)  # nothing kept of an earlier round
        pages[:] = [fresh.to_markdown(), to_html(fresh)]

    jobs = [
        Job("reading", lambda: load_results(tmp_path) and None),
        Job("ranks, ties, tables", lambda: leaderboard(cards) and None),
        Job("pages", write),
        Job("figures", lambda: draw_all(board, tmp_path / "figures") and None),
    ]
    write()  # what is loaded on first use belongs to the start of a process
    seconds = benchmark.pedantic(lambda: in_turn(jobs, ROUNDS), rounds=1, iterations=1)
    size = {"models": MODELS, "traits": sum(any(r.rank for r in t.rows) for t in board.tables), "scenarios": SCENARIOS}
    megabytes = {"md": len(pages[0].encode()) / 1e6, "html": len(pages[1].encode()) / 1e6}
    benchmark.extra_info.update(leaderboard=size, seconds=seconds, megabytes=megabytes)
    print({name: [round(t, 2) for t in each] for name, each in seconds.items()}, megabytes)


def results(models: int, traits: int, scenarios: int) -> Iterator[ResultCard]:
    """Results as they might be: models that differ, follow the items more or less and are unequally noisy, every 50th a
    twin of the one before; the ranked traits on one suite of their design, and on a second one until there are enough.
    """
    ranked = [e for e in ESTIMANDS.values() if e.ranked]
    suites: dict[tuple[str, str], list[Estimand]] = {}
    for i in range(traits):
        e = ranked[i % len(ranked)]
        suites.setdefault((e.design, f"{e.design}-{i // len(ranked)}@1.0.0"), []).append(e)
    rng = np.random.default_rng(0)
    items = rng.normal(size=(traits, scenarios))
    before: dict[str, np.ndarray[Any, Any]] = {}
    for k in range(models):
        level, load = rng.normal(0, 0.3, len(ranked)), 1 + 0.5 * rng.normal()
        at = 0
        for (design, suite), estimands in suites.items():
            made = []
            for e in estimands:
                noise = np.exp(0.3 * rng.normal()) * rng.normal(size=scenarios)
                values = 0.3 * (level[ranked.index(e)] + load * items[at] + noise)
                if k % 50 == 49:
                    values = before[f"{suite} {e.name}"] + 0.003 * noise
                before[f"{suite} {e.name}"] = values
                made.append(_estimate(e, values, rng, valid=k % 50 != 25))
                at += 1
            yield _card(f"organisation/model-{k:03}-instruct", design, suite, made)


def _estimate(e: Estimand, values: np.ndarray[Any, Any], rng: np.random.Generator, valid: bool) -> TraitEstimate:
    own = cluster_t(values)
    turn = np.exp if e.logarithmic else float
    estimate, low, high = (float(turn(v)) for v in (own.estimate, own.low, own.high))
    details: dict[str, Any] = {
        "share": [0.2, 0.1, 0.3],
        "tokens": 120.0,
        "depth": 0.5,
        "accuracy": 0.9,
        "default_share": {"joy": 0.3},
        "curve": [[float(lag), 0.5 + 2.0 ** (1 - lag / 6), 0.4, 2.6] for lag in (0, 1, 2, 4, 8, 24)],
        "responses": {c: [1.0, 0.5, 1.5] for c in ("neutral", "calm", "positive", "negative")},
        "profile": [[p / 23, p / 23 - 0.1, p / 23 + 0.1] for p in range(24)],
    }
    return TraitEstimate(
        trait=e.name,
        estimate=estimate,
        low=low,
        high=high,
        se=own.se,
        p_value=float(rng.random() ** 4),
        effect=1.0,
        n_clusters=len(values),
        valid=valid,
        reason="" if valid else "a reason why there is none",
        per_cluster={f"scenario-{j:03}": float(v) for j, v in enumerate(values)},
        details=details,
        se_axes=own.se / 3,
    )


def _card(name: str, design: str, suite: str, traits: list[TraitEstimate]) -> ResultCard:
    layer = {"point": 2, "depth": 0.5, "localised": True, "profile": [[1.0, 0.1]]}
    card = ResultCard(
        key=f"{name} {suite}",
        model={"name": name, "family": "family", "params_b": 7.0, "layers": 32, "d_model": 4096, "stage": "instruct"},
        commit="c0ffee00c0ffee00",
        suite=suite,
        suite_hash="0123456789abcdef",
        design=design,
        subset="all",
        n_readouts=1344,
        n_scenarios=SCENARIOS,
        left_out=[],
        fit={"reference": "reference@1.0.0", "layer": layer},
        traits=traits,
        raw={},
        certificate={"passed": True, "floor": 1e-7, "checks": []},
        run={"dtype": "bfloat16", "device": "cuda"},
    )
    number = int(name.split("-")[1])
    base = f"organisation/model-{number - 1:03}-instruct"
    return replace(card, model={**card.model, "tuned_from": base}) if number % 50 == 49 else card
