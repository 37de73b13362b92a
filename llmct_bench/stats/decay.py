"""Half-life of an exponential decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The grid on which half-lives are searched spans a wider range than is ever reported (see `censor`).
_GRID = np.geomspace(0.05, 2000.0, 241)


@dataclass(frozen=True)
class DecayFit:
    """Least-squares fit of amplitude * 2^(-x / half_life); ``half_life`` in the units of x, positive."""

    amplitude: float
    half_life: float
    residual: float


def fit_half_life(x: ArrayLike, y: ArrayLike) -> DecayFit:
    """Fit y = a 2^(-x/h) by least squares with equal weights.

    ``x`` (n,) lags, ``y`` (n,) mean effect per lag. For a given h the best amplitude is linear algebra, so the
    search is one-dimensional: a logarithmic grid, then finer grids around its best point. A curve that does not
    decay ends at the upper border of the grid. Raises ValueError on values that are not finite.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ValueError("lags and effects must be finite")

    def profile(h: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        basis = np.exp2(-xs[None, :] / h[:, None])
        a = basis @ ys / np.maximum((basis**2).sum(axis=1), 1e-300)
        return ((ys[None, :] - a[:, None] * basis) ** 2).sum(axis=1), a

    best = int(np.argmin(profile(_GRID)[0]))
    low, high = np.log(_GRID[max(best - 1, 0)]), np.log(_GRID[min(best + 1, len(_GRID) - 1)])
    for _ in range(6):
        inner = np.linspace(low, high, 21)
        at = int(np.argmin(profile(np.exp(inner))[0]))
        low, high = inner[max(at - 1, 0)], inner[min(at + 1, 20)]
    h = float(np.exp((low + high) / 2))
    sse, a = profile(np.array([h]))
    return DecayFit(float(a[0]), h, float(sse[0]))
