"""How often nearest-centroid decisions fall where, under Gaussian noise."""

from __future__ import annotations

from functools import cache, reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

Floats = NDArray[np.float64]

_CHUNK = 500_000  # comparisons at a time


def decision_rates(
    means: ArrayLike, covariance: ArrayLike, centroids: ArrayLike, precision: ArrayLike, points: int = 0
) -> Floats:
    """Share of draws from N(mean, covariance) that lie nearest to each centroid, in the metric of ``precision``.

    ``means`` (B, C, d), ``covariance`` and ``precision`` (B, d, d), ``centroids`` (B, K, d) -> (B, C, K).
    Comparing distances compares linear functions of the draw, so that along one direction of the noise each centroid
    wins on an interval: that direction (the first) is integrated exactly, the others on ``points`` (a power of 2) of a
    scrambled Sobol sequence, by default on the 2 (d - 1) points of the spherical rule of degree 3 (Stroud & Secrest
    1963, doi:10.1090/S0025-5718-1963-0161473-0): a handful of quasi-random points has a mean of its own, which would
    lean all decisions. The result is a smooth function of all arguments, which counted decisions are not.
    """
    mu, c, k, p = (np.asarray(x, dtype=np.float64) for x in (means, covariance, centroids, precision))
    step = max(_CHUNK // (mu.shape[1] * max(points, 2 * mu.shape[2]) * k.shape[1] ** 2), 1)
    parts = [slice(at, at + step) for at in range(0, len(mu), step)]
    return np.concatenate([_rates(mu[s], c[s], k[s], p[s], points) for s in parts])


def _rates(means: Floats, covariance: Floats, centroids: Floats, precision: Floats, points: int) -> Floats:
    # Cholesky's root moves smoothly with the covariance, eigenvectors do not; a trace of noise makes it regular
    d = covariance.shape[1]
    small = 1e-9 * np.trace(covariance, axis1=1, axis2=2)[:, None, None] / d + 1e-300
    root = np.linalg.cholesky(covariance + small * np.eye(d))
    pull = -2 * centroids @ precision  # distance = pull . x + offset + what all centroids share
    offset = -0.5 * (pull * centroids).sum(axis=2)
    slope = np.einsum("bkd,bd->bk", pull, root[:, :, 0])
    # with centroids in the order of their slopes, i beats an earlier j below their edge and a later one above it
    order = np.argsort(slope, axis=1)
    slope, offset = np.take_along_axis(slope, order, axis=1), np.take_along_axis(offset, order, axis=1)
    pull = np.take_along_axis(pull, order[:, :, None], axis=1)
    side = np.einsum("bkd,bdf,qf->bkq", pull, root[:, :, 1:], _normal(points, d - 1), optimize=True)
    level = (np.einsum("bkd,bcd->bkc", pull, means) + offset[:, :, None])[:, :, :, None] + side[:, :, None, :]
    k = slope.shape[1]
    edges = {}
    for j in range(k):
        for i in range(j + 1, k):
            steep = np.maximum(slope[:, i] - slope[:, j], 1e-300)[:, None, None]
            edges[j, i] = (level[:, j] - level[:, i]) / steep
    share = np.empty((len(level), level.shape[2], k))
    for i in range(k):
        upper = reduce(np.minimum, [edges[j, i] for j in range(i)], np.inf)
        lower = reduce(np.maximum, [edges[i, j] for j in range(i + 1, k)], -np.inf)
        share[..., i] = np.maximum(ndtr(upper) - ndtr(lower), 0.0).mean(axis=2)
    share /= share.sum(axis=-1, keepdims=True)
    return np.take_along_axis(share, np.argsort(order, axis=1)[:, None, :], axis=2)


@cache
def _normal(points: int, dims: int) -> Floats:
    """Points (n, dims) whose average stands for that of a standard normal vector."""
    if dims == 0:
        return np.zeros((1, 0))
    if points == 0:
        return np.asarray(np.sqrt(dims) * np.concatenate([np.eye(dims), -np.eye(dims)]))
    sequence = qmc.Sobol(dims, seed=0).random(points)
    return np.asarray(ndtri(np.clip(sequence, 1e-9, 1 - 1e-9)))
