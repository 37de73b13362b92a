"""Half-life of an exponential decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

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

    ``x`` (n,) lags, ``y`` (n,) mean effect per lag. Raises ValueError on values that are not finite.
    """
    a, h, sse = _fit(x, np.asarray(y, dtype=np.float64)[None])
    return DecayFit(float(a[0]), float(h[0]), float(sse[0]))


def half_lives(x: ArrayLike, y: ArrayLike) -> Floats:
    """`fit_half_life` of many curves at once: ``y`` (B, n) -> (B,)."""
    return _fit(x, np.asarray(y, dtype=np.float64))[1]


def _fit(x: ArrayLike, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Amplitude, half-life and squared error of curves (B, n). For a given h the best amplitude is linear algebra, so
    the search is one-dimensional: a logarithmic grid, then finer grids around its best point. A curve that does not
    decay ends at the upper border of the grid."""
    xs = np.asarray(x, dtype=np.float64)
    if not (np.isfinite(xs).all() and np.isfinite(y).all()):
        raise ValueError("lags and effects must be finite")

    def profile(h: Floats) -> tuple[Floats, Floats]:
        """Squared errors and amplitudes (B, n_h) at half-lives (n_h,) or (B, n_h)."""
        basis = np.exp2(-xs / h[..., None])
        norm = np.maximum((basis**2).sum(axis=-1), 1e-300)
        along = y @ basis.T if h.ndim == 1 else np.einsum("bn,bhn->bh", y, basis)
        a = along / norm
        shape = basis[None] if h.ndim == 1 else basis
        return ((y[:, None, :] - a[..., None] * shape) ** 2).sum(axis=-1), a

    best = np.argmin(profile(_GRID)[0], axis=1)
    low, high = np.log(_GRID[np.maximum(best - 1, 0)]), np.log(_GRID[np.minimum(best + 1, len(_GRID) - 1)])
    steps = np.linspace(0.0, 1.0, 21)
    rows = np.arange(len(y))
    for _ in range(6):
        inner = low[:, None] + (high - low)[:, None] * steps
        at = np.argmin(profile(np.exp(inner))[0], axis=1)
        low, high = inner[rows, np.maximum(at - 1, 0)], inner[rows, np.minimum(at + 1, 20)]
    h = np.exp((low + high) / 2)
    sse, a = profile(h[:, None])
    return a[:, 0], h, sse[:, 0]
