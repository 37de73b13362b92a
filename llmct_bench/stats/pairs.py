"""The largest standardised difference over many pairs, draw by draw, as far as its upper quantiles need it.

500 models are 124 750 pairs; with thousands of draws, and again in every step of a step-down, all of them take minutes.
What is asked for is one order statistic of the maxima, so most draws need no more than the certainty that no pair
exceeds it. That comes from a bound by model. Split the variables of a draw into their part along a few common
directions, |p| long, and residuals e. With standard deviations a of the residuals and r of the residuals' difference,

    t_ij = |f_i - f_j| / s_ij > c   implies   |e_i| / a_i  or  |e_j| / a_j > h r_ij / (a_i + a_j),  h^2 = c^2 - |p|^2

(the triangle inequality for the residuals, Cauchy and Schwarz for the rest). Few models of a draw are so far out, and
only their pairs are looked at. Pairs of models that are nearly the same, for which the bound says nothing, are all
looked at. Nothing here is an approximation: the order statistic is that of the full table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: What `LargestDifference` may take r / (a_i + a_j) for too small to bound a pair by: the cheapest is chosen.
_NEAR = (0.0, 0.2, 0.4, 0.6)
#: Maxima are exact down to this share of the order statistic that is asked for, as the next one will be smaller.
_SLACK = 0.98
#: Common directions that are split off, of which each has more than so many times its part of the variance.
_COMMON, _SHARE = 3, 4.0
_CHUNK = 256  # draws or rows at a time: they stay in the cache


class LargestDifference:
    """Max over pairs of |f_i - f_j| / s_ij in every draw of n variables f = ``signs`` @ ``x.T`` + ``own`` * ``normal``.

    ``x`` (n, clusters); ``signs`` (draws, clusters) of -1 and 1; ``own`` (n,) standard deviations of what the variables
    have besides, ``normal`` (draws, n). ``scale`` (n, n) is s, the standard deviation of f_i - f_j; infinite where two
    variables do not differ and on the diagonal.
    """

    def __init__(self, x: Floats, own: Floats, signs: Floats, normal: Floats | None = None) -> None:
        self._f = signs @ x.T
        if normal is not None:
            self._f += own * normal
        distance = _distance(x, own)
        np.fill_diagonal(distance, 0.0)
        self.scale = np.where(distance > 1e-12 * distance.max(initial=1.0), distance, np.inf)
        axes = _common(x)
        along, common = x @ axes, signs @ axes
        rest = x - along @ axes.T
        size = np.sqrt((rest**2).sum(axis=1) + own**2)
        size = np.where(size > 0, size, np.inf)
        self._length = (common**2).sum(axis=1)
        self._out = np.abs(self._f - common @ along.T) / size
        sizes = np.where(np.isfinite(size), size, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = _distance(rest, own) / (sizes[:, None] + sizes[None, :])
        self._ratio = np.nan_to_num(ratio, nan=0.0)
        self._bound = np.full(len(signs), np.inf)
        self.taken = 0  # differences that were looked at so far, of all draws

    def upper(self, among: Flags, rank: int) -> float:
        """The ``rank``-th largest (1 to draws), over draws, of the maxima over the pairs ``among`` (n, n; symmetric).
        Every further call must be for some of the pairs of the last one."""
        weight = np.where(among, 1.0 / self.scale, 0.0)
        order = np.argsort(-self._bound, kind="stable")
        first = len(order) if np.isinf(self._bound).any() else min(2 * rank, len(order))
        found = self._climb(order[:first], weight)
        low = _largest(found, rank)
        more = order[first:][self._bound[order[first:]] > low]
        live = np.concatenate([order[:first], more])
        found = np.maximum(np.concatenate([found, self._climb(more, weight)]), _SLACK * low)
        self._bound[live] = np.maximum(found, self._beyond(live, weight, found))
        return _largest(self._bound, rank)

    def _climb(self, draws: NDArray[np.intp], weight: Floats) -> Floats:
        """A large difference of each draw: the model farthest out with its best partner, and that with its own."""
        rows = np.flatnonzero(weight.any(axis=1))
        found = np.zeros(len(draws))
        for part in _chunks(len(draws)):
            f, each = self._f[draws[part]], np.arange(len(draws[part]))
            at = rows[np.argmax(self._out[np.ix_(draws[part], rows)], axis=1)] if len(rows) else 0 * each
            for _ in range(2):
                t = np.abs(f - f[each, at][:, None]) * weight[at]
                at = t.argmax(axis=1)
                found[part] = t[each, at]
                self.taken += t.size
        return found

    def _beyond(self, draws: NDArray[np.intp], weight: Floats, least: Floats) -> Floats:
        """The maxima of the draws where they exceed ``least``; anything up to that where they do not."""
        near, reach = self._screen(weight, float(np.median(least)))
        height = np.sqrt(np.maximum(least**2 - self._length[draws], 0.0)) * (1 - 1e-9)
        found, rows = np.zeros(len(draws)), np.flatnonzero(np.isfinite(reach))
        for part in _chunks(len(draws)):
            f = self._f[draws[part]]
            draw, model = np.nonzero(self._out[draws[part]][:, rows] >= height[part, None] * reach[rows])
            model = rows[model]
            largest = np.zeros(len(f))
            for some in _chunks(len(draw)):
                d, m = draw[some], model[some]
                t = np.abs(f[d] - f[d, m][:, None]) * weight[m]
                np.maximum.at(largest, d, t.max(axis=1))
                self.taken += t.size
            columns = np.ascontiguousarray(f.T)
            for i, partners in near:
                t = np.abs(columns[partners] - columns[i]) * weight[i, partners, None]
                np.maximum(largest, t.max(axis=0), out=largest)
                self.taken += t.size
            found[part] = largest
        return found

    def _screen(self, weight: Floats, height: float) -> tuple[list[tuple[int, NDArray[np.intp]]], Floats]:
        """The pairs that are looked at in every draw, by their first model, and how far out (over h) each model must
        be for its others: whichever border between the two makes the least work."""
        among = weight > 0
        best, work = (among, np.full(len(weight), np.inf)), float(among.sum() / 2)
        for border in _NEAR:
            near = among & (self._ratio < border)
            reach = np.where(among & ~near, self._ratio, np.inf).min(axis=1, initial=np.inf)
            rows = float(2 * ndtr(-height * reach[np.isfinite(reach)]).sum())
            here = float(near.sum() / 2 + len(weight) * rows)
            if here < work:
                best, work = (near, reach), here
        near, reach = best
        upper = np.triu(near)
        return [(int(i), np.flatnonzero(upper[i])) for i in np.flatnonzero(upper.any(axis=1))], reach


def _distance(x: Floats, own: Floats) -> Floats:
    """Standard deviations (n, n) of the differences of x @ signs + own * normal."""
    gram = x @ x.T
    square = np.diag(gram)[:, None] + np.diag(gram)[None, :] - 2 * gram
    return np.asarray(np.sqrt(np.maximum(square, 0.0) + own[:, None] ** 2 + own[None, :] ** 2))


def _common(x: Floats) -> Floats:
    """Orthonormal directions (clusters, at most `_COMMON`) along which the rows vary much more than along others, by a
    few steps of orthogonal iteration: any directions would do."""
    axes = np.random.default_rng(0).normal(size=(x.shape[1], min(_COMMON, *x.shape)))
    for _ in range(8):
        axes = np.linalg.qr(x.T @ (x @ axes))[0]
    part = ((x @ axes) ** 2).sum(axis=0)
    return np.asarray(axes[:, part > _SHARE * (x**2).sum() / min(x.shape)])


def _largest(values: Floats, rank: int) -> float:
    """The ``rank``-th largest."""
    return float(np.partition(values, len(values) - rank)[len(values) - rank])


def _chunks(n: int) -> list[slice]:
    return [slice(at, at + _CHUNK) for at in range(0, n, _CHUNK)]
