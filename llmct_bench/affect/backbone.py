"""The emotional backbone: how much of what tells the emotions apart in held-out text lies in the few dimensions that
the training text spans?

Four class means span three dimensions at most, so that a subspace always "exists". What can be asked is how much of the
scatter between the emotions of other topics in other words lies in it. Scatter is a sum of inner products of two topics
that share no wording: what a topic or a word adds by chance has the expectation 0 in it, in the part that is captured
and in the whole (cross-validated as crossnobis is: Walther et al. 2016, doi:10.1016/j.neuroimage.2015.12.012).

All of it is worked out on inner products with the means of the training wordings, whatever the width of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from llmct_bench.emotions import NAMES, NEUTRAL

Floats = NDArray[np.float64]

#: Permutations of the training labels.
_DRAWS = 499
#: Directions of a span whose squared length is below this share of the largest are none.
_FLAT = 1e-9


@dataclass(frozen=True)
class Wordings:
    """The training text by wording: ``means`` (n_parts, d) of z, how many items each stands for (``weight``), its
    emotion (``owner``, a place in `NAMES`), its intensity (``level``), and the sample of which it is a unit
    (``stratum``: one emotion at one intensity)."""

    means: Floats
    weight: Floats
    owner: NDArray[np.intp]
    level: NDArray[np.int64]
    stratum: NDArray[np.int64]

    @property
    def removable(self) -> NDArray[np.intp]:
        """The wordings that are not alone in their stratum."""
        return np.flatnonzero(np.bincount(self.stratum)[self.stratum] > 1)

    def shares(self, without: int | None = None, owner: NDArray[np.intp] | None = None) -> Floats:
        """(n_emotions, n_parts): how much each wording counts in the mean of each emotion. A stratum keeps its weight
        whatever is left out of it; ``owner``: other labels."""
        kept = self.weight.copy()
        if without is not None:
            kept[without] = 0.0
        full, left = (np.bincount(self.stratum, w) for w in (self.weight, kept))
        own = kept * (full / np.maximum(left, 1e-300))[self.stratum]
        emotion = self.owner if owner is None else owner
        total = np.bincount(emotion, self.weight, len(NAMES))
        return np.asarray(np.where(np.arange(len(NAMES))[:, None] == emotion, own, 0.0) / total[:, None])


@dataclass(frozen=True)
class Backbone:
    """What is kept of it. By held-out topic, jackknife pseudo-values whose mean is the scatter in a pair of topics:
    ``total`` (n_topics,) between the emotions, and ``captured`` (n_topics,) its part in the ``dims`` training
    dimensions, of ``width`` that there are.

    ``without`` (n_versions,): the mean of `captured` when a training wording is left out, with its ``strata``.
    ``permuted``: the mean of `captured` over permutations of the training wordings' emotions, ``p_value`` the share of
    them that capture as much as the true ones (one-sided, add-one). ``transfer`` (n_emotions, 2, n_topics): captured
    and total of what tells one emotion from neutral, in the dimensions of the other three. ``scatter_p``: the share of
    permutations of the held-out wordings' emotions with as much total scatter (one-sided, add-one). Topics that share
    their wordings share what these add by chance, so that the spread over topics cannot tell scatter from chance.
    """

    topics: tuple[str, ...]
    captured: Floats
    total: Floats
    dims: int
    width: int
    without: Floats
    strata: NDArray[np.int64]
    permuted: float
    p_value: float
    transfer: Floats
    scatter_p: float

    def lacking(self, topics: set[str]) -> Backbone:
        """It without some topics; exact up to terms of the order 1 / n_topics^2, and what the wordings and the
        permutations do is taken to be the same share."""
        keep = np.array([t not in topics for t in self.topics], bool)
        left = float(self.captured[keep].mean() / self.captured.mean()) if keep.any() else math.nan
        return replace(
            self,
            topics=tuple(t for t in self.topics if t not in topics),
            captured=self.captured[keep],
            total=self.total[keep],
            without=left * self.without,
            permuted=left * self.permuted,
            transfer=self.transfer[:, :, keep],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Backbone:
        """Back from `to_json`."""
        arrays = {k: np.array(data[k], np.float64) for k in ("captured", "total", "without", "transfer")}
        strata = np.array(data["strata"], np.int64)
        return Backbone(**{**data, **arrays, "topics": tuple(data["topics"]), "strata": strata})


def fit_backbone(z: Floats, index: pd.DataFrame, words: Wordings, width: int) -> Backbone | None:
    """The backbone of ``words`` in the DEV rows of ``z`` (n_readouts, d), a space of ``width`` dimensions. None where
    too few held-out topics share no wording: when any one of them is left out, a pair must remain. Topics count that
    have every emotion at every intensity, and neutral text."""
    dev = (index["split"] == "dev").to_numpy()
    rows = index[dev]
    table = pd.DataFrame(z[dev]).groupby([rows[c].to_numpy() for c in ("scenario", "emotion", "intensity")]).mean()
    levels = sorted(rows.loc[rows["emotion"].isin(NAMES), "intensity"].unique())
    cells = [*((e, i) for e in NAMES for i in levels), (NEUTRAL, 0)]
    topics = tuple(str(t) for t, found in table.groupby(level=0).groups.items() if {k[1:] for k in found} >= {*cells})
    pairs = _pairs(rows, topics)
    if not (pairs.sum() > 2 * pairs.sum(axis=1)).all() or not topics:
        return None
    order = pd.MultiIndex.from_tuples([(t, *c) for t in topics for c in cells])
    means = table.reindex(order).to_numpy(np.float64).reshape(len(topics), len(cells), -1)
    graded, neutral = means[:, :-1].reshape(len(topics), len(NAMES), len(levels), -1), means[:, -1:]
    felt = graded.mean(axis=2)
    held = felt - felt.mean(axis=1, keepdims=True)
    gram, seen = words.means @ words.means.T, held @ words.means.T
    both = np.einsum("st,sep,teq->pq", pairs, seen, seen, optimize=True) / pairs.sum()

    def captured(shares: Floats) -> Floats:
        """Scatter in the span of the centred class means, for ``shares`` (B, n_emotions, n_parts)."""
        own = shares - shares.mean(axis=1, keepdims=True)
        inverse = np.linalg.pinv(own @ gram @ own.transpose(0, 2, 1), rcond=_FLAT, hermitian=True)
        return np.asarray(np.einsum("bef,bfp,pq,beq->b", inverse, own, both, own, optimize=True))

    own = words.shares()
    observed = float(captured(own[None])[0])
    chance = captured(np.stack([words.shares(owner=o) for o in _permuted(words)]))
    without = [words.shares(int(u)) for u in words.removable]
    reached = int((chance >= observed - 1e-9 * abs(observed)).sum())
    span = own - own.mean(axis=0)
    return Backbone(
        topics=topics,
        captured=_pseudo(_inside(held, span, words, gram), pairs),
        total=_pseudo(_products(held), pairs),
        dims=int(np.linalg.matrix_rank(span @ gram @ span.T, hermitian=True, rtol=_FLAT)),
        width=width,
        without=captured(np.stack(without)) if without else np.empty(0),
        strata=words.stratum[words.removable],
        permuted=float(chance.mean()),
        p_value=(1 + reached) / (1 + len(chance)),
        transfer=np.stack(
            [
                [
                    _pseudo(_inside(alone, np.delete(own, e, axis=0), words, gram), pairs),
                    _pseudo(_products(alone), pairs),
                ]
                for e, alone in enumerate(np.split(felt - neutral, len(NAMES), axis=1))
            ]
        ),
        scatter_p=_scatter_p(graded, pairs),
    )


def _scatter_p(graded: Floats, pairs: Floats) -> float:
    """One-sided p of the total scatter when the emotions change hands: within each intensity, and alike in all topics
    that share wordings with one another. ``graded`` (n_topics, n_emotions, n_levels, d).

    The mean over emotions stays what it is, so that only the inner products of one emotion with itself change."""
    n, k, levels, _ = graded.shape
    sets, which = connected_components(csr_array(pairs == 0), directed=False)
    member = (which == np.arange(sets)[:, None]).astype(np.float64)
    flat = graded.transpose(0, 2, 1, 3).reshape(n * levels * k, -1)
    products = (flat @ flat.T).reshape(n, levels * k, n, levels * k)
    joint = np.einsum("xs,satb,st,yt->xayb", member, products, pairs, member, optimize=True)
    square = joint.reshape(sets * levels * k, -1)
    rng = np.random.default_rng(0)
    given = rng.permuted(np.broadcast_to(np.arange(k), (_DRAWS, sets * levels, k)), axis=-1)
    given = np.concatenate([np.broadcast_to(np.arange(k), (1, sets * levels, k)), given])
    place = given + k * np.arange(sets * levels)[:, None]
    scatter = square[place[:, :, None, :], place[:, None, :, :]].sum(axis=(1, 2, 3))
    reached = int((scatter[1:] >= scatter[0] - 1e-9 * abs(scatter[0])).sum())
    return (1 + reached) / (1 + _DRAWS)


def _pairs(own: pd.DataFrame, topics: tuple[str, ...]) -> Floats:
    """(n_topics, n_topics) of 0 and 1: the pairs of topics whose emotional items share no wording."""
    emotional = own[own["emotion"].isin(NAMES)]
    wording = emotional["item"].str.rsplit("/", n=1).str[-1]
    used = {str(t): set(w) for t, w in wording.groupby(emotional["scenario"])}
    found = [[float(s != t and not used[s] & used[t]) for t in topics] for s in topics]
    return np.array(found).reshape(len(topics), len(topics))


def _permuted(words: Wordings) -> list[NDArray[np.intp]]:
    """The emotions of the wordings in random order within each intensity."""
    rng, order = np.random.default_rng(0), np.argsort(words.level, kind="stable")
    found = []
    for _ in range(_DRAWS):
        owner = words.owner.copy()
        owner[order] = words.owner[np.lexsort((rng.random(len(order)), words.level))]
        found.append(owner)
    return found


def _products(x: Floats) -> Floats:
    """Inner products (n_topics, n_topics) of vectors (n_topics, n_emotions, d), summed over the emotions."""
    flat = x.reshape(len(x), -1)
    return np.asarray(flat @ flat.T)


def _inside(x: Floats, span: Floats, words: Wordings, gram: Floats) -> Floats:
    """`_products` of the projections of ``x`` on the span of combinations ``span`` (m, n_parts) of the parts."""
    seen = x @ words.means.T @ span.T
    inverse = np.linalg.pinv(span @ gram @ span.T, rcond=_FLAT, hermitian=True)
    return np.asarray(np.einsum("sem,mk,tek->st", seen, inverse, seen, optimize=True))


def _pseudo(products: Floats, pairs: Floats) -> Floats:
    """Jackknife pseudo-values (n_topics,) of the mean of ``products`` over ``pairs``, of which that mean is the mean
    (where all topics have as many partners)."""
    n, own = len(products), products * pairs
    without = (own.sum() - 2 * own.sum(axis=1)) / (pairs.sum() - 2 * pairs.sum(axis=1))
    return np.asarray(n * own.sum() / pairs.sum() - (n - 1) * without)
