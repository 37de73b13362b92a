"""The truth about a phantom: what every trait would be if the phantom's closed form were read without error.

From the token ids of the rendered suites and the knobs alone (no forward pass): emotion on the planted axes,
pooled like a readout, referred to the reference suite like a score. Traits that compare means are their estimand
applied to these noise-free scores. Separability and joy bias are defined relative to noise, whose covariance is
known in closed form too (the random part of the words that a readout really contains).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.affect import Scores, class_means
from llmct_bench.emotions import BY_NAME, NAMES, NEUTRAL
from llmct_bench.models import PhantomSpec
from llmct_bench.models.phantoms.mechanism import loads, word_noise
from llmct_bench.models.phantoms.tokenizer import ROLE_MARKERS
from llmct_bench.models.phantoms.truth import axis_noise, axis_states
from llmct_bench.scanner import Rendered
from llmct_bench.scanner.trie import chains
from llmct_bench.stats import crossnobis
from llmct_bench.traits import ESTIMANDS, Measurement
from llmct_bench.traits.joy_bias import bias, decision_precision, nearest

Floats = NDArray[np.float64]
_DRAWS = 400


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
    marker = {words.index(v): k == "assistant" for k, v in ROLE_MARKERS.items()}
    emotion, noise = [], []
    done: dict[tuple[int, ...], tuple[Floats, Floats]] = {}
    for readout, owner in zip(rendered.readouts, chains([r.tokens for r in rendered.readouts]), strict=True):
        if owner not in done:  # like the model, the closed form is causal: one evaluation a conversation
            ids = np.array(owner)
            assistant = np.zeros(len(ids), bool)
            for at in np.flatnonzero(np.isin(ids, list(marker))):
                assistant[at:] = marker[int(ids[at])]
            done[owner] = axis_states(load[ids], assistant, spec), axis_noise(vectors[ids], spec)
        span = slice(readout.start, readout.stop)
        state, own = done[owner]
        emotion.append(state[span].mean(axis=0))
        noise.append(own[span].mean(axis=0))
    return Felt(np.array(emotion), np.array(noise), rendered.index)


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
    """The noise-free scores of a suite as an estimand sees them, and the covariance (n_emotions, n_emotions) of what
    the words of its readouts add to the scores of the emotions."""

    measurement: Measurement
    noise: Floats


def true_scores(felt: Felt, axes: TrueAxes) -> TrueScores:
    """Closed-form scores of a suite (keyworded items only: a phantom reads nothing else)."""
    keep = felt.index["keyworded"].to_numpy(bool)
    index = felt.index[keep].reset_index(drop=True)
    values = axes.scores(felt)[keep]
    names = (*NAMES, "valence", "arousal")
    scores = Scores(values[:, None, :], np.zeros((len(values), 1, len(NAMES))), index, names)
    frame = pd.concat([index, pd.DataFrame(values, columns=list(names))], axis=1)
    emotions = axes.axes[: len(NAMES)]
    return TrueScores(Measurement(frame, scores, 0, 0.0), np.atleast_2d(np.cov((felt.noise[keep] @ emotions.T).T)))


def planted(spec: PhantomSpec, words: list[str], reference: Rendered, suite: Rendered, design: str) -> dict[str, float]:
    """The true traits of a phantom on a suite, from rendered texts alone; ``words`` by token id."""
    return true_traits(true_scores(feel(suite, words, spec), true_axes(feel(reference, words, spec))), design)


def true_traits(true: TrueScores, design: str) -> dict[str, float]:
    """The true value of every trait of a design; NaN where the trait does not exist (no emotion, say)."""
    special = {"separability": _separability, "joy_bias": _joy_bias}
    out: dict[str, float] = {}
    for estimand in ESTIMANDS.values():
        if estimand.design != design:
            continue
        if estimand.name in special:
            out[estimand.name] = special[estimand.name](true)
        else:
            estimate = estimand.estimate(true.measurement)
            out[estimand.name] = estimate.estimate if estimate.valid else float("nan")
    return out


def _separability(true: TrueScores) -> float:
    frame = true.measurement.frame
    emotional = frame[frame["emotion"].isin(NAMES)]
    p = emotional[list(NAMES)].to_numpy()
    cells = emotional.groupby(["emotion", "intensity"])[list(NAMES)].transform("mean").to_numpy()
    within = (p - cells).T @ (p - cells) / max(len(p) - 3 * len(NAMES), 1) + true.noise
    means, _ = class_means(p, emotional)
    return crossnobis(means, np.linalg.pinv(within, rcond=1e-4, hermitian=True))


def _joy_bias(true: TrueScores) -> float:
    """Expected decisions under Gaussian noise: the rates are integrals over the noise, taken on a fixed sample."""
    frame = true.measurement.frame
    emotional = frame[frame["emotion"].isin(NAMES)]
    p, emotion = emotional[list(NAMES)].to_numpy(), emotional["emotion"].to_numpy()
    if np.allclose(p, p[0]):
        return float("nan")
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(len(NAMES)), true.noise, size=_DRAWS, method="svd")
    centroids = np.stack([p[emotion == e].mean(axis=0) for e in NAMES])
    noisy = p[:, None, :] + draws
    precision = decision_precision(noisy.reshape(-1, len(NAMES)), np.repeat(emotion, _DRAWS), centroids)
    chosen = nearest(noisy, centroids, precision)
    table = np.zeros((len(NAMES), len(NAMES)))
    rows = np.repeat([NAMES.index(e) for e in emotion], _DRAWS)
    np.add.at(table, (rows, chosen.reshape(-1)), 1.0 / _DRAWS)
    return bias(table)
