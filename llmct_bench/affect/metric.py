"""The metric in which states are compared: what neutral text is like at a point of the residual stream.

z = P_perp (h - mu_role): mu is the neutral mean, P_perp removes the leading principal components of neutral text (Mu &
Viswanath 2018, arXiv:1702.01417). They are what a few rogue dimensions and the topic of a text put on every state
(Timkey & van Schijndel 2021, arXiv:2109.04404).

Nothing here knows the basis: a model whose residual stream is rotated, which computes the same function, gets the same
scores. A standard deviation per dimension, the other usual remedy, does not have that property; and like a whitening it
stretches the space between the emotions, so that what single words add is weighed unevenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.emotions import NEUTRAL

Floats = NDArray[np.float64]

#: Share of the neutral variance that is removed at least, and the share of the rest that no single component holds.
NUISANCE_SHARE, DOMINANT_SHARE = 0.5, 0.2


@dataclass(frozen=True)
class Metric:
    """``mean`` (d,) by role; ``nuisance`` (k, d), orthonormal: what P_perp removes."""

    mean: dict[str, Floats]
    nuisance: Floats

    def z(self, h: NDArray[np.floating], role: NDArray[np.object_]) -> Floats:
        """z = P_perp (h - mu_role) of states (n, d)."""
        place, names = pd.factorize(role)
        z = h.astype(np.float64) - np.stack([self.mean[r] for r in names])[place]
        return np.asarray(z - (z @ self.nuisance.T) @ self.nuisance)


def fit_metric(h: NDArray[np.floating], index: pd.DataFrame, roles: tuple[str, ...]) -> Metric:
    """The metric of a point from its states (n, d): the neutral items of the FIT split. The mean is the role's own,
    the components are pooled, because a metric of its own would hide or feign a difference between the roles."""
    h = h.astype(np.float64)
    neutral = ((index["split"] == "fit") & (index["emotion"] == NEUTRAL)).to_numpy()
    role = index["role"].to_numpy()
    mean = {r: h[neutral & (role == r)].mean(axis=0) for r in roles}
    centred = np.concatenate([h[neutral & (role == r)] - mean[r] for r in roles])
    _, s, components = np.linalg.svd(centred, full_matrices=False)
    return Metric(mean, components[: n_nuisance(s**2)])


def n_nuisance(variances: Floats) -> int:
    """How many of the principal components with these ``variances`` (k,), the largest first, are nuisance: the fewest
    that hold `NUISANCE_SHARE` of the variance, and further ones while the next alone holds more than `DOMINANT_SHARE`
    of what is left. (With the first rule alone, the larger a rogue dimension is, the more topic it would shield.)"""
    left = np.cumsum(variances[::-1])[::-1]
    enough = left <= (1 - NUISANCE_SHARE) * left[0]
    return int(np.argmax(np.append(enough & (variances <= DOMINANT_SHARE * left), True)))
