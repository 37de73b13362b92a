"""From results to a leaderboard: who is shown, who is ranked, and how far a rank can be trusted."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmct_bench.errors import ResultError
from llmct_bench.leaderboards.cliques import Cliques, letters, tie_cliques
from llmct_bench.results import ResultCard, labels
from llmct_bench.stats import MIN_CLUSTERS, holm, rank_intervals, split_half
from llmct_bench.traits import ESTIMANDS, Estimand, TraitEstimate

if TYPE_CHECKING:
    from llmct_bench.leaderboards.content import Page

#: A trait that orders the models less reliably than this is not ranked; a correlation over fewer models than that
#: would say little.
RELIABLE, ENOUGH = 0.7, 5


@dataclass(frozen=True)
class Row:
    """One model in the table of one trait. ``rank`` is None for invalid estimates, and for all of a trait that is shown
    but not ranked; ``rank_low`` to ``rank_high`` is its simultaneous 95 % rank interval, None where too few scenarios
    are shared. Models that have a letter of ``ties`` in common do not differ significantly; empty where that is not
    known or takes more letters than there are."""

    model: str
    estimate: TraitEstimate
    p_holm: float
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    truth: float | None
    ties: str = ""


@dataclass(frozen=True)
class TraitTable:
    """The table of one trait on one suite: ranked rows by value, then the invalid ones by name. ``cliques`` are places
    of ranked rows that do not differ significantly (`tie_cliques`). ``reliability``: split-half reliability of the
    order of these models; where it is below `RELIABLE` nobody is ranked. NaN where there are too few models to tell."""

    estimand: Estimand
    suite: str
    rows: tuple[Row, ...]
    shared_scenarios: int
    cliques: Cliques = ()
    reliability: float = float("nan")


@dataclass(frozen=True)
class Leaderboard:
    """Tables by trait, and the results they come from."""

    results: tuple[ResultCard, ...]
    tables: tuple[TraitTable, ...]
    title: str = "Leaderboard"
    note: str = ""

    @cached_property
    def page(self) -> Page:
        """What its pages show, made once for both."""
        from llmct_bench.leaderboards.content import page

        return page(self)

    def to_markdown(self) -> str:
        """The leaderboard as Markdown, figures linked as ``figures/NAME.svg``."""
        from llmct_bench.leaderboards.markdown import to_markdown

        return to_markdown(self)

    def to_html(self) -> str:
        """The leaderboard as one HTML file that needs nothing else: style, script and figures are inside."""
        from llmct_bench.leaderboards.figures import draw_all
        from llmct_bench.leaderboards.html import to_html

        with tempfile.TemporaryDirectory() as folder:
            return to_html(self, draw_all(self, Path(folder), [".svg"]))

    def write(self, folder: Path) -> list[Path]:
        """Write ``leaderboard.md``, ``leaderboard.html`` and ``figures/*.{svg,png}``. The same results give the same
        bytes. Raises ResultError when the disk refuses."""
        from llmct_bench.leaderboards.figures import draw_all
        from llmct_bench.leaderboards.html import to_html

        figures = draw_all(self, folder / "figures")
        pages = {"leaderboard.md": self.to_markdown(), "leaderboard.html": to_html(self, figures)}
        try:
            for name, text in pages.items():
                (folder / name).write_bytes(text.encode("utf-8", "replace"))
        except OSError as error:
            raise ResultError(f"cannot write the leaderboard to {folder}: {error.strerror or error}") from error
        return [*(folder / name for name in pages), *figures]


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
            if found or not estimand.needs:
                tables.append(_table(estimand, suite, found))
    return Leaderboard(tuple(ordered), tuple(tables), title, note)


def _table(estimand: Estimand, suite: str, found: list[tuple[str, TraitEstimate, float | None]]) -> TraitTable:
    valid = sorted((f for f in found if f[1].valid), key=lambda f: (-f[1].estimate, f[0]))
    invalid = sorted((f for f in found if not f[1].valid), key=lambda f: f[0])
    adjusted = holm([f[1].p_value for f in valid]).tolist()
    shared = _shared([f[1] for f in valid])
    values = np.array([[f[1].per_cluster[s] for s in shared] for f in valid])
    comparable = estimand.ranked and len(valid) > 1 and len(shared) >= MIN_CLUSTERS
    axes = [f[1].se_axes / (f[1].estimate if estimand.logarithmic else 1.0) for f in valid]
    reliability = split_half(values) if comparable and len(valid) >= ENOUGH else float("nan")
    ranked = estimand.ranked and not reliability < RELIABLE
    intervals = rank_intervals(values, further=axes) if comparable and ranked else None
    cliques = tie_cliques(values, axes) if comparable else ()
    ties = letters(cliques, len(valid))
    rows = []
    for i, (name, t, truth) in enumerate(valid):
        # the order is by all scenarios of a model, the intervals by the shared ones: the rank is part of its interval
        low, high = (
            (None, None) if intervals is None else (min(int(intervals[i, 0]), i + 1), max(int(intervals[i, 1]), i + 1))
        )
        rows.append(Row(name, t, adjusted[i], i + 1 if ranked else None, low, high, truth, ties[i]))
    rows += [Row(name, t, float("nan"), None, None, None, truth) for name, t, truth in invalid]
    return TraitTable(estimand, suite, tuple(rows), len(shared), cliques, reliability)


def _shared(estimates: list[TraitEstimate]) -> list[str]:
    """The scenarios that all ranked models share."""
    return sorted(set.intersection(*(set(e.per_cluster) for e in estimates))) if estimates else []
