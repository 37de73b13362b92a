"""Resampling of whole maps (layer x emotion x ...) at once: draws are rows of a matrix, data its columns.

A bootstrap draw is a vector of counts and a sign flip a vector of signs, both over clusters, so that ten thousand
of them are one matrix product with the data. All cells of a map see the same draws: that is what makes bands and
adjusted p-values simultaneous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmct_bench.stats.intervals import MIN_CLUSTERS

Floats = NDArray[np.float64]

#: Up to this number of clusters all 2^n sign patterns are used.
EXACT_CLUSTERS = 13
_CHUNK = 512  # cells whose draws are held at a time: 40 MB at 10 000 draws


@dataclass(frozen=True)
class BootstrapT:
    """Studentised bootstrap of a map of means; every array has the shape of the map.

    ``low`` to ``high`` is the interval of a cell; ``band_low`` to ``band_high`` covers all cells at once (max-T).
    """

    estimate: Floats
    se: Floats
    low: Floats
    high: Floats
    band_low: Floats
    band_high: Floats


@dataclass(frozen=True)
class FlipTest:
    """p-values of a map of means against zero, two-sided: ``p`` of each cell, ``p_family`` adjusted over all cells."""

    p: Floats
    p_family: Floats


def bootstrap_counts(n_clusters: int, draws: int, seed: int = 0) -> Floats:
    """How often each cluster is drawn: (draws, n_clusters), rows sum to ``n_clusters``."""
    drawn = np.random.default_rng(seed).integers(0, n_clusters, size=(draws, n_clusters))
    drawn += n_clusters * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n_clusters).reshape(draws, n_clusters).astype(np.float64)


def flip_signs(n_clusters: int, draws: int, seed: int = 0) -> tuple[Floats, bool]:
    """Sign patterns (patterns, n_clusters) of -1 and +1, and whether they are all that there are: all 2^n up to
    `EXACT_CLUSTERS` clusters, else ``draws`` random ones."""
    if n_clusters <= EXACT_CLUSTERS:
        bits = (np.arange(2**n_clusters)[:, None] >> np.arange(n_clusters)) & 1
        return np.asarray(2.0 * bits - 1.0, np.float64), True
    raw = np.random.default_rng(seed).integers(0, 256, size=(draws, (n_clusters + 7) // 8), dtype=np.uint8)
    return np.asarray(2.0 * np.unpackbits(raw, axis=1, count=n_clusters) - 1.0, np.float64), False


def bootstrap_t(per_cluster: ArrayLike, level: float = 0.95, draws: int = 9999, seed: int = 0) -> BootstrapT:
    """Cluster bootstrap-t of means, ``per_cluster`` (n_clusters, ...): one number per cluster and cell.

    Each draw is studentised by its own standard error (Efron & Tibshirani 1993, ch. 12.5; Cameron, Gelbach &
    Miller 2008, doi:10.1162/rest.90.3.414), which is what keeps the coverage that percentile intervals lose at few
    clusters. Intervals are equal-tailed; the band uses the quantile of max |t| over cells. Draws without variance
    in a cell are left out there. Fewer than `MIN_CLUSTERS` clusters: NaN. Raises ValueError on values that are not
    finite.
    """
    x, shape = _flat(per_cluster)
    n, cells = x.shape
    mean = x.mean(axis=0)
    se = x.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(cells, np.nan)
    low, high, band = np.full(cells, np.nan), np.full(cells, np.nan), float("nan")
    if n >= MIN_CLUSTERS:
        counts = bootstrap_counts(n, draws, seed)
        largest = np.zeros(draws)
        tails = [(1 - level) / 2, (1 + level) / 2]
        for at in range(0, cells, _CHUNK):
            part = slice(at, at + _CHUNK)
            t = _studentised(counts, x[:, part] - mean[part])
            largest = np.fmax(largest, np.abs(t).max(axis=0, initial=0.0, where=np.isfinite(t)))
            q = _quantiles(t, tails)
            low[part], high[part] = mean[part] - q[1] * se[part], mean[part] - q[0] * se[part]
        band = float(np.quantile(largest, level))
    constant = se == 0  # no variance, no error
    low[constant], high[constant] = mean[constant], mean[constant]
    half = np.where(constant, 0.0, band * se)
    found = (mean, se, low, high, mean - half, mean + half)
    return BootstrapT(*(f.reshape(shape) for f in found))


def sign_flip_map(per_cluster: ArrayLike, draws: int = 9999, seed: int = 0) -> FlipTest:
    """Sign-flip test of every cell of ``per_cluster`` (n_clusters, ...), two-sided, and its max-T adjustment.

    p-values as in `sign_flip`. ``p_family`` controls the family-wise error over all cells (Westfall & Young 1993;
    Nichols & Holmes 2002, doi:10.1002/hbm.1058). The sum of squares of a cell does not change when signs do, so |t|
    rises with |sum| / sqrt(sum of squares), the same for all cells, and the maximum is taken of that. Raises
    ValueError on values that are not finite.
    """
    x, shape = _flat(per_cluster)
    n, cells = x.shape
    if n == 0:
        return FlipTest(np.full(shape, np.nan), np.full(shape, np.nan))
    signs, exact = flip_signs(n, draws, seed)
    norm = np.sqrt((x**2).sum(axis=0))
    x = x / np.where(norm > 0, norm, 1.0)
    observed = np.abs(x.sum(axis=0)) - 1e-12 * np.maximum(1.0, np.abs(x).sum(axis=0))  # equal sums stay equal
    reached, largest = np.empty(cells), np.zeros(len(signs))
    for at in range(0, cells, _CHUNK):
        part = slice(at, at + _CHUNK)
        flipped = np.abs(signs @ x[:, part])
        reached[part] = (flipped >= observed[part]).sum(axis=0)
        np.maximum(largest, flipped.max(axis=1), out=largest)
    ordered = np.sort(largest)
    above = len(signs) - np.searchsorted(ordered, observed, side="left")
    more = 0 if exact else 1  # p is never 0 (Phipson & Smyth 2010)
    p, family = ((c + more) / (len(signs) + more) for c in (reached, above))
    return FlipTest(p.reshape(shape), family.reshape(shape))


def _flat(per_cluster: ArrayLike) -> tuple[Floats, tuple[int, ...]]:
    x = np.asarray(per_cluster, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("values must be finite")
    return x.reshape(len(x), int(np.prod(x.shape[1:]))), x.shape[1:]


def _studentised(counts: Floats, centred: Floats) -> Floats:
    """t of every draw, (cells, draws); not finite where a draw has no variance."""
    n = counts.shape[1]
    mean = centred.T @ counts.T / n
    square = (centred**2).T @ counts.T / n
    variance = square - mean**2
    variance[variance <= 1e-12 * square] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mean / np.sqrt(variance / (n - 1)), np.float64)


def _quantiles(t: Floats, at: list[float]) -> Floats:
    """Quantiles (len(at), cells) over the finite draws."""
    finite = np.isfinite(t)
    if finite.all():
        return np.asarray(np.quantile(t, at, axis=1, overwrite_input=True))
    out = np.full((len(at), len(t)), np.nan)
    for cell in np.flatnonzero(finite.any(axis=1)):
        out[:, cell] = np.quantile(t[cell, finite[cell]], at)
    return out
