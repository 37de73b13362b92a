"""Which curve does a memory follow? Five shapes compared by AICc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: The best shape is only named where its weight is at least this.
DECIDED = 0.9


@dataclass(frozen=True)
class Shape:
    """A curve a f(x; p) + b g: linear in the amplitude (and the floor), with at most one shape parameter ``p``.

    ``basis``: (x, p) -> columns (n, n_linear).
    """

    name: str
    formula: str
    parameters: int
    basis: Callable[[Floats, float], Floats]
    grid: Floats


_ONE = np.array([1.0])
_HALF_LIVES = np.geomspace(0.1, 500.0, 160)


def _columns(*parts: ArrayLike) -> Floats:
    return np.stack([np.asarray(p, np.float64) for p in parts], axis=1)


SHAPES: tuple[Shape, ...] = (
    Shape("constant", "a", 1, lambda x, p: _columns(np.ones_like(x)), _ONE),
    Shape("step", "a for x < p, else b", 3, lambda x, p: _columns(x < p, x >= p), np.empty(0)),
    Shape("exponential", "a 2^(-x/p)", 2, lambda x, p: _columns(np.exp2(-x / p)), _HALF_LIVES),
    Shape(
        "exponential + floor",
        "a 2^(-x/p) + b",
        3,
        lambda x, p: _columns(np.exp2(-x / p), np.ones_like(x)),
        _HALF_LIVES,
    ),
    Shape("power", "a (1 + x)^(-p)", 2, lambda x, p: _columns((1 + x) ** -p), np.geomspace(0.02, 6.0, 160)),
)


@dataclass(frozen=True)
class Comparison:
    """AICc weights of the shapes (they sum to 1), the weighted residual sum of squares of each, and its shape
    parameter. ``verdict`` is the best shape, or "undecided"."""

    weights: dict[str, float]
    chi2: dict[str, float]
    parameter: dict[str, float]
    verdict: str


def compare_decays(x: ArrayLike, y: ArrayLike, covariance: ArrayLike, replicates: int | None = None) -> Comparison:
    """Compare shapes on a mean curve ``y`` (n,) at lags ``x`` (n,) with the ``covariance`` (n, n) of that mean. Where
    it was estimated from so many ``replicates`` its inverse is too large on average (Hartlap et al. 2007,
    doi:10.1051/0004-6361:20066170).

    Generalised least squares: lags of the same episodes are correlated. AICc = chi^2 + 2k + 2k(k+1)/(n-k-1) (Hurvich &
    Tsai 1989, doi:10.1093/biomet/76.2.297; Burnham & Anderson 2002). Raises ValueError for fewer than 6 lags, values
    that are not finite, a covariance that is not positive definite, or fewer than n + 3 replicates.
    """
    xs, ys, c = (np.asarray(v, dtype=np.float64) for v in (x, y, covariance))
    n = len(xs)
    if n < 6 or len(ys) != n or c.shape != (n, n):
        raise ValueError("at least six lags, with a covariance of their means, are needed")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all() and np.isfinite(c).all()):
        raise ValueError("lags, effects and covariance must be finite")
    try:
        root = np.linalg.cholesky(c)
    except np.linalg.LinAlgError:
        raise ValueError("the covariance is not positive definite") from None
    trust = 1.0 if replicates is None else (replicates - n - 2) / (replicates - 1)
    if trust <= 0:
        raise ValueError(f"{replicates} replicates, {n + 3} are needed for {n} lags")
    target = np.linalg.solve(root, ys)
    aicc: dict[str, float] = {}
    chi2: dict[str, float] = {}
    parameter: dict[str, float] = {}
    for shape in SHAPES:
        grid = shape.grid if len(shape.grid) else (np.unique(xs)[1:] + np.unique(xs)[:-1]) / 2

        def misfit(p: float, shape: Shape = shape) -> float:
            basis = np.linalg.solve(root, shape.basis(xs, p))
            coefficients = np.linalg.lstsq(basis, target, rcond=None)[0]
            return trust * float(((target - basis @ coefficients) ** 2).sum())

        values = [misfit(p) for p in grid]
        best = int(np.argmin(values))
        p, least = float(grid[best]), values[best]
        if len(shape.grid) > 1:  # a smooth parameter: refine between the neighbours
            p, least = _refine(
                misfit, float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)]), p, least
            )
        k = shape.parameters
        aicc[shape.name] = least + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        chi2[shape.name], parameter[shape.name] = least, p
    lowest = min(aicc.values())
    raw = {name: float(np.exp(-(value - lowest) / 2)) for name, value in aicc.items()}
    total = sum(raw.values())
    weights = {name: w / total for name, w in raw.items()}
    top = max(weights, key=lambda name: weights[name])
    return Comparison(weights, chi2, parameter, top if weights[top] >= DECIDED else "undecided")


def _refine(misfit: Callable[[float], float], low: float, high: float, p: float, least: float) -> tuple[float, float]:
    a, b = np.log(low), np.log(high)
    for _ in range(4):
        inner = np.linspace(a, b, 13)
        values = [misfit(float(np.exp(t))) for t in inner]
        at = int(np.argmin(values))
        if values[at] <= least:
            p, least = float(np.exp(inner[at])), values[at]
        a, b = inner[max(at - 1, 0)], inner[min(at + 1, 12)]
    return p, least
