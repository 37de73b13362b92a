"""Ties: groups of models that paired tests do not tell apart, and the letters that show them."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as sps

from llmct_bench.stats import MIN_CLUSTERS, holm

Cliques = tuple[tuple[int, ...], ...]


def tie_cliques(per_cluster: ArrayLike, further: ArrayLike | None = None, level: float = 0.05) -> Cliques:
    """Overlapping groups of models no two of which differ significantly.

    ``per_cluster`` (n_models, n_clusters): one number per model and cluster, clusters aligned, models in the order in
    which the groups shall be listed; ``further``: see `paired_p`. Two models share a group if and only if they do not
    differ; each group is as large as it can be. Fewer than `MIN_CLUSTERS` clusters: no groups.
    """
    x = np.asarray(per_cluster, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < MIN_CLUSTERS:
        return ()
    return cover(paired_p(x, further) > level)


def paired_p(per_cluster: ArrayLike, further: ArrayLike | None = None) -> NDArray[np.float64]:
    """Holm-adjusted p-values (Holm 1979) of the paired t test over clusters for every pair of rows: (n, n), symmetric,
    ones on the diagonal.

    ``per_cluster`` (n_models, n_clusters >= 2); ``further`` (n_models,): standard errors that the means have besides,
    independent of the clusters and of each other (those of the axes). Not sign flips: at 10^4 draws their smallest
    p-value times the number of pairs would exceed .05 from 33 models on, and nothing could ever be told apart. A row
    with values that are not finite differs from none.
    """
    x = np.asarray(per_cluster, dtype=np.float64)
    n, clusters = x.shape
    p = np.full((n, n), np.nan)
    besides = np.zeros(n) if further is None else np.asarray(further, dtype=np.float64) ** 2
    for i in range(n - 1):
        gap = x[i] - x[i + 1 :]
        mean, se = gap.mean(axis=1), gap.std(axis=1, ddof=1) / np.sqrt(clusters)
        se = np.sqrt(se**2 + besides[i] + besides[i + 1 :])
        rounding = 1e-12 * np.abs(x[i] + x[i + 1 :]).mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(se > rounding, np.abs(mean) / se, np.where(np.abs(mean) > rounding, np.inf, 0.0))
        found = 2 * sps.t.sf(t, clusters - 1)
        p[i, i + 1 :] = np.where(np.isfinite(mean), found, np.nan)
    above = np.triu_indices(n, 1)
    adjusted = np.ones((n, n))
    adjusted[above] = np.nan_to_num(holm(p[above]), nan=1.0)
    return np.minimum(adjusted, adjusted.T)


def cover(tied: NDArray[np.bool_]) -> Cliques:
    """Maximal cliques of the graph ``tied`` (n, n; symmetric) that together hold all of its edges and vertices, each
    sorted, in the order of their first members.

    A compact letter display (Piepho 2004, doi:10.1198/1061860043515) needs no more than such a cover. Not all maximal
    cliques are listed, as there may be exponentially many; where ties are runs in the order of the rows, which they are
    when all pairs have the same error, the cover holds them all. Every edge that is not covered yet starts a clique,
    widest first, which then takes in whatever it can.
    """
    n = len(tied)
    tied = tied & ~np.eye(n, dtype=bool)
    left = np.triu(tied)
    found = []
    for i in range(n):
        while left[i].any():
            j = int(np.flatnonzero(left[i])[-1])
            clique, candidates = [i, j], tied[i] & tied[j]
            while candidates.any():
                k = int(np.argmax(candidates))
                clique.append(k)
                candidates &= tied[k]
            left[np.ix_(clique, clique)] = False
            found.append(tuple(sorted(clique)))
        if not tied[i].any():
            found.append((i,))
    return tuple(sorted(found))


def letters(cliques: Sequence[Sequence[int]], n: int) -> tuple[str, ...]:
    """The letters of ``n`` models: a for the first group, b for the second. Empty texts where there are more groups
    than letters: such a display helps nobody."""
    out = [""] * n
    if len(cliques) <= len(ascii_lowercase):
        for letter, clique in zip(ascii_lowercase, cliques, strict=False):
            for member in clique:
                out[member] += letter
    return tuple(out)
