"""The seed's three metrics between states, and what of a table of them all references share. Pure functions.

Every metric takes states (n, layers, d) and references (k, layers, d) of any floating dtype and gives float64
(n, layers, k): each state against each reference at the same layer. Sums run in float64, a layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]
States = NDArray[np.floating]


def cosine(states: States, references: States) -> Array:
    """<h, r> / (|h| |r|), range [-1, 1]. A state of length 0 has no direction: its cosine is 0, as in the seed."""
    return _by_layer(lambda h, r: np.clip(_unit(h) @ _unit(r).T, -1, 1), states, references)


def mean_absolute_error(states: States, references: States) -> Array:
    """The mean over dimensions of |h - r|, in units of the state: it grows with the norm of the states."""
    return _by_layer(lambda h, r: cdist(h, r, "cityblock") / h.shape[1], states, references)


def jaccard(states: States, references: States) -> Array:
    """|A ∩ B| / |A ∪ B| of the sets of the top 1 % of dimensions by absolute value, range [0, 1].

    The sets have max(1, ⌊d / 100⌋) members, the seed's count. Of equal values the lower dimension is taken first (in
    the seed the order of ties is left to the sort).
    """
    size = max(1, states.shape[-1] // 100)

    def index(h: Array, r: Array) -> Array:
        both = _top(h, size) @ _top(r, size).T
        return np.asarray(both / (2 * size - both))

    return _by_layer(index, states, references)


#: The metrics by the name of their column.
METRICS: dict[str, Callable[[States, States], Array]] = {
    "cosine": cosine,
    "mae": mean_absolute_error,
    "jaccard": jaccard,
}


def common_share(table: Array) -> float:
    """Of a table (turns, references) the share of the sum of squares about its mean that is an effect of the turn, the
    same for all references: k Σ_i (ȳ_i. − ȳ)² / Σ_ij (y_ij − ȳ)² of the two-way decomposition, range [0, 1]. Where it
    is high, a course over turns says nothing about any one reference. NaN where nothing varies."""
    centred = table - table.mean()
    total = float(np.sum(centred**2))
    if total <= table.size * np.finfo(np.float64).eps * float(np.mean(table**2)):
        return float("nan")
    return float(table.shape[1] * np.sum(centred.mean(axis=1) ** 2) / total)


def _by_layer(metric: Callable[[Array, Array], Array], states: States, references: States) -> Array:
    wide = np.empty((len(states), states.shape[1], len(references)))
    for layer in range(states.shape[1]):
        wide[:, layer] = metric(states[:, layer].astype(np.float64), references[:, layer].astype(np.float64))
    return wide


def _unit(rows: Array) -> Array:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0))


def _top(rows: Array, size: int) -> Array:
    """Rows of 0 and 1: the ``size`` entries of largest absolute value."""
    chosen = np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :size]
    out = np.zeros_like(rows)
    np.put_along_axis(out, chosen, 1.0, axis=1)
    return out
