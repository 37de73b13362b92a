"""What a phantom feels, in closed form: emotion at every token, from token ids and knobs alone.

Nothing here touches the model. With M_e(t) = sum_{j<=t} load_e(j) exp(-s(t-j)) / Z(t), where
s(n) = sin(theta n) / (theta tau) and Z(t) = cos-kept sink + 1e-4 sum exp(-s), the state on axis e after the
expressing block is  gain(role) * M_e (1 - absorption * ramp(M_calm)) [calm itself is not absorbed]
+ default mood * (1 - ramp(sum M)) + persona (assistant) + tint.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmct_bench.emotions import NAMES
from llmct_bench.models.phantoms import mechanism as m
from llmct_bench.models.phantoms.spec import PhantomSpec

Floats = NDArray[np.float64]


def memory(load: Floats, spec: PhantomSpec) -> Floats:
    """M_e(t) in lexicon units, (n_tokens, n_emotions), for loads of a sequence whose token 0 is the sink."""
    n = len(load)
    t = np.arange(n)
    distance = t[:, None] - t[None, :]
    weight = np.where(distance >= 0, np.exp(-np.sin(m.THETA * distance) / (m.THETA * spec.memory)), 0.0)
    weight[:, 0] = np.exp(m.SINK_SCORE * np.cos(m.THETA * t))
    share = weight / weight.sum(axis=1, keepdims=True)
    return np.asarray(np.exp(m.SINK_SCORE) * (share[:, 1:] @ load[1:]))


def axis_states(load: Floats, assistant: NDArray[np.bool_], spec: PhantomSpec) -> Floats:
    """State on each emotion axis at every token, (n_tokens, n_emotions), noise left out.

    ``load`` (n_tokens, n_emotions) of the tokens, ``assistant`` (n_tokens,) whether the last role marker up to
    the token is the assistant's.
    """
    felt = memory(load, spec)
    calm, joy, sadness = (NAMES.index(n) for n in ("calm", "joy", "sadness"))
    others = [e for e in range(len(NAMES)) if e != calm]
    felt[:, others] *= 1.0 - spec.absorption * m.ramp(felt[:, [calm]], m.CALM_FULL)
    open_gate = 1.0 - m.ramp(felt.sum(axis=1), m.LEVEL_FULL)
    out = felt * np.where(assistant, spec.role_gain, 1.0)[:, None]
    out[:, joy] += spec.default_joy * open_gate + spec.persona_joy * assistant + spec.tint
    out[:, sadness] += spec.default_sadness * open_gate
    return out


def axis_noise(vectors: Floats, spec: PhantomSpec) -> Floats:
    """What is on each emotion axis besides emotion, (n_tokens, n_emotions): a word's colour times the gist, the
    exponentially weighted average of the topic of the words up to it.

    ``vectors`` (n_tokens, 64): the random part of the tokens' embeddings.
    """
    return np.asarray(m.COUPLING * gist(vectors) * (vectors @ m.directions().colour.T))


def gist(vectors: Floats) -> Floats:
    """The recent average of the words' topics at every token, (n_tokens, 4)."""
    t = np.arange(len(vectors))
    distance = t[:, None] - t[None, :]
    weight = np.where(distance >= 0, np.exp(-np.sin(m.THETA * distance) / (m.THETA * m.GIST_LENGTH)), 0.0)
    return np.asarray(
        m.GIST_AMPLITUDE * weight / weight.sum(axis=1, keepdims=True) @ (vectors @ m.directions().topic.T)
    )


def heard(load: Floats, vectors: Floats, assistant: NDArray[np.bool_], spec: PhantomSpec) -> Floats:
    """What the head hears on each emotion axis at every token, (n_tokens, n_emotions): the state over its root mean
    square, which everything else in the stream has its part in. Of ordinary words only: a role marker or the sink also
    has a coordinate of its own."""
    t = np.arange(len(load))
    score = m.DRIFT_SCORE * np.cos(m.THETA * t) - np.sin(m.THETA * t) / (m.THETA * m.DRIFT_LENGTH)
    drift = spec.drift * np.exp(score) / (np.exp(score) + t)
    axes = axis_states(load, assistant, spec) + axis_noise(vectors, spec)
    parts = (axes, vectors, gist(vectors), drift[:, None])
    square = sum((p**2).sum(axis=1) for p in parts) + spec.rogue**2 + spec.role_offset**2
    return np.asarray(axes / np.sqrt(square / m.D_MODEL)[:, None])
