"""Adjusted p-values for families of tests. NaN entries (no test) stay NaN and do not count."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _adjust(p: ArrayLike, factors_of: str) -> NDArray[np.float64]:
    values = np.asarray(p, dtype=np.float64)
    out = np.full(values.shape, np.nan)
    tested = ~np.isnan(values)
    m = int(tested.sum())
    if m == 0:
        return out
    order = np.argsort(values[tested], kind="stable")
    ranked = values[tested][order]
    if factors_of == "holm":
        adjusted = np.maximum.accumulate(ranked * (m - np.arange(m)))
    else:
        adjusted = np.minimum.accumulate((ranked * m / (np.arange(m) + 1))[::-1])[::-1]
    back = np.empty(m)
    back[order] = np.minimum(adjusted, 1.0)
    out[tested] = back
    return out


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment (Holm 1979): controls the family-wise error."""
    return _adjust(p, "holm")


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """Benjamini-Hochberg step-up adjustment (1995): controls the false discovery rate."""
    return _adjust(p, "bh")
