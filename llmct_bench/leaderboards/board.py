"""From results to a leaderboard: who is shown, who is ranked, and how far a rank can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmct_bench.results import ResultCard, labels
from llmct_bench.stats import MIN_CLUSTERS, holm, rank_intervals
from llmct_bench.traits import ESTIMANDS, Estimand, TraitEstimate


@dataclass(frozen=True)
class Row:
    """One model in the table of one trait. ``rank`` is None for invalid estimates; ``rank_low`` to ``rank_high`` is
    its simultaneous 95 % rank interval, None where too few scenarios are shared."""

    model: str
    estimate: TraitEstimate
    p_holm: float
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    truth: float | None


@dataclass(frozen=True)
class TraitTable:
    """The table of one trait on one suite: ranked rows by value, then the invalid ones by name."""

    estimand: Estimand
    suite: str
    rows: tuple[Row, ...]
    shared_scenarios: int


@dataclass(frozen=True)
class Leaderboard:
    """Tables by trait, and the results they come from."""

    results: tuple[ResultCard, ...]
    tables: tuple[TraitTable, ...]
    title: str = "Leaderboard"
    note: str = ""

    def to_markdown(self) -> str:
        """The leaderboard as Markdown, figures linked as ``figures/NAME.svg``."""
        from llmct_bench.leaderboards.markdown import to_markdown

        return to_markdown(self)

    def write(self, folder: Path) -> list[Path]:
        """Write ``leaderboard.md`` and ``figures/*.{svg,png}``. The same results give the same bytes."""
        from llmct_bench.leaderboards.figures import draw_all

        folder.mkdir(parents=True, exist_ok=True)
        page = folder / "leaderboard.md"
        page.write_text(self.to_markdown(), encoding="utf-8")
        return [page, *draw_all(self, folder / "figures")]


def leaderboard(results: Sequence[ResultCard], title: str = "Leaderboard", note: str = "") -> Leaderboard:
    """Build the leaderboard of any number of results; ``note`` is shown under the title.

    Results of different versions of a suite do not mix: each version has tables of its own.
    """
    ordered = sorted(results, key=lambda r: (r.model["name"], r.commit, r.suite))
    names = labels(ordered)
    tables = []
    for estimand in ESTIMANDS.values():
        suites = sorted({(r.suite, r.suite_hash) for r in ordered if r.design == estimand.design})
        for suite, content in suites:
            found = [
                (names[r.model["name"], r.commit], t, r.truth.get(estimand.name))
                for r in ordered
                if (r.suite, r.suite_hash) == (suite, content)
                for t in r.traits
                if t.trait == estimand.name
            ]
            tables.append(_table(estimand, suite, found))
    return Leaderboard(tuple(ordered), tuple(tables), title, note)


def _table(estimand: Estimand, suite: str, found: list[tuple[str, TraitEstimate, float | None]]) -> TraitTable:
    valid = sorted((f for f in found if f[1].valid), key=lambda f: (-f[1].estimate, f[0]))
    invalid = sorted((f for f in found if not f[1].valid), key=lambda f: f[0])
    adjusted = holm([f[1].p_value for f in valid]).tolist()
    intervals, shared = _ranks([f[1] for f in valid])
    rows = []
    for i, (name, t, truth) in enumerate(valid):
        # the order is by all scenarios of a model, the intervals by the shared ones: the rank is part of its interval
        low, high = (
            (None, None) if intervals is None else (min(int(intervals[i, 0]), i + 1), max(int(intervals[i, 1]), i + 1))
        )
        rows.append(Row(name, t, adjusted[i], i + 1, low, high, truth))
    rows += [Row(name, t, float("nan"), None, None, None, truth) for name, t, truth in invalid]
    return TraitTable(estimand, suite, tuple(rows), shared)


def _ranks(
    estimates: list[TraitEstimate],
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None, int]:
    """Rank intervals from the scenarios that all ranked models share."""
    if len(estimates) < 2:
        return None, len(estimates[0].per_cluster) if estimates else 0
    shared = sorted(set.intersection(*(set(e.per_cluster) for e in estimates)))
    if len(shared) < MIN_CLUSTERS:
        return None, len(shared)
    return rank_intervals([[e.per_cluster[s] for s in shared] for e in estimates]), len(shared)
