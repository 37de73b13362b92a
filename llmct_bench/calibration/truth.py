"""The truth about a phantom: what every trait would be if the phantom's closed form were read without error.

From the token ids of the rendered suites and the knobs alone (no forward pass): emotion on the planted axes,
pooled like a readout, referred to the reference suite like a score. Traits that compare means are their estimand
applied to these noise-free scores. Separability and what counts decisions are defined relative to noise, whose
covariance is known in closed form too (the random part of the words that a readout really contains).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from llmct_bench.affect import PLANE, FitConstants, separable
from llmct_bench.emotions import BY_NAME, NAMES, NEUTRAL
from llmct_bench.models import PhantomSpec
from llmct_bench.models.phantoms.mechanism import loads, word_noise
from llmct_bench.models.phantoms.tokenizer import ROLE_MARKERS
from llmct_bench.models.phantoms.truth import axis_noise, axis_states, heard
from llmct_bench.scanner import NextWords, Rendered
from llmct_bench.scanner.next_words import prompted, side_tokens, spoken
from llmct_bench.scanner.trie import chains
from llmct_bench.stats import cross_distances, crossnobis
from llmct_bench.suites import Suite
from llmct_bench.traits import ESTIMANDS, Layout, Measurement
from llmct_bench.traits.circumplex_rsa import circumplex, correlation
from llmct_bench.traits.distances import geometry
from llmct_bench.traits.joy_bias import SMOOTH, bias, decision_precision, decisions

Floats = NDArray[np.float64]
#: Points of a quasi-random sequence on which decisions under noise are averaged: 2 to this power.
_POINTS = 12
#: Draws of noise over which rank correlations are averaged.
_NOISES = 64


@dataclass(frozen=True)
class Felt:
    """Closed-form state on the planted axes of every readout, (n_readouts, n_emotions): the emotion, and what the
    words themselves add."""

    emotion: Floats
    noise: Floats
    index: pd.DataFrame


def feel(rendered: Rendered, words: list[str], spec: PhantomSpec) -> Felt:
    """Evaluate the closed form on every readout; ``words`` by token id."""
    load, vectors = loads(words, spec.gain), word_noise(words, spec)
    emotion, noise = [], []
    done: dict[tuple[int, ...], tuple[Floats, Floats]] = {}
    for readout, owner in zip(rendered.readouts, chains([r.tokens for r in rendered.readouts]), strict=True):
        if owner not in done:  # like the model, the closed form is causal: one evaluation a conversation
            ids = np.array(owner)
            done[owner] = axis_states(load[ids], _assistant(ids, words), spec), axis_noise(vectors[ids], spec)
        span = slice(readout.start, readout.stop)
        state, own = done[owner]
        emotion.append(state[span].mean(axis=0))
        noise.append(own[span].mean(axis=0))
    return Felt(np.array(emotion), np.array(noise), rendered.index)


def _assistant(ids: NDArray[np.intp], words: list[str]) -> NDArray[np.bool_]:
    """Whether the last role marker up to each token is the assistant's, (n_tokens,)."""
    marker = {words.index(v): k == "assistant" for k, v in ROLE_MARKERS.items()}
    found = np.zeros(len(ids), bool)
    for at in np.flatnonzero(np.isin(ids, list(marker))):
        found[at:] = marker[int(ids[at])]
    return found


@dataclass(frozen=True)
class TrueAxes:
    """The scale of the truth: axes (n_scores, n_emotions) in planted coordinates, in neutral SD, and the neutral
    mean per role."""

    axes: Floats
    neutral: dict[str, Floats]

    def scores(self, felt: Felt) -> Floats:
        """Noise-free scores (n_readouts, n_scores) in neutral SD."""
        origin = np.stack([self.neutral[r] for r in felt.index["role"]])
        return (felt.emotion - origin) @ self.axes.T

    @property
    def role_shift(self) -> Floats:
        """(n_scores,): what a readout's own origin takes away in the assistant's role more than in the user's."""
        return np.asarray(self.axes @ (self.neutral["assistant"] - self.neutral["user"]))


def true_axes(reference: Felt) -> TrueAxes:
    """Axes and units from the closed-form states of the reference suite."""
    index = reference.index
    fit, neutral = index["split"] == "fit", index["emotion"] == NEUTRAL
    origin = {r: reference.emotion[fit & neutral & (index["role"] == r)].mean(axis=0) for r in index["role"].unique()}
    centred = reference.emotion - np.stack([origin[r] for r in index["role"]])
    means = np.stack([centred[fit & (index["emotion"] == e)].mean(axis=0) for e in NAMES])
    valence = np.array([BY_NAME[e].valence for e in NAMES]) @ means
    arousal = np.array([BY_NAME[e].arousal for e in NAMES]) @ means
    raw = np.concatenate([means - means.mean(axis=0), [valence, arousal]])
    axes = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
    held_out = (~fit & neutral).to_numpy()
    total = (reference.emotion + reference.noise)[held_out]
    residual = np.concatenate(
        [total[r] - total[r].mean(axis=0) for r in (index.loc[held_out, "role"] == name for name in origin)]
    )
    covariance = residual.T @ residual / max(len(residual) - len(origin), 1)
    sigma = np.sqrt(np.einsum("kp,pq,kq->k", axes, covariance, axes))
    return TrueAxes(axes / np.maximum(sigma, 1e-12)[:, None], origin)


@dataclass(frozen=True)
class TrueScores:
    """The noise-free scores (n_readouts, n_scores) of a suite as an estimand sees them, the covariance (n_emotions,
    n_emotions) of what noise adds to the scores of the emotions, and what the assistant's role shifts that the scores
    do not tell (n_scores,). Where they are known: ``noisy``, the scores with what the very words of each readout add to
    them, and ``next_words``."""

    layout: Layout
    values: Floats
    noise: Floats
    role_shift: Floats
    noisy: Floats | None = None
    next_words: NextWords | None = None

    @property
    def measurement(self) -> Measurement:
        """As an estimand sees them."""
        fit = FitConstants(self.role_shift, 0.0)
        scores = self.values[:, None, :]
        return Measurement(
            self.layout, self.values, (*NAMES, *PLANE), scores, 0.0, constants=fit, next_words=self.next_words
        )


def true_scores(felt: Felt, axes: TrueAxes, next_words: NextWords | None = None) -> TrueScores:
    """Closed-form scores of a suite (keyworded items only: a phantom reads nothing else)."""
    keep = felt.index["keyworded"].to_numpy(bool)
    index = felt.index[keep].reset_index(drop=True)
    emotions = axes.axes[: len(NAMES)]
    noise = np.atleast_2d(np.cov((felt.noise[keep] @ emotions.T).T))
    values, added = axes.scores(felt)[keep], (felt.noise @ axes.axes.T)[keep]
    return TrueScores(Layout(index), values, noise, axes.role_shift, values + added, next_words)


def planted(
    spec: PhantomSpec,
    words: list[str],
    reference: Rendered,
    suite: Rendered,
    design: str,
    next_words: NextWords | None = None,
) -> dict[str, float]:
    """The true traits of a phantom on a suite, from rendered texts alone; ``words`` by token id. ``next_words``: what
    `planted_words` says of it; without them there is no truth of what is said."""
    axes = true_axes(feel(reference, words, spec))
    return true_traits(true_scores(feel(suite, words, spec), axes, next_words), design)


def planted_words(spec: PhantomSpec, tokenizer: Any, suite: Suite, context: int) -> NextWords:
    """What a phantom would say next, in closed form. Joy that is the same after all prompts is not quite the same in
    the words: the final norm divides by a size that the topic has its part in."""
    vocabulary = tokenizer.get_vocab()
    words = sorted(vocabulary, key=lambda w: int(vocabulary[w]))
    load, vectors, head = loads(words, spec.gain), word_noise(words, spec), loads(words, 1.0)
    prompts, sides = prompted(suite, tokenizer, context), side_tokens(tokenizer)

    def odds(tokens: tuple[int, ...]) -> tuple[float, float]:
        """Up to what the probabilities of all words have in common, which no trait asks for."""
        ids = np.array(tokens)
        last = heard(load[ids], vectors[ids], _assistant(ids, words), spec)[-1]
        joy, negative = (float(np.log(np.mean(np.exp(head[list(side)] @ last)))) for side in sides)
        return joy, negative

    everything = (*prompts.neutral.values(), *prompts.emotional.values(), *prompts.content_free)
    return spoken(prompts, [odds(p) for p in everything], (len(sides[0]), len(sides[1])))


def true_traits(true: TrueScores, design: str, times: float = 1.0, ranked: bool = False) -> dict[str, float]:
    """The true value of every trait of a design, or of those with ranks; NaN where the trait does not exist (no
    emotion, say). ``times``: how often the table stands for itself (joy bias depends slightly on the number of
    decisions)."""
    out: dict[str, float] = {}
    for estimand in ESTIMANDS.values():
        if estimand.design != design or estimand.needs or (ranked and not estimand.ranked):
            continue
        if estimand.name in _UNDER_NOISE:
            out[estimand.name] = _UNDER_NOISE[estimand.name](true, times)
        else:
            estimate = estimand.estimate(true.measurement)
            out[estimand.name] = estimate.estimate if estimate.valid else float("nan")
    return out


def _separability(true: TrueScores, times: float) -> float:
    table, p = true.layout.made(separable), true.values[:, : len(NAMES)]
    own = p[table.rows]
    residual = own - (table.cells @ own)[table.cell]
    covariance = residual.T @ residual / max(len(own) - table.cells.shape[0], 1) + true.noise
    return float(crossnobis(table.class_means(p), np.linalg.pinv(covariance, rcond=1e-4, hermitian=True)))


def _joy_bias(true: TrueScores, times: float) -> float:
    joy = true.layout.made(decisions).names.index("joy")
    return float(bias(times * _decided(true, SMOOTH)[:-1], joy))


def _default_share(true: TrueScores, times: float) -> float:
    neutral = _decided(true, 0.0)[-1]
    return float(neutral[true.layout.made(decisions).names.index("joy")] / neutral.sum())


def _selectivity(true: TrueScores, times: float) -> float:
    table = _decided(true, 0.0)[:-1]
    gain = float((np.diagonal(table) / table.sum(axis=1)).mean()) - 1 / len(table)  # the control's accuracy is chance
    return gain if np.isfinite(gain) else 0.0


def _circumplex_rsa(true: TrueScores, times: float) -> float:
    """Noise in the distances lowers every rank correlation: the mean over drawn noise, on Fisher's z, at the number of
    scenarios."""
    index = true.layout.index
    if np.allclose(true.values, true.values[0]) or not set(NAMES) <= set(index["emotion"]):
        return float("nan")
    design, space = true.layout.made(circumplex), geometry(true.values, index, true.noise)
    n = round(len(space.scenarios) * times)
    means = np.resize(space.means, (n, *space.means.shape[1:]))
    rng, nothing, found = np.random.default_rng(0), np.zeros(means.shape[-1]), []
    for _ in range(_NOISES):
        noisy = means + rng.multivariate_normal(nothing, true.noise, means.shape[:2], method="eigh")
        distances = cross_distances(noisy, space.precision, np.ones((1, n)))[0][design.above]
        found.append(np.arctanh(correlation(distances, design.distances)))
    return float(np.tanh(np.mean(found)))


def _text_internal_gap(true: TrueScores, times: float) -> float:
    """Both sides with the noise of the very words. Where both are at their ceiling the truth is 0, and no estimate."""
    if true.noisy is None:
        return float("nan")
    found = ESTIMANDS["text_internal_gap"].estimate(replace(true.measurement, values=true.noisy))
    known = found.valid or (bool(found.details) and found.details["internal"][0] == 1.0)
    return found.estimate if known else float("nan")


#: Traits that are defined relative to noise.
_UNDER_NOISE: dict[str, Callable[[TrueScores, float], float]] = {
    "separability": _separability,
    "joy_bias": _joy_bias,
    "default_share": _default_share,
    "selectivity": _selectivity,
    "circumplex_rsa": _circumplex_rsa,
    "text_internal_gap": _text_internal_gap,
}


def _decided(true: TrueScores, smooth: float) -> Floats:
    """Expected decisions (n_emotions + 1, n_emotions) under Gaussian noise, by true emotion, neutral last; ``smooth``:
    the share of the covariance within emotion x intensity that softens them. The rates are integrals over the noise,
    taken on a scrambled Sobol sequence; centroids and covariance are exact. NaN where all emotions are one."""
    design = true.layout.made(decisions)
    k, emotional = len(design.names), design.true >= 0
    everything = true.values[design.rows, : len(NAMES)]
    p, label = everything[emotional], design.true[emotional]
    if np.allclose(p, p[0]):
        return np.full((k + 1, k), np.nan)
    centroids = np.stack([p[label == e].mean(axis=0) for e in range(k)])
    precision = decision_precision(p, label, centroids, true.noise)
    cell = design.cell[emotional]
    means = np.stack([p[cell == c].mean(axis=0) for c in range(len(design.owner))])
    within = (p - means[cell]).T @ (p - means[cell]) / max(len(p) - len(means), 1)
    values, vectors = np.linalg.eigh(true.noise + smooth * (within + true.noise))
    points = qmc.Sobol(len(values), seed=0).random_base2(_POINTS)
    draws = norm.ppf(np.clip(points, 1e-12, 1 - 1e-12)) * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    # a decision compares linear functions of item plus noise: those of the noise are the same for all items
    pull = centroids @ precision
    offset = np.einsum("kp,kp->k", pull, centroids)
    noise = -2 * draws @ pull.T
    rows, inverse = np.unique(np.column_stack([everything, design.true]), axis=0, return_inverse=True)
    count = np.bincount(inverse.ravel())
    table = np.zeros((k + 1, k))
    for row, n in zip(rows, count, strict=True):
        chosen = (noise + (offset - 2 * pull @ row[:-1])).argmin(axis=1)
        table[int(row[-1])] += n * np.bincount(chosen, minlength=k) / len(chosen)  # neutral's -1 is the last row
    return table
