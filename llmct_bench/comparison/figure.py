"""The profile plot: one row a trait, one point a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from llmct_bench.comparison.compare import Comparison
from llmct_bench.comparison.differences import AXES_DF, axes_error
from llmct_bench.leaderboards.figures.common import MARKERS, colours, short
from llmct_bench.results import labels
from llmct_bench.stats import MIN_CLUSTERS, Interval, LeftOut, cluster_t, t_interval
from llmct_bench.traits import ESTIMANDS, TraitEstimate

CAPTION = (
    "Profiles: each model’s distance from the mean of the models, in SD of the scenarios’ values (pooled), with its "
    "own 95 % interval over scenarios and axes; linear between −1 and 1, logarithmic beyond. Whether two models differ "
    "is in the table, which pairs the scenarios, and not in whether these intervals overlap"
)
#: Where the axis turns from linear to logarithmic, in SD.
_LINEAR = 1.0


@dataclass(frozen=True)
class Row:
    """One trait on one suite: the place of each model that has it, on scenarios that all of them share."""

    title: str
    places: dict[str, Interval]


def profile_rows(comparison: Comparison) -> list[Row]:
    """The rows of the plot: every trait that at least two models have, in SD from the mean of the models; of the suites
    that are compared, so not of the reference."""
    names = labels(comparison.results)
    found: dict[tuple[str, str, str, str], dict[str, TraitEstimate]] = {}
    for r in (r for r in comparison.results if r.design != "reference"):
        for t in r.traits:
            key = (t.trait, r.suite, r.suite_hash, r.subset)
            if t.valid:
                found.setdefault(key, {})[names[str(r.model["name"]), r.commit]] = t
    rank = {trait: i for i, trait in enumerate(ESTIMANDS)}
    order = sorted(found, key=lambda k: (rank.get(k[0], len(rank)), *k[1:]))
    several = [k[0] for k in order if len(found[k]) > 1]
    rows = []
    for key in order:
        places = _places(found[key])
        if places:
            title = ESTIMANDS[key[0]].title if key[0] in ESTIMANDS else key[0]
            rows.append(Row(f"{title}\n{short(key[1], 30)}" if several.count(key[0]) > 1 else title, places))
    return rows


def _places(estimates: dict[str, TraitEstimate]) -> dict[str, Interval]:
    shared = sorted(set.intersection(*(set(t.per_cluster) for t in estimates.values())))
    if len(estimates) < 2 or len(shared) < MIN_CLUSTERS:
        return {}
    values = np.array([[t.per_cluster[s] for s in shared] for t in estimates.values()])
    sd = float(np.sqrt(values.var(axis=1, ddof=1).mean()))
    if not sd > 1e-12 * float(np.abs(values).max()):
        return {}
    values = (values - values.mean()) / sd
    places = {}
    for (name, t), own in zip(estimates.items(), values, strict=True):
        error = LeftOut(np.zeros(1), np.full((1, 1, 1), (axes_error(t) / sd) ** 2), np.array([AXES_DF]))
        places[name] = t_interval(cluster_t(own), error)
    return places


def profile(comparison: Comparison, rows: Sequence[Row]) -> Figure:
    """The plot of `profile_rows`."""
    models = comparison.models
    figure, ax = plt.subplots(figsize=(7.6, 0.9 + len(rows) * (0.3 + 0.17 * len(models))))
    step = 0.62 / len(models)
    for i, (name, colour) in enumerate(zip(models, colours(len(models)), strict=True)):
        y = np.arange(len(rows)) + step * (i - (len(models) - 1) / 2)
        here = [(at, row.places[name]) for at, row in zip(y, rows, strict=True) if name in row.places]
        for at, place in here:
            ax.plot([place.low, place.high], [at, at], color=colour, lw=2, solid_capstyle="butt", zorder=2)
        marks = ([p.estimate for _, p in here], [at for at, _ in here])
        ax.plot(*marks, MARKERS[i], color=colour, ms=6, mec="white", mew=0.7, zorder=3, label=short(name))
    for line in range(len(rows) - 1):
        ax.axhline(line + 0.5, color="#dddddd", lw=0.8, zorder=0)
    ax.axvline(0, color="black", lw=1, ls=":", zorder=1)
    ends = [abs(v) for row in rows for p in row.places.values() for v in (p.low, p.high)]
    reach = max([1.0, *ends])
    ax.set_xscale("symlog", linthresh=_LINEAR, linscale=1.0)
    ax.set_xlim(-1.15 * reach, 1.15 * reach)
    powers = [t for t in (2.0, 5.0, 10.0, 30.0, 100.0, 1000.0, 1e4, 1e5, 1e6) if t <= 1.15 * reach]
    powers = powers if len(powers) < 4 else [t for t in powers if t >= 10]
    ticks = [-t for t in reversed(powers)] + [-1.0, -0.5, 0.0, 0.5, 1.0] + powers
    ax.set_xticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(range(len(rows)), [row.title for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("SD of the scenarios from the mean of the models")
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, ncols=min(3, len(models)), loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=9)
    sns.despine(ax=ax, left=True)
    figure.tight_layout()
    return figure
