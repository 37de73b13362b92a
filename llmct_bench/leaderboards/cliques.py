"""Ties: groups of models that paired tests do not tell apart, and the letters that show them."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from llmct_bench.stats import MIN_CLUSTERS, holm

Cliques = tuple[tuple[int, ...], ...]
_PAIRS = 4096  # whose differences are held at a time


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
    first, second = above = np.triu_indices(n, 1)
    mean, variance = _differences(x, first, second)
    besides = np.zeros(n) if further is None else np.asarray(further, dtype=np.float64) ** 2
    se = np.sqrt(variance / clusters + besides[first] + besides[second])
    size = np.abs(x).mean(axis=1)
    rounding = 1e-12 * (size[first] + size[second])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(se > rounding, np.abs(mean) / se, np.where(np.abs(mean) > rounding, np.inf, 0.0))
    p = np.where(np.isfinite(mean), 2 * stdtr(clusters - 1, -t), np.nan)
    adjusted = np.ones((n, n))
    adjusted[above] = np.nan_to_num(holm(p), nan=1.0)
    return np.minimum(adjusted, adjusted.T)


def _differences(
    x: NDArray[np.float64], first: NDArray[np.intp], second: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance over clusters of the differences of pairs of rows: from the rows' covariances, and where those
    cancel nearly, from the differences themselves."""
    means = x.mean(axis=1)
    mean = means[first] - means[second]
    centred = x - means[:, None]
    common = centred[np.isfinite(means)].mean(axis=0) if np.isfinite(means).any() else 0.0
    centred = centred - common  # cancels in every pair
    covariance = centred @ centred.T / (x.shape[1] - 1)
    own = np.diag(covariance)
    both = own[first] + own[second]
    variance = both - 2 * covariance[first, second]
    close = np.flatnonzero(variance < 1e-4 * both)
    for at in range(0, len(close), _PAIRS):
        some = close[at : at + _PAIRS]
        gap = x[first[some]] - x[second[some]]
        mean[some], variance[some] = gap.mean(axis=1), gap.var(axis=1, ddof=1)
    return mean, variance


def cover(tied: NDArray[np.bool_]) -> Cliques:
    """Maximal cliques of the graph ``tied`` (n, n; symmetric) that together hold all of its edges and vertices, each
    sorted, in the order of their first members.

    A compact letter display (Piepho 2004, doi:10.1198/1061860043515) needs no more than such a cover. Not all maximal
    cliques are listed, as there may be exponentially many; where ties are runs in the order of the rows, which they are
    when all pairs have the same error, the cover holds them all. Every edge that is not covered yet starts a clique,
    widest first, which then takes in whatever it can.
    """
    n = len(tied)
    ties = [_bits(row) & ~(1 << i) for i, row in enumerate(tied)]
    left = [own >> (i + 1) << (i + 1) for i, own in enumerate(ties)]
    found = []
    for i in range(n):
        while left[i]:
            j = left[i].bit_length() - 1
            clique, candidates = [i, j], ties[i] & ties[j]
            while candidates:
                k = (candidates & -candidates).bit_length() - 1
                clique.append(k)
                candidates &= ties[k]
            others = ~sum(1 << k for k in clique)
            for k in clique:
                left[k] &= others
            found.append(tuple(sorted(clique)))
        if not ties[i]:
            found.append((i,))
    return tuple(sorted(found))


def _bits(row: NDArray[np.bool_]) -> int:
    """A row of flags as one number whose bit k is flag k: sets of models that are cheap to intersect."""
    return int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little")


def letters(cliques: Sequence[Sequence[int]], n: int) -> tuple[str, ...]:
    """The letters of ``n`` models: a for the first group, b for the second. Empty texts where there are more groups
    than letters: such a display helps nobody."""
    out = [""] * n
    if len(cliques) <= len(ascii_lowercase):
        for letter, clique in zip(ascii_lowercase, cliques, strict=False):
            for member in clique:
                out[member] += letter
    return tuple(out)
